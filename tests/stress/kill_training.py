"""Kill a training at random moments, go on by `--auto_resume`, and compare its end with that of a run left alone.

    python tests/stress/kill_training.py --work DIR
    python tests/stress/kill_training.py --work DIR --kills 10 --iterations 100 --seed 1

The run has all that a resumed one could lose: moving average, warm start, three progressive stages, stochastic depth,
workers, validation, the best network. A kill is SIGKILL; every second one waits for a file that is being written. Every
start is a fork of this process, which saves the seconds of importing.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml

import basicsr_command
from ramit_arch import RAMiT
from ramit_arch.evaluation.text import aligned

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers import write_pairs

NETWORK = {'upscale': 2, 'dim': 16, 'depths': [1, 1, 1, 2], 'expand_groups': 1, 'window_size': 2, 'drop_path': 0.3}


def options(work: Path, iterations: int, workers: int) -> dict[str, Any]:
    data = {'type': 'PairedRestorationDataset', 'dataroot_gt': str(work / 'gt'), 'dataroot_lq': str(work / 'lq')}
    third = iterations // 3
    return {
        'name': 'run', 'model_type': 'RAMiTModel', 'scale': 2, 'num_gpu': 0, 'manual_seed': 5,
        'datasets': {
            'train': {**data, 'name': 'train', 'num_worker_per_gpu': workers},
            'val': {**data, 'name': 'first'}, 'val_2': {**data, 'name': 'second'},
        },
        'network_g': {'type': 'RAMiT', **NETWORK},
        'path': {'pretrain_network_g': str(work / 'pretrained.pth')},
        'train': {
            'total_iter': iterations, 'ema_decay': 0.9, 'warm_start': {'iter': third // 2},
            'progressive': [
                {'iter': third, 'lq_patch_size': 8, 'batch_size': 4},
                {'iter': third, 'lq_patch_size': 12, 'batch_size': 2},
                {'iter': iterations - 2 * third, 'lq_patch_size': 16, 'batch_size': 2},
            ],
            'optim_g': {'type': 'Adam', 'lr': 0.001, 'betas': [0.9, 0.99]},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [third], 'gamma': 0.5},
            'pixel_opt': {'type': 'L1Loss'},
        },
        'val': {'val_freq': 10, 'save_img': True, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 2}}},
        'logger': {'print_freq': 10, 'save_checkpoint_freq': 5, 'keep_checkpoints': 3, 'keep_best': 'psnr',
                   'use_tb_logger': False},
    }  # fmt: skip


def start(folder: Path) -> int:
    """Begin or go on with the run of a folder, in a process of its own."""
    process = os.fork()
    if process:
        return process
    try:
        os.chdir(folder)
        torch.set_num_threads(1)
        log = os.open('log.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        arguments = ['train', '-opt', 'train.yml', '--auto_resume']
        sys.argv = ['basicsr', *arguments]
        code = basicsr_command.main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    finally:
        os._exit(99)


def ended(process: int) -> int | None:
    """The exit status, or none while it runs."""
    done, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def being_written(folder: Path) -> list[Path]:
    return list(folder.glob('experiments/run/*/.*.part'))


def kill_within(process: int, folder: Path, seconds: float, writing: bool) -> tuple[str | None, int | None]:
    """Kill the process that much later; where it was hit, or none and its exit status if it ended before."""
    moment = time.monotonic() + seconds
    while time.monotonic() < moment or (writing and not being_written(folder)):
        status = ended(process)
        if status is not None:
            return None, status
        time.sleep(0.0002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    if being_written(folder):
        return 'while a file was written', None
    return 'elsewhere' if list(
        folder.glob('experiments/run/training_states/*.state')
    ) else 'before the first state', None


def outcome(folder: Path) -> dict[str, Any]:
    """What must be the same in the end: weights, optimiser, best scores, all scores, the best network, all images."""
    run = folder / 'experiments' / 'run'
    models, states = run / 'models', sorted((run / 'training_states').glob('*.state'), key=lambda path: int(path.stem))
    return {
        'weights': torch.load(models / 'net_g_latest.pth', weights_only=True),
        'best network': torch.load(models / 'net_g_best.pth', weights_only=True),
        'last state': torch.load(states[-1], weights_only=True),
        'files': sorted(
            str(path.relative_to(run)) for path in run.rglob('*') if path.suffix in ('.pth', '.state', '.png')
        ),
        'scores': {path.name: path.read_text() for path in sorted((run / 'scores').glob('*.csv'))},
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b


def run_killed(
    folder: Path, opt: dict[str, Any], kills: int, rng: random.Random, seconds: float
) -> tuple[Counter[str], int]:
    """Kill a run up to so often and let it come to its end; where it was hit, and how often it was begun again."""
    folder.mkdir(parents=True)
    (folder / 'train.yml').write_text(yaml.safe_dump(opt))
    hits: Counter[str] = Counter()
    resumes = 0
    while True:
        process = start(folder)
        if hits.total() < kills:
            hit, status = kill_within(process, folder, rng.uniform(0.2, seconds), writing=hits.total() % 2 == 1)
        else:
            hit, status = None, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if hit:
            hits[hit] += 1
            resumes += 1
            continue
        if status != 0:
            sys.exit(f'a run failed with {status}; see {folder / "log.txt"}')
        return hits, resumes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--work', type=Path, required=True, help='folder to create')
    parser.add_argument('--kills', type=int, default=50)
    parser.add_argument('--iterations', type=int, default=300)
    parser.add_argument('--seconds', type=float, default=4, help='the latest moment of a kill after a start')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    args = parser.parse_args()
    args.work = args.work.resolve()
    shutil.rmtree(args.work, ignore_errors=True)
    write_pairs(args.work, count=5, lq=(24, 32))
    rng = random.Random(args.seed)
    torch.manual_seed(0)
    torch.save(RAMiT(**NETWORK).state_dict(), args.work / 'pretrained.pth')
    run_killed(args.work / 'whole', options(args.work, args.iterations, 0), 0, rng, 0)
    whole = outcome(args.work / 'whole')

    rows = [['workers', 'kills', *(places := ['while a file was written', 'elsewhere', 'before the first state']),
             'resumes', 'end']]  # fmt: skip
    killed, run = 0, 0
    while killed < args.kills:
        workers, folder = run % 3, args.work / f'killed{run}'
        opt = options(args.work, args.iterations, workers)
        hits, resumes = run_killed(folder, opt, args.kills - killed, rng, args.seconds)
        found = outcome(folder)
        differing = [name for name in whole if not same(found[name], whole[name])]
        end = f'DIFFERS in {", ".join(differing)}' if differing else 'bit-identical'
        rows.append([str(workers), str(hits.total()), *(str(hits[place]) for place in places), str(resumes), end])
        print(aligned(rows[-1:]), flush=True)
        killed, run = killed + hits.total(), run + 1
    print(f'\n{args.iterations} iterations, saved every 5, {killed} kills; all compared with the run left alone')
    print(aligned(rows))
    if any('DIFFERS' in row[-1] for row in rows):
        sys.exit(1)


if __name__ == '__main__':
    main()
