"""The `basicsr` command as a user types it, in a process of its own."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import termios
from importlib.metadata import version
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from helpers import (
    BASICSR,
    ROOT,
    TINY_NETWORK,
    call_basicsr,
    options_of_test,
    run_basicsr,
    tiny_options,
    write_options,
    write_pairs,
)

import basicsr_command
from ramit_arch import options


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, option files and a finished training of four iterations."""
    folder = tmp_path_factory.mktemp('run')
    gt, lq = write_pairs(folder / 'data')
    opt = tiny_options(gt, lq)
    opt['datasets']['train']['num_worker_per_gpu'] = 1
    write_options(folder / 'train.yml', opt)
    write_options(folder / 'test.yml', options_of_test(opt, 'experiments/tiny/models/net_g_latest.pth'))
    result = run_basicsr('train', '-opt', 'train.yml', cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)['params']


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------------------------------------------- training and testing


def test_train_writes_into_the_current_folder(trained: Path) -> None:
    experiment = trained / 'experiments' / 'tiny'
    assert sorted(path.name for path in (experiment / 'models').iterdir()) == [
        'net_g_2.pth', 'net_g_4.pth', 'net_g_latest.pth'
    ]  # fmt: skip
    assert (experiment / 'training_states' / '4.state').is_file()
    assert (experiment / 'scores' / 'tiny_val_4.csv').is_file()
    assert equal(load(experiment / 'models' / 'net_g_4.pth'), load(experiment / 'models' / 'net_g_latest.pth'))


def test_test_restores_scores_and_compares(trained: Path) -> None:
    result = run_basicsr('test', '-opt', 'test.yml', cwd=trained)
    assert result.returncode == 0, result.stderr
    results = trained / 'results' / 'tiny'
    assert len(list((results / 'visualization' / 'tiny_val').glob('*_tiny.png'))) == 3
    with (results / 'scores' / 'tiny_val.csv').open() as file:
        assert [row['image'] for row in csv.DictReader(file)] == ['0', '1', '2', 'mean']
    content = json.loads((results / 'scores' / 'tiny_val.json').read_text())
    assert content['checkpoint'] == 'experiments/tiny/models/net_g_latest.pth'

    result = call_basicsr('compare', '-opt', 'test.yml', cwd=trained)
    assert result.returncode == 0, result.stderr
    assert 'bicubic PSNR' in result.stdout
    assert result.stdout.splitlines()[-2].endswith('results/tiny/comparison_tiny_val.png')
    assert result.stdout.strip().endswith('results/tiny/comparison.tex')
    assert (results / 'comparison_tiny_val.png').is_file()


def test_results_go_where_they_are_wanted(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / 'new' / 'out'
    for verb, last in (('test', 'Scores, images and log: {}'), ('compare', '{}/comparison.tex')):
        result = call_basicsr(verb, 'test.yml', '-o', str(out), cwd=trained)
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip().endswith(last.format(out / 'tiny'))
    assert sorted(path.suffix for path in (out / 'tiny').iterdir()) == ['', '', '.log', '.md', '.png', '.tex', '.txt']


def test_auto_resume_goes_on_where_the_run_stopped(trained: Path, tmp_path: Path) -> None:
    opt = tiny_options(trained / 'data' / 'gt', trained / 'data' / 'lq')
    opt['train']['total_iter'] = 2
    write_options(tmp_path / 'train.yml', opt)
    assert call_basicsr('train', '-opt', 'train.yml', cwd=tmp_path).returncode == 0
    opt['train']['total_iter'] = 3  # an epoch has three iterations
    write_options(tmp_path / 'train.yml', opt)
    result = call_basicsr('train', '-opt', 'train.yml', '--auto_resume', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'Resuming training from epoch: 0, iter: 2' in result.stderr


@pytest.mark.parametrize('flag', [(), ('--force_yml', 'path:resume_state=experiments/tiny/training_states/2.state')])
def test_resume_state_works_without_cuda(flag: tuple, trained: Path, tmp_path: Path) -> None:
    state = trained / 'experiments' / 'tiny'
    opt = tiny_options(trained / 'data' / 'gt', trained / 'data' / 'lq')
    if not flag:
        opt['path']['resume_state'] = 'experiments/tiny/training_states/2.state'
    write_options(tmp_path / 'train.yml', opt)
    for part in ('models/net_g_2.pth', 'training_states/2.state'):
        target = tmp_path / 'experiments' / 'tiny' / part
        target.parent.mkdir(parents=True)
        target.write_bytes((state / part).read_bytes())
    result = call_basicsr('train', '-opt', 'train.yml', *flag, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'iter: 2.' in result.stderr
    assert (tmp_path / 'experiments' / 'tiny' / 'models' / 'net_g_4.pth').is_file()


def test_runs_are_reproducible_whatever_the_number_of_workers(trained: Path, tmp_path: Path) -> None:
    workers = ['datasets:train:num_worker_per_gpu=2', 'datasets:train:persistent_workers=true']
    result = run_basicsr('train', '-opt', str(trained / 'train.yml'), '--force_yml', *workers, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    again, first = (folder / 'experiments/tiny/models/net_g_4.pth' for folder in (tmp_path, trained))
    assert equal(load(again), load(first))


def test_force_yml_takes_yaml_and_is_archived(trained: Path, tmp_path: Path) -> None:
    changes = ['train:optim_g:lr=5e-4', 'train:total_iter=2', 'name=other', 'train:ema_decay=0.9']
    result = call_basicsr('train', '-opt', str(trained / 'train.yml'), '--force_yml', *changes, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    archived = (tmp_path / 'experiments' / 'other' / 'other.yml').read_text()
    for text in ('lr: 0.0005', 'total_iter: 2', 'ema_decay: 0.9', 'train:optim_g:lr=5e-4'):
        assert text in archived


def test_debug_prefixes_the_name(trained: Path, tmp_path: Path) -> None:
    result = call_basicsr('train', '-opt', str(trained / 'train.yml'), '--debug', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'experiments' / 'debug_tiny').is_dir()


def test_only_runs_the_named_sets(trained: Path, tmp_path: Path) -> None:
    opt = options_of_test(
        tiny_options(trained / 'data' / 'gt', trained / 'data' / 'lq'), trained / 'experiments/tiny/models/net_g_4.pth'
    )
    opt['datasets']['test_2'] = {**opt['datasets']['test_1'], 'name': 'absent', 'dataroot_gt': '/nowhere'}
    write_options(tmp_path / 'test.yml', opt)
    assert call_basicsr('test', '-opt', 'test.yml', cwd=tmp_path).returncode == 1
    result = call_basicsr('test', '-opt', 'test.yml', '--only', 'tiny_val', cwd=tmp_path)
    assert result.returncode == 0, result.stderr


# -------------------------------------------------------------------------------------------------- drop-in for BasicSR


def test_stock_model_and_data_set_train_and_test_with_type_ramit(trained: Path, tmp_path: Path) -> None:
    opt = tiny_options(trained / 'data' / 'gt', trained / 'data' / 'lq', name='stock')
    opt['model_type'] = 'SRModel'
    opt['train']['optim_g'] = {'type': 'Adam', 'lr': 0.001}
    for phase, section in opt['datasets'].items():
        section.update(type='PairedImageDataset', io_backend={'type': 'disk'})
        if phase == 'train':
            section.update(gt_size=16, use_hflip=True, use_rot=True)
            del section['lq_patch_size'], section['repeat']
    opt['train'].update(ema_decay=0.9)
    write_options(tmp_path / 'train.yml', opt)
    test = options_of_test(opt, 'experiments/stock/models/net_g_latest.pth')
    test['val'].update(suffix=None)
    write_options(tmp_path / 'test.yml', test)
    for verb in ('train', 'test'):
        result = call_basicsr(verb, '-opt', f'{verb}.yml', cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / 'results/stock/visualization/tiny_val').iterdir())) == 3


def test_spawned_workers_of_a_stock_dataset_find_basicsr_repaired(trained: Path, tmp_path: Path) -> None:
    """macOS spawns its workers instead of forking the process."""
    opt = tiny_options(trained / 'data' / 'gt', trained / 'data' / 'lq')
    section = opt['datasets']['train']
    section.update(num_worker_per_gpu=1, type='PairedImageDataset', gt_size=16, use_hflip=True, use_rot=True)
    section['io_backend'] = {'type': 'disk'}
    del section['lq_patch_size'], section['repeat']
    opt['train'].update(total_iter=1)
    opt['train']['scheduler']['milestones'] = []
    write_options(tmp_path / 'train.yml', opt)
    (tmp_path / 'spawn.py').write_text(
        'import multiprocessing, sys\nfrom basicsr_command import main\n'
        'if __name__ == "__main__":\n    multiprocessing.set_start_method("spawn")\n    sys.exit(main())\n'
    )
    command = [sys.executable, 'spawn.py', 'train', '-opt', 'train.yml']
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
    assert result.returncode == 0, result.stderr


def test_basicsrs_own_pipeline_works_after_importing_the_package(trained: Path, tmp_path: Path) -> None:
    code = 'import ramit_arch, os; from basicsr.train import train_pipeline; train_pipeline(os.getcwd())'
    for resume in ([], ['--auto_resume']):
        command = [sys.executable, '-c', code, '-opt', str(trained / 'train.yml'), *resume]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
        assert result.returncode == 0, result.stderr
    theirs, ours = (folder / 'experiments/tiny/models/net_g_4.pth' for folder in (tmp_path, trained))
    assert equal(load(theirs), load(ours))


# --------------------------------------------------------------------------------------------------------- help, errors


@pytest.mark.parametrize('arguments', [['--help'], ['--version'], ['train', '--help'], ['complexity', '--help']])
def test_help_and_version_answer_without_importing_torch(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / 'torch.py').write_text('raise SystemExit("torch was imported")')
    result = subprocess.run(
        [sys.executable, '-c', f'import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv[1:] = {arguments!r}\n'
         'import basicsr_command; basicsr_command.main()'],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert 'example' in result.stdout or 'VERB' in result.stdout or 'ramit-arch' in result.stdout


@pytest.mark.parametrize('verb', ['train', 'test', 'compare', 'table', 'options', 'check', 'complexity'])
def test_every_verb_has_an_example(verb: str, tmp_path: Path) -> None:
    result = run_basicsr(verb, '--help', cwd=tmp_path)
    assert f'example:\n  basicsr {verb}' in result.stdout


def mistake(verb: str, opt: dict | str | None, cwd: Path, *more: str) -> str:
    """The error of a run that must fail, without a traceback and without touching an earlier experiment."""
    if isinstance(opt, dict):
        write_options(cwd / 'wrong.yml', opt)
    elif opt is not None:
        (cwd / 'wrong.yml').write_text(opt)
    earlier = cwd / 'experiments' / 'tiny' / 'precious'
    earlier.parent.mkdir(parents=True, exist_ok=True)
    earlier.touch()
    result = call_basicsr(verb, '-opt', 'wrong.yml', *more, cwd=cwd)
    assert result.returncode == 1, result.stdout
    assert 'Traceback' not in result.stderr
    _, _, message = result.stderr.rpartition('error: ')
    assert 1 <= len(message.splitlines()) <= 2
    assert earlier.exists(), 'the earlier experiment was moved away'
    assert not (cwd / 'results').exists()
    return message


def changed(trained: Path, *path: str, value: object = None) -> dict:
    """The training options with one key changed, or deleted."""
    opt = tiny_options(trained / 'data' / 'gt', trained / 'data' / 'lq')
    section = opt
    for key in path[:-1]:
        section = section[key]
    if value is None:
        del section[path[-1]]
    else:
        section[path[-1]] = value
    return opt


MISTAKES = [
    (('network_g', 'dim'), 60, 'wrong.yml:24: network_g.dim is 60; it must be a multiple of 16'),
    (('network_g', 'dims'), 64, 'network_g.dims is unknown (did you mean dim?)'),
    (
        ('network_g', 'type'),
        'RAMIT',
        "network_g.type is 'RAMIT', but no arch of that name is registered (did you mean RAMiT?)",
    ),
    (('network_g', 'upscale'), 3, 'scale is 2, but network_g.upscale is 3'),
    (('vall',), {}, 'vall is unknown (did you mean val?)'),
    (
        ('path', 'pretrained_network_g'),
        'x.pth',
        'path.pretrained_network_g is unknown (did you mean pretrain_network_g?)',
    ),
    (('model_type',), 'RamitModel', 'did you mean RAMiTModel?'),
    (
        ('datasets', 'train', 'dataroot_gt'),
        '/no/such/place',
        'wrong.yml:9: datasets.train.dataroot_gt is /no/such/place, which does not exist',
    ),
    (('train', 'optim_g', 'lr'), None, 'train.optim_g.lr is missing'),
    (('num_gpu',), None, 'wrong.yml: num_gpu is missing'),
    (('path', 'pretrain_network_g'), 'gone.pth', 'path.pretrain_network_g is gone.pth, which does not exist'),
    # What the dataset, the model and the metrics would find after BasicSR has moved the earlier experiment.
    (
        ('datasets', 'train', 'use_hflp'),
        True,
        'datasets.train.use_hflp is unknown (did you mean use_hflip?)',
    ),
    (('datasets', 'train', 'lq_patch_size'), 99, 'smaller than the patch of 99'),
    (('datasets', 'train', 'batch_size_per_gpu'), '4', "batch_size_per_gpu is '4'; it must be an integer from 1 up"),
    (('datasets', 'train', 'scale'), 3, 'datasets.train.scale cannot be set per dataset'),
    (('datasets', 'val', 'use_hflip'), True, 'datasets.val.use_hflip is for training; remove it here'),
    (
        ('val', 'metrics', 'image'),
        {'type': 'calculate_niqe', 'crop_border': 2},
        'val.metrics.image: this name is reserved for a column',
    ),
    (('datasets', 'train', 'persistent_workers'), True, 'persistent_workers needs num_worker_per_gpu'),
    (('datasets', 'train', 'color'), 'gray', 'color gray gives 1 channels, but network_g.in_chans is 3'),
    (
        ('datasets', 'val', 'io_backend'),
        {'tpye': 'lmdb'},
        'datasets.val.io_backend.tpye is unknown (did you mean type?)',
    ),
    (
        ('datasets', 'val_2'),
        {'name': 'tiny_val', 'type': 'PairedRestorationDataset', 'dataroot_gt': '.', 'dataroot_lq': '.'},
        'datasets.val_2.name is tiny_val, the name of another dataset',
    ),
    (('train', 'ema_dcay'), 0.9, 'train.ema_dcay is unknown (did you mean ema_decay?)'),
    (('train', 'ema_decay'), 1.5, 'train.ema_decay is 1.5; it must be'),
    (('train', 'total_iter'), 0, 'train.total_iter is 0; it must be an integer from 1 up'),
    (('train', 'total_iter'), 2.5, 'train.total_iter is 2.5'),
    (('train', 'grad_clip_norm'), -1, 'train.grad_clip_norm is -1; it must be a positive number'),
    (('train', 'bf16'), 'no way', "train.bf16 is 'no way'; it must be true or false"),
    (('train', 'pixel_opt'), None, 'train.pixel_opt is missing'),
    (('train', 'pixel_opt', 'type'), 'L1Los', 'did you mean L1Loss?'),
    (('train', 'optim_g', 'beta'), [0.9, 0.99], 'train.optim_g.beta is unknown (did you mean betas?)'),
    (('train', 'optim_g', 'betas'), [1], "train.optim_g: Adam does not take {'lr': 0.001, 'betas': [1]}"),
    (('train', 'optim_g', 'eps'), -1, 'Invalid epsilon value'),
    (('train', 'scheduler', 'milestones'), ['1'], 'it must be a list of iterations, or of fractions below 1'),
    (('val', 'val_freq'), 0, 'val.val_freq is 0'),
    (('val', 'save_imgs'), True, 'val.save_imgs is unknown (did you mean save_img?)'),
    (
        ('val', 'metrics', 'psnr', 'test_y_chanel'),
        True,
        'val.metrics.psnr.test_y_chanel is unknown (did you mean test_y_channel?)',
    ),
    (('val', 'metrics', 'psnr', 'crop_border'), None, 'val.metrics.psnr.crop_border is missing'),
    (('val', 'metrics', 'psnr', 'type'), 'calculate_pnsr', 'did you mean calculate_psnr?'),
    (('train', 'pixel_opt', 'reduction'), 'none', "train.pixel_opt.reduction is 'none'; it must be 'mean' or 'sum'"),
    (('logger', 'print_freq'), 0, 'logger.print_freq is 0'),
    (('logger', 'keep_best'), 'pnsr', "logger.keep_best names 'pnsr', no metric of val (did you mean psnr?)"),
    (('logger', 'keep_best'), 'Set5/psnr', "logger.keep_best names 'Set5', no validation set"),
    (('train', 'checkpointing'), 'yes', "train.checkpointing is 'yes'; it must be true or false"),
    (
        ('path', 'param_key_g'),
        'params_emma',
        "path.param_key_g is 'params_emma'; it must be 'params' or 'params_ema' (did you mean params_ema?)",
    ),
    (('name',), '../x', "name is '../x'; it must be a name for files and folders"),
]


@pytest.mark.parametrize(('path', 'value', 'message'), MISTAKES, ids=[f'{p[-1]}={v}' for p, v, _ in MISTAKES])
def test_mistakes_in_an_option_file_are_told_in_two_lines(
    path: tuple, value: object, message: str, trained: Path, tmp_path: Path
) -> None:
    assert message in mistake('train', changed(trained, *path, value=value), tmp_path)


@pytest.mark.parametrize('flag', ['--auto_resume', '--debug'])
def test_a_missing_name_is_told_with_flags_that_need_it(flag: str, trained: Path, tmp_path: Path) -> None:
    assert 'wrong.yml: name is missing' in mistake('train', changed(trained, 'name'), tmp_path, flag)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'wrong.yml: no such file; basicsr options lists'),
        ('', 'wrong.yml: empty'),
        ('- a\n', 'wrong.yml: no option file'),
        ('a: ' + '[' * 5000, 'wrong.yml: nested too deeply'),
        ('a: &a {b: *a}\n', 'wrong.yml: more than 100,000 values with its aliases; refused'),
        (
            'a0: &a0 [1]\n' + ''.join(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9)}]\n' for i in range(1, 12)),
            'wrong.yml: more than 100,000 values with its aliases; refused',
        ),
        ('name: a\n? [b, c]\n: d\n', 'wrong.yml:2: not plain YAML: a key must be a word'),
        ('name: a\nname: b\n', 'wrong.yml:2: not plain YAML: the key name is repeated'),
        ('name: [1, 2\nscale: 3\n', 'wrong.yml:2: not plain YAML'),
        ('name: !!python/object/apply:os.mkdir [experiments]\n', 'wrong.yml:1: not plain YAML'),
    ],
)
def test_files_that_are_not_option_files_are_named(text: str | None, message: str, tmp_path: Path) -> None:
    assert message in mistake('train', text, tmp_path)


def test_number_that_yaml_reads_as_text_is_named(trained: Path, tmp_path: Path) -> None:
    opt = (trained / 'train.yml').read_text().replace('lr: 0.001', 'lr: 1e-3')
    assert 'train.optim_g.lr: YAML reads 1e-3 as text; write 0.001' in mistake('train', opt, tmp_path)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ('tran:total_iter=2', 'did you mean train?'),
        ('train.total_iter=5', 'did you mean train:total_iter=5?'),
        ('name', 'expected key:key=value'),
        ('name=[', 'not YAML'),
    ],
)
def test_wrong_force_yml_is_named(change: str, message: str, trained: Path, tmp_path: Path) -> None:
    text = (trained / 'train.yml').read_text()
    assert message in mistake('train', text, tmp_path, '--force_yml', change)


def test_force_yml_is_not_executed(trained: Path, tmp_path: Path) -> None:
    for attack in ('name"]=__import__("os").mkdir("pwned");opt["name=x', 'name=[__import__("os").mkdir("pwned")]'):
        mistake('train', (trained / 'train.yml').read_text(), tmp_path, '--force_yml', attack)
    assert not (tmp_path / 'pwned').exists()


def test_launcher_without_torchrun_is_refused(trained: Path, tmp_path: Path) -> None:
    text = (trained / 'train.yml').read_text()
    assert 'start the processes by torchrun' in mistake('train', text, tmp_path, '--launcher', 'pytorch')


def test_error_in_a_worker_ends_the_run_with_its_own_words(tmp_path: Path) -> None:
    gt, lq = write_pairs(tmp_path / 'data')
    for path in gt.iterdir():
        path.write_bytes(path.read_bytes()[:-200])  # headers are fine
    opt = tiny_options(gt, lq)
    opt['datasets']['train']['num_worker_per_gpu'] = 1
    write_options(tmp_path / 'train.yml', opt)
    result = run_basicsr('train', '-opt', 'train.yml', cwd=tmp_path)
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith('error:')]
    assert 'gt/2.png: not an image' in line
    assert 'not an image that can be read' in line


def test_foreign_errors_name_their_place_and_traceback_shows_all(trained: Path, tmp_path: Path) -> None:
    opt = changed(trained, 'network_g', value={'type': 'EDSR', 'num_in_ch': 1, 'num_out_ch': 3, 'upscale': 2})
    assert 'error: RuntimeError: Given groups=1, weight of size' in foreign_error(opt, tmp_path)
    assert 'Traceback (most recent call last)' in foreign_error(opt, tmp_path, '--traceback')


def foreign_error(opt: dict, cwd: Path, *more: str) -> str:
    write_options(cwd / 'wrong.yml', opt)
    result = call_basicsr('train', '-opt', 'wrong.yml', *more, cwd=cwd)
    assert result.returncode == 1
    assert ('Traceback' in result.stderr) == bool(more)
    return result.stderr


def test_checkpoint_that_does_not_fit_is_told_before_the_start(trained: Path, tmp_path: Path) -> None:
    opt = changed(trained, 'network_g', 'dim', value=32)
    opt['path']['pretrain_network_g'] = str(trained / 'experiments/tiny/models/net_g_4.pth')
    assert 'does not fit RAMiT: parameters' in mistake('train', opt, tmp_path)


def test_test_needs_a_checkpoint(trained: Path, tmp_path: Path) -> None:
    opt = options_of_test(tiny_options(trained / 'data/gt', trained / 'data/lq'), 'x')
    assert 'path.pretrain_network_g is missing' in mistake('test', {**opt, 'path': {}}, tmp_path)


def test_our_training_keys_are_refused_with_srmodel(trained: Path, tmp_path: Path) -> None:
    opt = changed(trained, 'train', 'accumulate', value=2)
    assert 'SRModel does not read it' in mistake('train', {**opt, 'model_type': 'SRModel'}, tmp_path)


def test_repeated_flags_add_up(trained: Path, tmp_path: Path) -> None:
    flags = ['--force_yml', 'name=first', '--force_yml', 'train:total_iter=2']
    result = call_basicsr('train', '-opt', str(trained / 'train.yml'), *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / 'experiments' / 'first' / 'models' / 'net_g_4.pth').exists()


def test_training_reaches_total_iter_where_the_last_batch_of_an_epoch_is_dropped(trained: Path, tmp_path: Path) -> None:
    changes = ['datasets:train:batch_size_per_gpu=4', 'train:total_iter=8']  # six images: one batch an epoch, not two
    result = call_basicsr('train', '-opt', str(trained / 'train.yml'), '--force_yml', *changes, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'experiments/tiny/models/net_g_8.pth').is_file()


@pytest.mark.parametrize('verb', ['train -opt train.yml', 'verify datasets'])
def test_missing_system_library_of_opencv_comes_with_the_command_that_helps(verb: str, tmp_path: Path) -> None:
    (tmp_path / 'cv2.py').write_text('raise ImportError("libxcb.so.1: cannot open shared object file")')
    result = subprocess.run(
        [str(BASICSR), *verb.split()], cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    first, second = result.stderr.splitlines()
    assert first == 'error: OpenCV cannot be imported: libxcb.so.1: cannot open shared object file'
    release = re.escape(version('opencv-python'))
    assert re.search(f'pip install --no-deps --force-reinstall opencv-python-headless=={release}$', second)


def test_another_fault_of_opencv_is_not_taken_for_a_missing_library(tmp_path: Path) -> None:
    (tmp_path / 'cv2.py').write_text('raise ImportError("numpy is too old")')
    code = 'import ramit_arch'
    result = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1] == 'ImportError: numpy is too old'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['trian'], 'did you mean train?'),
        (['table', 'results', '--format', 'cvs'], 'did you mean csv?'),
        (['check'], 'one of the arguments -opt FILE is required'),
    ],
)
def test_misspelt_arguments_are_answered_with_the_near_one(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match='2'):
        basicsr_command.build_parser().parse_args(arguments)
    assert message in capsys.readouterr().err


def test_option_file_needs_no_flag(trained: Path) -> None:
    for arguments in (['check', 'train.yml'], ['check', '-opt', 'train.yml']):
        result = call_basicsr(*arguments, cwd=trained)
        assert result.returncode == 0, result.stderr
        assert '# train.yml: a training that can start.' in result.stdout


def test_a_terminal_shows_a_progress_line_and_a_log_does_not(trained: Path) -> None:
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 150, 0, 0))
    command = [str(BASICSR), 'train', 'train.yml', '--force_yml', 'train:total_iter=12', 'name=shown']
    process = subprocess.Popen(command, cwd=trained, stdout=subprocess.DEVNULL, stderr=its)
    os.close(its)
    text = b''
    try:
        while piece := os.read(ours, 4096):
            text += piece
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0, text
    assert b'shown: ' in text
    assert re.search(rb'12/12 \[.*l_pix \d.*images/s', text), text
    assert b'INFO: Start training' in text
    [log] = (trained / 'experiments' / 'shown').glob('*.log')
    assert 'images/s' not in log.read_text()
    assert 'manual_seed: 3' in log.read_text()  # the options, which the terminal does not show
    assert b'manual_seed: 3' not in text


def test_frequencies_have_defaults(trained: Path, tmp_path: Path) -> None:
    opt = yaml.safe_load((trained / 'train.yml').read_text())
    opt.pop('logger')
    opt['val'].pop('val_freq')
    opt['train']['total_iter'] = 2000
    write_options(trained / 'short.yml', opt)
    result = call_basicsr('check', 'short.yml', cwd=trained)
    assert result.returncode == 0, result.stderr
    resolved = yaml.safe_load(result.stdout)
    assert resolved['logger'] == {'print_freq': 2, 'save_checkpoint_freq': 20, 'use_tb_logger': False}
    assert resolved['val']['val_freq'] == 20
    result = call_basicsr('train', 'short.yml', '--force_yml', 'train:total_iter=4', 'name=short', cwd=trained)
    assert result.returncode == 0, result.stderr
    assert (trained / 'experiments' / 'short' / 'models' / 'net_g_3.pth').is_file()


def test_wrong_command_line_exits_with_2(tmp_path: Path) -> None:
    assert run_basicsr('train', cwd=tmp_path).returncode == 2
    assert run_basicsr('trian', '-opt', 'x.yml', cwd=tmp_path).returncode == 2


def test_ctrl_c_exits_with_130(trained: Path, tmp_path: Path) -> None:
    import signal

    opt = changed(trained, 'train', 'total_iter', value=100000)
    write_options(tmp_path / 'train.yml', opt)
    with subprocess.Popen(
        [BASICSR, 'train', '-opt', 'train.yml'], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if 'l_pix' in line:
                break
        run.send_signal(signal.SIGINT)
        stderr = run.communicate(timeout=60)[1]
    assert run.returncode == 130
    assert 'Traceback' not in stderr


def test_compare_before_test_says_what_to_do(trained: Path, tmp_path: Path) -> None:
    opt = options_of_test(tiny_options(trained / 'data/gt', trained / 'data/lq'), 'not/read/by/compare.pth')
    assert 'run `basicsr test` with this option file first, or give networks by -m' in mistake('compare', opt, tmp_path)


def test_complexity_prints_a_row_a_file(tmp_path: Path) -> None:
    files = [str(ROOT / 'options' / f'test_RAMiT_SRx{scale}.yml') for scale in (2, 4)]
    result = call_basicsr('complexity', '-opt', *files, '--counts', '--plot', 'tradeoff.png', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[1] == ['RAMiT_SRx2', 'x2', '940K', '163.1G', '2,543M']
    assert rows[2] == ['RAMiT_SRx4', 'x4', '961K', '42.12G', '640M']
    assert 'Not in the figure: RAMiT_SRx2; results/RAMiT_SRx2 has no scores of all five sets.' in result.stdout
    assert cv2.imread(str(tmp_path / 'tradeoff.png')).shape == (840, 2250, 3)


def test_complexity_measures_time_and_memory(tmp_path: Path) -> None:
    write_options(tmp_path / 'tiny.yml', {'name': 'tiny', 'scale': 4, 'network_g': {**TINY_NETWORK, 'upscale': 4}})
    result = run_basicsr('complexity', '-opt', 'tiny.yml', '--repeats', '1', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    header, row, *_ = result.stdout.splitlines()
    assert header.split() == 'network scale #Params Mult-Adds activations time peak memory'.split()
    assert re.search(r' \d+(\.\d+)? m?s +0\.\d\d GiB$', row)


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--plot', 'figure.txt'], '--plot figure.txt: a figure is a .png'),
    (['--plot', 'missing/figure.png'], '--plot missing/figure.png: there is no folder'),
    (['--force_yml', 'scale=1', 'network_g:upscale=1', '--plot', 'a.png'], '--plot is for super-resolution'),
])  # fmt: skip
def test_wrong_plots_are_refused_before_anything_is_measured(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    file = str(ROOT / 'options' / 'test_RAMiT_SRx2.yml')
    assert message in call_basicsr('complexity', '-opt', file, *arguments, cwd=tmp_path).stderr


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--repeats', '0'], '--repeats: 0 is not an integer from 1 up'),
    (['--force_yml', 'scale=32', 'network_g:upscale=32'], 'scale is 32; 1280x720 is divided by at most 16'),
    (['--force_yml', 'network_g={type: EDSR, num_in_ch: 3, num_out_ch: 3, upscale: 4}'],
     'the network makes 2560x1440 of 640x360, not x2'),
    (['--force_yml', 'scale=2 name=a'], 'two assignments in one argument'),
    (['--force_yml', '=2'], 'expected key:key=value'),
])  # fmt: skip
def test_what_cannot_be_counted_is_told(arguments: list[str], message: str, tmp_path: Path) -> None:
    file = str(ROOT / 'options' / 'test_RAMiT_SRx2.yml')
    assert message in call_basicsr('complexity', '-opt', file, '--counts', *arguments, cwd=tmp_path).stderr


def test_null_means_unset(trained: Path, tmp_path: Path) -> None:
    nulls = [
        'train:ema_decay=~',
        'datasets:train:use_hflip=~',
        'network_g:dim=~',
        'train:pixel_opt:reduction=~',
    ]
    result = call_basicsr('options', '-opt', str(trained / 'train.yml'), '--force_yml', *nulls, cwd=tmp_path)
    full = yaml.safe_load(result.stdout)
    assert 'ema_decay' not in full['train']
    assert 'use_hflip' not in full['datasets']['train']
    assert 'dim' not in full['network_g']
    assert full['train']['pixel_opt']['reduction'] is None  # an argument of another project's loss


def test_processes_started_without_launcher_are_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('WORLD_SIZE', '2')
    text = (trained / 'train.yml').read_text()
    assert 'started as several processes, which would train apart; add --launcher pytorch' in mistake(
        'train', text, tmp_path
    )


@pytest.fixture(scope='module')
def bases(trained: Path) -> Path:
    """A training file in three layers, beside the file they stand on."""
    folder = trained / 'layers'
    folder.mkdir()
    (folder / 'middle.yml').write_text(
        'base: ../train.yml\nname: middle\ntrain: {scheduler: {milestones: [1, 2]}, optim_g: {betas: ~}}\n'
    )
    (folder / 'top.yml').write_text('base: middle.yml\nname: top\nmanual_seed: 9\n')
    return folder


def test_option_file_stands_on_its_base(bases: Path, tmp_path: Path) -> None:
    result = call_basicsr('options', '-opt', str(bases / 'top.yml'), '--force_yml', 'val:val_freq=2', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    base, full = options.load(bases.parent / 'train.yml'), yaml.safe_load(result.stdout)
    assert 'base' not in full
    assert (full['name'], full['manual_seed'], full['val']['val_freq']) == ('top', 9, 2)
    assert full['network_g'] == base['network_g']
    assert full['train']['scheduler'] == {**base['train']['scheduler'], 'milestones': [1, 2]}  # a list is replaced
    assert full['train']['optim_g'] == {key: v for key, v in base['train']['optim_g'].items() if key != 'betas'}


def test_base_is_resolved_for_basicsr_and_in_the_archive(bases: Path, tmp_path: Path) -> None:
    result = call_basicsr('train', '-opt', str(bases / 'top.yml'), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    archived = tmp_path / 'experiments' / 'top' / 'top.yml'
    assert archived.read_text().startswith(f'# basicsr train -opt {bases / "top.yml"}\n# 20')
    assert yaml.safe_load(archived.read_text()) == options.load(bases / 'top.yml')


@pytest.mark.parametrize(('text', 'message'), [
    ('base: wrong.yml\n', 'wrong.yml: base wrong.yml: a file cannot be its own base'),
    ('base: {a: 1}\n', "base is {'a': 1}; it must be the path"),
    ('base: missing.yml\n', 'base missing.yml: no such file'),
])  # fmt: skip
def test_wrong_base_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / 'wrong.yml').write_text(text)
    result = call_basicsr('options', '-opt', 'wrong.yml', cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr


# --------------------------------------------------------------------------------------------------------------- check


def check(opt: dict, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    write_options(folder / 'checked.yml', opt)
    before = sorted(folder.iterdir())
    result = call_basicsr('check', '-opt', 'checked.yml', *more, cwd=folder)
    assert sorted(folder.iterdir()) == before
    return result


def test_check_prints_the_resolved_file_and_what_the_run_would_be(trained: Path, tmp_path: Path) -> None:
    opt = changed(trained, 'train', 'ema_decay', value=0.9)
    result = check(opt, tmp_path, '--force_yml', 'train:total_iter=40')
    assert result.returncode == 0, result.stderr
    opt['train']['total_iter'] = 40
    assert yaml.safe_load(result.stdout) == opt
    comments = [line for line in result.stdout.splitlines() if line.startswith('# ')]
    assert comments.pop().startswith('# checkpoints and states: 21 of ')
    assert comments == [
        '# checked.yml: a training that can start.',
        '# 40 iterations, 80 images, 13.3 epochs of 6',
        '#   40 iterations: batches of 2, learning rate 0.001',
        '# train: tiny, 3 images',
        '# val: tiny_val, 3 images',
        '# RAMiT: 37,693 parameters',
    ]


def test_check_forecasts_the_disk_and_names_what_is_ignored(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / 'data', tmp_path / 'data')
    (tmp_path / 'data' / 'lq' / 'notes.txt').write_text('')
    (tmp_path / 'data' / 'lq' / 'more').mkdir()
    opt = tiny_options(tmp_path / 'data' / 'gt', tmp_path / 'data' / 'lq')
    result = check(opt, tmp_path)
    assert result.returncode == 0, result.stderr
    assert f'#   {tmp_path}/data/lq: 2 others ignored: more/, notes.txt' in result.stdout
    weights = 4 * 37_693 / 2**20
    assert f'# checkpoints and states: 3 of {3 * weights:.1f} MiB, about {9 * weights:.1f} MiB;' in result.stdout
    opt['logger']['keep_checkpoints'] = 1
    opt['train']['ema_decay'] = 0.9
    assert f'# checkpoints and states: 1 of {4 * weights:.1f} MiB' in check(opt, tmp_path).stdout


def test_check_decodes_every_image_if_asked(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / 'data', tmp_path / 'data')
    opt = tiny_options(tmp_path / 'data' / 'gt', tmp_path / 'data' / 'lq')
    assert '# decoded 6 images' in check(opt, tmp_path, '--decode').stdout
    broken = tmp_path / 'data' / 'lq' / '1.png'
    broken.write_bytes(broken.read_bytes()[:100])
    assert check(opt, tmp_path).returncode == 0
    result = check(opt, tmp_path, '--decode')
    assert result.returncode == 1
    assert f'error: 1 of 6 images cannot be decoded\n{broken}: ' in result.stderr


def test_check_tells_the_stages_of_progressive_learning(trained: Path, tmp_path: Path) -> None:
    stages = [{'iter': 30, 'lq_patch_size': 8, 'batch_size': 4}, {'iter': 10, 'lq_patch_size': 12, 'batch_size': 2}]
    opt = changed(trained, 'train', 'progressive', value=stages)
    opt['train']['total_iter'] = 40
    for key in ('lq_patch_size', 'batch_size_per_gpu'):
        del opt['datasets']['train'][key]
    result = check(opt, tmp_path)
    assert (
        '# 40 iterations, 140 images, 23.3 epochs of 6\n#   30 iterations: LQ patches of 8, batches of 4'
        in result.stdout
    )


def test_check_takes_tests_and_files_of_other_networks(trained: Path, tmp_path: Path) -> None:
    opt = changed(trained, 'name', value='test')
    checkpoint = trained / 'experiments' / 'tiny' / 'models' / 'net_g_latest.pth'
    result = check(options_of_test(opt, checkpoint), tmp_path)
    assert result.returncode == 0, result.stderr
    assert '# checked.yml: a test that can start.' in result.stdout
    opt |= {'model_type': 'SRModel', 'network_g': {'type': 'MSRResNet', 'num_in_ch': 3, 'num_out_ch': 3, 'upscale': 2}}
    for section in opt['datasets'].values():
        section.update(type='PairedImageDataset', io_backend={'type': 'disk'})
        section.pop('repeat', None)
        section['gt_size'] = section.pop('lq_patch_size', 8) * 2
    result = check(opt, tmp_path)
    assert result.returncode == 0, result.stderr
    assert '# 4 iterations' in result.stdout


def test_check_ends_with_one_on_a_mistake(trained: Path, tmp_path: Path) -> None:
    result = check(changed(trained, 'train', 'ema_dcay', value=0.9), tmp_path)
    assert (result.returncode, result.stdout) == (1, '')
    assert result.stderr == 'error: checked.yml:53: train.ema_dcay is unknown (did you mean ema_decay?)\n'


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc')
def test_verbs_keep_freed_memory_and_importing_does_not() -> None:
    code = (
        'import sys, basicsr_command\n'
        'import ramit_arch, torch\n'
        'def resident():\n'
        '    return int(open("/proc/self/statm").read().split()[1]) * 4096\n'
        'def kept():\n'
        '    before = resident()\n'
        '    tensors = [torch.ones(5_000_000) for _ in range(5)]\n'
        '    del tensors\n'
        '    return resident() - before > 50_000_000\n'
        'first = kept()\n'
        'basicsr_command.main(["table", "missing"])\n'
        'print(first, kept())\n'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ['False', 'True']


@pytest.mark.parametrize(('limit', 'threads'), [
    ('max 100000', None), ('100000 100000', '1'), ('50000 100000', '1'), ('99900000 100000', None), (None, None),
])  # fmt: skip
def test_a_container_gets_no_more_threads_than_it_has_cpus(
    limit: str | None, threads: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit is not None:
        (tmp_path / 'cpu.max').write_text(limit)
    monkeypatch.setattr(basicsr_command, 'CPU_LIMIT', tmp_path / 'cpu.max')
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: range(4), raising=False)
    monkeypatch.delenv('OMP_NUM_THREADS')
    monkeypatch.delenv('GOMP_SPINCOUNT', raising=False)
    basicsr_command.configure_threads()
    assert os.environ['GOMP_SPINCOUNT'] == '1000'
    assert os.environ.get('OMP_NUM_THREADS') == threads
    monkeypatch.setenv('OMP_NUM_THREADS', '3')  # of the user
    basicsr_command.configure_threads()
    assert os.environ['OMP_NUM_THREADS'] == '3'
