"""Draws: which image comes when, and the seed of its crop and flips.

A draw is decided by (manual_seed, epoch, position in the epoch) alone. Workers, prefetching and the number of
processes cannot change it, and no two epochs share one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
from basicsr.data.data_sampler import EnlargedSampler
from torch.utils.data import Dataset


class Draw(int):
    """An index that knows its seed; to a data set that does not ask it is an ordinary integer."""

    seed: tuple[int, ...]

    def __new__(cls, index: int, seed: tuple[int, ...] = ()) -> Draw:
        draw = super().__new__(cls, index)
        draw.seed = seed
        return draw


def generator(index: int) -> np.random.Generator:
    """The random generator of one draw.

    A plain index (a data loader without `DrawSampler`) is seeded by torch's generator, which PyTorch itself reseeds
    in every worker and epoch.
    """
    if isinstance(index, Draw):
        return np.random.default_rng(index.seed)
    return np.random.default_rng(int(torch.randint(2**62, ())))


def seed_worker(worker_id: int, **_: object) -> None:
    """Seed `random` and NumPy of a loader's worker from torch's generator, which differs by worker and by epoch.

    Takes, and needs not, the further arguments of BasicSR's `worker_init_fn`.
    """
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)


class DrawSampler(EnlargedSampler):
    """BasicSR's EnlargedSampler with `Draw`s for indices, in an order that depends on `manual_seed` as well.

    Args:
        dataset: what is sampled.
        num_replicas: processes.
        rank: this process.
        ratio: how often the data set is repeated in an epoch (`dataset_enlarge_ratio`).
    """

    def __init__(self, dataset: Dataset, num_replicas: int, rank: int, ratio: float = 1) -> None:
        super().__init__(dataset, num_replicas, rank, ratio)
        # BasicSR seeds every process with manual_seed + rank; all must agree on the order.
        self.seed = max(0, torch.initial_seed() - rank)

    def __iter__(self) -> Iterator[Draw]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.total_size)
        size = len(self.dataset)
        for position in range(self.rank, self.total_size, self.num_replicas):
            yield Draw(int(order[position]) % size, (self.seed, self.epoch, position))
