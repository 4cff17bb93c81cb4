"""Progressive learning: the right stage at every iteration, also after resuming, and nothing loaded in vain."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from helpers import (
    TINY_NETWORK,
    call_basicsr,
    problems,
    run_torchrun,
    schedule_of,
    tiny_options,
    write_options,
    write_pairs,
)
from hypothesis import given
from hypothesis import strategies as st

from ramit_arch import options as option_files
from ramit_arch.data import pixels, stores
from ramit_arch.data.loaders import create_train_val_dataloader
from ramit_arch.data.progression import Progression, TrainingStage, read_progression
from ramit_arch.data.stores import FolderStore
from ramit_arch.errors import UserError

STAGES = [{'iter': 3, 'lq_patch_size': 8, 'batch_size': 4}, {'iter': 2, 'lq_patch_size': 12, 'batch_size': 2},
          {'iter': 3, 'lq_patch_size': 16, 'batch_size': 2}]  # fmt: skip


@given(st.lists(st.integers(1, 99), min_size=2, max_size=5), st.integers(100, 10**6))
def test_fractions_are_stages_that_add_up_to_all_iterations(parts: list[int], total: int) -> None:
    fractions = [part / sum(parts) for part in parts]
    stages = [{'iter': fraction, 'lq_patch_size': 8, 'batch_size': 4} for fraction in fractions]
    opt = {'dist': False, 'world_size': 1, 'num_gpu': 0, 'train': {'total_iter': total, 'progressive': stages}}
    found = read_progression(opt).stages
    assert sum(stage.iterations for stage in found) == total
    assert all(abs(stage.iterations - f * total) <= 1 for stage, f in zip(found, fractions, strict=True))


def test_fractions_that_do_not_add_up_are_an_error() -> None:
    stages = [{**STAGES[0], 'iter': 0.5}, {**STAGES[1], 'iter': 0.25}]
    text = problems(tiny_options(Path('gt'), Path('lq'), total_iter=100, progressive=stages))
    assert 'train.progressive lasts 75 iterations, but train.total_iter is 100' in text


@given(
    st.lists(st.builds(TrainingStage, st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    st.integers(0, 400),
)
def test_stages_and_images_equal_a_count_iteration_by_iteration(stages: list[TrainingStage], images: int) -> None:
    progression, drawn, iteration, last = Progression(stages), 0, 0, 0
    for number, stage in enumerate(stages):
        for _ in range(stage.iterations):
            iteration += 1
            assert progression.index(iteration) == number
            assert progression.images_before(iteration) == drawn
            last = iteration if drawn < images else last
            drawn += stage.batch
    assert progression.total == iteration
    assert progression.last_iteration(images) == last


def options(stages: object = None, **changes: object) -> dict:
    return {'dist': False, 'world_size': 1, 'num_gpu': 0, 'datasets': {'train': {}}, **changes,
            'train': {'total_iter': 8, 'optim_g': {'type': 'Adam', 'lr': 4e-4}, 'lr_batch_size': 4,
                      'progressive': STAGES if stages is None else stages, **changes.get('train', {})}}  # fmt: skip


@pytest.mark.parametrize(('rule', 'rates'), [(None, (4e-4, 2e-4)), ('linear', (4e-4, 2e-4)), ('inverse', (4e-4, 8e-4))])
def test_rate_follows_the_batch_of_the_stage(rule: str | None, rates: tuple[float, float]) -> None:
    schedule = schedule_of(options(train={'lr_rule': rule, 'warmup_iter': 2}))
    expected = [rates[0] / 2, rates[0], rates[0], *[rates[1]] * 5]
    assert [schedule.learning_rate(i) for i in range(1, 9)] == pytest.approx(expected)


def test_batches_are_totals_over_all_processes() -> None:
    read = read_progression(options(dist=True, world_size=2))
    assert [stage.batch for stage in read.stages] == [4, 2, 2]
    with pytest.raises(UserError, match='stage 2: batch_size 2, a total, does not divide among 4 processes'):
        read_progression(options(dist=True, world_size=4))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'progressive': {'iter': 8}}, "train.progressive is {'iter': 8}; it must be a list"),
        ({'progressive': []}, 'it must be a list of sections'),
        ({'progressive': [{**STAGES[0], 'lq_patch': 8}]}, 'progressive[0].lq_patch is unknown (did you mean lq_patch_'),
        ({'progressive': [{'iter': 8, 'lq_patch_size': 8}]}, 'train.progressive[0].batch_size is missing'),
        ({'progressive': STAGES[:2]}, 'train.progressive lasts 5 iterations, but train.total_iter is 8'),
        ({}, 'datasets.train.lq_patch_size contradicts train.progressive'),
        ({}, 'datasets.train.batch_size_per_gpu contradicts train.progressive'),
        ({'lr_rule': 'printed'}, "train.lr_rule is 'printed'; it must be 'linear' or 'inverse'"),
        ({'lr_rule': 'linear', 'lr_batch_size': None}, 'lr_rule needs train.lr_batch_size'),
    ],
)
def test_wrong_stages_are_named(changes: dict, message: str) -> None:
    assert message in problems(
        tiny_options(Path('gt'), Path('lq'), **{'total_iter': 8, 'progressive': STAGES, **changes})
    )


@pytest.fixture
def files(tmp_path: Path) -> Path:
    gt, lq = write_pairs(tmp_path, count=5)
    opt = tiny_options(gt, lq, total_iter=8, progressive=STAGES, lr_batch_size=4)
    for key in ('lq_patch_size', 'batch_size_per_gpu'):
        del opt['datasets']['train'][key]
    opt['logger']['save_checkpoint_freq'] = 1
    write_options(tmp_path / 'train.yml', opt)
    return tmp_path


def test_nothing_is_read_decoded_or_cropped_beyond_what_the_stage_needs(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ramit_arch.data import paired_restoration_dataset as module

    counts = {'read': 0, 'decoded': 0, 'cropped': []}

    def counted(name: str, function):
        def count(*args):
            counts[name] += 1
            return function(*args)

        return count

    def crop(lq, gt, patch, *others):
        counts['cropped'].append(patch)
        return pixels.crop_pair(lq, gt, patch, *others)

    monkeypatch.setattr(FolderStore, 'read', counted('read', FolderStore.read))
    monkeypatch.setattr(stores, 'decode', counted('decoded', pixels.decode))
    monkeypatch.setattr(module, 'crop_pair', crop)
    opt = option_files.load(files / 'train.yml')
    opt |= {'dist': False, 'world_size': 1}
    opt['datasets'] = {'train': {**opt['datasets']['train'], 'phase': 'train', 'scale': 2}}
    loader, sampler, _, last_epoch, _ = create_train_val_dataloader(opt, logging.getLogger())
    shapes = []
    for epoch in range(last_epoch + 1):
        sampler.set_epoch(epoch)
        shapes += [tuple(batch['lq'].shape) for batch in loader]
    assert shapes == [(4, 3, 8, 8)] * 3 + [(2, 3, 12, 12)] * 2 + [(2, 3, 16, 16)] * 3
    assert counts['cropped'] == [8] * 12 + [12] * 4 + [16] * 6
    assert counts['read'] == counts['decoded'] == 2 * 22  # LQ and GT of every image, nothing else


def test_log_says_when_a_stage_begins_and_resuming_anywhere_gives_the_same_weights(files: Path) -> None:
    result = call_basicsr('train', '-opt', 'train.yml', cwd=files)
    assert result.returncode == 0, result.stderr
    begins = [line for line in result.stderr.splitlines() if ': stage ' in line]
    assert len(begins) == 3
    rate = 'full learning rate 0.0005 (optim_g.lr 0.001 * 2 / lr_batch_size 4)'
    assert f'Iteration 4: stage 2 of 3: LQ patches of 12, batches of 2 in total, {rate}' in begins[1]
    experiment = files / 'experiments' / 'tiny'
    final = torch.load(experiment / 'models' / 'net_g_latest.pth', weights_only=True)['params']
    for done, stage in [(2, 1), (3, 2), (4, 2), (5, 3)]:  # the last and the first iteration of a stage come next
        state = f'path:resume_state=experiments/tiny/training_states/{done}.state'
        result = call_basicsr('train', '-opt', 'train.yml', '--force_yml', state, cwd=files)
        assert result.returncode == 0, result.stderr
        assert f'Iteration {done + 1}: stage {stage} of 3' in result.stderr
        resumed = torch.load(experiment / 'models' / 'net_g_latest.pth', weights_only=True)['params']
        assert all(torch.equal(resumed[name], tensor) for name, tensor in final.items())


def test_progressive_learning_needs_our_model_and_data_set(files: Path) -> None:
    other = ['model_type=SRModel', 'train:lr_batch_size=null']
    result = call_basicsr('train', '-opt', 'train.yml', '--force_yml', *other, cwd=files)
    assert ': SRModel does not read it' in result.stderr
    stock = ['datasets:train:type=PairedImageDataset', f'network_g:type={TINY_NETWORK["type"]}']
    result = call_basicsr('train', '-opt', 'train.yml', '--force_yml', *stock, cwd=files)
    assert 'PairedImageDataset, which has one patch size' in result.stderr


def test_stock_model_trains_in_two_processes_on_the_cpu(files: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip('this machine has CUDA')
    opt = option_files.load(files / 'train.yml')
    opt.update(model_type='SRModel', name='stock')
    opt['datasets']['train'].update(lq_patch_size=8, batch_size_per_gpu=1)
    del opt['val'], opt['datasets']['val'], opt['train']['progressive'], opt['train']['lr_batch_size']
    write_options(files / 'stock.yml', opt)
    result = run_torchrun(2, 'train', '-opt', 'stock.yml', '--launcher', 'pytorch', cwd=files)
    assert result.returncode == 0, result.stderr
    assert 'batches of 2 (1 on each of 2)' in result.stderr
    assert (files / 'experiments' / 'stock' / 'models' / 'net_g_latest.pth').is_file()


def test_two_processes_give_the_weights_of_one(files: Path) -> None:
    assert call_basicsr('train', '-opt', 'train.yml', '--force_yml', 'name=one', cwd=files).returncode == 0
    result = run_torchrun(2, 'train', '-opt', 'train.yml', '--launcher', 'pytorch', cwd=files)
    assert result.returncode == 0, result.stderr
    assert 'stage 2: iterations 4 to 5, LQ patches of 12, batches of 2 (1 on each of 2)' in result.stderr
    one, two = (
        torch.load(files / 'experiments' / name / 'models' / 'net_g_latest.pth', weights_only=True)['params']
        for name in ('one', 'tiny')
    )
    assert all(torch.allclose(two[name], tensor, atol=1e-5) for name, tensor in one.items())
    state = 'path:resume_state=experiments/tiny/training_states/5.state'  # the last iteration of a stage
    result = run_torchrun(2, 'train', '-opt', 'train.yml', '--launcher', 'pytorch', '--force_yml', state, cwd=files)
    assert result.returncode == 0, result.stderr
    assert 'Iteration 6: stage 3 of 3' in result.stderr
    resumed = torch.load(files / 'experiments' / 'tiny' / 'models' / 'net_g_latest.pth', weights_only=True)['params']
    assert all(torch.equal(resumed[name], tensor) for name, tensor in two.items())
