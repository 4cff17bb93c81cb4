"""Loading training items with two workers, side by side with BasicSR, and beside what a training step consumes.

    python benchmarks/loader.py
    python benchmarks/loader.py --images DIR --count 16 --rounds 5

The images are mosaics of photographs, 2040x1404 as in DIV2K, those of scikit-image or of a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import torch
from mosaics import HEIGHT, WIDTH, WORKERS, command, mosaic_arguments, mosaics
from side_by_side import DEVICE, Report, Timing, interleaved, work_folder
from torch.utils.data import DataLoader, Dataset
from training import ours, step

from basicsr.data.paired_image_dataset import PairedImageDataset  # isort: skip

from ramit_arch import PairedRestorationDataset

BATCH = 64
FEW, MANY = 32, 1600  # items a round: the raw store loads more of them, so that its rounds are not over in an instant


def batches(dataset: Dataset, count: int, images: int, batch: int = BATCH) -> Callable[[], None]:
    """A contestant that loads `count` items of all images in turn; its workers are there already, as in training."""
    order: Iterable[int] = [i % images for i in range(count)]
    loader = DataLoader(dataset, batch, sampler=order, num_workers=WORKERS, persistent_workers=True, drop_last=True)

    def load() -> None:
        for _ in loader:
            pass

    return load


class Zeros(Dataset):
    """Items of the same size made of nothing: what is left is DataLoader's own work, the ceiling for any dataset."""

    def __init__(self, patch: int, scale: int) -> None:
        self.patch, self.scale = patch, scale

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | str]:
        side = self.patch * self.scale
        lq, gt = torch.zeros(3, self.patch, self.patch), torch.zeros(3, side, side)
        return {'lq': lq, 'gt': gt, 'lq_path': 'lq', 'gt_path': 'gt'}


def measure(
    report: Report, title: str, root: Path, hq: str, lq: str, scale: int, patch: int, rounds: int
) -> dict[str, Timing]:
    common = {
        'type': 'PairedRestorationDataset', 'name': title, 'phase': 'train', 'scale': scale, 'gt_size': patch * scale,
        'use_hflip': True, 'use_rot': True,
    }  # fmt: skip
    images = len(list((root / hq).glob('*.png')))

    def opt(suffix: str, backend: str, **own: object) -> dict:
        stores = {'dataroot_gt': str(root / f'{hq}{suffix}'), 'dataroot_lq': str(root / f'{lq}{suffix}')}
        return {**common, **stores, 'io_backend': {'type': backend}, **own}

    template = {'filename_tmpl': '{}' if scale == 1 else f'{{}}x{scale}'}
    few, many = (FEW, images, FEW // 4), (MANY, images)
    timings = interleaved(rounds, {
        'BasicSR, PNG files': batches(PairedImageDataset(opt('', 'disk', **template)), *few),
        'BasicSR, LMDB': batches(PairedImageDataset(opt('.lmdb', 'lmdb')), *few),
        'ours, PNG files': batches(PairedRestorationDataset(opt('', 'disk', **template)), *few),
        'ours, LMDB': batches(PairedRestorationDataset(opt('.lmdb', 'lmdb')), *few),
        'ours, raw store': batches(PairedRestorationDataset(opt('.raw', 'raw')), *many),
        'zeros, no dataset': batches(Zeros(patch, scale), *many),
    })  # fmt: skip
    for name in ('ours, raw store', 'zeros, no dataset'):
        timings[name] = Timing(tuple(seconds * FEW / MANY for seconds in timings[name].seconds))
    report.timings(f'{title}, {FEW} items', timings, 'BasicSR, PNG files', ('items/s', FEW))
    return timings


def measure_step(report: Report, loading: Timing, patch: int, rounds: int) -> None:
    """What RAMiT x2 consumes. A step's time grows with its batch, so a smaller one tells it sooner on a CPU."""
    batch = BATCH if DEVICE.type == 'cuda' else BATCH // 8
    timing = interleaved(rounds, {'step': step(ours(), batch=batch, patch=patch)})['step']
    consumed, loaded = batch / timing.median, FEW / loading.median
    rows = [['training step', f'{consumed:,.1f}', ''], ['raw store', f'{loaded:,.1f}', f'{loaded / consumed:,.0f}x']]
    report.table(f'x2, LQ patch {patch}', ['images/s', 'feeds'], rows)


def main() -> None:
    args = mosaic_arguments(__doc__).parse_args()
    report = Report(args)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with work_folder() as name:
        work = Path(name)
        images, data, whole, small = (work / part for part in ('images', 'data', 'whole', 'small'))
        mosaics(args.images, args.count, images)
        formats = ('--format', 'png', 'lmdb', 'raw')
        command('prepare', 'own', '--from', images, '--to', data, '--scale', 2, *formats)
        # Pairs of one size, as for deraining: an image with itself, once whole and once as small as in Rain13K.
        command('prepare', 'own', '--from', images, '--lq', images, '--to', whole, *formats)
        (work / 'cut').mkdir()
        for file in sorted(images.iterdir()):
            cv2.imwrite(str(work / 'cut' / file.name), cv2.imread(str(file))[:321, :481])
        command('prepare', 'own', '--from', work / 'cut', '--lq', work / 'cut', '--to', small, *formats)

        timings = measure(report, f'x2, LQ patch 64, {WIDTH}x{HEIGHT}', data, 'HR', 'LRx2', 2, 64, args.rounds)
        measure(report, f'x1, patch 128, {WIDTH}x{HEIGHT}', whole, 'HQ', 'LQ', 1, 128, args.rounds)
        measure(report, 'x1, patch 128, 481x321', small, 'HQ', 'LQ', 1, 128, args.rounds)
    torch.set_num_threads(threads)
    measure_step(report, timings['ours, raw store'], 64, args.rounds)


if __name__ == '__main__':
    main()
