"""The learning rate of the paper, as a function of the iteration."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import problems, schedule_of, tiny_options
from hypothesis import given
from hypothesis import strategies as st

from ramit_arch.models.options import Training
from ramit_arch.models.schedule import Schedule, explain_rate

SCRATCH = Schedule((4e-4,), (), (200_000, 300_000, 400_000, 425_000, 450_000, 475_000), 0.5, warmup=20_000)
FINETUNING = Schedule((4e-4,), (), (50_000, 100_000), 0.5, warmup=20_000, warm_start=50_000)


@pytest.mark.parametrize(
    ('iteration', 'rate'),
    [(1, 4e-4 / 20_000), (10_000, 2e-4), (20_000, 4e-4), (200_000, 4e-4), (200_001, 2e-4), (500_000, 4e-4 / 64)],
)
def test_warm_up_and_halving_from_scratch(iteration: int, rate: float) -> None:
    assert SCRATCH.learning_rate(iteration) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ('iteration', 'rate'),
    [(1, 4e-4), (50_000, 4e-4), (50_001, 4e-4 / 20_000), (70_000, 4e-4), (100_000, 4e-4), (100_001, 2e-4)],
)
def test_warm_start_is_constant_and_the_rest_counts_from_its_end(iteration: int, rate: float) -> None:
    assert FINETUNING.learning_rate(iteration) == pytest.approx(rate, rel=1e-12)
    assert FINETUNING.in_warm_start(iteration) == (iteration <= 50_000)


@given(st.integers(1, 600_000))
def test_rate_is_positive_and_never_above_the_full_one(iteration: int) -> None:
    for schedule in (SCRATCH, FINETUNING):
        assert 0 < schedule.learning_rate(iteration) <= schedule.rates[0]


def options(**train: object) -> dict:
    optim = {'type': 'Adam', 'lr': 4e-4}
    return {'dist': False, 'world_size': 1, 'num_gpu': 0, 'train': {'total_iter': 9, 'optim_g': optim, **train},
            'datasets': {'train': {'name': 'a', 'type': 'b', 'batch_size_per_gpu': 16}}}  # fmt: skip


def test_rate_is_scaled_linearly_to_the_total_batch() -> None:
    assert schedule_of(options(lr_batch_size=64)).rates == pytest.approx((1e-4,))
    assert schedule_of({**options(lr_batch_size=64), 'num_gpu': 2}).rates == pytest.approx((2e-4,))
    assert schedule_of({**options(lr_batch_size=64), 'dist': True, 'world_size': 8}).rates == pytest.approx((8e-4,))
    assert schedule_of(options()).rates == pytest.approx((4e-4,))


@pytest.mark.parametrize(
    ('train', 'message'),
    [
        ({'optim_g': {'type': 'Adam', 'lr': '4e-4'}}, 'train.optim_g.lr: YAML reads 4e-4 as text; write 0.0004'),
        ({'optim_g': {'type': 'Adam', 'lr': 0}}, 'optim_g.lr is 0'),
        ({'lr_batch_size': 0}, 'lr_batch_size is 0'),
        ({'scheduler': {'type': 'CosineAnnealingRestartLR'}}, "it must be 'MultiStepLR'"),
        ({'scheduler': {'type': 'MultiStepLR', 'milestone': [1]}}, 'did you mean milestones?'),
        ({'scheduler': {'type': 'MultiStepLR', 'milestones': 5}}, 'a list of iterations, or of fractions below 1'),
        ({'scheduler': {'type': 'MultiStepLR', 'milestones': [5], 'gamma': 0}}, 'gamma is 0'),
        ({'warm_start': {'iters': 5}}, 'did you mean iter?'),
        ({'warm_start': {'iter': -5}}, 'warm_start.iter is -5'),
        ({'warmup_iter': 1.5}, 'warmup_iter is 1.5'),
    ],
)
def test_wrong_keys_are_named(train: dict, message: str) -> None:
    assert message in problems(tiny_options(Path('gt'), Path('lq'), **train))


def test_fractions_are_of_all_iterations_or_of_those_after_a_warm_start() -> None:
    scheduler = {'type': 'MultiStepLR', 'milestones': [0.5, 0.875], 'gamma': 0.5}
    schedule = schedule_of(options(total_iter=1000, warmup_iter=0.02, scheduler=scheduler))
    assert (schedule.warmup, schedule.milestones) == (20, (500, 875))
    started = {'warm_start': {'iter': 200}, 'total_iter': 1000}
    schedule = schedule_of(options(**started, warmup_iter=0.1, scheduler=scheduler))
    assert (schedule.warmup, schedule.milestones) == (80, (400, 700))
    mixed = {**scheduler, 'milestones': [5, 0.875, 9e2]}
    assert schedule_of(options(total_iter=1000, scheduler=mixed)).milestones == (5, 875, 900)


@pytest.mark.parametrize(
    ('train', 'batch', 'text'),
    [
        ({}, 16, '0.0004'),
        ({'lr_batch_size': 16}, 16, '0.0004'),
        ({'lr_batch_size': 64}, 16, '0.0001 (optim_g.lr 0.0004 * 16 / lr_batch_size 64)'),
        ({'lr_batch_size': 64, 'lr_rule': 'inverse'}, 16, '0.0016 (optim_g.lr 0.0004 * lr_batch_size 64 / 16)'),
        (
            {'lr_batch_size': 64},
            4,
            '2.5e-05 (optim_g.lr 0.0004 * 4 / lr_batch_size 64, less',
        ),
    ],
)
def test_rate_is_explained(train: dict, batch: int, text: str) -> None:
    assert explain_rate(Training.model_validate(options(**train)['train']), batch).startswith(text)
