"""Image stores: a folder, an LMDB in BasicSR's layout, or a raw store, whose pixels need no decoding.

All list names, return sizes without reading pixels, and return pixels. `ramit_arch.preparation` writes them.
"""

from __future__ import annotations

import functools
import io
import math
import os
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple, Protocol
from weakref import WeakValueDictionary

import lmdb
import numpy as np
from PIL import Image, UnidentifiedImageError

from ramit_arch.data.pixels import decode
from ramit_arch.errors import UserError, suggestion

SUFFIXES = frozenset(('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm'))
# BasicSR's meta_info.txt: `name.png (h,w,c)`, in an LMDB followed by the compression level. Names may have spaces.
META_LINE = re.compile(r'^(?P<name>.+?)(\s+\((?P<h>\d+),\s*(?P<w>\d+)(,\s*\d+)?\).*)?$')
RAW_LINE = re.compile(r'^(?P<name>.+) \((?P<h>\d+),(?P<w>\d+),(?P<c>[13])\) (?P<dtype>uint8|uint16) (?P<offset>\d+)$')


class Store(Protocol):
    """A set of images under names without suffix."""

    root: str

    def names(self) -> list[str]:
        """All names, sorted."""

    def path(self, name: str) -> str:
        """Name of the image in messages and score files: its file, in an LMDB the root and the listed name."""

    def size(self, name: str) -> tuple[int, int]:
        """(height, width) without decoding; raises UserError where the image cannot be read."""

    def pixels(self, name: str) -> np.ndarray:
        """(H, W, 3) in BGR order or (H, W, 1), uint8 or uint16, perhaps read-only; raises UserError where the image
        cannot be read."""


def open_store(root: str, backend: str, meta_info_file: str | None = None) -> Store:
    """Open a data root for `io_backend: {type: backend}`.

    Raises:
        UserError: the backend is unknown, or the root is not what the backend expects.
    """
    if backend == 'disk':
        return FolderStore(root, meta_info_file)
    if backend == 'lmdb':
        return LmdbStore(root)
    if backend == 'raw':
        return RawStore(root)
    near = suggestion(backend, ['disk', 'lmdb', 'raw'])
    raise UserError(f'io_backend.type is {backend!r}{near}; it must be disk, lmdb or raw')


def backend_of(root: str | Path) -> str:
    """The backend that reads a data root, by its contents."""
    if Path(root, RawStore.PIXELS).is_file():
        return 'raw'
    return 'lmdb' if Path(root, 'data.mdb').is_file() else 'disk'


def parse_meta_info(file: str | Path) -> dict[str, tuple[int, int] | None]:
    """Read BasicSR's meta-info: file names in their order, with (height, width) where the line states it.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        text = Path(file).read_text(encoding='utf-8')
    except OSError as error:
        raise UserError(f'{file}: cannot read the meta-info file ({error.strerror})') from error
    except UnicodeDecodeError as error:
        raise UserError(f'{file}: not a text file') from error
    sizes: dict[str, tuple[int, int] | None] = {}
    for line in text.splitlines():
        match = META_LINE.match(line.strip())
        if match:
            sizes[match['name']] = (int(match['h']), int(match['w'])) if match['h'] else None
    return sizes


class EncodedStore(ABC):
    """A store of image files, as bytes."""

    @abstractmethod
    def path(self, name: str) -> str: ...

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The encoded image; raises UserError where it cannot be read."""

    def pixels(self, name: str) -> np.ndarray:
        return decode(self.read(name), self.path(name), self.listed_size(name))

    def listed_size(self, name: str) -> tuple[int, int] | None:
        """(height, width) where a list states it."""
        return None


class FolderStore(EncodedStore):
    """Image files of one folder, or those a meta-info file lists (which may lie in subfolders)."""

    def __init__(self, root: str, meta_info_file: str | None = None) -> None:
        self.root = root
        self.ignored: list[str] = []  # files of other kinds, and subfolders
        if not Path(root).is_dir():
            hint = ' (it is a file)' if Path(root).is_file() else ''
            raise UserError(f'{root}: no such folder{hint}')
        if meta_info_file is not None:
            files = list(parse_meta_info(meta_info_file))
        else:
            entries = sorted((entry.name, entry.is_file()) for entry in os.scandir(root) if entry.name[0] != '.')
            files = [name for name, is_file in entries if is_file and Path(name).suffix.lower() in SUFFIXES]
            kept = set(files)
            self.ignored = [name if is_file else f'{name}/' for name, is_file in entries if name not in kept]
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
        except (UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise UserError(f'{path}: not an image that can be read, or larger than Pillow allows') from error
        except OSError as error:
            raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error

    def read(self, name: str) -> bytes:
        try:
            return Path(self.path(name)).read_bytes()
        except OSError as error:
            raise UserError(f'{self.path(name)}: cannot be read ({error.strerror})') from error


class LmdbStore(EncodedStore):
    """BasicSR's LMDB: encoded images under their names, and meta_info.txt with their shapes."""

    def __init__(self, root: str) -> None:
        self.root = root
        if not Path(root, 'data.mdb').is_file():
            raise UserError(f'{root}: no LMDB here (data.mdb is missing){_hint(root)}')
        self._file = str(Path(root).resolve())
        _environment(self._file)  # raises if it cannot be opened
        sizes = parse_meta_info(Path(root, 'meta_info.txt'))
        self._files = {str(Path(file).with_suffix('')): file for file in sizes}
        self._sizes = {str(Path(file).with_suffix('')): size for file, size in sizes.items()}

    def names(self) -> list[str]:
        return sorted(self._sizes)

    def entries(self) -> int:
        """How many images the LMDB holds, listed or not."""
        return _environment(self._file).stat()['entries']

    def path(self, name: str) -> str:
        return str(Path(self.root, self._files[name]))

    def listed_size(self, name: str) -> tuple[int, int] | None:
        return self._sizes[name]

    def size(self, name: str) -> tuple[int, int]:
        size = self._sizes[name]
        if size is None:
            raise UserError(f'{self.root}/meta_info.txt: no shape for {name}; a line reads `name.png (h,w,c) 1`')
        return size

    def wrong_listing(self, name: str) -> str | None:
        """What is wrong with the size that meta_info.txt lists for an image, or None."""
        try:
            with Image.open(io.BytesIO(self.read(name))) as image:
                found = image.height, image.width
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError):
            return f'{self.path(name)} is not an image that can be read'
        height, width = self.size(name)
        if found == (height, width):
            return None
        listed = f'{self.root}/meta_info.txt lists {width}x{height} for {name}'
        return f'{listed}, but the image is {found[1]}x{found[0]}; build the LMDB again with basicsr prepare'

    def read(self, name: str) -> bytes:
        try:
            with _environment(self._file).begin() as transaction:
                value = transaction.get(name.encode())
        except lmdb.Error as error:
            raise UserError(f'{self.root}: {name} cannot be read ({error}); build the LMDB again') from error
        if value is None:
            raise UserError(f'{self.root}: meta_info.txt lists {name}, but the LMDB has no such key; build it again')
        return value


_shared: WeakValueDictionary[str, lmdb.Environment] = WeakValueDictionary()


def open_lmdb(root: str) -> lmdb.Environment:
    """Open an LMDB for reading, or return the handle that another dataset of this process holds: LMDB refuses to be
    opened twice. A handle is closed with its last reference.

    Raises:
        UserError: it cannot be read, or is cut short.
    """
    environment = _shared.get(os.path.realpath(root))
    if environment is not None:
        return environment
    try:
        environment = lmdb.open(root, readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise UserError(f'{root}: not an LMDB that can be read ({error}); build it again') from error
    # The file is memory-mapped: a missing page would crash the process.
    if Path(root, 'data.mdb').stat().st_size < (environment.info()['last_pgno'] + 1) * environment.stat()['psize']:
        raise UserError(f'{root}/data.mdb: shorter than its contents (a copy cut short?); copy or build it again')
    _shared[os.path.realpath(root)] = environment
    return environment


_environment = functools.lru_cache(maxsize=64)(open_lmdb)  # keeps handles open

# Handles are not fork-safe: close before forking, reopen lazily.
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(before=_environment.cache_clear)


class RawImage(NamedTuple):
    """One image of a raw store, from its line of meta_info.txt."""

    file: str
    shape: tuple[int, int, int]
    dtype: str
    offset: int

    @property
    def end(self) -> int:
        return self.offset + math.prod(self.shape) * (2 if self.dtype == 'uint16' else 1)

    def __str__(self) -> str:
        height, width, channels = self.shape
        return f'{self.file} ({height},{width},{channels}) {self.dtype} {self.offset}'

    @classmethod
    def from_line(cls, line: str) -> RawImage | None:
        match = RAW_LINE.match(line)
        if match is None:
            return None
        shape = (int(match['h']), int(match['w']), int(match['c']))
        return cls(match['name'], shape, match['dtype'], int(match['offset']))


class RawStore:
    """Pixels without encoding, so that a crop costs the pages it touches.

    pixels.bin holds the images behind one another, each as (h, w, c) rows in BGR order or gray. meta_info.txt has a
    line for each: `name.png (h,w,c) dtype offset`, dtype uint8 or uint16 (little-endian), offset in bytes.
    """

    PIXELS = 'pixels.bin'

    def __init__(self, root: str) -> None:
        self.root = root
        pixels, meta = Path(root, self.PIXELS), Path(root, 'meta_info.txt')
        self._file = str(pixels.resolve())
        if not pixels.is_file():
            raise UserError(f'{root}: no raw store here ({self.PIXELS} is missing){_hint(root)}')
        self._images: dict[str, RawImage] = {}
        try:
            lines = meta.read_text(encoding='utf-8').splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f'{meta}: cannot be read ({error}); build the store again') from error
        for number, line in enumerate(lines, 1):
            image = RawImage.from_line(line)
            if image is None:
                raise UserError(f'{meta}, line {number}: not `name.png (h,w,c) dtype offset`; build the store again')
            self._images[str(Path(image.file).with_suffix(''))] = image
        if pixels.stat().st_size < max((image.end for image in self._images.values()), default=0):
            raise UserError(f'{pixels}: shorter than its contents (a copy cut short?); copy or build it again')

    def names(self) -> list[str]:
        return sorted(self._images)

    def path(self, name: str) -> str:
        return f'{self.root}/{self._images[name].file}'

    def size(self, name: str) -> tuple[int, int]:
        return self._images[name].shape[:2]

    def pixels(self, name: str) -> np.ndarray:
        image = self._images[name]
        data = _mapped(self._file)[image.offset : image.end]
        return data.view(image.dtype).reshape(image.shape)


@functools.lru_cache(maxsize=64)
def _mapped(path: str) -> np.ndarray:
    # Not kept in the store, which is pickled for spawned workers.
    return np.memmap(path, mode='r').view(np.ndarray)


def _hint(root: str) -> str:
    """What `io_backend.type` fits a root, if another does."""
    if not Path(root).is_dir() or (backend_of(root) == 'disk' and Path(root).suffix in ('.lmdb', '.raw')):
        return ''
    return f'; for what is there set io_backend.type to {backend_of(root)}'
