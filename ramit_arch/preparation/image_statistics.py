"""Mean and standard deviation of every channel, for `img_mean` and `img_std` of an option file.

`basicsr statistics datasets/DIV2K/LRx2.lmdb` prints two conventions: the mean of every image's statistics, and those of
all pixels at once.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ramit_arch.data.pixels import convert_color
from ramit_arch.data.stores import Store, backend_of, open_store
from ramit_arch.errors import UserError
from ramit_arch.preparation.workers import Progress, cores, in_processes


class Moments(NamedTuple):
    """Mean and standard deviation (divided by n) of every channel of one image, RGB or gray, in [0, 1]."""

    pixels: int
    mean: np.ndarray
    std: np.ndarray


class Statistics(NamedTuple):
    """Of a set: `mean` and `std` are averages over images, `pixel_mean` and `pixel_std` those of all pixels."""

    images: int
    pixels: int
    mean: np.ndarray
    std: np.ndarray
    pixel_mean: np.ndarray
    pixel_std: np.ndarray


def run(args: argparse.Namespace) -> None:
    """The verb `statistics`."""
    found = statistics([Path(root).expanduser() for root in args.roots], args.color, args.workers or cores())
    print(f'# {found.images:,} images, {found.pixels:,} pixels, {args.color}')
    print('network_g:  # of every image, then averaged: how the published constants were made')
    print(f'  img_mean: {_line(found.mean)}\n  img_std: {_line(found.std)}')
    print(f'# over all pixels: mean {_line(found.pixel_mean)}, std {_line(found.pixel_std)}')


def statistics(roots: list[Path], color: str, workers: int) -> Statistics:
    """Statistics of all images below several roots, taken as one set.

    Args:
        roots: folders, LMDBs or raw stores.
        color: rgb, or gray by OpenCV's weights.
        workers: processes.

    Raises:
        UserError: a root without images, or an image that cannot be read.
    """
    names = []
    for root in roots:
        found = open_store(str(root), backend_of(root)).names()
        if not found:
            raise UserError(f'{root}: no images')
        names += [(str(root), name, color) for name in found]
    count = pixels = 0
    sums: np.ndarray = np.zeros((4, 3 if color == 'rgb' else 1))
    with Progress('statistics', len(names)) as progress:
        for one in in_processes(_moments, names, workers):
            count += 1
            pixels += one.pixels
            sums += [one.mean, one.std, one.pixels * one.mean, one.pixels * (one.mean**2 + one.std**2)]
            progress.step()
    mean, std = sums[:2] / count
    pixel_mean, pixel_square = sums[2:] / pixels
    return Statistics(count, pixels, mean, std, pixel_mean, np.sqrt(np.maximum(pixel_square - pixel_mean**2, 0)))


def _moments(task: tuple[str, str, str]) -> Moments:
    root, name, color = task
    image = convert_color(_store(root).pixels(name), color)
    mean, std = cv2.meanStdDev(image)
    top = np.iinfo(image.dtype).max
    return Moments(image.shape[0] * image.shape[1], mean[::-1, 0] / top, std[::-1, 0] / top)


@functools.lru_cache(maxsize=64)
def _store(root: str) -> Store:
    return open_store(root, backend_of(root))


def _line(values: np.ndarray) -> str:
    return '[' + ', '.join(f'{value:.4f}' for value in values) + ']'
