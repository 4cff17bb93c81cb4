"""Atomic writes. This module imports nothing of the package but `errors`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ramit_arch.errors import UserError

MARGIN = 16 * 2**20  # bytes kept free on a disk, for logs and scores


def atomic_write(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that after a crash at any moment it has either its former content or this.

    The bytes go into a hidden file beside it, reach the disk, and take its name then.

    Raises:
        UserError: the disk is too full, or the folder cannot be written; the file is as it was.
    """
    part = path.with_name(f'.{path.name[:200]}.part')
    try:
        # One that a crash has left is overwritten, so its space is available.
        room = shutil.disk_usage(path.parent).free + (part.stat().st_size if part.exists() else 0)
        if room < len(content) + MARGIN:
            needed = f'{(len(content) + MARGIN) / 2**20:,.1f} MiB needed, {room / 2**20:,.1f} free'
            raise UserError(f'{path}: not enough disk space ({needed}); nothing was written')
        with atomic_file(path, part) as file:
            file.write(content)
    except OSError as error:
        unchanged = '; the existing file is unchanged' if path.is_file() else ''
        raise UserError(f'{path}: cannot be written ({error.strerror}){unchanged}') from error


@contextlib.contextmanager
def atomic_file(path: Path, part: Path) -> Iterator[BinaryIO]:
    """Open `part`, which reaches the disk and takes the name `path` if the block ends without an error, and is removed
    otherwise.

    Raises:
        OSError: it cannot be written.
    """
    try:
        with part.open('wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
