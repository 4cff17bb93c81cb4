"""Does every task learn? A few hundred iterations each on small real sets, scored on images that were not trained on.

    python benchmarks/short_training.py --data DIR --work /tmp/short_training
    python benchmarks/short_training.py --data DIR --work /tmp/short_training --tasks CDN DR --iterations 1000

DIR holds T91/HR, Set5/HR, Set5/LRx2, Rain100H/HQ and Rain100H/LQ. Low-light pairs are synthetic: photographs of T91
darkened by a gain and a gamma curve, with a little noise; they say nothing about real low light. Each task is run by
the real command from its own option file, with a smaller network, smaller patches and batches. The table is also
written to WORK/short_training.md; crops to look at are WORK/results/*/comparison_*.png.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
import yaml

import ramit_arch  # noqa: F401  (makes BasicSR importable)

OPTIONS = Path(__file__).resolve().parents[1] / 'options'
BASICSR = Path(sys.executable).with_name('basicsr')
HELD_OUT = {'T91': 10, 'Rain100H': 3}  # the last images by name
TASKS = ('SRx2', 'CDN', 'GDN', 'LLE', 'DR')


def split(folder: Path, held_out: int) -> tuple[list[Path], list[Path]]:
    """Training and test files, of the images that hold the largest patch also at half their size."""
    files = [file for file in sorted(folder.glob('*.png')) if min(cv2.imread(str(file)).shape[:2]) >= 128]
    if len(files) <= held_out:
        sys.exit(f'{folder}: needs more than {held_out} PNG files')
    return files[:-held_out], files[-held_out:]


def write(files: list[Path], folder: Path, change: Callable[[np.ndarray, int], np.ndarray] | None = None) -> str:
    """Copy images, changed or not, into a new folder; its path."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for i, file in enumerate(files):
        image = cv2.imread(str(file))
        cv2.imwrite(str(folder / file.name), change(image, i) if change else image)
    return str(folder)


def even(image: np.ndarray, _: int) -> np.ndarray:
    """Sides that x2 divides."""
    return image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]


def halve(image: np.ndarray, i: int) -> np.ndarray:
    """Half the size by MATLAB's bicubic kernel."""
    from basicsr.utils.matlab_functions import imresize

    return (imresize(even(image, i).astype(np.float32) / 255, 0.5) * 255).round().clip(0, 255).astype(np.uint8)


def darken(image: np.ndarray, i: int) -> np.ndarray:
    """A synthetic low-light image: gain 0.2 to 0.4, gamma 1.5 to 2, Gaussian noise of sigma 2."""
    rng = np.random.default_rng(i)
    dark = rng.uniform(0.2, 0.4) * (image / 255) ** rng.uniform(1.5, 2) * 255 + rng.normal(0, 2, image.shape)
    return dark.round().clip(0, 255).astype(np.uint8)


def prepare(task: str, data: Path, work: Path) -> tuple[dict, list[dict]]:
    """Sections of the training set and of the test sets, in the form of the task's option file."""
    source, target = data / ('Rain100H/HQ' if task == 'DR' else 'T91/HR'), work / 'data' / task
    training, held_out = split(source, HELD_OUT[source.parts[-2]])
    sets: dict[str, dict] = {}
    for kind, files in [('train', training), ('test', held_out)]:
        gt = write(files, target / kind / 'gt', even if task == 'SRx2' else None)
        sets[kind] = {'dataroot_gt': gt}
        if task in ('SRx2', 'LLE'):
            change = halve if task == 'SRx2' else darken
            sets[kind]['dataroot_lq'] = write(files, target / kind / 'lq', change)
        if task == 'DR':
            sets[kind]['dataroot_lq'] = write([data / 'Rain100H/LQ' / f.name for f in files], target / kind / 'lq')
    test = {'name': f'{source.parts[-2]}_held_out', **sets['test']}
    if task == 'SRx2':
        roots = {'dataroot_gt': str(data / 'Set5/HR'), 'dataroot_lq': str(data / 'Set5/LRx2')}
        return sets['train'], [{'name': 'Set5', 'filename_tmpl': '{}x2', **roots}]
    if task in ('CDN', 'GDN'):
        return sets['train'], [{**test, 'name': f'{test["name"]}_sigma{s}', 'sigma': s} for s in (15, 25, 50)]
    return sets['train'], [test]


def write_options(task: str, data: Path, work: Path, iterations: int) -> None:
    """WORK/train_TASK.yml and test_TASK.yml, which say what differs from the project's files."""
    training, tests = prepare(task, data, work)
    original = yaml.safe_load((OPTIONS / f'test_RAMiT_{task}.yml').read_text(encoding='utf-8'))
    kind = {key: original['datasets'][min(original['datasets'])].get(key) for key in ('type', 'color')}
    kind = {key: value for key, value in kind.items() if value}
    common = {'name': task, 'num_gpu': 0, 'network_g': {'dim': 32, 'depths': [2, 2, 2, 2], 'mixer_expand_groups': 2}}
    first, second = iterations // 2, iterations // 4
    lengths = [first, second, iterations - first - second]
    stages = [(patch, batch) for patch, batch in zip((32, 48, 64), (8, 4, 2), strict=True)]
    none = dict.fromkeys(('roots', 'repeat'))
    loader = {'io_backend': {'type': 'disk'}, 'num_worker_per_gpu': 2, 'lq_patch_size': None}
    train = {
        'base': str(OPTIONS / f'train_RAMiT_{task}.yml'),
        **common,
        'datasets': {
            'train': {**none, **loader, **training, 'batch_size_per_gpu': None},
            'val': {**tests[-1], 'filename_tmpl': tests[-1].get('filename_tmpl')},
        },
        'train': {
            'total_iter': iterations,
            'progressive': [
                {'iter': length, 'lq_patch_size': patch, 'batch_size': batch}
                for length, (patch, batch) in zip(lengths, stages, strict=True)
            ],
            'optim_g': {'lr': 1e-3},
            'lr_batch_size': 8,
            'warmup_iter': iterations // 20,
            'scheduler': {'milestones': [iterations * 3 // 4, iterations * 7 // 8]},
        },
        'val': {'val_freq': iterations},
        'logger': {'save_checkpoint_freq': iterations, 'use_tb_logger': False},
    }
    test = {
        'base': str(OPTIONS / f'test_RAMiT_{task}.yml'),
        **common,
        'path': {'pretrain_network_g': f'experiments/{task}/models/net_g_latest.pth'},
        'datasets': {
            **dict.fromkeys(original['datasets']),
            **{f'test_{i}': {**kind, **section} for i, section in enumerate(tests)},
        },
    }
    for name, opt in [('train', train), ('test', test)]:
        (work / f'{name}_{task}.yml').write_text(yaml.safe_dump(opt, sort_keys=False), encoding='utf-8')


def run(task: str, work: Path) -> float:
    """Train, test and compare; the seconds of training."""
    seconds = 0.0
    for verb, file in [('train', f'train_{task}.yml'), ('test', f'test_{task}.yml'), ('compare', f'test_{task}.yml')]:
        print(f'{task}: basicsr {verb}', file=sys.stderr, flush=True)
        start = time.perf_counter()
        with (work / f'{verb}_{task}.log').open('w', encoding='utf-8') as log:
            command = [str(BASICSR), verb, '-opt', file]
            if subprocess.run(command, cwd=work, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
                sys.exit(f'{task}: basicsr {verb} failed; see {log.name}')
        seconds += time.perf_counter() - start if verb == 'train' else 0
    return seconds


def rows(task: str, work: Path, seconds: float) -> list[str]:
    """Markdown rows, one a test set: PSNR of the input and after training, under the task's protocol."""
    found = []
    for file in sorted((work / 'results' / task / 'scores').glob('*.json')):
        name = file.stem
        lines = (work / 'results' / task / f'comparison_{name}.txt').read_text(encoding='utf-8').splitlines()
        before = float(lines[-1].split()[1])
        after = fmean(row['psnr'] for row in json.loads(file.read_text(encoding='utf-8'))['images'])
        found.append(f'| {task} | {name} | {before:.2f} | {after:.2f} | {after - before:+.2f} | {seconds:.0f} |')
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description='Train every task for a few hundred iterations on small real sets.')
    parser.add_argument('--data', type=Path, required=True, help='folder with T91, Set5 and Rain100H')
    parser.add_argument('--work', type=Path, required=True, help='folder for option files, experiments and results')
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=TASKS)
    parser.add_argument('--iterations', type=int, default=400)
    args = parser.parse_args()
    data, work = args.data.resolve(), args.work.resolve()
    if args.iterations < 20:
        parser.error('--iterations: at least 20, for three stages and a warm-up')
    if not data.is_dir():
        parser.error(f'--data {data}: no such folder')
    work.mkdir(parents=True, exist_ok=True)
    table = ['| task | test set | PSNR of the input | after training | gain | seconds |', '|---|---|---|---|---|---|']
    for task in args.tasks:
        write_options(task, data, work, args.iterations)
        table += rows(task, work, run(task, work))
    (work / 'short_training.md').write_text('\n'.join(table) + '\n', encoding='utf-8')
    print('\n'.join(table))


if __name__ == '__main__':
    main()
