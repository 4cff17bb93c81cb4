"""Encoded video in segments, each a file that is written atomically, so that an interrupted run can continue."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from ramit_arch.errors import UserError, counted
from ramit_arch.files import MARGIN, atomic_file, atomic_write

_HEADER = struct.Struct('<qqI?')  # of a packet: pts, duration, bytes, key frame
_LARGE = 2**26  # bytes of free disk space below which a segment is not begun


@dataclass(frozen=True)
class Packet:
    """An encoded frame.

    Attributes:
        pts, duration: in units of the stream's time base.
        key: whether decoding can begin here.
        data: as the encoder wrote it.
    """

    pts: int
    duration: int
    key: bool
    data: bytes


class Segments:
    """The finished segments of a target, in the folder `.NAME.parts` beside it; a context that locks the folder.

    Args:
        target: the file that is made of them.
        identity: what their content depends on, as JSON data; segments with another one are deleted.
        say: called with a line about an earlier run, if there was one.

    Attributes:
        frames: number of frames in the finished segments.

    Raises:
        UserError: the folder cannot be written, or another process uses it.
    """

    def __init__(self, target: Path, identity: dict[str, Any], say: Callable[[str], None]) -> None:
        self.target, self.folder = target, target.with_name(f'.{target.name[:200]}.parts')
        self.identity, self.say = json.dumps(identity, indent=1), say
        self.frames = 0
        self._files: list[Path] = []
        self._lock = FileLock(self.folder / 'lock', timeout=0)

    def __enter__(self) -> Segments:
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise UserError(f'{self.target}: another process is writing it') from error
        except OSError as error:
            raise UserError(f'{self.folder}: cannot be written ({error.strerror})') from error
        try:
            self._continue()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Delete the folder after success, or if it has no segment."""
        self._files = self._find()  # an interrupt may have come just after one got its name
        if kind is None or not self._files:
            shutil.rmtree(self.folder, ignore_errors=True)  # before another process may use it
        else:
            self.frames = len(self.times()[0])
            self.say(f'{counted(self.frames, "frame")} kept in {self.folder}; repeat the command to continue')
        self._lock.release()

    def _find(self) -> list[Path]:
        return sorted(self.folder.glob('*.segment'))

    def _continue(self) -> None:
        """Find the segments of an earlier run."""
        description = self.folder / 'job.json'
        found = self._find()
        if found and (not description.is_file() or description.read_text() != self.identity):
            self.say(f'{self.target}: the video, the network or the options have changed; starting from the beginning')
            for file in found:
                file.unlink()
            found = []
        for file in self.folder.glob('*.part'):
            file.unlink()
        atomic_write(description, self.identity.encode())
        self._files = found
        self.frames = len(self.times()[0])
        if found:
            self.say(f'continuing after {counted(self.frames, "frame")} of an earlier run')

    @contextlib.contextmanager
    def writing(self) -> Iterator[Callable[[Packet], None]]:
        """Write the next segment with the function that is returned; it is kept if the block ends without an error.

        Raises:
            UserError: the disk is full or cannot be written.
        """
        path = self.folder / f'{len(self._files):06}.segment'
        part, frames = path.with_suffix('.part'), 0
        free = shutil.disk_usage(self.folder).free
        if free < _LARGE:
            raise UserError(f'{self.target}: not enough disk space ({free / 2**20:,.0f} MiB are free)')
        try:
            with atomic_file(path, part) as file:

                def write(packet: Packet) -> None:
                    nonlocal frames
                    try:
                        file.write(_HEADER.pack(packet.pts, packet.duration, len(packet.data), packet.key))
                        file.write(packet.data)
                    except OSError as error:
                        raise UserError(f'{self.target}: cannot be written ({error.strerror})') from error
                    frames += 1

                yield write
        except OSError as error:
            raise UserError(f'{self.target}: cannot be written ({error.strerror})') from error
        self._files.append(path)
        self.frames += frames

    def packets(self) -> Iterator[Packet]:
        """All packets, in the order in which they are decoded."""
        for path in self._files:
            with path.open('rb') as file:
                while header := file.read(_HEADER.size):
                    pts, duration, size, key = _HEADER.unpack(header)
                    yield Packet(pts, duration, key, file.read(size))

    def times(self) -> tuple[np.ndarray, np.ndarray]:
        """pts and durations, (frames,) int64, in the order in which they are decoded."""
        values = []
        for path in self._files:
            with path.open('rb') as file:
                while header := file.read(_HEADER.size):
                    pts, duration, size, _ = _HEADER.unpack(header)
                    values.append((pts, duration))
                    file.seek(size, os.SEEK_CUR)
        pairs = np.array(values, np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    @property
    def bytes(self) -> int:
        """Size of all finished segments."""
        return sum(path.stat().st_size for path in self._files)

    def check_room(self, others: int) -> None:
        """Raises UserError if the disk has no room for the target, of which `others` bytes are copied."""
        free, needed = shutil.disk_usage(self.folder).free, self.bytes + others + MARGIN
        if free < needed:
            text = f'{needed / 2**20:,.0f} MiB needed, {free / 2**20:,.0f} free'
            raise UserError(f'{self.target}: not enough disk space ({text})')
