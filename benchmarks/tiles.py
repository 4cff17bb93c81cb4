"""What tiles cost in quality: PSNR of tiled restoration beside that of whole images, for tiles and overlaps.

python benchmarks/tiles.py CHECKPOINT [--tiles 96 192 --overlaps 0 8 16 32 64] [IMAGES ...]

IMAGES are ground truth files, scikit-image's photographs by default; the LR images are made by bicubic interpolation as
for training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from skimage import data
from tqdm import tqdm

from ramit_arch import Restorer  # makes BasicSR importable
from ramit_arch.evaluation.text import aligned
from ramit_arch.preparation.bicubic import downscale

from basicsr.metrics import calculate_psnr  # isort: skip

PHOTOGRAPHS = ('astronaut', 'chelsea', 'coffee', 'rocket')


def images(files: list[Path], scale: int) -> list[np.ndarray]:
    """RGB images, cropped to a multiple of the scale."""
    if files:
        found = [cv2.imread(str(file))[..., ::-1] for file in files]
    else:
        found = [getattr(data, name)() for name in PHOTOGRAPHS]
    return [np.ascontiguousarray(x[: x.shape[0] // scale * scale, : x.shape[1] // scale * scale]) for x in found]


def psnr(restored: np.ndarray, gt: np.ndarray, scale: int) -> float:
    """On Y, without a border of `scale` pixels."""
    return calculate_psnr(restored[..., ::-1], gt[..., ::-1], crop_border=scale, test_y_channel=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('checkpoint')
    parser.add_argument('images', nargs='*', type=Path)
    parser.add_argument('--tiles', nargs='+', type=int, default=[96, 192])
    parser.add_argument('--overlaps', nargs='+', type=int, default=[0, 8, 16, 32, 64])
    args = parser.parse_args()
    whole = Restorer(args.checkpoint, tile=None)
    scale = whole.scale
    gts = images(args.images, scale)
    lqs = [downscale(gt, scale) for gt in gts]
    settings = [(tile, overlap) for tile in args.tiles for overlap in args.overlaps]
    progress = tqdm(total=len(lqs) * (len(settings) + 1), unit='image', disable=None)

    def score(restorer: Restorer) -> tuple[float, list[np.ndarray]]:
        outputs = []
        for lq in lqs:
            outputs.append(restorer.restore(lq))
            progress.update()
        return float(np.mean([psnr(x, gt, scale) for x, gt in zip(outputs, gts, strict=True)])), outputs

    best, references = score(whole)
    rows = [['tile', 'overlap', 'PSNR', 'lost', 'largest difference']]
    rows.append(['whole', '', f'{best:.3f}', '', ''])
    for tile, overlap in settings:
        mean, outputs = score(Restorer(whole.network, tile=tile, overlap=overlap))
        differs = max(np.abs(x.astype(int) - y).max() for x, y in zip(outputs, references, strict=True))
        rows.append([str(tile), str(overlap), f'{mean:.3f}', f'{best - mean:+.3f}', f'{differs} of 255'])
    progress.close()
    print(aligned(rows))


if __name__ == '__main__':
    main()
