"""Scores are computed as the paper's: the protocol of a task decides channel, border and noise, and says so."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_metric
from helpers import TINY_NETWORK, call_basicsr, photograph, problems, write_options, write_pairs

from ramit_arch import RAMiT
from ramit_arch.evaluation.protocols import PROTOCOLS, standard_metrics, task_of
from ramit_arch.models.options import Validation

PSNR = {'type': 'calculate_psnr', 'crop_border': 0}
NETWORK = {**TINY_NETWORK, 'upscale': 1}


@pytest.mark.parametrize(('protocol', 'scale', 'border', 'luma'), [
    ('SR', 3, 3, True), ('SR', 4, 4, True), ('CDN', 1, 0, False), ('GDN', 1, 0, False), ('LLE', 1, 0, False),
    ('DR', 1, 0, True), ('DB', 1, 0, False), ('DH', 1, 0, False), ('RDN', 1, 0, False),
])  # fmt: skip
def test_channel_and_border_are_those_of_the_task(protocol: str, scale: int, border: int, luma: bool) -> None:
    metrics = standard_metrics(protocol, scale)
    settings = {'crop_border': border, 'test_y_channel': luma}
    assert metrics == {name: {'type': f'calculate_{name}', **settings} for name in ('psnr', 'ssim')}


def test_sets_and_their_sizes_are_the_published_ones() -> None:
    sets = {name: dict(protocol.sets) for name, protocol in PROTOCOLS.items()}
    assert sets == {
        'SR': {'Set5': 5, 'Set14': 14, 'BSD100': 100, 'Urban100': 100, 'Manga109': 109},
        'CDN': {'CBSD68': 68, 'Kodak24': 24, 'McMaster': 18, 'Urban100': 100},
        'GDN': {'Set12': 12, 'BSD68': 68, 'Urban100': 100},
        'LLE': {'LOL': 15, 'VE-LOL-cap': 100},
        'DR': {'Test100': 100, 'Rain100H': 100},
        'DB': {'GoPro': 1111, 'HIDE': 2025},
        'DH': {'SOTS-indoor': 500, 'SOTS-outdoor': 500},
        'RDN': {'SIDD': 1280},
    }
    assert [PROTOCOLS[name].sigmas for name in ('CDN', 'GDN')] == [(15, 25, 50)] * 2


def test_protocol_takes_further_metrics_and_keeps_its_own() -> None:
    niqe = {'type': 'calculate_niqe', 'crop_border': 0}
    own = {'save_img': False, 'metrics': {'niqe': niqe}}
    assert list(Validation(protocol='CDN', **own).all_metrics(scale=1)) == ['psnr', 'ssim', 'niqe']
    assert Validation(**own).all_metrics(scale=1) == {'niqe': niqe}


def section(kind: str = 'PairedRestorationDataset', **keys: object) -> dict:
    own = {'sigma': 25} if kind == 'GaussianDenoisingDataset' else {'dataroot_lq': 'lq'}
    return {'type': kind, 'name': 'set', 'dataroot_gt': 'gt', **own, **keys}


@pytest.mark.parametrize(('opt', 'message'), [
    ({'val': {'protocol': 'CND'}}, 'did you mean CDN'),
    ({'val': {'protocol': 'DR', 'metrics': {'psnr': {**PSNR, 'test_y_channel': False}}}},
     'val.metrics.psnr.test_y_channel is False, but protocol DR has True'),
    ({'val': {'protocol': 'CDN', 'metrics': {'ssim': {'type': 'calculate_ssim', 'crop_border': 4}}}},
     'val.metrics.ssim.crop_border is 4, but protocol CDN has 0'),
    ({'val': {'protocol': 'SR'}}, 'val.protocol SR is super-resolution, which does not go with scale 1'),
    ({'scale': 2, 'val': {'protocol': 'LLE'}}, 'does not go with scale 2'),
    ({'scale': 2, 'val': {'protocol': 'DH'}}, 'val.protocol DH is dehazing, which does not go with scale 2'),
    ({'val': {'protocol': 'RDN'}, 'datasets': {'val': section('GaussianDenoisingDataset')}}, 'RDN is real denoising'),
    ({'val': {'protocol': 'GDN'}, 'datasets': {'test_1': section('GaussianDenoisingDataset')}},
     'datasets.test_1.color is rgb; val.protocol GDN scores gray images'),
    ({'val': {'protocol': 'CDN'}, 'datasets': {'val': section('GaussianDenoisingDataset', color='gray')}},
     'datasets.val.color is gray; val.protocol CDN scores rgb images'),
    ({'val': {'protocol': 'CDN'}, 'datasets': {'val': section()}}, 'type is PairedRestorationDataset; val.protoc'),
    ({'val': {'protocol': 'DR'}, 'datasets': {'val': section('GaussianDenoisingDataset')}}, 'val.protocol DR is der'),
    ({'val': {'protocol': ['DR']}}, "val.protocol is ['DR']; it must be 'SR'"),
    ({'val': {'protocol': 'DR', 'metrics': {'psnr': {**PSNR, 'test_y_channel': True, 'better': 'lower'}}}},
     "val.metrics.psnr.better is 'lower', but protocol DR has None"),
    ({'val': {'protocol': 'CDN'}, 'datasets': {'val': {**section('GaussianDenoisingDataset'), 'name': 'a_sigma25',
     'sigma': 15}}}, 'datasets.val.sigma is 15, but the dataset is named a_sigma25'),
])  # fmt: skip
def test_contradictions_are_named(opt: dict, message: str) -> None:
    assert message in problems(full(opt), training=False)


def full(opt: dict) -> dict:
    rest = {'name': 'a', 'model_type': 'RAMiTModel', 'num_gpu': 0, 'path': {'pretrain_network_g': 'a.pth'}}
    return {**rest, 'network_g': {'type': 'RAMiT'}, 'datasets': {'test_1': section()}, **opt}


def write_test(folder: Path, protocol: str, sets: list[dict], **network: object) -> str:
    """An option file and a checkpoint; the option file's name."""
    torch.manual_seed(1)
    net = {**NETWORK, **network}
    torch.save(RAMiT(**{k: v for k, v in net.items() if k != 'type'}).state_dict(), folder / 'net.pth')
    write_options(folder / f'{protocol}.yml', {
        'name': protocol, 'model_type': 'RAMiTModel', 'scale': 1, 'num_gpu': 0, 'network_g': net,
        'datasets': {f'test_{i}': s for i, s in enumerate(sets)}, 'path': {'pretrain_network_g': 'net.pth'},
        'val': {'save_img': True, 'protocol': protocol},
    })  # fmt: skip
    return f'{protocol}.yml'


def read(folder: Path, protocol: str, name: str) -> dict:
    return json.loads((folder / 'results' / protocol / 'scores' / f'{name}.json').read_text())


def test_one_file_tests_one_set_at_several_sigmas_and_scores_carry_their_protocol(tmp_path: Path) -> None:
    clean = tmp_path / 'clean'
    clean.mkdir()
    cv2.imwrite(str(clean / 'a.png'), photograph(1, 20, 30))
    sets = [{'type': 'GaussianDenoisingDataset', 'name': f'set_sigma{s}', 'dataroot_gt': str(clean), 'sigma': s}
            for s in (15, 25, 50)]  # fmt: skip
    result = call_basicsr('test', '-opt', write_test(tmp_path, 'CDN', sets), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for sigma in (15, 25, 50):
        score = read(tmp_path, 'CDN', f'set_sigma{sigma}')
        assert (score['protocol'], score['channel']) == ('CDN', 'RGB')
        assert score['noise'] == {'sigma': sigma, 'seed': 0, 'clipped': False}
        assert score['padding'] == 'symmetric, right and bottom, to multiples of 8'
        assert score['metrics']['psnr'] == {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_channel': False}
    assert len({read(tmp_path, 'CDN', f'set_sigma{s}')['mean']['psnr'] for s in (15, 25, 50)}) == 3


@pytest.mark.parametrize(('protocol', 'luma'), [('DR', True), ('LLE', False)])
def test_scores_are_of_the_rounded_image_on_the_protocols_channel(protocol: str, luma: bool, tmp_path: Path) -> None:
    gt, lq = write_pairs(tmp_path, count=1, scale=1)
    pair = {'type': 'PairedRestorationDataset', 'name': 'set', 'dataroot_gt': str(gt), 'dataroot_lq': str(lq)}
    assert call_basicsr('test', '-opt', write_test(tmp_path, protocol, [pair]), cwd=tmp_path).returncode == 0
    row = read(tmp_path, protocol, 'set')['images'][0]
    images = {'img': cv2.imread(row['restored']), 'img2': cv2.imread(str(gt / '0.png'))}
    for metric in ('psnr', 'ssim'):
        settings = {'type': f'calculate_{metric}', 'crop_border': 0, 'test_y_channel': luma}
        assert row[metric] == pytest.approx(float(calculate_metric(images, settings)), abs=1e-9)


def test_gray_scores_are_of_the_gray_image(tmp_path: Path) -> None:
    clean = tmp_path / 'clean'
    clean.mkdir()
    cv2.imwrite(str(clean / 'a.png'), photograph(1, 20, 30))
    data = {'type': 'GaussianDenoisingDataset', 'name': 'set', 'dataroot_gt': str(clean), 'sigma': 50, 'color': 'gray'}
    file = write_test(tmp_path, 'GDN', [data], in_chans=1, img_mean=[0.4539], img_std=[0.2326])
    assert call_basicsr('test', '-opt', file, cwd=tmp_path).returncode == 0
    row = read(tmp_path, 'GDN', 'set')['images'][0]
    restored = cv2.imread(row['restored'], cv2.IMREAD_UNCHANGED)
    assert restored.shape == (20, 30)
    gray = cv2.cvtColor(photograph(1, 20, 30), cv2.COLOR_BGR2GRAY)
    error = np.mean((restored.astype(float) - gray) ** 2)
    assert row['psnr'] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-6)


def test_stock_model_refuses_a_protocol_it_would_ignore(tmp_path: Path) -> None:
    gt, lq = write_pairs(tmp_path, count=1, scale=1)
    pair = {'type': 'PairedRestorationDataset', 'name': 'set', 'dataroot_gt': str(gt), 'dataroot_lq': str(lq)}
    file = write_test(tmp_path, 'DR', [pair])
    result = call_basicsr('test', '-opt', file, '--force_yml', 'model_type=SRModel', cwd=tmp_path)
    assert 'val.protocol: SRModel does not read it; set model_type to RAMiTModel' in result.stderr


@pytest.mark.parametrize('protocol', ['RGB', 'Y'])
def test_neutral_protocols_score_anything_and_leave_the_border_of_a_scale_out(protocol: str) -> None:
    for scale, border in [(1, 0), (2, 2), (4, 4)]:
        settings = standard_metrics(protocol, scale)['psnr']
        assert (settings['crop_border'], settings['test_y_channel']) == (border, protocol == 'Y')
    assert task_of(protocol) is None
    for kind in ('PairedRestorationDataset', 'GaussianDenoisingDataset'):
        opt = full({'val': {'protocol': protocol}, 'datasets': {'test_1': section(kind)}})
        assert 'protocol' not in problems(opt, training=False)
