"""What the benchmarks of data share: images of DIV2K's size made of photographs. Not a benchmark itself."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from pathlib import Path

import cv2
import numpy as np
import skimage
from PIL import Image
from side_by_side import arguments

import basicsr_command
from ramit_arch.preparation.catalogue import image_files
from ramit_arch.preparation.quickstart import PHOTOGRAPHS

HEIGHT, WIDTH = 1404, 2040
WORKERS = 2


def mosaics(folder: Path | None, count: int, target: Path) -> None:
    """Write `count` PNG files of 2040x1404, each tiled with the photographs of a folder or of scikit-image."""
    if folder:
        files = image_files(folder)
    else:
        files = [Path(skimage.__file__).parent / 'data' / name for names in PHOTOGRAPHS.values() for name in names]
    photographs = [np.asarray(Image.open(file).convert('RGB'))[..., ::-1] for file in files]
    if not photographs:
        sys.exit(f'{folder}: no images')
    rng = np.random.default_rng(0)
    target.mkdir(parents=True)
    for number in range(1, count + 1):
        mosaic = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        y = 0
        while y < HEIGHT:
            x, row = 0, HEIGHT
            while x < WIDTH:
                tile = photographs[rng.integers(len(photographs))]
                part = mosaic[y : y + len(tile), x : x + tile.shape[1]]
                part[:] = tile[: len(part), : part.shape[1]]
                x, row = x + tile.shape[1], min(row, len(tile))
            y += row
        cv2.imwrite(str(target / f'{number:04}.png'), mosaic)


def mosaic_arguments(doc: str) -> argparse.ArgumentParser:
    parser = arguments(doc, rounds=3)
    parser.add_argument('--images', type=Path, help="a folder of photographs (default: scikit-image's)")
    parser.add_argument('--count', type=int, default=6, help='mosaics (default: 6)')
    return parser


def command(*arguments: object) -> None:
    """Run `basicsr` in this process."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = basicsr_command.main([str(argument) for argument in arguments])
    if code:
        sys.exit(f'basicsr {" ".join(map(str, arguments))} failed')
