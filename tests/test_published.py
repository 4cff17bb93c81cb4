"""The published checkpoints and scores, where they are at hand."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_psnr
from helpers import call_basicsr, write_lmdb, write_options
from test_ramit_arch import NETWORKS

from ramit_arch import RAMiT, options
from ramit_arch.inference.checkpoints import load_weights, read_weights


@pytest.mark.parametrize(
    ('checkpoint', 'variant'),
    [
        ('RAMiT-slimSR_X2', 'RAMiT-slimSR_SRx2'),
        ('RAMiT-1_X4', 'RAMiT-1_SRx4'),
        ('RAMiT-slimLLE_LLE', 'RAMiT-slimLLE_LLE'),
    ],
)
def test_published_checkpoint_loads_strictly(checkpoint: str, variant: str, shared: Path) -> None:
    path = str(shared / 'reference' / 'checkpoints' / f'{checkpoint}.pth')
    load_weights(RAMiT(**NETWORKS[variant]['options']), read_weights(path), path)


def set5(shared: Path, scale: int, backend: str, tmp_path: Path) -> dict:
    """Set5 from disk, or packed as LMDBs under the names of the targets."""
    source = shared / 'data' / 'Set5'
    section = {'name': 'Set5', 'type': 'PairedRestorationDataset', 'io_backend': {'type': backend}}
    if backend == 'disk':
        roots = {'dataroot_gt': str(source / 'HR'), 'dataroot_lq': str(source / f'LRx{scale}')}
        return {**section, **roots, 'filename_tmpl': f'{{}}x{scale}'}
    roots = {}
    for key, kind in [('dataroot_gt', 'HR'), ('dataroot_lq', f'LRx{scale}')]:
        roots[key] = str(write_lmdb(source / kind, tmp_path / f'{kind}.lmdb'))
    return {**section, **roots, 'filename_tmpl': f'{{}}x{scale}'}


@pytest.mark.parametrize(('checkpoint', 'variant', 'scale', 'backend'), [
    ('RAMiT-slimSR_X2', 'RAMiT-slimSR_SRx2', 2, 'disk'),
    ('RAMiT-1_X4', 'RAMiT-1_SRx4', 4, 'disk'), ('RAMiT-1_X4', 'RAMiT-1_SRx4', 4, 'lmdb'),
])  # fmt: skip
def test_set5_scores_equal_the_published_ones(
    checkpoint: str, variant: str, scale: int, backend: str, shared: Path, tmp_path: Path
) -> None:
    opt = options.load(Path(__file__).parents[1] / 'options' / f'test_RAMiT-slimSR_SRx{scale}.yml')
    opt['datasets'] = {'test_1': set5(shared, scale, backend, tmp_path)}
    opt['network_g'] = {'type': 'RAMiT', **NETWORKS[variant]['options']}
    opt['path']['pretrain_network_g'] = str(shared / 'reference' / 'checkpoints' / f'{checkpoint}.pth')
    write_options(tmp_path / 'test.yml', opt)
    result = call_basicsr('test', '-opt', 'test.yml', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / 'results' / opt['name'] / 'scores' / 'Set5.json').read_text())
    published = json.loads((shared / 'reference' / 'published_scores.json').read_text())[f'{checkpoint}/Set5']
    for row in scores['images']:
        psnr, ssim = published['images'][f'{row["image"]}.png']
        assert row['psnr'] == pytest.approx(psnr, abs=0.01)
        assert row['ssim'] == pytest.approx(ssim, abs=0.0001)
    assert len(scores['images']) == 5
    assert scores['mean']['psnr'] == pytest.approx(published['psnr'], abs=0.01)


def test_restored_pictures_score_as_the_test_does(shared: Path, tmp_path: Path) -> None:
    source = shared / 'data' / 'Set5'
    checkpoint = str(shared / 'reference' / 'checkpoints' / 'RAMiT-slimSR_X2.pth')
    result = call_basicsr('restore', str(source / 'LRx2'), '-m', checkpoint, '-o', 'out', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    scores = [
        calculate_psnr(
            cv2.imread(str(tmp_path / 'out' / f'{file.stem}x2.png')), cv2.imread(str(file)), 2, test_y_channel=True
        )
        for file in sorted((source / 'HR').iterdir())
    ]
    published = json.loads((shared / 'reference' / 'published_scores.json').read_text())['RAMiT-slimSR_X2/Set5']
    assert np.mean(scores) == pytest.approx(published['psnr'], abs=1e-4)


def test_low_light_outputs_equal_the_published_ones(shared: Path) -> None:
    options_ = NETWORKS['RAMiT-slimLLE_LLE']['options']
    network = RAMiT(**options_).eval()
    path = str(shared / 'reference' / 'checkpoints' / 'RAMiT-slimLLE_LLE.pth')
    load_weights(network, read_weights(path), path)
    image = cv2.imread(str(shared / 'data' / 'LOL' / 'LQ' / '111.png'))
    batch = torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).astype(np.float32) / 255)[None]
    with torch.no_grad():
        out = (network(batch)[0].clamp(0, 1) * 255).round().byte().numpy().transpose(1, 2, 0)[..., ::-1]
    published = cv2.imread(str(shared / 'reference' / 'outputs' / 'RAMiT-slimLLE' / '111.png'))
    difference = np.abs(out.astype(int) - published)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001
