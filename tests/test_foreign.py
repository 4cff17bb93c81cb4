"""Trainings whose model and dataset are BasicSR's: `import ramit_arch` changes neither batches nor how they end."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from helpers import call_basicsr, problems, run_basicsr, start_training, tiny_options, write_lmdb, write_options
from torch.utils.data import DataLoader

from ramit_arch import compat
from ramit_arch.cli import user_code
from ramit_arch.errors import UserError

from basicsr.data import build_dataset  # isort: skip

SCRIPT = Path(__file__).with_name('foreign.py')


def stock_options(pairs: tuple[Path, Path], **train_section: object) -> dict:
    """Twelve iterations of batches of one image, by a stock dataset and a subclass of SRModel."""
    opt = tiny_options(*pairs)
    opt['model_type'] = 'Recorder'
    opt['network_g'] = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1, 'upscale': 2}
    stock = {'type': 'PairedImageDataset', 'io_backend': {'type': 'disk'}}
    data = {key: opt['datasets']['val'][key] for key in ('dataroot_gt', 'dataroot_lq', 'name')}
    opt['datasets']['train'] = {**data, **stock, 'gt_size': 8, 'use_hflip': True, 'use_rot': True,
                                'batch_size_per_gpu': 1, 'num_worker_per_gpu': 1, **train_section}  # fmt: skip
    opt['datasets']['val'] = {**data, **stock}
    opt['train'].update(total_iter=12, ema_decay=0, scheduler={'type': 'MultiStepLR', 'milestones': [6], 'gamma': 0.5})
    opt['logger'].update(save_checkpoint_freq=100)
    opt['path'] = {'pretrain_network_g': None, 'strict_load_g': True, 'resume_state': None}
    return opt


@contextmanager
def started(
    opt: dict, folder: Path, package: str = 'with', method: str = 'fork', **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """The script; when it has ended, nothing of its session may be left."""
    write_options(folder / 'train.yml', opt)
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), package, method, '-opt', 'train.yml'], cwd=folder,
        env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
        deadline = time.monotonic() + 10
        while any_left(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def any_left(session: int) -> bool:
    """Whether a process group has processes."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


def train(opt: dict, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    with started(opt, folder, *arguments, **environment) as process:
        out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def batches(result: subprocess.CompletedProcess[str]) -> list[str]:
    assert result.returncode == 0, result.stderr
    return [line for line in result.stdout.splitlines() if line.startswith('batch')]


def test_batches_are_basicsrs_own_and_go_on_to_the_last_iteration(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    opt = stock_options(
        pairs, num_worker_per_gpu=0, batch_size_per_gpu=2
    )  # of three images: one batch an epoch, not two
    ours, theirs = (batches(train(opt, tmp_path, package)) for package in ('with', 'without'))
    assert len(theirs) < len(ours) == 12
    assert ours[: len(theirs)] == theirs


def test_a_set_without_a_whole_batch_is_an_error() -> None:
    loader = DataLoader([1, 2, 3], batch_size=4, drop_last=True)
    opt = {'model_type': 'SRModel', 'datasets': {'train': {'type': 'PairedImageDataset'}}}
    with pytest.raises(UserError, match='fewer images than a batch of 4'):
        compat.create_train_val_dataloader(lambda *_: (loader, None, [], 1, 12), opt, logging.getLogger())


MESSAGES = {'image': 'Original Traceback', 'validation': 'the validation fails'}


@pytest.mark.parametrize(('fault', 'method', 'ours'), [
    ('image', 'fork', False), ('image', 'spawn', False), ('validation', 'fork', False), ('image', 'fork', True),
])  # fmt: skip
def test_a_failing_run_ends_and_leaves_no_process_behind(
    fault: str, method: str, ours: bool, pairs: tuple[Path, Path], tmp_path: Path
) -> None:
    opt = tiny_options(*pairs) if ours else stock_options(pairs)
    opt['datasets']['train'].update(num_worker_per_gpu=1 + (method == 'fork'), persistent_workers=True)
    if fault == 'image':
        opt['datasets']['train']['dataroot_lq'] = str(tmp_path / 'lq')
        shutil.copytree(pairs[1], tmp_path / 'lq')
        for file in (tmp_path / 'lq').iterdir():
            file.write_bytes(file.read_bytes()[:60])  # only the header
    result = train(opt, tmp_path, 'with', method, FAIL=fault)  # would time out
    assert result.returncode == 1
    assert MESSAGES[fault] in result.stderr


def test_ctrl_c_ends_a_script_as_without_the_package(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    # One long epoch: where one ends, PyTorch joins its workers in a destructor, in which Python ignores Ctrl-C.
    opt = stock_options(pairs, num_worker_per_gpu=2, dataset_enlarge_ratio=10**6)
    opt['train']['total_iter'] = opt['val']['val_freq'] = 10**6
    with started(opt, tmp_path) as process:
        assert process.stdout
        next(line for line in process.stdout if line.startswith('batch'))
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT


def test_the_command_stops_another_model_with_its_own_checkpoint(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    opt = stock_options(pairs, persistent_workers=True)
    opt['model_type'] = 'SRModel'
    opt['train']['total_iter'] = 10**6
    opt['val']['val_freq'] = 10**6
    write_options(tmp_path / 'train.yml', opt)
    process = start_training(tmp_path)
    os.killpg(process.pid, signal.SIGTERM)  # workers too
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    [state] = (tmp_path / 'experiments' / 'tiny' / 'training_states').glob('*.state')
    done = int(state.stem)
    assert err.splitlines()[-1].endswith(
        f'Stopped by SIGTERM after iteration {done:,}, which is saved; see --auto_resume.'
    )
    result = run_basicsr('train', '-opt', 'train.yml', '--auto_resume', '--force_yml',
                         f'train:total_iter={done + 2}', cwd=tmp_path)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert f'iter: {done}.' in result.stderr
    assert (tmp_path / 'experiments' / 'tiny' / 'models' / 'net_g_latest.pth').is_file()


@pytest.mark.parametrize('first', ['PairedImageDataset', 'PairedRestorationDataset'])
def test_stock_datasets_and_ours_read_the_same_lmdb_in_one_process(
    first: str, pairs: tuple[Path, Path], tmp_path: Path
) -> None:
    gt, lq = (str(write_lmdb(folder, tmp_path / f'{folder.name}.lmdb')) for folder in pairs)
    section = {'name': 'shared', 'phase': 'val', 'scale': 2, 'dataroot_gt': gt, 'dataroot_lq': lq}
    second = 'PairedRestorationDataset' if first == 'PairedImageDataset' else 'PairedImageDataset'
    datasets = [build_dataset({**section, 'type': kind, 'io_backend': {'type': 'lmdb'}})
                for kind in (first, second, 'PairedImageDataset')]  # fmt: skip
    for dataset in datasets:
        assert torch.equal(dataset[0]['lq'], datasets[0][0]['lq'])
        [item] = DataLoader(dataset, num_workers=1, sampler=[0])  # its worker is forked beside open handles
        assert torch.equal(item['lq'][0], dataset[0]['lq'])


# ---------------------------------------------------------------------------------------- models of several networks

TWO_NETWORKS = '''
import torch
from basicsr.archs import build_network
from basicsr.models.base_model import BaseModel
from basicsr.utils.registry import MODEL_REGISTRY

@MODEL_REGISTRY.register()
class TwoNetworks(BaseModel):
    """A network `a` whose output a network `r` refines."""

    def __init__(self, opt):
        super().__init__(opt)
        self.networks = {name: self.model_to_device(build_network(opt[f'network_{name}'])) for name in 'ar'}
        for name, network in self.networks.items():
            path = opt['path'].get(f'pretrain_network_{name}')
            if path:
                self.load_network(network, path)
        if self.is_train:
            parameters = [p for network in self.networks.values() for p in network.parameters()]
            self.optimizers.append(torch.optim.SGD(parameters, lr=0.01))
            self.setup_schedulers()

    def feed_data(self, data):
        self.lq, self.gt = data['lq'], data['gt']

    def optimize_parameters(self, current_iter):
        self.optimizers[0].zero_grad()
        loss = (self.networks['r'](self.networks['a'](self.lq)) - self.gt).abs().mean()
        loss.backward()
        self.optimizers[0].step()
        self.log_dict = {'l': loss.item()}

    def test(self):
        with torch.no_grad():
            self.output = self.networks['r'](self.networks['a'](self.lq))

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        for data in dataloader:
            self.feed_data(data)
            self.test()
            print('restored', tuple(self.output.shape))

    def save(self, epoch, current_iter):
        for name, network in self.networks.items():
            self.save_network(network, f'net_{name}', current_iter)
        self.save_training_state(epoch, current_iter)
'''


def train_and_resume(opt: dict, folder: Path, start: int, *flags: str) -> None:
    """Train four iterations, and six in a second run that goes on from `start`."""
    write_options(folder / 'train.yml', opt)
    for total in (4, 6):
        if total == 6 and start == 2:
            (folder / 'experiments' / 'tiny' / 'models' / 'net_r_4.pth').write_bytes(b'junk')
        changes = ['--auto_resume', '--force_yml', f'train:total_iter={total}']
        result = call_basicsr('train', '-opt', 'train.yml', *changes, *flags, cwd=folder)
        assert result.returncode == 0, result.stderr
    assert f'net_g_{start}.pth' in result.stdout or f'net_r_{start}.pth' in result.stdout  # what was set to resume


def test_a_model_of_two_other_networks_is_checked_trained_resumed_and_tested(
    pairs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setenv(user_code.VARIABLE, '')
    opt = stock_options(pairs, num_worker_per_gpu=0)
    network = opt.pop('network_g')
    first = {'type': 'SRVGGNetCompact', 'num_feat': 4, 'num_conv': 1, 'upscale': 1}
    opt.update(model_type='TwoNetworks', network_a=first, network_r=network)
    del opt['train']['optim_g']
    opt['val']['val_freq'] = 100
    opt['logger']['save_checkpoint_freq'] = 2
    opt['path'] = {}
    (tmp_path / 'two_model.py').write_text(TWO_NETWORKS)
    train_and_resume(opt, tmp_path, 2, '--import', str(tmp_path / 'two_model.py'))
    test = {key: opt[key] for key in ('name', 'model_type', 'scale', 'num_gpu', 'network_a', 'network_r')}
    models = 'experiments/tiny/models'
    paths = {f'pretrain_network_{name}': f'{models}/net_{name}_latest.pth' for name in 'ar'}
    test.update(datasets={'test_1': opt['datasets']['val']}, path=paths, val={'save_img': False})
    write_options(tmp_path / 'test.yml', test)
    result = call_basicsr('test', '-opt', 'test.yml', '--import', str(tmp_path / 'two_model.py'), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('restored (1, 3, 4') == 3
    test['network_r']['num_feats'] = 3
    assert 'network_r.num_feats is unknown (did you mean num_feat?)' in problems(test, training=False)


def test_basicsrs_gan_is_trained_and_resumed(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    opt = stock_options(pairs, num_worker_per_gpu=0)
    opt['model_type'] = 'SRGANModel'
    opt['network_d'] = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4}
    opt['train'].update(
        optim_d={'type': 'Adam', 'lr': 0.001},
        net_d_iters=1,
        net_d_init_iters=0,
        gan_opt={'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.1},
    )
    opt['val']['val_freq'] = 100
    opt['logger']['save_checkpoint_freq'] = 2
    train_and_resume(opt, tmp_path, 4)
