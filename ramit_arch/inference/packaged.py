"""The networks that come with the package: small, trained on freely licensed photographs (docs/models.md)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ramit_arch.errors import UserError

FOLDER = Path(__file__).parents[1] / 'weights'


@dataclass(frozen=True)
class PackagedNetwork:
    """An entry of weights/networks.yml.

    Attributes:
        file: the checkpoint, in safetensors.
        task: one of the paper's.
        scale: factor of super-resolution, or 1.
        scores: PSNR in dB by test set and protocol, as measured on this file.
        data: what it is trained on.
        licence: of the weights.
    """

    file: Path
    task: str
    scale: int
    scores: Mapping[str, float]
    data: str
    licence: str

    @property
    def purpose(self) -> str:
        """`SR x2` or `CDN`."""
        return f'{self.task} x{self.scale}' if self.scale > 1 else self.task


@functools.cache
def networks() -> Mapping[str, PackagedNetwork]:
    """By name, the default of each task and scale first."""
    listed: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / 'networks.yml').read_text(encoding='utf-8'))
    return {name: PackagedNetwork(FOLDER / f'{name}.safetensors', **entry) for name, entry in listed.items()}


def choose(task: str | None = None, scale: int | None = None) -> str:
    """The name of the first network for a task, by default SR, and a scale, by default the first.

    Raises:
        UserError: there is none.
    """
    task = task or 'SR'
    for name, network in networks().items():
        if network.task == task and scale in (None, network.scale):
            return name
    wanted = task if scale is None else f'{task} x{scale}'
    known = ', '.join(network.purpose for network in networks().values())
    raise UserError(f'no packaged network for {wanted} (there are {known}); give a checkpoint by -m')
