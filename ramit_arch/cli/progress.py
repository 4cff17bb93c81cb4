"""A line below the log of a training, on a terminal: iterations, rate, time left, loss and images per second."""

from __future__ import annotations

import logging
import sys
from typing import Any

from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import get_dist_info
from tqdm import tqdm

from ramit_arch.data.progression import read_progression


class _AboveTheLine:
    """The stream of a log that shares its terminal with the line."""

    def write(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr, end='')

    def flush(self) -> None:
        sys.stderr.flush()


class TrainingProgress:
    """Progress of the iterations, shown by the first process on a terminal.

    Args:
        model: of BasicSR; its `get_current_log`, which is called every `print_freq` iterations, is wrapped.
        opt: the options as BasicSR's loop has them.
    """

    def __init__(self, model: BaseModel, opt: dict[str, Any]) -> None:
        self.progression = read_progression(opt)
        self.bar = tqdm(
            total=self.progression.total, initial=opt.get('resumed', {}).get('iter', 0), desc=opt['name'], unit='it',
            dynamic_ncols=True, disable=None if get_dist_info()[0] == 0 else True,
        )  # fmt: skip
        self._log = model.get_current_log
        model.get_current_log = self._show_log
        if not self.bar.disable:
            for handler in get_root_logger().handlers:
                if type(handler) is logging.StreamHandler:
                    handler.setStream(_AboveTheLine())

    def step(self) -> None:
        """An iteration is finished."""
        self.bar.update()

    def close(self) -> None:
        self.bar.close()

    def _show_log(self) -> dict[str, float]:
        values = self._log()
        rate = self.bar.format_dict['rate']
        if rate and not self.bar.disable:
            batch = self.progression.stage(max(self.bar.n, 1)).batch
            losses = ', '.join(f'{name} {value:.3e}' for name, value in values.items())
            self.bar.set_postfix_str(f'{losses}, {rate * batch:.1f} images/s', refresh=False)
        return values
