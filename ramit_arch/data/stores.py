"""Where images lie: a folder, or an LMDB in BasicSR's layout. Both list names, tell sizes cheaply and give bytes."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Protocol

import lmdb
from PIL import Image, UnidentifiedImageError

from ramit_arch.errors import UserError, suggestion

SUFFIXES = frozenset(('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm'))
# BasicSR's meta_info.txt: `name.png (h,w,c)`, in an LMDB followed by the compression level. Names may have spaces.
META_LINE = re.compile(r'^(?P<name>.+?)(\s+\((?P<h>\d+),\s*(?P<w>\d+)(,\s*\d+)?\).*)?$')


class Store(Protocol):
    """A set of images under names without suffix."""

    root: str

    def names(self) -> list[str]:
        """All names, sorted."""

    def path(self, name: str) -> str:
        """What messages and score files call the image: its file, in an LMDB the root and the listed name."""

    def size(self, name: str) -> tuple[int, int]:
        """(height, width) without decoding; raises UserError where the image cannot be read."""

    def read(self, name: str) -> bytes:
        """The encoded image; raises UserError where it cannot be read."""


def open_store(root: str, backend: str, meta_info_file: str | None = None) -> Store:
    """Open a data root for `io_backend: {type: backend}`.

    Raises:
        UserError: the backend is unknown, or the root is not what the backend expects.
    """
    if backend == 'disk':
        return FolderStore(root, meta_info_file)
    if backend == 'lmdb':
        return LmdbStore(root)
    raise UserError(f'io_backend.type is {backend!r}{suggestion(backend, ["disk", "lmdb"])}; it must be disk or lmdb')


def parse_meta_info(file: str | Path) -> dict[str, tuple[int, int] | None]:
    """Read BasicSR's meta-info: file names in their order, with (height, width) where the line tells it.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        text = Path(file).read_text(encoding='utf-8')
    except OSError as error:
        raise UserError(f'{file}: cannot read the meta-info file ({error.strerror})') from error
    sizes: dict[str, tuple[int, int] | None] = {}
    for line in text.splitlines():
        match = META_LINE.match(line.strip())
        if match:
            sizes[match['name']] = (int(match['h']), int(match['w'])) if match['h'] else None
    return sizes


class FolderStore:
    """Image files of one folder, or those a meta-info file lists (which may lie in subfolders)."""

    def __init__(self, root: str, meta_info_file: str | None = None) -> None:
        self.root = root
        if not Path(root).is_dir():
            hint = '; for an LMDB set io_backend.type to lmdb' if Path(root).is_file() else ''
            raise UserError(f'{root}: no such folder{hint}')
        if meta_info_file is not None:
            files = list(parse_meta_info(meta_info_file))
        else:
            entries = sorted(entry.name for entry in os.scandir(root) if entry.is_file())
            files = [name for name in entries if Path(name).suffix.lower() in SUFFIXES and not name.startswith('.')]
        self._files: dict[str, str] = {}
        for file in files:
            name = str(Path(file).with_suffix(''))
            if name in self._files:
                raise UserError(f'{root}: {self._files[name]} and {file} have the same name; rename or remove one')
            self._files[name] = file

    def names(self) -> list[str]:
        return sorted(self._files)

    def path(self, name: str) -> str:
        return str(Path(self.root, self._files[name]))

    def size(self, name: str) -> tuple[int, int]:
        path = self.path(name)
        try:
            with Image.open(path) as image:
                return image.height, image.width
        except UnidentifiedImageError as error:
            raise UserError(f'{path}: not an image that can be read') from error
        except OSError as error:
            raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error

    def read(self, name: str) -> bytes:
        try:
            return Path(self.path(name)).read_bytes()
        except OSError as error:
            raise UserError(f'{self.path(name)}: cannot be read ({error.strerror})') from error


class LmdbStore:
    """BasicSR's LMDB: encoded images under their names, and meta_info.txt with their shapes."""

    def __init__(self, root: str) -> None:
        self.root = root
        if not Path(root, 'data.mdb').is_file():
            raise UserError(f'{root}: no LMDB here (data.mdb is missing); for a folder set io_backend.type to disk')
        sizes = parse_meta_info(Path(root, 'meta_info.txt'))
        self._files = {str(Path(file).with_suffix('')): file for file in sizes}
        self._sizes = {str(Path(file).with_suffix('')): size for file, size in sizes.items()}

    def names(self) -> list[str]:
        return sorted(self._sizes)

    def path(self, name: str) -> str:
        return str(Path(self.root, self._files[name]))

    def size(self, name: str) -> tuple[int, int]:
        size = self._sizes[name]
        if size is None:
            raise UserError(f'{self.root}/meta_info.txt: no shape beside {name}; a line reads `name.png (h,w,c) 1`')
        return size

    def read(self, name: str) -> bytes:
        with _environment(str(Path(self.root).resolve()), os.getpid()).begin() as transaction:
            value = transaction.get(name.encode())
        if value is None:
            raise UserError(f'{self.root}: meta_info.txt lists {name}, but the LMDB has no such key; build it anew')
        return value


@functools.lru_cache(maxsize=64)
def _environment(root: str, pid: int) -> lmdb.Environment:
    # Once a process and path: LMDB refuses to open a path twice, and a handle must not cross a fork.
    return lmdb.open(root, readonly=True, lock=False, readahead=False, meminit=False)
