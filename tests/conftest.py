"""Shared by all tests: one thread a worker, small images and networks, and material that may be absent."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import CHROMIUM, CHROMIUM_FLAGS, SHARED, write_pairs
from hypothesis import HealthCheck, settings
from preparing import put

if sys.platform == 'linux':
    multiprocessing.set_start_method('fork')  # as the `basicsr` command does
torch.set_num_threads(1)
os.environ['OMP_NUM_THREADS'] = '1'  # of subprocesses

settings.register_profile(
    'ramit', deadline=None, derandomize=True, max_examples=20, suppress_health_check=list(HealthCheck)
)
settings.load_profile('ramit')


@pytest.fixture
def shared() -> Path:
    """Checkpoints and benchmark images that the project may not carry."""
    if not (SHARED / 'reference' / 'checkpoints').is_dir():
        pytest.skip('needs the published checkpoints and benchmark images, which are not part of the project')
    return SHARED


@pytest.fixture(scope='session')
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Read-only (gt, lq) folders with three pairs at scale 2."""
    return write_pairs(tmp_path_factory.mktemp('pairs'))


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Six PNG files of 50x40."""
    return put(tmp_path / 'photographs', *(f'{i}.png' for i in range(6)), size=(50, 40))


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()
