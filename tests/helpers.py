"""Small images, LMDBs, option files, models and the command line, for the tests."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
import torch
import yaml
from torch import nn

import basicsr_command
from ramit_arch import RAMiTModel  # makes BasicSR importable
from ramit_arch.cli import checks
from ramit_arch.data.progression import read_progression
from ramit_arch.models.options import Training
from ramit_arch.models.schedule import Schedule, make_schedule

from basicsr.models import build_model  # isort: skip
from basicsr.utils import logger  # isort: skip

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / 'shared'
BASICSR = Path(sys.executable).with_name('basicsr')

TINY_NETWORK = {
    'type': 'RAMiT', 'upscale': 2, 'dim': 16, 'depths': [1, 1, 1, 2], 'num_heads': [4, 4, 4, 4],
    'expand_groups': 1, 'window_size': 2,
}  # fmt: skip


def photograph(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """A smooth, reproducible (height, width, channels) uint8 image."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return image if channels == 3 else image[..., :1]


def write_pairs(folder: Path, count: int = 3, lq: tuple[int, int] = (20, 24), scale: int = 2) -> tuple[Path, Path]:
    """PNG pairs `0.png` ... under folder/gt and folder/lq; LQ (height, width) grows by one pixel an image."""
    for kind in ('gt', 'lq'):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        size = (lq[0] + i, lq[1] + i)
        gt = photograph(i, size[0] * scale, size[1] * scale)
        cv2.imwrite(str(folder / 'gt' / f'{i}.png'), gt)
        cv2.imwrite(str(folder / 'lq' / f'{i}.png'), cv2.resize(gt, size[::-1], interpolation=cv2.INTER_AREA))
    return folder / 'gt', folder / 'lq'


def write_lmdb(folder: Path, target: Path) -> Path:
    """Pack a folder of PNG files as an LMDB in BasicSR's layout."""
    files = sorted(folder.iterdir())
    with lmdb.open(str(target), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for file in files:
            transaction.put(file.stem.encode(), file.read_bytes())
    shapes = [cv2.imread(str(file)).shape for file in files]
    lines = [f'{file.stem}.png ({h},{w},{c}) 1\n' for file, (h, w, c) in zip(files, shapes, strict=True)]
    (target / 'meta_info.txt').write_text(''.join(lines))
    return target


def run_basicsr(*arguments: str, cwd: Path, timeout: float = 180) -> subprocess.CompletedProcess[str]:
    """What a user types, in a process of its own."""
    return subprocess.run(
        [str(BASICSR), *arguments], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )


def call_basicsr(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same in this process, without the seconds that imports take."""
    logger.initialized_logger.clear()
    logging.getLogger('basicsr').handlers.clear()
    out, err, before, argv = io.StringIO(), io.StringIO(), Path.cwd(), sys.argv
    os.chdir(cwd)
    sys.argv = ['basicsr', *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = basicsr_command.main()
    except SystemExit as stop:  # of argparse
        code = int(stop.code or 0)
    finally:
        os.chdir(before)
        sys.argv = argv
    return subprocess.CompletedProcess(['basicsr', *arguments], code, out.getvalue(), err.getvalue())


def assert_bfloat16_is_near(network: nn.Module) -> None:
    """Output of a small network with bfloat16 autocast, then with bfloat16 weights, against float32."""
    batch = torch.rand(1, 3, 24, 24)
    with torch.no_grad():
        expected = network(batch)
        with torch.autocast('cpu', torch.bfloat16):
            torch.testing.assert_close(network(batch).float(), expected, atol=0.02, rtol=0)
        out = network.bfloat16()(batch.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, atol=0.04, rtol=0)


def start_training(folder: Path) -> subprocess.Popen[str]:
    """`basicsr train -opt train.yml` in a session of its own, once it trains."""
    process = subprocess.Popen(
        [str(BASICSR), 'train', '-opt', 'train.yml'],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr
    for line in process.stderr:
        if 'l_pix' in line:
            return process
    raise AssertionError('it never trained')


def run_torchrun(processes: int, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same, as several processes on this machine."""
    command = [str(BASICSR.with_name('torchrun')), '--standalone', f'--nproc_per_node={processes}', str(BASICSR)]
    return subprocess.run([*command, *arguments], cwd=cwd, capture_output=True, text=True, timeout=180, check=False)


def tiny_options(gt: Path, lq: Path, name: str = 'tiny', **train: object) -> dict:
    """A training run of four iterations with validation, in a second or two."""
    data = {'type': 'PairedRestorationDataset', 'dataroot_gt': str(gt), 'dataroot_lq': str(lq)}
    return {
        'name': name,
        'model_type': 'RAMiTModel',
        'scale': 2,
        'num_gpu': 0,
        'manual_seed': 3,
        'datasets': {
            'train': {**data, 'name': 'tiny', 'lq_patch_size': 8, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0,
                      'repeat': 2},
            'val': {**data, 'name': 'tiny_val'},
        },
        'network_g': dict(TINY_NETWORK),
        'path': {},
        'train': {
            'total_iter': 4,
            'optim_g': {'type': 'Adam', 'lr': 0.001, 'betas': [0.9, 0.99]},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [2], 'gamma': 0.5},
            'pixel_opt': {'type': 'L1Loss'},
            **train,
        },
        'val': {'val_freq': 4, 'save_img': False, 'metrics': {
            'psnr': {'type': 'calculate_psnr', 'crop_border': 2, 'test_y_channel': True},
            'ssim': {'type': 'calculate_ssim', 'crop_border': 2, 'test_y_channel': True},
        }},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'use_tb_logger': False},
    }  # fmt: skip


def options_of_test(train_options: dict, checkpoint: Path | str) -> dict:
    """The test that belongs to a training."""
    opt = {key: train_options[key] for key in ('name', 'model_type', 'scale', 'num_gpu', 'manual_seed', 'network_g')}
    val = train_options['datasets']['val']
    metrics = train_options['val']['metrics']
    return {
        **opt,
        'datasets': {'test_1': val},
        'path': {'pretrain_network_g': str(checkpoint)},
        'val': {'save_img': True, 'metrics': metrics},
    }


def schedule_of(opt: dict) -> Schedule:
    return make_schedule(Training.model_validate(opt['train']), read_progression(opt))


def problems(opt: dict, training: bool = True) -> str:
    """What is wrong with options, a line each."""
    return '\n'.join(problem.text for problem in checks.find_problems(opt, training))


def write_options(file: Path, opt: dict) -> Path:
    """Write an option file."""
    file.write_text(yaml.safe_dump(opt, sort_keys=False))
    return file


# ------------------------------------------------------------------------------------------------------- the model

PLACE = {'is_train': True, 'dist': False, 'rank': 0, 'world_size': 1}


def make_model(
    folder: Path, seed: int = 0, val: dict | None = None, path: dict | None = None, **train: object
) -> RAMiTModel:
    opt = {**tiny_options(Path('gt'), Path('lq'), **train), **PLACE}
    places = ('models', 'training_states', 'visualization')
    opt['path'] = {'log': str(folder), **{place: str(folder / place) for place in places}, **(path or {})}
    for place in places:
        (folder / place).mkdir(parents=True, exist_ok=True)
    opt['val'].update(val or {})
    torch.manual_seed(seed)
    return build_model(opt)


def batch(size: int = 4, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        'lq': torch.rand(size, 3, 8, 8, generator=generator),
        'gt': torch.rand(size, 3, 16, 16, generator=generator),
    }


def step(model: RAMiTModel, iteration: int, data: dict | None = None) -> None:
    model.update_learning_rate(iteration)
    model.feed_data(data or batch(seed=iteration))
    model.optimize_parameters(iteration)


def weights(model: RAMiTModel) -> dict:
    return {name: value.clone() for name, value in model.net_g.state_dict().items()}


# --------------------------------------------------------------------------------------------------------- the browser

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
CHROMIUM_FLAGS = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking'.split()
CHROMIUM_FLAGS += '--disable-component-update --disable-sync'.split()
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec('playwright') is None, reason='needs Chromium and Playwright'
)
