"""Make the demo's data: HQ/LQ pairs at scale 2 from the photographs in scikit-image's wheel.

Writes datasets/quickstart/{train,test}/{HR,LRx2} as LMDBs, and the same images as PNG files beside them. Nothing is
downloaded, an interrupted run can be restarted, and a second one does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

from ramit_arch.preparation.bicubic import downscale
from ramit_arch.preparation.images import encode
from ramit_arch.preparation.workers import Progress
from ramit_arch.preparation.writers import WRITERS, Job, Record

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
    return hq, downscale(hq, SCALE)


def tiles(hq: np.ndarray, lq: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut a pair into tiles, every one with its channels rotated further: few photographs hold few colours."""
    side = TILE // SCALE
    for count, (y, x) in enumerate(product(range(0, len(lq) - side + 1, side), range(0, lq.shape[1] - side + 1, side))):
        target = hq[y * SCALE : y * SCALE + TILE, x * SCALE : x * SCALE + TILE]
        source = lq[y : y + side, x : x + side]
        yield np.roll(target, count % 3, axis=-1), np.roll(source, count % 3, axis=-1)


def make_set(folder: Path, photographs: list[str], in_tiles: bool) -> None:
    """Write the pairs of one set, as LMDBs and as PNG files."""
    source = Path(skimage.__file__).parent / 'data'
    job = Job(f'{" ".join(photographs)}, {f"tiles of {TILE}" if in_tiles else "whole"}, x{SCALE}')
    with ExitStack() as stack:
        writers = {
            (kind, writer): stack.enter_context(writer(folder / f'{kind}{writer.suffix}', job))
            for kind, writer in product(('HR', f'LRx{SCALE}'), (WRITERS['lmdb'], WRITERS['png']))
        }
        unfinished = {place: writer for place, writer in writers.items() if not writer.finished}
        if not unfinished:
            print(f'{folder}: exists already')
            return
        with Progress(f'make {folder}', len(photographs), unit='photograph') as progress:
            for file in photographs:
                pair = make_pair(source / file)
                for i, images in enumerate(tiles(*pair) if in_tiles else [pair]):
                    name = f'{Path(file).stem}_{i:02}' if in_tiles else Path(file).stem
                    records = dict(zip(('HR', f'LRx{SCALE}'), (_record(name, image) for image in images), strict=True))
                    for (kind, _), writer in unfinished.items():
                        writer.put([records[kind]])
                progress.step()
        for writer in unfinished.values():
            writer.finish()


def _record(name: str, image: np.ndarray) -> Record:
    height, width, channels = image.shape
    return Record(name, (height, width, channels), encode(image))


def main() -> None:
    """Make both sets."""
    for name, photographs in PHOTOGRAPHS.items():
        make_set(TARGET / name, photographs, in_tiles=name == 'train')
    print(f'{TARGET}: {len(PHOTOGRAPHS["train"])} photographs to train on, {len(PHOTOGRAPHS["test"])} to test on.')
