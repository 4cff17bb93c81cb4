"""Many images at once, in order and with progress: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2
from tqdm import tqdm

from ramit_arch.errors import UserError

Item = TypeVar('Item')
Result = TypeVar('Result')

LINE_EVERY = 10.0  # seconds between the lines of a log


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """`map` in threads, for large results: OpenCV, zlib and reading let other threads run."""
    return _in_order(ThreadPoolExecutor(workers), function, items, workers)


def in_processes(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """`map` in processes, for small results.

    Raises:
        UserError: a process was ended from outside, as for want of memory.
    """
    if workers == 1:
        yield from map(function, items)
        return
    try:
        yield from _in_order(ProcessPoolExecutor(workers, initializer=_begin), function, items, workers)
    except BrokenProcessPool as error:
        raise UserError('a worker process ended unexpectedly (too little memory?); try fewer --workers') from error


def _in_order(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    # A few ahead of the consumer and no more, so that memory does not grow with the number of items.
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """A worker uses one core, and ends with the process that started it, however that ends."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


class Progress:
    """Counts `total` steps under a title; use it as a context manager."""

    def __init__(self, title: str, total: int, done: int = 0, unit: str = 'image') -> None:
        self.title, self.total, self.done, self.unit = title, total, done, unit
        self._start = self._said = time.monotonic()
        self._before = done
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(desc=title, total=total, initial=done, unit=unit, dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self.done != self._before:
            self._say()

    def step(self) -> None:
        self.done += 1
        if self._bar is not None:
            self._bar.update()
        elif time.monotonic() - self._said > LINE_EVERY:
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        rate = (self.done - self._before) / max(self._said - self._start, 1e-9)
        left = f', {(self.total - self.done) / rate:.0f} s left' if self.done < self.total and rate else ''
        print(f'{self.title}: {self.done:,} of {self.total:,} {self.unit}s, {rate:.1f}/s{left}', file=sys.stderr)
