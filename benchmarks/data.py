"""Preparing and loading data, side by side with BasicSR on the same images.

    python benchmarks/data.py --images DIR --work DIR

DIR holds photographs of any size. Mosaics of them, 2040x1404 as in DIV2K, are what is measured: reducing one by bicubic
interpolation, packing them as an LMDB, and loading training batches with two workers. Every figure is the median of
interleaved rounds, every ratio one of this run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import ramit_arch  # noqa: F401  (makes BasicSR importable)

from basicsr.data.paired_image_dataset import PairedImageDataset  # isort: skip
from basicsr.utils.lmdb_util import make_lmdb_from_imgs  # isort: skip
from basicsr.utils.matlab_functions import imresize  # isort: skip

import basicsr_command
from data_prep.bicubic import downscale
from ramit_arch import PairedRestorationDataset
from ramit_arch.evaluation.text import aligned

HEIGHT, WIDTH = 1404, 2040
WORKERS, BATCH = 2, 16


def mosaics(folder: Path, count: int, target: Path) -> None:
    """Write `count` PNG files of 2040x1404, each tiled with other photographs."""
    photographs = [image for file in sorted(folder.iterdir()) if (image := cv2.imread(str(file))) is not None]
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


def interleaved(rounds: int, contestants: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of every contestant, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for counted in [False] + [True] * rounds:
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            if counted:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(several) for name, several in seconds.items()}


def table(title: str, unit: str, count: int, seconds: dict[str, float], baseline: str) -> None:
    rows = [[title, unit, f'times {baseline}']]
    rows += [[name, f'{count / value:,.1f}', f'{seconds[baseline] / value:.1f}'] for name, value in seconds.items()]
    print(aligned(rows), end='\n\n')


def command(*arguments: object) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = basicsr_command.main([str(argument) for argument in arguments])
    if code:
        sys.exit(f'basicsr {" ".join(map(str, arguments))} failed')


def measure_bicubic(image: np.ndarray, rounds: int) -> None:
    for scale in (2, 3, 4):
        seconds = interleaved(rounds, {
            'basicsr imresize': lambda scale=scale: imresize(image.astype(np.float32) / 255, 1 / scale),
            'downscale': lambda scale=scale: downscale(image, scale),
        })  # fmt: skip
        table(f'bicubic x{scale}, {WIDTH}x{HEIGHT}', 'images/s', 1, seconds, 'basicsr imresize')


def measure_packing(folder: Path, work: Path, rounds: int) -> None:
    names = sorted(file.name for file in folder.iterdir())

    def theirs() -> None:
        shutil.rmtree(work / 'theirs.lmdb', ignore_errors=True)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            make_lmdb_from_imgs(str(folder), str(work / 'theirs.lmdb'), names, [Path(name).stem for name in names])

    def ours() -> None:
        shutil.rmtree(work / 'ours', ignore_errors=True)
        command('prepare', 'own', '--from', folder, '--to', work / 'ours', '--workers', WORKERS)

    seconds = interleaved(rounds, {'make_lmdb_from_imgs': theirs, 'basicsr prepare own': ours})
    table(f'LMDB of {len(names)} PNG files', 'images/s', len(names), seconds, 'make_lmdb_from_imgs')


def batches(dataset: Dataset, indices: Iterable[int]) -> Callable[[], None]:
    """A contestant that loads an epoch of given indices; its workers are there already, as in training."""
    loader = DataLoader(
        dataset, BATCH, sampler=list(indices), num_workers=WORKERS, persistent_workers=True, drop_last=True
    )

    def load() -> None:
        for _ in loader:
            pass

    return load


class Zeros(Dataset):
    """Items of the same size made of nothing: what is left is DataLoader's own work, the ceiling for any data set."""

    def __init__(self, patch: int, scale: int) -> None:
        self.patch, self.scale = patch, scale

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | str]:
        side = self.patch * self.scale
        lq, gt = torch.zeros(3, self.patch, self.patch), torch.zeros(3, side, side)
        return {'lq': lq, 'gt': gt, 'lq_path': 'lq', 'gt_path': 'gt'}


def measure_loading(title: str, root: Path, hq: str, lq: str, scale: int, patch: int, rounds: int) -> None:
    """Training items per second. The raw store loads more of them, so that its rounds are not over in an instant."""
    common = {
        'phase': 'train', 'scale': scale, 'gt_size': patch * scale, 'use_hflip': True, 'use_rot': True, 'name': title,
    }  # fmt: skip
    names = sorted(file.stem for file in (root / hq).glob('*.png'))

    def opt(suffix: str, backend: str, **own: object) -> dict:
        stores = {'dataroot_gt': str(root / f'{hq}{suffix}'), 'dataroot_lq': str(root / f'{lq}{suffix}')}
        return {**common, **stores, 'io_backend': {'type': backend}, **own}

    template = {'filename_tmpl': '{}' if scale == 1 else f'{{}}x{scale}'}
    few = [i % len(names) for i in range(4 * BATCH)]
    many = [i % len(names) for i in range(100 * BATCH)]
    seconds = interleaved(rounds, {
        'BasicSR, PNG files': batches(PairedImageDataset(opt('', 'disk', **template)), few),
        'BasicSR, LMDB': batches(PairedImageDataset(opt('.lmdb', 'lmdb')), few),
        'ours, PNG files': batches(PairedRestorationDataset(opt('', 'disk', **template)), few),
        'ours, LMDB': batches(PairedRestorationDataset(opt('.lmdb', 'lmdb')), few),
        'ours, raw store': batches(PairedRestorationDataset(opt('.raw', 'raw')), many),
        'zeros, no data set': batches(Zeros(patch, scale), many),
    })  # fmt: skip
    for name in ('ours, raw store', 'zeros, no data set'):
        seconds[name] *= len(few) / len(many)
    table(title, 'items/s', len(few), seconds, 'BasicSR, PNG files')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--images', type=Path, required=True, help='a folder of photographs')
    parser.add_argument('--work', type=Path, required=True, help='a folder for some hundred megabytes; made anew')
    parser.add_argument('--count', type=int, default=16, help='mosaics')
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(args.work, ignore_errors=True)
    hr, data = args.work / 'images', args.work / 'data'
    mosaics(args.images, args.count, hr)
    command('prepare', 'own', '--from', hr, '--to', data, '--scale', 2, '--format', 'png', 'lmdb', 'raw')

    # Pairs of one size, as for deraining: an image with itself, once whole and once as small as in Rain13K.
    whole, small = args.work / 'whole', args.work / 'small'
    command('prepare', 'own', '--from', hr, '--lq', hr, '--to', whole, '--format', 'png', 'lmdb', 'raw')
    (args.work / 'cut').mkdir()
    for file in sorted(hr.iterdir()):
        cv2.imwrite(str(args.work / 'cut' / file.name), cv2.imread(str(file))[:321, :481])
    cut = args.work / 'cut'
    command('prepare', 'own', '--from', cut, '--lq', cut, '--to', small, '--format', 'png', 'lmdb', 'raw')

    measure_bicubic(cv2.imread(str(hr / '0001.png')), args.rounds)
    measure_packing(hr, args.work, args.rounds)
    measure_loading(f'x2, LQ patch 64, {WIDTH}x{HEIGHT}', data, 'HR', 'LRx2', 2, 64, args.rounds)
    measure_loading(f'x1, patch 128, {WIDTH}x{HEIGHT}', whole, 'HQ', 'LQ', 1, 128, args.rounds)
    measure_loading('x1, patch 128, 481x321', small, 'HQ', 'LQ', 1, 128, args.rounds)


if __name__ == '__main__':
    main()
