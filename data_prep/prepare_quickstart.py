"""Make the demo's data: HQ/LQ pairs at scale 2 from the photographs in scikit-image's wheel, as LMDBs.

    python data_prep/prepare_quickstart.py

writes datasets/quickstart/{train,test}/{HR,LRx2}.lmdb, and the same images as PNG files beside them. Nothing is
downloaded, and a second run does nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import skimage
from PIL import Image
from tqdm import tqdm

import ramit_arch  # noqa: F401  (makes BasicSR importable)

from basicsr.utils.lmdb_util import make_lmdb_from_imgs  # isort: skip
from basicsr.utils.matlab_functions import imresize  # isort: skip

SCALE = 2
TARGET = Path('datasets/quickstart')
PHOTOGRAPHS = {
    'train': 'motorcycle_left.png motorcycle_right.png rocket.jpg ihc.png camera.png coins.png page.png brick.png '
    'grass.png gravel.png'.split(),
    'test': 'astronaut.png chelsea.png coffee.png'.split(),
}
TILE = 128  # HQ pixels a side of a training image: small files decode fast


def make_pair(photograph: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a photograph: HQ cropped to a multiple of the scale, and LQ by bicubic downsampling, both uint8 BGR."""
    if not photograph.is_file():
        raise SystemExit(f'{photograph}: not in this scikit-image; install the version of requirements.txt')
    hq = np.asarray(Image.open(photograph).convert('RGB'))[..., ::-1]
    hq = hq[: hq.shape[0] // SCALE * SCALE, : hq.shape[1] // SCALE * SCALE]
    lq = imresize(hq.astype(np.float32) / 255, 1 / SCALE)
    return hq, (lq.clip(0, 1) * 255).round().astype(np.uint8)


def tiles(hq: np.ndarray, lq: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut a pair into tiles, every one with its channels rotated further: few photographs hold few colours."""
    side = TILE // SCALE
    for count, (y, x) in enumerate(product(range(0, len(lq) - side + 1, side), range(0, lq.shape[1] - side + 1, side))):
        target = hq[y * SCALE : y * SCALE + TILE, x * SCALE : x * SCALE + TILE]
        source = lq[y : y + side, x : x + side]
        yield np.roll(target, count % 3, axis=-1), np.roll(source, count % 3, axis=-1)


def make_set(folder: Path, photographs: list[str], in_tiles: bool) -> None:
    """Write the pairs of one set as PNG files and as LMDBs."""
    source = Path(skimage.__file__).parent / 'data'
    for kind in ('HR', f'LRx{SCALE}'):
        (folder / kind).mkdir(parents=True)
    for file in tqdm(photographs, desc=f'Make {folder.name} pairs', unit='image', disable=None):
        pair = make_pair(source / file)
        for i, (hq, lq) in enumerate(tiles(*pair) if in_tiles else [pair]):
            name = f'{Path(file).stem}_{i:02}.png' if in_tiles else f'{Path(file).stem}.png'
            cv2.imwrite(str(folder / 'HR' / name), hq)
            cv2.imwrite(str(folder / f'LRx{SCALE}' / name), lq)
    for kind in ('HR', f'LRx{SCALE}'):
        names = sorted(path.name for path in (folder / kind).iterdir())
        keys = [Path(name).stem for name in names]
        with Path(os.devnull).open('w') as quiet, redirect_stdout(quiet), redirect_stderr(quiet):
            make_lmdb_from_imgs(str(folder / kind), str(folder / f'{kind}.lmdb'), names, keys)


def main() -> None:
    """Make both sets under another name first, so that a killed run leaves nothing that looks finished."""
    if TARGET.exists():
        print(f'{TARGET} is there already.')
        return
    unfinished = TARGET.with_name('.quickstart.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    for name, photographs in PHOTOGRAPHS.items():
        make_set(unfinished / name, photographs, in_tiles=name == 'train')
    unfinished.rename(TARGET)
    print(f'{TARGET}: {len(PHOTOGRAPHS["train"])} photographs to train on, {len(PHOTOGRAPHS["test"])} to test on.')


if __name__ == '__main__':
    main()
