"""Several processes: they train as one, share a validation, and do not hang when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from helpers import BASICSR, options_of_test, run_basicsr, run_torchrun, tiny_options, write_options, write_pairs

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='several processes would need several GPUs')


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished training of ten iterations that validated five images, in one process."""
    folder = tmp_path_factory.mktemp('processes')
    opt = tiny_options(*write_pairs(folder / 'data', count=5), name='one')
    opt['datasets']['train']['batch_size_per_gpu'] = 4
    opt['train']['total_iter'] = 10
    opt['val'].update(val_freq=5, save_img=True)
    opt['logger'].update(save_checkpoint_freq=5, keep_best='psnr')
    write_options(folder / 'train.yml', opt)
    write_options(folder / 'test.yml', options_of_test(opt, 'experiments/one/models/net_g_latest.pth'))
    for verb, changes in [('train', []), ('test', ['--force_yml', 'val:suffix=x'])]:
        result = run_basicsr(verb, '-opt', f'{verb}.yml', *changes, cwd=folder)
        assert result.returncode == 0, result.stderr
    return folder


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(pattern)}


def scores(folder: Path) -> dict[str, list]:
    contents = {path.name: json.loads(path.read_text()) for path in (folder / 'scores').glob('*.json')}
    return {
        name: [content['mean'], [{k: v for k, v in row.items() if k != 'restored'} for row in content['images']]]
        for name, content in contents.items()
    }


@pytest.mark.parametrize('processes', [2, 3])
def test_a_test_shared_by_processes_is_that_of_one(processes: int, trained: Path) -> None:
    changes = ['--force_yml', f'name=by{processes}', 'val:suffix=x']
    result = run_torchrun(processes, 'test', '-opt', 'test.yml', '--launcher', 'pytorch', *changes, cwd=trained)
    assert result.returncode == 0, result.stderr
    alone, shared = (trained / 'results' / name for name in ('one', f'by{processes}'))
    assert len(files(alone, '*.png')) == 5
    assert files(shared, '*.png') == files(alone, '*.png')
    assert files(shared, '*.csv') == files(alone, '*.csv')
    assert scores(shared) == scores(alone)


def test_two_processes_train_and_validate_as_one(trained: Path) -> None:
    changes = ['--force_yml', 'name=two', 'datasets:train:batch_size_per_gpu=2']
    result = run_torchrun(2, 'train', '-opt', 'train.yml', '--launcher', 'pytorch', *changes, cwd=trained)
    assert result.returncode == 0, result.stderr
    one, two = (trained / 'experiments' / name for name in ('one', 'two'))
    for model in ('net_g_10', 'net_g_latest'):
        a, b = (torch.load(run / 'models' / f'{model}.pth', weights_only=True)['params'] for run in (one, two))
        assert all(torch.allclose(a[name], tensor, atol=1e-5, rtol=0) for name, tensor in b.items())
    assert sorted(files(two, '*.png')) == sorted(files(one, '*.png'))
    assert (two / 'models' / 'net_g_best.pth').is_file()
    for name, [mean, rows] in scores(one).items():
        others, other_rows = scores(two)[name]
        assert others == pytest.approx(mean, abs=0.01)
        assert [row['image'] for row in other_rows] == [row['image'] for row in rows]


def test_without_a_seed_the_processes_agree_on_one(trained: Path) -> None:
    changes = ['train:total_iter=3', 'logger:save_checkpoint_freq=3', 'val:val_freq=100', 'train:optim_g:lr=0.01']
    for name, seed in [('drawn', 'null'), ('given', None)]:
        run = trained / 'experiments' / 'drawn'
        if seed is None:
            seed = torch.load(run / 'training_states' / '3.state', weights_only=True)['manual_seed']
        more = [f'name={name}', f'manual_seed={seed}', 'path:pretrain_network_g=experiments/one/models/net_g_5.pth']
        command = ['train', '-opt', 'train.yml', '--launcher', 'pytorch', '--force_yml', *changes, *more]
        result = run_torchrun(2, *command, cwd=trained)
        assert result.returncode == 0, result.stderr
    drawn, given = (
        torch.load(trained / 'experiments' / name / 'models' / 'net_g_3.pth', weights_only=True)['params']
        for name in ('drawn', 'given')
    )
    assert all(torch.equal(drawn[name], tensor) for name, tensor in given.items())


def started(changes: list[str], folder: Path, file: str = 'train.yml') -> subprocess.Popen[str]:
    """A training by two processes that goes on."""
    command = [str(BASICSR.with_name('torchrun')), '--standalone', '--nproc_per_node=2', str(BASICSR), 'train', '-opt']
    return subprocess.Popen(
        [*command, file, '--launcher', 'pytorch', '--force_yml', 'train:total_iter=100000', *changes],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], states: Path, act: Callable[[], None]) -> str:
    """What a run tells to which something is done once it has saved a state."""
    try:
        deadline = time.monotonic() + 60
        while not list(states.glob('*.state')):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        act()
        return process.communicate(timeout=90)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_process_that_dies_takes_the_others_down(trained: Path) -> None:
    often = ['logger:save_checkpoint_freq=2', 'logger:keep_checkpoints=2', 'val:val_freq=100000']
    process = started(['name=dies', *often], trained)
    states = trained / 'experiments' / 'dies' / 'training_states'

    def kill_one() -> None:
        children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)

    err = ended(process, states, kill_one)
    assert process.returncode == 1
    assert 'error: another process of this run has ended' in err
    assert 'Signal 9 (SIGKILL)' in err  # torchrun's own summary of who died
    newest = max(states.glob('*.state'), key=lambda path: int(path.stem))
    torch.load(newest, weights_only=True)


def test_the_processes_stop_together_on_a_signal(trained: Path) -> None:
    often = ['logger:save_checkpoint_freq=3', 'logger:keep_checkpoints=1', 'val:val_freq=100000']
    process = started(['name=stops', *often], trained)
    states = trained / 'experiments' / 'stops' / 'training_states'
    err = ended(process, states, lambda: process.send_signal(signal.SIGTERM))
    assert process.returncode != 0
    [state] = states.iterdir()
    assert f'Stopped by SIGTERM after iteration {int(state.stem):,}, which is saved' in err
    torch.load(state, weights_only=True)


def test_the_processes_stop_together_in_the_middle_of_a_validation(trained: Path) -> None:
    opt = yaml.safe_load((trained / 'train.yml').read_text())
    val = opt['datasets']['val']
    roots = [{key: val.pop(key) for key in ('dataroot_gt', 'dataroot_lq')}] * 100  # it would take half a minute
    write_options(trained / 'long.yml', {**opt, 'datasets': {**opt['datasets'], 'val': {**val, 'roots': roots}}})
    states = trained / 'experiments' / 'cut' / 'training_states'

    def stop_soon() -> None:
        time.sleep(0.5)  # the state is saved, the validation begins
        process.send_signal(signal.SIGTERM)

    process = started(
        ['name=cut', 'val:val_freq=2', 'val:save_img=false', 'logger:save_checkpoint_freq=2'], trained, 'long.yml'
    )
    err = ended(process, states, stop_soon)
    assert process.returncode != 0
    assert 'Stopped by SIGTERM after iteration 2, which is saved' in err
    assert torch.load(states / '2.state', weights_only=True)['validated'] == []
    assert not scores(trained / 'experiments' / 'cut')


def test_local_rank_is_taken_in_both_spellings(trained: Path) -> None:
    for spelling in ('--local_rank', '--local-rank'):
        code = 'import sys, basicsr_command as c; print(c.build_parser().parse_args(sys.argv[1:]).local_rank)'
        command = [sys.executable, '-c', code, 'train', '-opt', 'train.yml', f'{spelling}=1']
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == '1\n'
