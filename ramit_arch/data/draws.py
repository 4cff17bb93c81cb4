"""Draws: which image comes when, and the seed of its crop, flips and noise.

A draw is decided by (manual_seed, epoch, position in the epoch) alone, and an iteration's batch by the iteration
alone. Workers, prefetching, the number of processes and resuming cannot change it, and no two epochs share a draw.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import Sampler

from ramit_arch.data.progression import Progression


class Draw(int):
    """An index that knows its seed and patch; to a data set that does not ask it is an ordinary integer.

    Attributes:
        seed: what its random numbers depend on.
        patch: side of the LQ patch in pixels; None leaves it to the data set.
    """

    seed: tuple[int, ...]
    patch: int | None

    def __new__(cls, index: int, seed: tuple[int, ...] = (), patch: int | None = None) -> Draw:
        draw = super().__new__(cls, index)
        draw.seed = seed
        draw.patch = patch
        return draw


def generator(index: int) -> np.random.Generator:
    """The random generator of one draw.

    A plain index (a data loader without `DrawSampler`) is seeded by torch's generator, which PyTorch itself reseeds
    in every worker and epoch.
    """
    if isinstance(index, Draw):
        return np.random.default_rng(index.seed)
    return np.random.default_rng(int(torch.randint(2**62, ())))


def draw_seed(*numbers: int) -> int:
    """A seed for torch that depends on all of these."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def seed_worker(worker_id: int, **_: object) -> None:
    """Seed `random` and NumPy of a loader's worker from torch's generator, which differs by worker and by epoch.

    Accepts the further arguments of BasicSR's `worker_init_fn`, and ignores them.
    """
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)


class DrawSampler(Sampler[list[Draw]]):
    """Batches of draws, one an iteration, epoch by epoch as BasicSR's loop asks for them.

    Every epoch is a permutation of the images; a batch may reach from one epoch into the next, so that none is lost.

    Args:
        images: length of the data set.
        progression: batch and patch size of every iteration.
        seed: `manual_seed`.
        rank, replicas: this process and how many share a batch.
        ratio: how often the data set is repeated in an epoch (`dataset_enlarge_ratio`).
        done: iterations of the run that are done already.
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

    def batch(self, iteration: int) -> list[Draw]:
        """This process's share of an iteration, counted from 1."""
        stage = self.progression.stage(iteration)
        start = self.progression.images_before(iteration)
        return [self._draw(i, stage.patch) for i in range(start + self.rank, start + stage.batch, self.replicas)]

    def _draw(self, image: int, patch: int | None) -> Draw:
        epoch, position = divmod(image, self.size)
        return Draw(int(self._order(epoch)[position]) % self.images, (self.seed, epoch, position), patch)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.size)

    def set_epoch(self, epoch: int) -> None:
        """Go on with the iterations up to the end of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Draw]]:
        # BasicSR's prefetchers begin once before the loop sets the epoch: nothing shall be drawn for that, also where a
        # thread asks for it later only.
        return iter(()) if self.epoch is None else self._batches(self.epoch)

    def _batches(self, epoch: int) -> Iterator[list[Draw]]:
        last = self.progression.last_iteration((epoch + 1) * self.size)
        while self.done < last:
            self.done += 1
            yield self.batch(self.done)
