"""Writing stores atomically, and resuming after an interruption.

A store grows in a hidden folder beside its place (`.HR.lmdb.unfinished`) and is renamed when it is whole. Both carry a
file `.job` that says what they are made of, so that a later run knows whether it may resume, or has nothing to do.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import lmdb
from filelock import FileLock, Timeout

from ramit_arch.data.stores import RawImage, RawStore
from ramit_arch.errors import UserError
from ramit_arch.files import sync
from ramit_arch.preparation.images import png_header

BATCH_BYTES, BATCH_SECONDS = 2**25, 5.0  # what a killed run loses at most
FIRST_MAP = 2**26  # bytes of a new LMDB's map; it doubles as often as it must
JOB = '.job'


class Record(NamedTuple):
    """One image to store: name without suffix, (height, width, channels), and PNG bytes or, for a raw store, pixels."""

    name: str
    shape: tuple[int, int, int]
    data: bytes


class Job(NamedTuple):
    """What a store is made of: by which method, and for every image (by its name there) from which file."""

    method: str
    sources: dict[str, str] = {}

    def __str__(self) -> str:
        return '\n'.join([self.method, *(f'{name}\t{source}' for name, source in self.sources.items())]) + '\n'

    @classmethod
    def of(cls, folder: Path) -> Job | None:
        """The job of a store, or None where there is none or none of ours."""
        try:
            method, *lines = (folder / JOB).read_text(encoding='utf-8').splitlines()
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return cls(method, {name: source for name, _, source in (line.partition('\t') for line in lines)})


class Writer(ABC):
    """A store being written; a context manager that holds the lock of its place.

    Args:
        target: where the store will be.
        job: what it is made of. Another job means another store; an unfinished one is gone on with if it is made by
            the same method and of the same files as far as it goes.

    Raises:
        UserError: on entering, if another process writes here, if something else is here, or if it cannot be written.
    """

    suffix = ''  # of the store's folder

    def __init__(self, target: Path, job: Job) -> None:
        self.target, self.job = target, job
        self.folder = _unfinished(target)
        self._lock_file = target.with_name(f'.{target.name}.lock')
        self._lock = FileLock(self._lock_file)

    def __enter__(self) -> Writer:
        self.finished = is_finished(self.target, self.job)
        if self.finished:
            if self._lock_file.exists():  # of a run that was killed after its last step
                self._lock_file.unlink(missing_ok=True)
            return self
        with explained(self.target):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise UserError(f'{self.target}: another run is writing it; wait for it or stop it') from None
            try:
                self._begin()
            except BaseException:
                self._release()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        if not self._lock.is_locked:  # it was finished before
            return
        try:
            if not self.finished:
                with explained(self.target):
                    self.close()
        finally:
            self._release()

    def _release(self) -> None:
        if self.target.exists():  # before that another run may just be opening the lock's file
            self._lock_file.unlink(missing_ok=True)
        self._lock.release()

    def _begin(self) -> None:
        self.finished = is_finished(self.target, self.job)  # by a run that ended just now
        if self.finished:
            return
        before = Job.of(self.folder)
        if before is None or before.method != self.job.method:
            self._clear()
        self.names = self.open()
        if before and any(before.sources.get(name) != self.job.sources.get(name) for name in self.names):
            self.close()
            self._clear()
            self.names = self.open()
        (self.folder / JOB).write_text(str(self.job), encoding='utf-8')

    def _clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def put(self, records: Iterable[Record]) -> None:
        """Store images that belong together: after a crash either all or none of them are there, or they are written
        again."""
        with explained(self.target):
            self.write(list(records))

    def finish(self) -> None:
        """Give the store its name."""
        with explained(self.target):
            self.complete()
            self.close()
            for file in (self.folder / JOB, self.folder / 'meta_info.txt', self.folder):
                if file.exists():
                    sync(file)
            self.folder.rename(self.target)
            sync(self.target.parent)
        self.finished = True

    @abstractmethod
    def open(self) -> set[str]:
        """Open what is there in `self.folder`; the names of all images that were written whole."""

    @abstractmethod
    def write(self, records: Sequence[Record]) -> None: ...

    @abstractmethod
    def complete(self) -> None:
        """Write what is missing at the end."""

    @abstractmethod
    def close(self) -> None:
        """Close all files."""


class FolderWriter(Writer):
    """A folder of PNG files."""

    def open(self) -> set[str]:
        for file in self.folder.glob('*.part'):
            file.unlink()
        return {file.stem for file in self.folder.glob('*.png')}

    def write(self, records: Sequence[Record]) -> None:
        for record in records:
            part = self.folder / f'{record.name}.part'
            with part.open('wb') as file:
                file.write(record.data)
                os.fsync(file.fileno())
            part.rename(self.folder / f'{record.name}.png')

    def complete(self) -> None:
        pass

    def close(self) -> None:
        pass


class LmdbWriter(Writer):
    """An LMDB as BasicSR reads it: PNG bytes under their names, and meta_info.txt."""

    suffix = '.lmdb'

    def open(self) -> set[str]:
        # One process writes, which the lock of the store sees to; LMDB's own would only stay behind.
        self._environment = lmdb.open(str(self.folder), map_size=self._map_size(), lock=False)
        self._batch: list[Record] = []
        self._bytes, self._committed = 0, time.monotonic()
        with self._environment.begin(buffers=True) as transaction:
            headers = {bytes(key).decode(): png_header(bytes(value[:33])) for key, value in transaction.cursor()}
        self._shapes = {name: (header.height, header.width, header.channels) for name, header in headers.items()}
        return set(self._shapes)

    def write(self, records: Sequence[Record]) -> None:
        self._batch += records
        self._shapes.update((record.name, record.shape) for record in records)
        self._bytes += sum(len(record.data) for record in records)
        if self._bytes > BATCH_BYTES or time.monotonic() - self._committed > BATCH_SECONDS:
            self._commit()

    def complete(self) -> None:
        self._commit()
        # The last column is BasicSR's compression level, which nothing reads and a copied file does not tell.
        lines = [f'{name}.png ({h},{w},{c}) 1\n' for name, (h, w, c) in sorted(self._shapes.items())]
        (self.folder / 'meta_info.txt').write_text(''.join(lines), encoding='utf-8')

    def close(self) -> None:
        if self._batch:
            self._commit()
        self._environment.close()

    def _commit(self) -> None:
        batch, self._batch, self._bytes = self._batch, [], 0
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for record in batch:
                        transaction.put(record.name.encode(), record.data)
                break
            except lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()['map_size'])
        self._committed = time.monotonic()

    def _map_size(self) -> int:
        file = self.folder / 'data.mdb'
        return max(FIRST_MAP, 2 * file.stat().st_size if file.exists() else 0)


class RawWriter(Writer):
    """A raw store: the pixels of all images in one file, see `ramit_arch.data.stores.RawStore`."""

    suffix = '.raw'

    def open(self) -> set[str]:
        meta, pixels = self.folder / 'meta_info.txt', self.folder / RawStore.PIXELS
        lines = (_text(meta) or '').splitlines(keepends=True)
        images = [image for line in lines if line.endswith('\n') and (image := RawImage.from_line(line.rstrip('\n')))]
        meta.write_text(''.join(f'{image}\n' for image in images), encoding='utf-8')
        self._end = max((image.end for image in images), default=0)
        pixels.touch()
        os.truncate(pixels, self._end)  # pixels without a line are written again
        self._pixels, self._meta = FileIO(pixels, 'a'), FileIO(meta, 'a')
        self._lines: list[str] = []
        self._bytes, self._committed = 0, time.monotonic()
        return {Path(image.file).stem for image in images}

    def write(self, records: Sequence[Record]) -> None:
        for record in records:
            _write_all(self._pixels, record.data)
            image = RawImage(f'{record.name}.png', record.shape, 'uint8', self._end)
            self._lines.append(f'{image}\n')
            self._end = image.end
            self._bytes += len(record.data)
        if self._bytes > BATCH_BYTES or time.monotonic() - self._committed > BATCH_SECONDS:
            self._commit()

    def complete(self) -> None:
        self._commit()

    def close(self) -> None:
        if self._lines:
            self._commit()
        self._pixels.close()
        self._meta.close()

    def _commit(self) -> None:
        lines, self._lines, self._bytes = self._lines, [], 0
        os.fsync(self._pixels.fileno())
        _write_all(self._meta, ''.join(lines).encode())
        os.fsync(self._meta.fileno())
        self._committed = time.monotonic()


WRITERS: dict[str, type[Writer]] = {'png': FolderWriter, 'lmdb': LmdbWriter, 'raw': RawWriter}


def is_finished(target: Path, job: Job) -> bool:
    """Whether a store is there already.

    Raises:
        UserError: something else is there.
    """
    if not target.exists():
        return False
    if Job.of(target) != job:
        raise UserError(
            f'{target}: exists already, but not of these files with these options; remove it or choose another --to'
        )
    return True


def written(target: Path, job: Job) -> int:
    """Bytes that an interrupted run has written for a store, which the next one reuses."""
    before = Job.of(_unfinished(target))
    if before is None or before.method != job.method:
        return 0
    return sum(file.stat().st_size for file in _unfinished(target).iterdir())


@contextmanager
def explained(target: Path) -> Iterator[None]:
    """Say what to do about a full disk or a place that cannot be written."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        code = getattr(error, 'errno', None)
        # LMDB tells a write cut short by a full disk as an input/output error.
        if code in (errno.ENOSPC, errno.EDQUOT) or (isinstance(error, lmdb.Error) and _is_full(target)):
            text = 'the disk is full; free space and run the same command again to continue'
        elif code in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            text = f'cannot be written ({os.strerror(code)}); choose another --to'
        else:
            raise
        raise UserError(f'{target}: {text}') from error


def _unfinished(target: Path) -> Path:
    return target.with_name(f'.{target.name}.unfinished')


def _is_full(target: Path) -> bool:
    return shutil.disk_usage(target.parent).free < 2 * BATCH_BYTES


def _write_all(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding='utf-8')
    except (FileNotFoundError, NotADirectoryError):
        return None
