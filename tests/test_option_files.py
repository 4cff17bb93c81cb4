"""Every option file: it names what it says, agrees with the paper, and runs on a tiny generated set."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from helpers import ROOT, run_basicsr, write_lmdb, write_options, write_pairs

from ramit_arch import RAMiT, options
from ramit_arch.models.schedule import read_schedule

FILES = sorted((ROOT / 'options').glob('*.yml'))
TRAIN = [file for file in FILES if not file.name.startswith('test_')]
PAPER = [file for file in TRAIN if file.name.startswith('train_')]


def named(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize('file', files, ids=[file.stem for file in files])


def test_every_published_result_has_its_files() -> None:
    results = [f'RAMiT_SRx{r}' for r in (2, 3, 4)] + [f'RAMiT-slimSR_SRx{r}' for r in (2, 3, 4)]
    results += [f'RAMiT_SRx{r}_DF2K' for r in (2, 3, 4)]
    expected = {f'{kind}_{result}' for result in results for kind in ('train', 'test')}
    assert expected <= {file.stem for file in FILES}


@named(FILES)
def test_file_shows_the_command_that_runs_it(file: Path) -> None:
    verb = 'test' if file.name.startswith('test_') else 'train'
    assert f'basicsr {verb} -opt options/{file.name}\n' in file.read_text()


@named(TRAIN)
def test_training_and_test_file_describe_the_same_network(file: Path) -> None:
    test = file.with_name('test_' + file.name.removeprefix('train_'))
    training, testing = options.load(file), options.load(test)
    for key in ('name', 'scale', 'network_g'):
        assert training[key] == testing[key]
    assert training['val']['metrics'] == testing['val']['metrics']
    assert testing['path']['pretrain_network_g'] == f'experiments/{training["name"]}/models/net_g_latest.pth'


@named(PAPER)
def test_training_is_that_of_appendix_b(file: Path) -> None:
    opt = options.load(file)
    train, data = opt['train'], opt['datasets']['train']
    images = 3450 if 'DF2K' in file.name else 800
    assert int(images * (data.get('repeat') or 1) + 1e-6) == 64000
    assert (data['batch_size_per_gpu'], data['lq_patch_size'], train['lr_batch_size']) == (64, 64, 64)
    schedule = read_schedule({**opt, 'dist': False, 'world_size': 1, 'num_gpu': 1})
    epoch = 1000
    if opt['scale'] == 2:
        milestones, epochs, warm_start = (200, 300, 400, 425, 450, 475), 500, 0
    else:
        milestones, epochs, warm_start = (50, 100, 150, 175, 200, 225), 300, 50
        source = re.sub('SRx[34]', 'SRx2', opt['name'])
        assert opt['path']['pretrain_network_g'] == f'experiments/{source}/models/net_g_latest.pth'
    assert schedule.milestones == tuple(m * epoch for m in milestones)
    assert (schedule.rate, schedule.gamma, schedule.warmup) == (0.0004, 0.5, 20 * epoch)
    assert (train['total_iter'], schedule.warm_start) == (epochs * epoch, warm_start * epoch)
    optimiser = train['optim_g']
    assert (optimiser['type'], optimiser['betas'], optimiser['eps']) == ('Adam', [0.9, 0.99], 1e-8)
    assert train['pixel_opt']['type'] == 'L1Loss'


@named(FILES)
def test_scores_follow_the_protocol_of_super_resolution(file: Path) -> None:
    opt = options.load(file)
    for name, kind in [('psnr', 'calculate_psnr'), ('ssim', 'calculate_ssim')]:
        assert opt['val']['metrics'][name] == {'type': kind, 'crop_border': opt['scale'], 'test_y_channel': True}


@named(FILES)
def test_network_is_the_one_the_comment_counts(file: Path) -> None:
    network = {key: value for key, value in options.load(file)['network_g'].items() if key != 'type'}
    with torch.device('meta'):
        parameters = sum(p.numel() for p in RAMiT(**network).parameters())
    comment = re.search(r'([\d,]+)K parameters', file.read_text())
    assert comment is None or int(comment[1]) == round(parameters / 1000)


# ------------------------------------------------------------------------------------- every file runs, data replaced


def shrink(opt: dict) -> None:
    """Two iterations with a network, patches and batches of a size that suits a test; the kind of everything stays."""
    opt['network_g'].update(dim=16, depths=[1, 1, 1, 1], window_size=2, expand_groups=1, mixer_expand_groups=1)
    opt['num_gpu'] = 0
    train = opt['datasets']['train']
    train.update(lq_patch_size=8, batch_size_per_gpu=2, num_worker_per_gpu=0, persistent_workers=False, repeat=1.5)
    opt['train'].update(total_iter=2)
    if 'warm_start' in opt['train']:
        opt['train']['warm_start'] = {'iter': 1}
    opt['val']['val_freq'] = opt['logger']['save_checkpoint_freq'] = opt['logger']['print_freq'] = 1
    opt['logger']['use_tb_logger'] = False


def replace_data(section: dict, folder: Path, scale: int) -> None:
    """Point a section at generated pairs, through its own backend, roots and name template."""
    roots = section.get('roots') or [section]
    for root in roots:
        place = folder / root['dataroot_gt'].replace('/', '_')
        if not place.exists():
            gt, lq = write_pairs(place, count=2, lq=(16, 18), scale=scale)
            for path in list(lq.iterdir()):
                path.rename(path.with_stem(section.get('filename_tmpl', '{}').format(path.stem)))
            if section['io_backend']['type'] == 'lmdb':
                write_lmdb(gt, place / 'gt.lmdb')
                write_lmdb(lq, place / 'lq.lmdb')
        suffix = '.lmdb' if section['io_backend']['type'] == 'lmdb' else ''
        root['dataroot_gt'], root['dataroot_lq'] = str(place / f'gt{suffix}'), str(place / f'lq{suffix}')


@named(TRAIN)
def test_file_trains_two_iterations_validates_and_its_test_file_tests(file: Path, tmp_path: Path) -> None:
    opt = options.load(file)
    shrink(opt)
    for section in opt['datasets'].values():
        replace_data(section, tmp_path, opt['scale'])
    if opt['path'].get('pretrain_network_g'):  # the x2 network the warm start needs
        network = {key: value for key, value in opt['network_g'].items() if key != 'type'}
        opt['path']['pretrain_network_g'] = str(tmp_path / 'x2.pth')
        torch.save({'params': RAMiT(**{**network, 'upscale': 2}).state_dict()}, tmp_path / 'x2.pth')
    write_options(tmp_path / 'train.yml', opt)
    result = run_basicsr('train', '-opt', 'train.yml', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    experiment = tmp_path / 'experiments' / opt['name']
    assert (experiment / 'scores' / f'{opt["datasets"]["val"]["name"]}_2.csv').is_file()

    test = options.load(file.with_name('test_' + file.name.removeprefix('train_')))
    for section in test['datasets'].values():
        replace_data(section, tmp_path, test['scale'])
    test.update(num_gpu=0, network_g=opt['network_g'])
    write_options(tmp_path / 'test.yml', test)
    result = run_basicsr('test', '-opt', 'test.yml', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    scores = {path.stem for path in (tmp_path / 'results' / opt['name'] / 'scores').glob('*.csv')}
    assert scores == {section['name'] for section in test['datasets'].values()}


def test_resolved_files_stay_yaml_that_basicsr_reads() -> None:
    from basicsr.utils.options import ordered_yaml

    for file in FILES:
        opt = options.load(file)
        assert yaml.load(yaml.safe_dump(opt, sort_keys=False), Loader=ordered_yaml()[0]) == opt
