"""Ctrl-C and SIGTERM while training: the step ends and is saved; a second signal ends the process at once.

Both reach the workers of a data loader too, from a terminal or from a job scheduler. They leave it to the process that
they work for, which would otherwise lose its data before it has saved.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_received: int = 0


def received() -> int:
    """The number of the signal that asks to stop, or 0."""
    return _received


@contextmanager
def deferred() -> Iterator[None]:
    """Only note the first signal. Whoever trains asks `received` and leaves by `SystemExit(128 + number)`.

    Workers that are left in the end are ended.
    """
    global _received
    _received = 0
    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield
        return
    others = multiprocessing.active_children()
    former = {number: signal.signal(number, _note) for number in SIGNALS}
    try:
        yield
    finally:
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


def ignore() -> None:
    """In a worker of a data loader."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _note(number: int, _: FrameType | None) -> None:
    global _received
    if _received:
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(128 + number)
    _received = number
    # Not print: the signal may have come in the middle of one.
    os.write(2, b'stopping: this step ends and is saved; again: at once\n')
