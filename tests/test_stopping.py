"""Training that is killed, interrupted, out of disk or robbed of a worker loses nothing that it has saved."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from helpers import (
    ROOT,
    call_basicsr,
    make_model,
    run_basicsr,
    start_training,
    step,
    tiny_options,
    weights,
    write_options,
)

from ramit_arch import files, stopping
from ramit_arch.data.loaders import RunState
from ramit_arch.data.samplers import ResumableBatchSampler
from ramit_arch.errors import UserError
from ramit_arch.files import atomic_write
from ramit_arch.inference.checkpoints import remove_old


def test_a_killed_run_ends_as_one_that_was_left_alone(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / 'tests' / 'stress' / 'kill_training.py')]
    options = ['--work', str(tmp_path / 'work'), *'--kills 4 --iterations 45 --seconds 2.5 --seed 2'.split()]
    result = subprocess.run([*script, *options], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert '4 kills; all compared' in result.stdout


# ------------------------------------------------------------------------------------------------------------ signals


def begin(pairs: tuple[Path, Path], folder: Path, **changes: Any) -> subprocess.Popen[str]:
    """A long run in a session of its own, once it trains."""
    opt = tiny_options(*pairs)
    opt['train']['total_iter'] = 100000
    opt['datasets']['train'].update(num_worker_per_gpu=1, persistent_workers=True)
    opt['logger'].update(save_checkpoint_freq=100000, print_freq=1)
    opt['val']['val_freq'] = 100000
    opt.update(changes)
    write_options(folder / 'train.yml', opt)
    return start_training(folder)


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_the_step_end_saves_it_and_leaves(
    number: signal.Signals, code: int, pairs: tuple[Path, Path], tmp_path: Path
) -> None:
    process = begin(pairs, tmp_path)
    os.killpg(process.pid, number)  # workers get it too, as from a terminal or a job scheduler
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert f'Stopped by {number.name} after iteration' in err.strip().splitlines()[-1]
    [state] = (tmp_path / 'experiments' / 'tiny' / 'training_states').iterdir()
    done = int(state.stem)
    assert torch.load(state, weights_only=True)['iter'] == done
    if number == signal.SIGINT:
        return  # what follows would be the same

    result = call_basicsr(
        'train', '-opt', 'train.yml', '--auto_resume', '--force_yml', f'train:total_iter={done + 3}', cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    resumed = tmp_path / 'experiments' / 'tiny' / 'models' / 'net_g_latest.pth'
    whole = ['name=whole', f'train:total_iter={done + 3}']
    assert call_basicsr('train', '-opt', 'train.yml', '--force_yml', *whole, cwd=tmp_path).returncode == 0
    straight = tmp_path / 'experiments' / 'whole' / 'models' / 'net_g_latest.pth'
    one, other = (torch.load(path, weights_only=True)['params'] for path in (resumed, straight))
    assert all(torch.equal(one[name], tensor) for name, tensor in other.items())


BREAKS = """
from basicsr.utils.registry import LOSS_REGISTRY
from torch import nn

@LOSS_REGISTRY.register()
class Breaks(nn.Module):
    calls = 0

    def __init__(self, loss_weight=1.0, reduction='mean'):
        super().__init__()

    def forward(self, output, gt):
        self.calls += 1
        if self.calls == 4:
            raise ZeroDivisionError('a loss that breaks')
        return (output - gt).abs().mean()
"""


@pytest.mark.parametrize('model', ['RAMiTModel', 'SRModel'])
def test_an_error_leaves_the_last_finished_iteration_to_continue_from(
    model: str, pairs: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / 'breaks.py').write_text(BREAKS)
    opt = tiny_options(*pairs)
    opt['model_type'] = model
    opt['train'].update(total_iter=6, pixel_opt={'type': 'Breaks'})
    write_options(tmp_path / 'train.yml', opt)
    command = ['train', '-opt', 'train.yml', '--import', 'breaks.py']
    result = run_basicsr(*command, cwd=tmp_path)
    assert result.returncode == 1
    assert 'Stopped by an error after iteration 3, which is saved; see --auto_resume.' in result.stderr
    assert 'error: ZeroDivisionError: a loss that breaks' in result.stderr
    assert (tmp_path / 'experiments' / 'tiny' / 'training_states' / '3.state').is_file()
    result = run_basicsr(*command, '--auto_resume', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'iter: 3' in result.stderr


def test_a_finished_run_continues_to_a_longer_end(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    opt = tiny_options(*pairs)
    opt['train']['total_iter'] = 3  # checkpoints are due after 2 and 4
    write_options(tmp_path / 'train.yml', opt)
    assert call_basicsr('train', '-opt', 'train.yml', cwd=tmp_path).returncode == 0
    longer = ['--auto_resume', '--force_yml', 'train:total_iter=5']
    result = call_basicsr('train', '-opt', 'train.yml', *longer, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    names = sorted(path.name for path in (tmp_path / 'experiments' / 'tiny' / 'training_states').iterdir())
    assert names == ['2.state', '3.state', '4.state', '5.state']
    whole = ['--force_yml', 'name=whole', 'train:total_iter=5']
    assert call_basicsr('train', '-opt', 'train.yml', *whole, cwd=tmp_path).returncode == 0
    one, other = (weights_of(tmp_path / 'experiments' / name) for name in ('tiny', 'whole'))
    assert all(torch.equal(one[name], tensor) for name, tensor in other.items())


def weights_of(experiment: Path) -> dict[str, torch.Tensor]:
    return torch.load(experiment / 'models' / 'net_g_latest.pth', weights_only=True)['params']


def test_a_validation_that_was_cut_short_is_made_up_for(
    pairs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = [
        {'name': name, 'type': 'PairedRestorationDataset', 'phase': 'val', 'scale': 2,
         'dataroot_gt': str(pairs[0]), 'dataroot_lq': str(pairs[1])} for name in ('tiny_val', 'second')
    ]  # fmt: skip
    loaders = [build_dataloader(build_dataset(section), section) for section in sections]
    model = make_model(tmp_path)
    for iteration in range(1, 5):
        step(model, iteration)
    model.validation(loaders[0], 4, None)  # of an iteration that is not yet saved
    monkeypatch.setattr(stopping, '_received', signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        model.validation(loaders[1], 4, None)
    assert end.value.code == 143
    monkeypatch.setattr(stopping, '_received', 0)
    state = torch.load(tmp_path / 'training_states' / '4.state', weights_only=True)
    assert (state['iter'], state['validated']) == (4, [])
    assert not list(tmp_path.glob('scores/second*'))

    resumed = make_model(tmp_path, path={'pretrain_network_g': str(tmp_path / 'models' / 'net_g_4.pth')})
    resumed.opt['run_state'] = RunState(ResumableBatchSampler(3, resumed.progression, 3), loaders)
    resumed.resume_training(state)
    assert (tmp_path / 'scores' / 'second_4.csv').is_file()
    again = torch.load(tmp_path / 'training_states' / '4.state', weights_only=True)
    assert again['validated'] == ['tiny_val', 'second']
    assert again['best'].keys() == {'tiny_val', 'second'}
    resumed.validation(loaders[1], 4, None)  # BasicSR's at the end, perhaps not for the first time
    last = torch.load(tmp_path / 'training_states' / '4.state', weights_only=True)
    assert last['validated'] == ['tiny_val', 'second']


def test_a_second_signal_ends_at_once() -> None:
    code = (
        'import os, signal; from ramit_arch import stopping\n'
        'with stopping.deferred():\n'
        '    os.kill(os.getpid(), signal.SIGTERM)\n'
        '    print("goes on", stopping.received(), flush=True)\n'
        '    os.kill(os.getpid(), signal.SIGINT)\n'
        '    print("never", flush=True)\n'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert result.stdout == 'goes on 15\n'
    assert result.stderr == 'stopping after this step; interrupt again to exit immediately\n'
    assert result.returncode == 130


def failing_run(code: str, pairs: tuple[Path, Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """A training whose loop is replaced by code that fails."""
    write_options(folder / 'train.yml', tiny_options(*pairs))
    code = f"""
import os, signal, sys, basicsr_command
from ramit_arch.cli import pipeline, train
{code}
sys.exit(basicsr_command.main(['train', '-opt', 'train.yml']))
"""
    return subprocess.run([sys.executable, '-c', code], cwd=folder, capture_output=True, text=True, check=False)


def test_a_signal_after_an_error_does_not_suppress_its_message(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    code = """
def fail(_):
    raise RuntimeError('broken')
def describe(error):
    os.kill(os.getpid(), signal.SIGTERM)
    return str(error)
train.train_pipeline, basicsr_command._describe = fail, describe
"""
    result = failing_run(code, pairs, tmp_path)
    assert result.returncode == 1, result.stderr
    assert result.stderr.splitlines()[-1] == 'error: broken'


def test_a_worker_that_is_reaped_after_the_error_does_not_replace_it(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    code = """
def reaped(*_):
    raise RuntimeError('DataLoader worker (pid 7) is killed by signal')
def fail(_):
    signal.signal(signal.SIGCHLD, reaped)  # as PyTorch does
    raise ConnectionError('reset by peer')
def explained(error, explain=pipeline._explained):
    os.kill(os.getpid(), signal.SIGCHLD)
    return explain(error)
train.train_pipeline, pipeline._explained = fail, explained
"""
    result = failing_run(code, pairs, tmp_path)
    last = result.stderr.splitlines()[-1]
    assert last.startswith('error: a worker of the data loader was ended from outside (reset by peer)')


def test_a_worker_that_the_system_ends_is_told_in_the_last_line(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    process = begin(pairs, tmp_path)
    deadline, workers = time.monotonic() + 30, ''
    while not workers and time.monotonic() < deadline:
        workers = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text()
    os.kill(int(workers.split()[-1]), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith('error: a worker of the data loader was ended from outside'), err[-2000:]
    assert 'lower datasets.train.num_worker_per_gpu' in last


def test_a_data_set_that_disappears_is_told_in_the_last_line(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    gt, lq = (Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in pairs)
    process = begin((gt, lq), tmp_path)
    shutil.rmtree(gt)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    last = err.strip().splitlines()[-1]
    assert re.fullmatch(rf'(error: )?{gt}/\d\.png: cannot be read \(No such file or directory\)', last), err[-2000:]


# --------------------------------------------------------------------------------------------------------- full disks


def test_a_file_is_as_it_was_when_it_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / 'file'
    atomic_write(file, b'former')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # writing more fails half-way, as on a full disk
    try:
        with pytest.raises(UserError, match='cannot be written'):
            atomic_write(file, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == b'former'
    assert list(tmp_path.iterdir()) == [file]


def test_the_disk_is_asked_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = files.shutil.disk_usage(tmp_path)._replace(free=files.MARGIN + 100)
    monkeypatch.setattr(files.shutil, 'disk_usage', lambda _: usage)
    atomic_write(tmp_path / 'small', bytes(100))
    with pytest.raises(UserError, match='not enough disk space'):
        atomic_write(tmp_path / 'large', bytes(101))
    assert [path.name for path in tmp_path.iterdir()] == ['small']


def test_a_full_disk_ends_the_run_and_keeps_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path)
    step(model, 1)
    model.save(0, 1)
    before = {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}
    assert len(before) == 2
    monkeypatch.setattr(files, 'MARGIN', 2**60)
    step(model, 2)
    with pytest.raises(UserError, match=r'net_g_2\.pth: not enough disk space'):
        model.save(0, 2)
    assert {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()} == before


# ----------------------------------------------------------------------------------------------------- what is kept


def test_the_last_checkpoints_and_the_best_are_kept(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    opt = tiny_options(*pairs)
    opt['train'].update(total_iter=8)
    opt['val']['val_freq'] = 2
    opt['logger'].update(save_checkpoint_freq=1, keep_checkpoints=2, keep_best='psnr')
    write_options(tmp_path / 'train.yml', opt)
    assert call_basicsr('train', '-opt', 'train.yml', cwd=tmp_path).returncode == 0
    run = tmp_path / 'experiments' / 'tiny'
    assert sorted(path.name for path in (run / 'training_states').iterdir()) == ['7.state', '8.state']
    names = sorted(path.name for path in (run / 'models').iterdir())
    assert names == ['net_g_7.pth', 'net_g_8.pth', 'net_g_best.pth', 'net_g_latest.pth']
    best = torch.load(run / 'training_states' / '8.state', weights_only=True)['best']['tiny_val']['psnr']
    assert best['iter'] in (2, 4, 6, 8)


def test_a_state_of_an_earlier_life_is_not_taken_for_a_newer_one(tmp_path: Path) -> None:
    states, models = tmp_path / 'states', tmp_path / 'models'
    states.mkdir()
    models.mkdir()
    for number in (1, 2, 3, 9):
        (states / f'{number}.state').touch()
        (models / f'net_g_{number}.pth').touch()
    (models / 'net_g_best.pth').touch()
    remove_old(models, states, newest=3, keep=2)
    assert sorted(path.stem for path in states.iterdir()) == ['2', '3', '9']
    assert sorted(path.stem for path in models.iterdir()) == ['net_g_2', 'net_g_3', 'net_g_9', 'net_g_best']


def test_best_scores_go_on_after_resuming(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    step(model, 1)
    model.best_metric_results = {
        'tiny_val': {m: {'better': 'higher', 'val': 99.0, 'iter': 1} for m in ('psnr', 'ssim')},
        'other': {'lpips': {'better': 'lower', 'val': 0.0, 'iter': 1}},  # of metrics that are no longer asked for
    }
    model.save(0, 1)
    state = torch.load(tmp_path / 'training_states' / '1.state', weights_only=True)
    resumed = make_model(tmp_path, path={'resume_state': 'given'})
    resumed.resume_training(state)
    assert resumed.best_metric_results == {'tiny_val': model.best_metric_results['tiny_val']}


def test_what_is_drawn_in_a_step_depends_on_the_iteration_alone(tmp_path: Path) -> None:
    models = [make_model(tmp_path) for _ in range(2)]
    for model in models:
        for block in model.net_g.modules():
            if hasattr(block, 'drop_path_rate'):
                block.drop_path_rate = 0.5
    step(models[0], 1)
    torch.rand(7)  # a validation between the steps, or a new process
    step(models[1], 1)
    assert all(torch.equal(weights(models[0])[name], tensor) for name, tensor in weights(models[1]).items())
    torch.manual_seed(0)
    drawn = []
    for iteration in (2, 3):
        step(models[0], iteration)
        drawn.append(torch.rand(1))
    assert drawn[0] != drawn[1]
