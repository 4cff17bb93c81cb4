"""The learning rate as a function of the iteration. Nothing is counted along the way, so resuming cannot shift it."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from ramit_arch.data.progression import Progression
from ramit_arch.models.options import Training

CUT = 0.2  # share of the given rate below which the log warns


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up and step decay, after an optional warm-start phase at constant rate (paper, Appendix B).

    Attributes:
        rates: the full learning rate of every stage of progressive learning; ordinary training has one.
        ends: the last iteration of every stage but the last.
        milestones: the rate is multiplied by `gamma` after so many iterations, counted from the warm start's end.
        gamma: see above.
        warmup: iterations over which the rate grows linearly from 0, counted from the warm start's end.
        warm_start: iterations that train the reconstruction module alone; 0 for training from scratch.
    """

    rates: tuple[float, ...]
    ends: tuple[int, ...] = ()
    milestones: tuple[int, ...] = ()
    gamma: float = 1.0
    warmup: int = 0
    warm_start: int = 0

    def in_warm_start(self, iteration: int) -> bool:
        """Whether an iteration, counted from 1, belongs to the warm-start phase."""
        return iteration <= self.warm_start

    def learning_rate(self, iteration: int) -> float:
        """Rate of an iteration, counted from 1."""
        rate = self.rates[bisect_left(self.ends, iteration)]
        if self.in_warm_start(iteration):
            return rate
        done = iteration - self.warm_start
        warmth = min(1.0, done / self.warmup) if self.warmup > 0 else 1.0
        return rate * warmth * self.gamma ** bisect_left(self.milestones, done)


def make_schedule(train: Training, progression: Progression) -> Schedule:
    """Make the schedule of a training.

    `train.optim_g.lr` is meant for a total batch of `train.lr_batch_size` and scaled to the real one of every stage,
    by `train.lr_rule`: linear, lr * batch / lr_batch_size (default; the published experiments), or inverse,
    lr * lr_batch_size / batch (as the paper prints it). Without `lr_batch_size` it is taken as it is.
    """
    return Schedule(
        rates=tuple(train.optim_g.lr * _scale(train, stage.batch) for stage in progression.stages),
        ends=progression.ends[:-1],
        milestones=tuple(sorted(map(int, train.scheduler.milestones))),
        gamma=train.scheduler.gamma,
        warmup=max(0, int(train.warmup_iter)),
        warm_start=train.warm_start.iter if train.warm_start else 0,
    )


def explain_rate(train: Training, batch: int) -> str:
    """The full learning rate at a total batch, and why: `2.5e-05 (optim_g.lr 0.0004 * 4 / lr_batch_size 64)`."""
    lr, meant = train.optim_g.lr, train.lr_batch_size
    if meant in (None, batch):
        return f'{lr:.3g}'
    up, down = (f'lr_batch_size {meant}', batch) if train.lr_rule == 'inverse' else (batch, f'lr_batch_size {meant}')
    cut = ', less than a fifth of optim_g.lr' if _scale(train, batch) < CUT else ''
    return f'{lr * _scale(train, batch):.3g} (optim_g.lr {lr:g} * {up} / {down}{cut})'


def _scale(train: Training, batch: int) -> float:
    if train.lr_batch_size is None:
        return 1.0
    ratio = batch / train.lr_batch_size
    return 1 / ratio if train.lr_rule == 'inverse' else ratio
