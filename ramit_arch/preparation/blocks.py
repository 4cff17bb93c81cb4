"""Images in a MATLAB file: one array of (images, blocks, height, width, 3) 8-bit RGB values, as SIDD has its blocks.

A block is named by a path below the file, FILE.mat/0003_12, counted from 0.
"""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.io import loadmat, whosmat

from ramit_arch.errors import UserError

_loading = threading.Lock()


class _Array(NamedTuple):
    name: str
    shape: tuple[int, ...]


def is_block_file(path: Path) -> bool:
    return path.suffix.lower() == '.mat' and path.is_file()


def is_block(path: Path) -> bool:
    return is_block_file(path.parent)


def block_paths(file: Path) -> list[Path]:
    """The paths of all blocks of a MATLAB file, which is read in full.

    Raises:
        UserError: it holds none, or cannot be read.
    """
    modified = file.stat().st_mtime_ns
    images, blocks = _array(file, modified).shape[:2]
    _values(file, modified)  # a truncated file is found before anything is written
    return [file / f'{image:04}_{block:02}' for image in range(images) for block in range(blocks)]


def block_shape(path: Path) -> tuple[int, int, int]:
    """(height, width, channels) of a block."""
    height, width, channels = _array(path.parent, path.parent.stat().st_mtime_ns).shape[2:]
    return height, width, channels


def read_block(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 in BGR order; the file's values stay in memory for the next block, until `forget_blocks`.

    Raises:
        UserError: the file is damaged.
    """
    image, block = map(int, path.name.split('_'))
    with _loading:
        values = _values(path.parent, path.parent.stat().st_mtime_ns)
    return np.ascontiguousarray(values[image, block, :, :, ::-1])


def forget_blocks() -> None:
    """Free the values of MATLAB files."""
    _values.cache_clear()


@functools.lru_cache(maxsize=8)
def _array(file: Path, modified: int) -> _Array:
    try:
        found = [_Array(name, shape) for name, shape, kind in whosmat(str(file)) if kind == 'uint8']
    except Exception as error:  # whatever SciPy raises at a damaged file
        raise UserError(f'{file}: not a MATLAB file that can be read; unpack or copy it again ({error})') from error
    for array in found:
        if len(array.shape) == 5 and array.shape[-1] == 3:
            return array
    raise UserError(f'{file}: holds no array of (images, blocks, height, width, 3) 8-bit values')


@functools.lru_cache(maxsize=2)  # noisy and clean
def _values(file: Path, modified: int) -> np.ndarray:
    name = _array(file, modified).name
    try:
        return loadmat(str(file), variable_names=[name])[name]
    except Exception as error:
        raise UserError(f'{file}: is damaged or cut short; unpack or copy it again ({error})') from error
