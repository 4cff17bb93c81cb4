"""Draws: reproducible from manual_seed, fresh every epoch, the same for any number of workers and processes."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from ramit_arch.data import samplers
from ramit_arch.data.loaders import create_train_val_dataloader
from ramit_arch.data.progression import Progression, TrainingStage
from ramit_arch.data.samplers import ResumableBatchSampler, SampleIndex, generator


@pytest.fixture
def options(pairs: tuple[Path, Path]) -> dict:
    """A run of 12 iterations over three images, four times each in an epoch."""
    return {
        'dist': False, 'world_size': 1, 'rank': 0, 'num_gpu': 0, 'manual_seed': 1, 'train': {'total_iter': 12},
        'datasets': {'train': {
            'name': 'set', 'type': 'PairedRestorationDataset', 'phase': 'train', 'scale': 2, 'lq_patch_size': 8,
            'dataroot_gt': str(pairs[0]), 'dataroot_lq': str(pairs[1]), 'repeat': 4, 'batch_size_per_gpu': 2,
            'num_worker_per_gpu': 0,
        }},
    }  # fmt: skip


def epochs(options: dict, count: int = 2, seed: int = 1, **section: object) -> list[torch.Tensor]:
    """The LQ images of some epochs, as BasicSR's loop asks for them."""
    train = {**options['datasets']['train'], **section}
    opt = {**options, 'manual_seed': seed, 'datasets': {'train': train}}
    loader, sampler, *_ = create_train_val_dataloader(opt, logging.getLogger())
    found = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        found.append(torch.cat([batch['lq'] for batch in loader]))
    return found


def test_every_epoch_draws_other_crops(options: dict) -> None:
    first, second = epochs(options, num_worker_per_gpu=1)
    same = (first[:, None] == second[None]).flatten(2).all(-1)
    assert same.float().mean() < 0.2


@pytest.mark.parametrize('loader', [
    {'num_worker_per_gpu': 1}, {'num_worker_per_gpu': 3}, {'num_worker_per_gpu': 2, 'persistent_workers': True},
    {'num_worker_per_gpu': 2, 'prefetch_mode': 'cpu'}, {'num_worker_per_gpu': 0, 'prefetch_mode': 'cpu'},
])  # fmt: skip
def test_batches_are_the_same_for_any_kind_of_loading(loader: dict, options: dict) -> None:
    assert all(map(torch.equal, epochs(options), epochs(options, **loader)))


def test_manual_seed_decides_order_and_crops(options: dict) -> None:
    assert all(map(torch.equal, epochs(options, seed=5), epochs(options, seed=5)))
    assert not torch.equal(epochs(options, seed=5)[0], epochs(options, seed=6)[0])


def test_repeats_of_an_image_in_one_epoch_are_cropped_differently(options: dict) -> None:
    options['train']['total_iter'] = 100
    (patches,) = epochs(options, count=1, repeat=12)
    assert len(patches) == 36
    assert len({patch.numpy().tobytes() for patch in patches}) > 28


def test_nothing_is_read_before_the_loop_sets_the_epoch(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    loader, *_ = create_train_val_dataloader(options, logging.getLogger())
    monkeypatch.setattr(ResumableBatchSampler, 'batch', lambda *_: pytest.fail('drawn'))
    assert list(loader) == []


@given(size=st.integers(1, 40), ratio=st.sampled_from([1, 2, 3]), replicas=st.integers(1, 4), share=st.integers(1, 5))
def test_processes_share_every_batch_and_every_epoch_holds_every_image(
    size: int, ratio: int, replicas: int, share: int
) -> None:
    progression = Progression([TrainingStage(60, share * replicas)])
    samplers = [ResumableBatchSampler(size, progression, 7, rank, replicas, ratio) for rank in range(replicas)]
    whole = ResumableBatchSampler(size, progression, 7, ratio=ratio)
    drawn = []
    for iteration in range(1, 61):
        shares = [sampler.batch(iteration) for sampler in samplers]
        assert {len(part) for part in shares} == {share}
        together = sorted((draw.seed, int(draw)) for part in shares for draw in part)
        assert together == sorted((draw.seed, int(draw)) for draw in whole.batch(iteration))
        drawn += together
    assert len(set(drawn)) == len(drawn)  # no draw twice
    first_epoch = [image for (_, epoch, _), image in drawn if epoch == 0]
    if len(drawn) >= size * ratio:
        assert sorted(first_epoch) == sorted(list(range(size)) * ratio)


@given(done=st.integers(0, 20), size=st.integers(1, 30), batch=st.integers(1, 7))
def test_a_resumed_run_goes_on_with_the_batches_of_an_uninterrupted_one(done: int, size: int, batch: int) -> None:
    progression = Progression([TrainingStage(11, batch, 8), TrainingStage(9, 2 * batch, 16)])

    def run(sampler: ResumableBatchSampler, epoch: int) -> list:
        found = []
        for number in range(epoch, sampler.epoch_of(20) + 1):
            sampler.set_epoch(number)
            found += [[(int(draw), draw.seed, draw.patch) for draw in drawn] for drawn in sampler]
        return found

    whole = run(ResumableBatchSampler(size, progression, 1), 0)
    assert len(whole) == 20
    resumed = ResumableBatchSampler(size, progression, 1, done=done)
    assert run(resumed, resumed.epoch_of(max(1, done))) == whole[done:]


def test_a_draw_survives_the_way_to_a_worker() -> None:
    draw = pickle.loads(pickle.dumps(SampleIndex(5, (1, 2, 3), 48)))
    assert draw == 5
    assert (draw.seed, draw.patch) == ((1, 2, 3), 48)


def test_plain_indices_follow_torchs_generator() -> None:
    torch.manual_seed(0)
    first, second = generator(3).random(), generator(3).random()
    torch.manual_seed(0)
    assert generator(3).random() == first != second


def test_stock_data_sets_get_workers_seeded_anew_every_epoch(pairs: tuple[Path, Path], options: dict) -> None:
    section = {'name': 'stock', 'type': 'PairedImageDataset', 'phase': 'train', 'scale': 2, 'gt_size': 8,
               'dataroot_gt': str(pairs[0]), 'dataroot_lq': str(pairs[1]), 'io_backend': {'type': 'disk'},
               'use_hflip': True, 'use_rot': True, 'batch_size_per_gpu': 1, 'num_worker_per_gpu': 1}  # fmt: skip
    options['datasets']['train'] = section
    loader, sampler, *_ = create_train_val_dataloader(options, logging.getLogger())
    assert isinstance(loader, DataLoader)
    assert loader.worker_init_fn is samplers.seed_worker
    found = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        found.append(torch.cat([batch['lq'] for batch in loader]))
    assert not torch.equal(*(batch.sort(0).values for batch in found))
