"""Noise: Gaussian, blind in training, by the paper's seed rule in tests, fresh and reproducible."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import photograph, write_lmdb

from ramit_arch import GaussianDenoisingDataset
from ramit_arch.data.loaders import create_train_val_dataloader
from ramit_arch.data.samplers import SampleIndex
from ramit_arch.errors import UserError


@pytest.fixture(scope='module')
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three colour images, 60x80 and up."""
    folder = tmp_path_factory.mktemp('clean')
    for i in range(3):
        cv2.imwrite(str(folder / f'{i}.png'), photograph(i, 60 + i, 80 + i))
    return folder


def dataset(clean: Path, phase: str = 'train', **changes: object) -> GaussianDenoisingDataset:
    opt = {'name': 'set', 'type': 'GaussianDenoisingDataset', 'phase': phase, 'dataroot_gt': str(clean), 'sigma': 25}
    return GaussianDenoisingDataset({**opt, **({'lq_patch_size': 48} if phase == 'train' else {}), **changes})


@pytest.mark.parametrize('sigma', [15, 25, 50])
def test_noise_of_a_test_image_follows_the_papers_seed_rule(sigma: int, clean: Path) -> None:
    data = dataset(clean, 'test', sigma=sigma)
    for index in (2, 0):  # in any order
        image = cv2.imread(str(clean / f'{index}.png'))[..., ::-1].astype(np.float32) / 255  # RGB
        hq = torch.from_numpy(image.transpose(2, 0, 1))
        torch.manual_seed(0)
        expected = hq + torch.randn(*hq.shape) * sigma / 255
        item = data[index]
        assert torch.equal(item['gt'], hq)
        assert torch.allclose(item['lq'], expected, atol=1e-7)
        assert item['lq'].min() < 0 or item['lq'].max() > 1  # not clipped


def test_reading_a_test_image_leaves_torchs_generator_alone(clean: Path) -> None:
    torch.manual_seed(5)
    dataset(clean, 'test')[0]
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


def test_gray_is_opencvs_rgb_to_gray(clean: Path) -> None:
    item = dataset(clean, 'val', color='gray')[1]
    rgb = cv2.cvtColor(cv2.imread(str(clean / '1.png')), cv2.COLOR_BGR2RGB)
    gray = torch.from_numpy(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)).float()[None] / 255
    assert torch.equal(item['gt'], gray)
    torch.manual_seed(0)
    assert torch.allclose(item['lq'] - gray, torch.randn(1, *gray.shape[1:]) * 25 / 255, atol=1e-6)


def noises(data: GaussianDenoisingDataset, count: int, epoch: int = 0) -> torch.Tensor:
    items = [data[SampleIndex(i % 3, (1, epoch, i))] for i in range(count)]
    return torch.stack([item['lq'] - item['gt'] for item in items]) * 255


def test_training_noise_is_gaussian_and_white(clean: Path) -> None:
    noise = noises(dataset(clean), 200)
    assert noise.mean().abs() < 0.1
    assert noise.std() == pytest.approx(25, rel=0.01)
    assert (noise.abs() < 25).float().mean() == pytest.approx(0.6827, abs=0.005)
    for neighbour in (noise.roll(1, 3), noise.roll(1, 2), noise.roll(1, 1)):
        assert (noise * neighbour).mean().abs() / 625 < 0.01


def test_blind_training_draws_a_level_for_every_image_uniformly(clean: Path) -> None:
    levels = noises(dataset(clean, sigma=[0, 50]), 300).std(dim=(1, 2, 3))
    assert levels.min() < 2
    assert levels.max() > 48
    counts = torch.histc(levels, 5, 0, 50.5) / 300
    assert (counts - 0.2).abs().max() < 0.06


def test_noise_is_on_the_augmented_crop_of_the_same_image(clean: Path) -> None:
    item = dataset(clean, sigma=0)[SampleIndex(1, (3, 0, 0))]
    assert torch.equal(item['lq'], item['gt'])
    assert item['lq_path'] == item['gt_path'] == str(clean / '1.png')
    image = torch.from_numpy(cv2.imread(str(clean / '1.png'))[..., ::-1].transpose(2, 0, 1) / np.float32(255))
    turned = [torch.rot90(flipped, k, (1, 2)) for k in range(4) for flipped in (image, image.flip(2))]
    windows = [view.unfold(1, 48, 1).unfold(2, 48, 1) for view in turned]
    assert any((patch.movedim(0, 2) == item['gt'][None, None]).flatten(2).all(2).any() for patch in windows)


def test_noise_is_fresh_every_epoch_and_the_same_for_any_number_of_workers(clean: Path) -> None:
    def run(workers: int, seed: int = 1) -> list[torch.Tensor]:
        section = {**dataset(clean, sigma=[0, 50], num_worker_per_gpu=workers, batch_size_per_gpu=3).opt}
        opt = {'dist': False, 'world_size': 1, 'rank': 0, 'num_gpu': 0, 'manual_seed': seed,
               'train': {'total_iter': 2}, 'datasets': {'train': section}}  # fmt: skip
        loader, sampler, *_ = create_train_val_dataloader(opt, logging.getLogger())
        found = []
        for epoch in range(2):
            sampler.set_epoch(epoch)
            found += [batch['lq'] - batch['gt'] for batch in loader]
        return found

    reference = run(0)
    assert len(reference) == 2
    assert not torch.equal(*reference)
    for workers in (1, 2):
        assert all(map(torch.equal, reference, run(workers)))
    assert not torch.equal(reference[0], run(0, seed=2)[0])


def test_roots_of_one_set_and_lmdbs_are_read(clean: Path, tmp_path: Path) -> None:
    packed = write_lmdb(clean, tmp_path / 'clean.lmdb')
    roots = [{'dataroot_gt': str(packed)}, {'dataroot_gt': str(packed), 'repeat': 2}]
    opt = {'name': 'set', 'type': 'GaussianDenoisingDataset', 'phase': 'train', 'lq_patch_size': 48, 'sigma': [0, 50],
           'roots': roots, 'io_backend': {'type': 'lmdb'}}  # fmt: skip
    data = GaussianDenoisingDataset(opt)
    assert len(data) == 9
    assert {Path(data[i]['gt_path']).name for i in range(9)} == {'0.png', '1.png', '2.png'}


def test_images_of_an_epoch_are_the_whole_sets_times_repeat(clean: Path) -> None:
    # 14.006 * (485 + 1,300) is 25,000 images, although 14.006 * 485 and 14.006 * 1,300 rounded down are 24,999
    data = dataset(clean, repeat=4 / 3)
    assert len(data) == 4
    roots = [{'dataroot_gt': str(clean)}] * 2
    opt = {key: value for key, value in data.opt.items() if key != 'dataroot_gt'}
    assert len(GaussianDenoisingDataset({**opt, 'roots': roots, 'repeat': 1.5})) == 9


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'sigma': None}, 'sigma is missing'),
        ({'sigma': -1}, 'sigma is -1'),
        ({'sigma': [50, 0]}, r'sigma is \[50\.0, 0\.0\]; low must not exceed high'),
        ({'sigma': 'blind'}, "sigma is 'blind'"),
        ({'sigma': [0, 25, 50]}, r'sigma is \[0, 25, 50\]'),
        ({'sigma': [0, 50], 'phase': 'test'}, 'a range is for training'),
        ({'scale': 2}, 'which keeps the size, but scale is 2'),
        ({'dataroot_lq': 'x'}, 'dataroot_lq is unknown'),
        ({'lq_patch_size': 61}, '1 of 3 images cannot be used, first .*80x60, smaller than the patch of 61'),
        ({'dataroot_gt': None}, 'dataroot_gt is missing'),
    ],
)
def test_wrong_options_are_named(changes: dict, message: str, clean: Path) -> None:
    with pytest.raises(UserError, match=message):
        dataset(clean, **changes)
