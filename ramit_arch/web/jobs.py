"""Restorations for the visitors of the web page: one at a time, in memory only, removed after some minutes."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cv2
from torch import nn

from ramit_arch.errors import UserError
from ramit_arch.evaluation.protocols import PROTOCOLS
from ramit_arch.inference.folders import restore_picture, result_suffix
from ramit_arch.inference.pictures import Picture, decode_picture, encode_picture, header_size
from ramit_arch.inference.restorer import Restorer

logger = logging.getLogger('basicsr')

EXPIRY = 600.0  # seconds without a request after which a result is removed
ABANDONED = 150.0  # the same while it waits or runs; a browser lets a hidden page ask once a minute
MAX_WAITING = 16  # pictures, those that are still being sent included
MAX_HELD = 2**30  # bytes of results; beyond it the oldest are removed
VIEW = 2**24  # pixels of the pictures that the page shows; larger ones are reduced


class Busy(Exception):
    """The queue is full."""


class Cancelled(Exception):
    """Ends a running restoration."""


class Meter:
    """How far a network is within a tile, by the modules that it has called; the tile may take minutes.

    Args:
        network: the network.

    Attributes:
        check: called before every module.
    """

    def __init__(self, network: nn.Module) -> None:
        self.check: Callable[[], None] | None = None
        modules = set(network.modules())
        self._called: set[nn.Module] = set()
        self._pixels, self._needed = 0, len(modules)  # an upper bound: containers are not called

        # Not methods: the network is copied to estimate its memory, with all that its hooks hold, and the copy runs.
        def begin(module: nn.Module, inputs: Any) -> None:
            if module is network:
                self._called.clear()
                self._pixels = inputs[0].shape[-2] * inputs[0].shape[-1]

        def step(module: nn.Module, _: Any) -> None:
            if module in modules:
                self._called.add(module)
                if self.check is not None:
                    self.check()

        network.register_forward_pre_hook(begin)
        for module in modules:
            module.register_forward_pre_hook(step)

    @property
    def pixels(self) -> int:
        """Pixels of the present tile that are restored, more or less."""
        return self._pixels * len(self._called) // self._needed

    def end_tile(self) -> None:
        """Note how many modules a tile calls."""
        self._needed = max(len(self._called), 1)


@dataclass(frozen=True)
class Network:
    """A choice on the page.

    Attributes:
        label: what it restores, and its name.
        suffix: appended to the names of results.
        restorer: computes it.
        meter: of the network.
    """

    label: str
    suffix: str
    restorer: Restorer
    meter: Meter


def make_network(restorer: Restorer, name: str) -> Network:
    """A choice on the page; `name` is a packaged network's, or the path of a checkpoint or experiment folder."""
    purpose = PROTOCOLS[restorer.task].task if restorer.task in PROTOCOLS else 'restoration'
    scale = f' ×{restorer.scale}' if restorer.scale > 1 else ''  # noqa: RUF001
    label = f'{purpose.capitalize()}{scale}: {Path(name).resolve().name}'
    return Network(label, result_suffix(restorer), restorer, Meter(restorer.network))


@dataclass(eq=False)
class Job:
    """A picture of a visitor.

    Attributes:
        network: that restores it.
        data: the file as it was sent; empty once it is decoded.
        size: (height, width) in its header.
        id: unguessable; whoever has it can fetch the result.
        touched: when it was last asked for, in seconds of the monotonic clock.
        state: of the restoration.
        progress: from 0 to 1.
        seconds: that the restoration took.
        error: why it failed.
        notes: what was converted or dropped.
        sizes: width and height of `before` and `after`, upright.
        files: PNGs by name: `result`; `before`; `after`, if `result` is too large to be shown.
        cancelled: whether it is to end.
    """

    network: Network
    data: bytes
    size: tuple[int, int]
    id: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    touched: float = field(default_factory=time.monotonic)
    state: Literal['waiting', 'running', 'done', 'failed'] = 'waiting'
    progress: float = 0.0
    seconds: float = 0.0
    error: str = ''
    notes: list[str] = field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    cancelled: bool = False

    @property
    def held(self) -> int:
        """Bytes of the result."""
        return sum(len(content) for content in self.files.values())


class JobQueue:
    """Restores pictures one after another in a thread of its own, until it is closed.

    Args:
        networks: the choices of the page.
        max_pixels: of a picture.

    Raises:
        ValueError: there are no networks.
    """

    def __init__(self, networks: Sequence[Network], max_pixels: int) -> None:
        if not networks:
            raise ValueError('there are no networks')
        self.networks, self.max_pixels = networks, max_pixels
        self._jobs: dict[str, Job] = {}  # oldest first
        self._running: Job | None = None
        self._finished = 0  # pixels of its tiles
        self._arriving = 0
        self._closed = False
        self._changed = threading.Condition()
        for network in networks:
            network.meter.check = self._check
        self._thread = threading.Thread(target=self._work, name='restore', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cancel and remove everything."""
        with self._changed:
            self._closed = True
            for job in list(self._jobs.values()):
                self._remove(job)
            self._changed.notify_all()
        self._thread.join(timeout=10)

    # --------------------------------------------------------------------------------------------------- requests

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the queue while a picture is being sent.

        Raises:
            Busy: there is none.
        """
        with self._changed:
            self._sweep()
            if len(self._waiting()) + self._arriving >= MAX_WAITING:
                raise Busy(f'{MAX_WAITING} pictures are waiting already; try again in some minutes')
            self._arriving += 1
        try:
            yield
        finally:
            with self._changed:
                self._arriving -= 1

    def submit(self, network: int, data: bytes) -> Job:
        """Queue a picture; `network` is the number of one of `networks`.

        Raises:
            UserError: not a picture, too many pixels, or no such network.
        """
        if network not in range(len(self.networks)):
            raise UserError('no such network')
        size = header_size(data)
        if size[0] * size[1] > self.max_pixels:
            raise UserError(
                f'{size[1]:,}x{size[0]:,} pixels; at most {self.max_pixels / 1e6:g} megapixels are accepted'
            )
        job = Job(self.networks[network], data, size)
        with self._changed:
            self._jobs[job.id] = job
            self._changed.notify_all()
        return job

    def status(self, id: str) -> dict[str, Any] | None:
        """What the page shows of a job, as JSON; None if it is not there."""
        with self._changed:
            job = self._find(id)
            if job is None:
                return None
            waiting = self._waiting()
            ahead = waiting.index(job) + (self._running is not None) if job in waiting else 0
            return {
                'state': job.state, 'ahead': ahead, 'progress': job.progress, 'seconds': job.seconds,
                'error': job.error, 'notes': job.notes, 'sizes': job.sizes, 'files': sorted(job.files),
            }  # fmt: skip

    def file(self, id: str, name: str) -> bytes | None:
        """A PNG of a finished job; None if it is not there."""
        with self._changed:
            job = self._find(id)
            return None if job is None else job.files.get(name)

    def remove(self, id: str) -> bool:
        """Cancel a job and remove its result; False if it is not there."""
        with self._changed:
            job = self._jobs.get(id)
            if job is None:
                return False
            self._remove(job)
            return True

    # ------------------------------------------------------------------------- under the lock

    def _find(self, id: str) -> Job | None:
        self._sweep()
        job = self._jobs.get(id)
        if job is not None:
            job.touched = time.monotonic()
        return job

    def _waiting(self) -> list[Job]:
        return [job for job in self._jobs.values() if job.state == 'waiting']

    def _remove(self, job: Job) -> None:
        job.cancelled = True
        del self._jobs[job.id]

    def _sweep(self) -> None:
        """Remove what nobody has asked for, and the oldest results beyond `MAX_HELD`."""
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if now - job.touched > (ABANDONED if job.state in ('waiting', 'running') else EXPIRY):
                self._remove(job)
        held = sum(job.held for job in self._jobs.values())
        for job in list(self._jobs.values())[:-1]:
            if held > MAX_HELD and job.files:
                held -= job.held
                self._remove(job)

    # ------------------------------------------------------------------------- in the thread

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._restore(job)
            except Cancelled:
                pass
            except UserError as error:
                self._finish(job, 'failed', error=str(error))
            except Exception:  # whatever a network raises
                logger.exception('A restoration for the web page failed.')
                self._finish(job, 'failed', error='it could not be restored; the log of the server says why')
            finally:
                self._running = None

    def _next(self) -> Job | None:
        """The next job, running; None once the queue is closed."""
        with self._changed:
            while not self._closed:
                self._sweep()
                if waiting := self._waiting():
                    self._running = waiting[0]
                    waiting[0].state = 'running'
                    return waiting[0]
                self._changed.wait(timeout=5)
            return None

    def _restore(self, job: Job) -> None:
        picture = decode_picture(job.data)
        job.data = b''

        self._finished = 0
        start = time.perf_counter()
        restored = restore_picture(job.network.restorer, picture, self._count)
        seconds = time.perf_counter() - start
        result, notes = encode_picture(restored)
        files = {'result': bytes(result), 'before': _view(picture)}
        if restored.pixels.shape[0] * restored.pixels.shape[1] > VIEW:
            files['after'] = _view(restored)
        sizes = {name: each.pixels.shape[1::-1] for name, each in (('before', picture), ('after', restored))}
        self._finish(job, 'done', files=files, sizes=sizes, notes=[*picture.notes, *notes], seconds=seconds)

    def _finish(self, job: Job, state: Literal['done', 'failed'], **values: Any) -> None:
        with self._changed:
            for name, value in values.items():
                setattr(job, name, value)
            job.data, job.touched, job.state = b'', time.monotonic(), state

    def _count(self, pixels: int) -> None:
        self._finished += pixels
        assert self._running is not None
        self._running.network.meter.end_tile()
        self._check(within_tile=False)

    def _check(self, within_tile: bool = True) -> None:
        """Called between tiles, and before every module of a network.

        Raises:
            Cancelled: the picture is to be restored no further.
        """
        job = self._running
        if job is None:
            return
        with self._changed:
            self._sweep()
        if job.cancelled:
            raise Cancelled
        pixels = self._finished + (job.network.meter.pixels if within_tile else 0)
        job.progress = min(max(pixels / (job.size[0] * job.size[1]), job.progress), 1.0)  # tiles overlap


def _view(picture: Picture) -> bytes:
    """PNG of at most `VIEW` pixels."""
    height, width = picture.pixels.shape[:2]
    factor = (VIEW / (height * width)) ** 0.5
    if factor < 1:
        size = (max(int(width * factor), 1), max(int(height * factor), 1))
        pixels = cv2.resize(picture.pixels, size, interpolation=cv2.INTER_AREA)
        alpha = picture.alpha
        alpha = None if alpha is None else cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
        picture = replace(picture, pixels=pixels, alpha=alpha)
    return bytes(encode_picture(picture)[0])
