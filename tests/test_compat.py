"""Every repair mends its fault, and a healthy installation stays as it was."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import basicsr.train
import pytest
import torch
from basicsr.data.data_sampler import EnlargedSampler

from ramit_arch import compat
from ramit_arch.data.draws import DrawSampler


def python(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process in which `path` shadows installed packages."""
    start = f'import sys; sys.path.insert(0, {str(path)!r})\n'
    return subprocess.run([sys.executable, '-c', start + code], capture_output=True, text=True, check=False)


def fake_torchvision(folder: Path, operators: bool, functional_tensor: bool) -> None:
    """A torchvision whose import needs its operators, as the real one does."""
    transforms = folder / 'torchvision' / 'transforms'
    transforms.mkdir(parents=True)
    define = "library = torch.library.Library('torchvision', 'DEF')\n"
    define += "for op in ('nms', 'qnms'): library.define(op + '(Tensor d, Tensor s, float t) -> Tensor')\n"
    needs = "torch.library.register_fake('torchvision::nms')(lambda d, s, t: d)\n"
    text = 'import torch\n' + (define if operators else '') + needs + 'from torchvision import transforms\n'
    (folder / 'torchvision' / '__init__.py').write_text(text)
    (transforms / '__init__.py').write_text('')
    (transforms / '_functional_tensor.py').write_text('rgb_to_grayscale = "private"\n')
    if functional_tensor:
        (transforms / 'functional_tensor.py').write_text('rgb_to_grayscale = "public"\n')


REPAIR = f"""
import importlib.util, torch
spec = importlib.util.spec_from_file_location('compat', {compat.__file__!r})
compat = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compat)
compat.repair_torchvision_operators()
compat.repair_functional_tensor()
from torchvision.transforms.functional_tensor import rgb_to_grayscale
import torchvision
print(rgb_to_grayscale, len(compat._libraries))
"""


def test_missing_operators_and_missing_module_are_repaired(tmp_path: Path) -> None:
    fake_torchvision(tmp_path, operators=False, functional_tensor=False)
    broken = python('import torchvision', tmp_path)
    assert 'torchvision::nms' in broken.stderr
    result = python(REPAIR, tmp_path)
    assert result.stdout.split() == ['private', '1'], result.stderr


def test_healthy_torchvision_stays_as_it_was(tmp_path: Path) -> None:
    fake_torchvision(tmp_path, operators=True, functional_tensor=True)
    result = python(REPAIR, tmp_path)
    assert result.stdout.split() == ['public', '0'], result.stderr


def test_another_runtime_error_of_torchvision_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / 'torchvision').mkdir()
    (tmp_path / 'torchvision' / '__init__.py').write_text('raise RuntimeError("out of order")')
    assert 'out of order' in python(REPAIR, tmp_path).stderr


def test_all_of_basicsr_imports() -> None:
    for name in ('archs', 'data', 'losses', 'metrics', 'models', 'utils', 'train', 'test', 'data.degradations'):
        assert importlib.import_module(f'basicsr.{name}')


def needing_cuda() -> None:
    torch.cuda.current_device()


def test_resume_is_repaired_without_cuda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in [(True, needing_cuda), (False, compat.load_resume_state)]:
        monkeypatch.setattr(basicsr.train, 'load_resume_state', needing_cuda)
        monkeypatch.setattr(torch.cuda, 'is_available', lambda answer=available: answer)
        compat.repair_resume_without_cuda()
        assert basicsr.train.load_resume_state is expected


def test_a_mended_resume_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def mended() -> None: ...

    monkeypatch.setattr(basicsr.train, 'load_resume_state', mended)
    compat.repair_resume_without_cuda()
    assert basicsr.train.load_resume_state is mended


def test_auto_resume_takes_the_newest_state_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    states = tmp_path / 'experiments' / 'run' / 'training_states'
    states.mkdir(parents=True)
    for iteration in (5, 900, 1000):
        torch.save({'iter': iteration}, states / f'{iteration}.state')
    (states / 'notes.state').write_text('not a number')
    opt = {'auto_resume': True, 'name': 'run', 'network_g': {}, 'path': {'models': 'models'}}
    assert compat.load_resume_state(opt) == {'iter': 1000}
    assert opt['path']['pretrain_network_g'] == 'models/net_g_1000.pth'


def test_without_states_there_is_nothing_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert compat.load_resume_state({'auto_resume': True, 'name': 'run', 'path': {}}) is None


def test_replaying_sampler_is_replaced_and_another_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, expected in [(EnlargedSampler, DrawSampler), (ModuleType, ModuleType)]:
        monkeypatch.setattr(basicsr.train, 'EnlargedSampler', found)
        compat.repair_replayed_augmentation()
        assert basicsr.train.EnlargedSampler is expected


def test_stock_basicsr_replays_its_augmentation_without_the_repair() -> None:
    import numpy as np
    from basicsr.data import worker_init_fn

    draws = []
    for _ in range(2):  # two epochs of one worker
        worker_init_fn(0, num_workers=1, rank=0, seed=1)
        draws.append(np.random.rand())
    assert draws[0] == draws[1]  # the fault; tests of the draws show that ours differ
