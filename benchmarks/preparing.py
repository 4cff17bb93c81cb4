"""Preparing data, side by side with BasicSR: bicubic reduction of an image of DIV2K's size, and an LMDB of such images.

    python benchmarks/preparing.py
    python benchmarks/preparing.py --images DIR --count 16 --rounds 5

The images are mosaics of photographs, those of scikit-image or of a folder.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

import cv2
import numpy as np
import torch
from mosaics import HEIGHT, WIDTH, WORKERS, command, mosaic_arguments, mosaics
from side_by_side import Report, interleaved, work_folder

from basicsr.utils.lmdb_util import make_lmdb_from_imgs  # isort: skip
from basicsr.utils.matlab_functions import imresize  # isort: skip

from ramit_arch.preparation.bicubic import downscale


def measure_bicubic(report: Report, image: np.ndarray, rounds: int) -> None:
    for scale in (2, 3, 4):
        timings = interleaved(rounds, {
            'basicsr imresize': lambda scale=scale: imresize(image.astype(np.float32) / 255, 1 / scale),
            'downscale': lambda scale=scale: downscale(image, scale),
        })  # fmt: skip
        report.timings(f'bicubic x{scale}, {WIDTH}x{HEIGHT}', timings, 'basicsr imresize', ('images/s', 1))


def measure_packing(report: Report, folder: Path, work: Path, rounds: int) -> None:
    names = sorted(file.name for file in folder.iterdir())

    def theirs() -> None:
        shutil.rmtree(work / 'theirs.lmdb', ignore_errors=True)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            make_lmdb_from_imgs(str(folder), str(work / 'theirs.lmdb'), names, [Path(name).stem for name in names])

    def ours() -> None:
        shutil.rmtree(work / 'ours', ignore_errors=True)
        command('prepare', 'own', '--from', folder, '--to', work / 'ours', '--workers', WORKERS)

    timings = interleaved(rounds, {'make_lmdb_from_imgs': theirs, 'basicsr prepare own': ours})
    title = f'LMDB of {len(names)} PNG files, {WIDTH}x{HEIGHT}'
    report.timings(title, timings, 'make_lmdb_from_imgs', ('images/s', len(names)))


def main() -> None:
    args = mosaic_arguments(__doc__).parse_args()
    report = Report(args)
    torch.set_num_threads(1)
    with work_folder() as name:
        images = Path(name) / 'images'
        mosaics(args.images, args.count, images)
        measure_bicubic(report, cv2.imread(str(images / '0001.png')), args.rounds)
        measure_packing(report, images, Path(name), args.rounds)


if __name__ == '__main__':
    main()
