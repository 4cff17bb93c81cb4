"""Ctrl-C and SIGTERM in `basicsr train`: finish the step, save, and exit; a second signal exits immediately.

A terminal and a job scheduler send the signal to the data loader's workers too. They ignore it: the process that they
work for would otherwise fail before it has saved.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import torch

SIGNALS = (signal.SIGINT, signal.SIGTERM)
VARIABLE = 'BASICSR_DEFERS_SIGNALS'  # tells spawned workers, see basicsr_command

_received = 0
_deferring = False


def received(group: Any = None) -> int:
    """The number of the signal that asks to stop, or 0.

    Args:
        group: a gloo process group, whose processes all get the same answer.
    """
    if group is None:
        return _received
    number = torch.tensor(_received)
    torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX, group)
    return int(number)


@contextmanager
def deferred() -> Iterator[None]:
    """Only note the first signal. Whoever trains asks `received` and leaves by `SystemExit(128 + number)`.

    Kills the workers that are left in the end.
    """
    global _deferring, _received
    _received = 0
    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield
        return
    others = multiprocessing.active_children()
    former = {number: signal.signal(number, _note) for number in SIGNALS}
    _deferring = True
    os.environ[VARIABLE] = '1'
    try:
        yield
    finally:
        _deferring = False
        del os.environ[VARIABLE]
        reset_sigchld()
        for child in multiprocessing.active_children():
            if child not in others:
                child.kill()
                child.join()
        for number, handler in former.items():
            signal.signal(number, handler)


def reset_sigchld() -> None:
    """After a run: PyTorch's handler raises an error in the main thread, wherever it is, for every worker that ends."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def worker_init(init: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """A data loader's `worker_init_fn` whose workers also ignore the signals, if they are deferred in this process.

    Elsewhere nobody would kill such workers: multiprocessing terminates them by SIGTERM and waits for ever.
    """
    return partial(_ignore_signals, init) if _deferring else init


def _ignore_signals(init: Callable[[int], None] | None, worker_id: int) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if init:
        init(worker_id)


def _note(number: int, _: FrameType | None) -> None:
    global _received
    if multiprocessing.parent_process() is not None:  # a forked worker that does not ignore the signals yet
        return
    if _received:
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(128 + number)
    _received = number
    # Not print: the signal may have come in the middle of one.
    os.write(2, b'stopping after this step; interrupt again to exit immediately\n')
