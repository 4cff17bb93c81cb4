"""The learning rate as a function of the iteration. Nothing is counted along the way, so resuming cannot shift it."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from ramit_arch.data.progression import read_progression
from ramit_arch.errors import UserError, check_keys

LR_RULES = ('linear', 'inverse')


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


def read_schedule(opt: dict[str, Any]) -> Schedule:
    """Make the schedule of an option file.

    `train.optim_g.lr` is meant for a total batch of `train.lr_batch_size` and scaled to the real one of every stage,
    by `train.lr_rule`: linear, lr * batch / lr_batch_size (default; the published experiments), or inverse,
    lr * lr_batch_size / batch (as the paper prints it). Without `lr_batch_size` it is taken as it is.

    Raises:
        UserError: names the key that is wrong.
    """
    train = opt['train']
    rate = train['optim_g'].get('lr')
    if not _number(rate) or rate <= 0:
        raise UserError(f'train.optim_g.lr is {rate!r}; it must be a positive number (in YAML 4.0e-4, not 4e-4)')
    progression = read_progression(opt)
    rates = tuple(rate * _scale(train, stage.batch) for stage in progression.stages)
    scheduler = dict(train.get('scheduler') or {'type': 'MultiStepLR', 'milestones': [], 'gamma': 1.0})
    check_keys(scheduler, ('type', 'milestones', 'gamma'), 'train.scheduler')
    if scheduler.get('type') != 'MultiStepLR':
        raise UserError(
            f'train.scheduler.type is {scheduler.get("type")!r}; RAMiTModel knows MultiStepLR (SRModel knows others)'
        )
    milestones = scheduler.get('milestones', [])
    if not isinstance(milestones, list) or not all(_number(m) and m == int(m) for m in milestones):
        raise UserError(f'train.scheduler.milestones is {milestones!r}; it must be a list of iterations')
    gamma = scheduler.get('gamma', 0.1)
    if not _number(gamma) or gamma <= 0:
        raise UserError(f'train.scheduler.gamma is {gamma!r}; it must be a positive number')
    warm_start = train.get('warm_start') or {'iter': 0}
    check_keys(warm_start, ('iter',), 'train.warm_start')
    _require(warm_start, 'iter', least=0, where='train.warm_start')
    warmup = train.get('warmup_iter', -1)
    if not isinstance(warmup, int):
        raise UserError(f'train.warmup_iter is {warmup!r}; it must be an integer, -1 for no warm-up')
    return Schedule(
        rates,
        progression.ends[:-1],
        tuple(sorted(map(int, milestones))),
        gamma,
        max(0, warmup),
        warm_start['iter'],
    )


def _scale(train: dict[str, Any], batch: int) -> float:
    rule = train.get('lr_rule')
    if rule is not None and rule not in LR_RULES:
        raise UserError(f'train.lr_rule is {rule!r}; it must be {" or ".join(LR_RULES)}')
    if train.get('lr_batch_size') is None:
        if rule is not None:
            raise UserError('train.lr_rule needs train.lr_batch_size, the batch for which optim_g.lr is meant')
        return 1.0
    _require(train, 'lr_batch_size', least=1)
    ratio = batch / train['lr_batch_size']
    return 1 / ratio if rule == 'inverse' else ratio


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _require(options: dict[str, Any], key: str, least: int, where: str = 'train') -> None:
    value = options.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f'{where}.{key} is {value!r}; it must be an integer from {least} up')
