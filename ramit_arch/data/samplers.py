"""Which images an iteration trains on, and the seeds of their crops, flips and noise.

A sample depends only on (manual_seed, epoch, position in the epoch), and a batch only on the iteration: not on workers,
prefetching, the number of processes, or resuming. Every epoch has different seeds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import Sampler

from ramit_arch.data.progression import Progression


class SampleIndex(int):
    """An index with a seed and a patch size; for other datasets an ordinary integer.

    Attributes:
        seed: seed of its crop, flips and noise.
        patch: side of the LQ patch in pixels; None for the dataset's own.
    """

    seed: tuple[int, ...]
    patch: int | None

    def __new__(cls, index: int, seed: tuple[int, ...] = (), patch: int | None = None) -> SampleIndex:
        sample = super().__new__(cls, index)
        sample.seed = seed
        sample.patch = patch
        return sample


def generator(index: int) -> np.random.Generator:
    """The random generator of a sample.

    Of a plain index, as other samplers have, it is seeded from torch's, which PyTorch reseeds by worker and epoch.
    """
    if isinstance(index, SampleIndex):
        return np.random.default_rng(index.seed)
    return np.random.default_rng(int(torch.randint(2**62, ())))


def derive_seed(*numbers: int) -> int:
    """A seed for torch that depends on all of these."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def seed_worker(worker_id: int, **_: object) -> None:
    """Seed `random` and NumPy of a loader's worker from torch's generator, which differs by worker and by epoch.

    Accepts the further arguments of BasicSR's `worker_init_fn`, and ignores them.
    """
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)


class ResumableBatchSampler(Sampler[list[SampleIndex]]):
    """One batch per iteration, epoch by epoch as BasicSR's loop asks for them.

    Every epoch is a permutation of the images; a batch may span two epochs, so that no image is dropped.

    Args:
        images: length of the dataset.
        progression: batch and patch size of every iteration.
        seed: `manual_seed`.
        rank, replicas: this process and how many share a batch.
        ratio: number of times the dataset is repeated per epoch (`dataset_enlarge_ratio`).
        done: iterations that are already done.
    """

    def __init__(
        self,
        images: int,
        progression: Progression,
        seed: int,
        rank: int = 0,
        replicas: int = 1,
        ratio: float = 1,
        done: int = 0,
    ) -> None:
        self.images = images
        self.size = max(1, int(images * ratio))
        self.progression = progression
        self.seed = seed
        self.rank = rank
        self.replicas = replicas
        self.done = done
        self.epoch: int | None = None
        self._order = lru_cache(2)(self._shuffled)

    def epoch_of(self, iteration: int) -> int:
        """Number from 0 of the epoch in which an iteration's batch begins."""
        return self.progression.images_before(iteration) // self.size

    def batch(self, iteration: int) -> list[SampleIndex]:
        """This process's share of an iteration, counted from 1."""
        stage = self.progression.stage(iteration)
        start = self.progression.images_before(iteration)
        return [self._sample(i, stage.patch) for i in range(start + self.rank, start + stage.batch, self.replicas)]

    def _sample(self, image: int, patch: int | None) -> SampleIndex:
        epoch, position = divmod(image, self.size)
        return SampleIndex(int(self._order(epoch)[position]) % self.images, (self.seed, epoch, position), patch)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.size)

    def set_epoch(self, epoch: int) -> None:
        """Go on with the iterations up to the end of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        # BasicSR's prefetchers iterate once before the loop sets the epoch; nothing may be sampled then.
        return iter(()) if self.epoch is None else self._batches(self.epoch)

    def _batches(self, epoch: int) -> Iterator[list[SampleIndex]]:
        last = self.progression.last_iteration((epoch + 1) * self.size)
        while self.done < last:
            self.done += 1
            yield self.batch(self.done)
