"""Draws: reproducible from manual_seed, fresh every epoch, the same for any number of workers and processes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from basicsr.data import build_dataloader
from hypothesis import given
from hypothesis import strategies as st

from ramit_arch import PairedRestorationDataset
from ramit_arch.data.draws import Draw, DrawSampler, generator


@pytest.fixture
def data(pairs: tuple[Path, Path]) -> PairedRestorationDataset:
    return PairedRestorationDataset({
        'name': 'set', 'type': 'PairedRestorationDataset', 'phase': 'train', 'scale': 2, 'lq_patch_size': 8,
        'dataroot_gt': str(pairs[0]), 'dataroot_lq': str(pairs[1]), 'repeat': 4, 'batch_size_per_gpu': 2,
    })  # fmt: skip


def epochs(data: PairedRestorationDataset, workers: int, seed: int = 1, count: int = 2, **loader: object) -> list:
    """The LQ batches of some epochs, as BasicSR's loop draws them."""
    torch.manual_seed(seed)
    sampler = DrawSampler(data, 1, 0)
    options = {'phase': 'train', 'batch_size_per_gpu': 2, 'num_worker_per_gpu': workers, **loader}
    batches = build_dataloader(data, options, num_gpu=0, sampler=sampler, seed=seed)
    found = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        found.append(torch.cat([batch['lq'] for batch in batches]))
    return found


def test_every_epoch_draws_other_crops(data: PairedRestorationDataset) -> None:
    first, second = epochs(data, workers=1)
    same = (first[:, None] == second[None]).flatten(2).all(-1)
    assert same.float().mean() < 0.2


def test_batches_are_the_same_for_any_number_of_workers(data: PairedRestorationDataset) -> None:
    reference = epochs(data, workers=0)
    for workers in (1, 3):
        assert all(map(torch.equal, reference, epochs(data, workers)))
    assert all(map(torch.equal, reference, epochs(data, 2, persistent_workers=True)))


def test_manual_seed_decides_order_and_crops(data: PairedRestorationDataset) -> None:
    assert all(map(torch.equal, epochs(data, 0, seed=5), epochs(data, 0, seed=5)))
    assert not torch.equal(epochs(data, 0, seed=5)[0], epochs(data, 0, seed=6)[0])


def test_repeats_of_an_image_in_one_epoch_are_cropped_differently(data: PairedRestorationDataset) -> None:
    torch.manual_seed(0)
    items = [data[draw] for draw in DrawSampler(data, 1, 0, ratio=3)]
    first = [item['lq'] for item in items if item['gt_path'].endswith('0.png')]
    assert len(first) == 12
    assert len({patch.numpy().tobytes() for patch in first}) > 8


@given(size=st.integers(1, 40), ratio=st.sampled_from([1, 2, 3]), replicas=st.integers(1, 4))
def test_processes_share_one_order_without_overlap(size: int, ratio: int, replicas: int) -> None:
    shares = []
    for rank in range(replicas):
        torch.manual_seed(7 + rank)  # as BasicSR seeds its processes
        sampler = DrawSampler(range(size), replicas, rank, ratio)
        sampler.set_epoch(3)
        shares.append(list(sampler))
    positions = sorted(draw.seed[2] for share in shares for draw in share)
    assert positions == list(range(len(positions)))
    drawn = [int(draw) for share in shares for draw in share]
    assert len(drawn) >= size * ratio
    assert set(drawn) == set(range(size))


def test_a_draw_survives_the_way_to_a_worker() -> None:
    draw = pickle.loads(pickle.dumps(Draw(5, (1, 2, 3))))
    assert draw == 5
    assert draw.seed == (1, 2, 3)


def test_plain_indices_follow_torchs_generator() -> None:
    torch.manual_seed(0)
    first, second = generator(3).random(), generator(3).random()
    torch.manual_seed(0)
    assert generator(3).random() == first != second
