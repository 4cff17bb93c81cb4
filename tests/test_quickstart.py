"""The demo's data: real photographs as aligned pairs in LMDBs, made once and completely."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from helpers import ROOT

from ramit_arch import PairedRestorationDataset

SCRIPT = ROOT / 'data_prep' / 'prepare_quickstart.py'


def prepare(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT)], cwd=folder, capture_output=True, text=True, check=True)


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('quickstart')
    leftover = folder / 'datasets/quickstart/train/.HR.unfinished'  # of a run that was killed
    leftover.mkdir(parents=True)
    (leftover / 'half.png').write_bytes(b'half')
    prepare(folder)
    return folder


def test_option_file_finds_its_data_and_counts_it_rightly(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    file = ROOT / 'options' / 'quickstart_RAMiT_SRx2.yml'
    sections = yaml.safe_load(file.read_text())['datasets']
    train = PairedRestorationDataset({**sections['train'], 'phase': 'train', 'scale': 2})
    val = PairedRestorationDataset({**sections['val'], 'phase': 'val', 'scale': 2})
    assert f'{len(train):,} images' in file.read_text()
    assert [Path(val[i]['gt_path']).name for i in range(len(val))] == ['astronaut.png', 'chelsea.png', 'coffee.png']


def test_pairs_are_aligned(made: Path) -> None:
    for folder in ('train', 'test'):
        for file in sorted((made / 'datasets' / 'quickstart' / folder / 'HR').glob('*.png'))[::17]:
            hq, lq = cv2.imread(str(file)), cv2.imread(str(file.parents[1] / 'LRx2' / file.name))
            shrunk = cv2.resize(hq, lq.shape[1::-1], interpolation=cv2.INTER_AREA)
            assert np.abs(shrunk.astype(int) - lq).mean() < 6
            shifted = np.roll(shrunk, 3, axis=1)
            assert np.abs(shrunk.astype(int) - lq).mean() < np.abs(shifted.astype(int) - lq).mean()


def test_second_run_does_nothing(made: Path) -> None:
    store = made / 'datasets' / 'quickstart' / 'train' / 'HR.lmdb' / 'data.mdb'
    before = store.stat().st_mtime_ns
    assert 'exists already' in prepare(made).stdout
    assert store.stat().st_mtime_ns == before
    assert not [path for path in (made / 'datasets').rglob('.*') if path.name != '.job']
    assert not list((made / 'datasets').rglob('half.png'))
