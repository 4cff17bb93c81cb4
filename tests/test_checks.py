"""Checks of option files: all that is wrong is told at once with its line, and other networks' files pass."""

from __future__ import annotations

import copy
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import call_basicsr, options_of_test, tiny_options, write_options, write_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from ramit_arch import RAMiT
from ramit_arch.archs.arguments import signature
from ramit_arch.cli import checks
from ramit_arch.data.paired_restoration_dataset import PairedRestorationOptions
from ramit_arch.errors import UserError
from ramit_arch.models import options as model
from ramit_arch.options import override
from ramit_arch.options.lines import find_lines, raise_problems
from ramit_arch.options.section import Problem, Section, dotted, section_in, validate

FOREIGN = {  # a GAN of BasicSR's, with the habits of its users: !!float counts, nulls, keys of its own
    'name': 'gan x4', 'model_type': 'ESRGANModel', 'scale': 4, 'num_gpu': 'auto', 'manual_seed': 0,
    'usm_kernel': 51,
    'datasets': {
        'train': {'name': 'set', 'type': 'PairedImageDataset', 'dataroot_gt': 'a', 'dataroot_lq': 'b',
                  'meta_info_file': None, 'filename_tmpl': '{}', 'io_backend': {'type': 'lmdb'}, 'gt_size': 128,
                  'use_hflip': True, 'use_rot': True, 'use_shuffle': True, 'num_worker_per_gpu': 6,
                  'batch_size_per_gpu': 16, 'dataset_enlarge_ratio': 100, 'prefetch_mode': None, 'mean': [0.5] * 3},
        'val': {'name': 'Set14', 'type': 'PairedImageDataset', 'dataroot_gt': 'c', 'dataroot_lq': 'd',
                'io_backend': {'type': 'disk'}},
    },
    'network_g': {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 64, 'num_block': 23},
    'network_d': {'type': 'VGGStyleDiscriminator', 'num_in_ch': 3, 'num_feat': 64},
    'path': {'pretrain_network_g': None, 'strict_load_g': True, 'resume_state': None, 'pretrain_network_d': None},
    'train': {
        'ema_decay': 0.999, 'total_iter': 4e5, 'warmup_iter': -1, 'net_d_iters': 1,
        'optim_g': {'type': 'Adam', 'lr': 1e-4, 'weight_decay': 0, 'betas': [0.9, 0.99]},
        'optim_d': {'type': 'Adam', 'lr': 1e-4},
        'scheduler': {'type': 'CosineAnnealingRestartLR', 'periods': [4e5]},
        'pixel_opt': {'type': 'L1Loss', 'loss_weight': 0.01, 'reduction': 'mean'},
        'perceptual_opt': {'type': 'PerceptualLoss', 'layer_weights': {'conv5_4': 1}, 'perceptual_weight': 1.0},
        'gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.005},
    },
    'val': {'val_freq': 5e3, 'save_img': True, 'pbar': False,
            'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': False},
                        'niqe': {'type': 'calculate_niqe', 'crop_border': 4, 'better': 'lower'}}},
    'logger': {'print_freq': 100, 'save_checkpoint_freq': 5e3, 'use_tb_logger': True,
               'wandb': {'project': None, 'resume_id': None}},
    'dist_params': {'backend': 'nccl', 'port': 29500},
}  # fmt: skip


@pytest.mark.parametrize(('place', 'name'), [
    (('model_type',), 'RealESRGANModel'), (('network_d', 'type'), 'UNetDiscriminatorSN'),
    (('datasets', 'train', 'type'), 'RealESRGANDataset'),
])  # fmt: skip
def test_names_that_basicsr_registers_with_a_suffix_are_taken(place: tuple[str, ...], name: str) -> None:
    assert checks.find_problems(put(FOREIGN, place, name), training=True) == []


def test_an_option_file_of_another_network_passes() -> None:
    opt = copy.deepcopy(FOREIGN)
    assert checks.find_problems(opt, training=True) == []
    assert opt == FOREIGN


def keys(kind: type[Section], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of a section, and of the sections in it."""
    for key, field in kind.model_fields.items():
        yield (*above, key)
        inner = section_in(field.annotation)
        if inner is not None and not is_list(field.annotation):
            yield from keys(inner, (*above, key))


def is_list(annotation: object) -> bool:
    return 'list[' in str(annotation) or 'dict[' in str(annotation)


OURS = tiny_options(Path('gt'), Path('lq'), lr_batch_size=2, lr_rule='linear', warm_start={'iter': 1}, accumulate=2)
OURS['path']['pretrain_network_g'] = 'net.pth'
OURS['logger']['keep_best'] = 'tiny_val/psnr'
OURS['val']['protocol'] = 'SR'
KEYS = [
    *keys(model.TrainFile),
    *(('datasets', 'train', *key) for key in keys(PairedRestorationOptions) if key[0] not in ('phase', 'scale')),
    *(('network_g', key) for key in signature(RAMiT).hints),
]
JUNK = st.one_of(
    st.sampled_from([float('nan'), float('inf'), -7, 0, [1], {'a': [{}]}, '../..', '', 'x' * 500, [[]], True, 10**400]),
    st.text(max_size=9),
)


def put(opt: dict, place: tuple, value: object) -> dict:
    """A copy of options with one value changed."""
    opt = copy.deepcopy(opt)
    section = opt
    for key in place[:-1]:
        section = section.setdefault(key, {})
    section[place[-1]] = value
    return opt


@pytest.mark.parametrize('opt', [OURS, FOREIGN], ids=['ours', 'foreign'])
@pytest.mark.parametrize('place', KEYS, ids='.'.join)
@settings(max_examples=15)
@given(value=JUNK)
def test_any_value_is_right_or_told_in_one_line_with_its_place(
    opt: dict, place: tuple[str, ...], value: object
) -> None:
    for problem in checks.find_problems(put(opt, place, value), training=True):
        assert '\n' not in problem.text
        assert len(problem.text) < 400


@pytest.mark.parametrize('place', [key for key in KEYS if key[-1] != 'ignore_resume_networks'], ids='.'.join)
def test_every_key_refuses_a_value_that_it_cannot_be(place: tuple[str, ...]) -> None:
    found = [problem.path for problem in checks.find_problems(put(OURS, place, [[object()]]), training=True)]
    assert any(place[: len(at)] == at or at[: len(place)] == place for at in found)


@pytest.mark.parametrize('section', [(), ('path',), ('train',), ('train', 'scheduler'), ('val',), ('logger',),
    ('datasets', 'train'), ('datasets', 'val'), ('datasets', 'val', 'io_backend'), ('network_g',),
    ('val', 'metrics', 'psnr'), ('train', 'pixel_opt'), ('train', 'optim_g')])  # fmt: skip
def test_a_key_that_nothing_reads_is_told_in_every_section(section: tuple[str, ...]) -> None:
    place = (*section, 'never_heard_of')
    found = checks.find_problems(put(OURS, place, 1), training=True)
    assert [problem.text for problem in found] == [f'{dotted(place)} is unknown']


@pytest.mark.parametrize('section', [(), ('train',), ('datasets', 'train'), ('network_g',), ('val', 'metrics', 'psnr')])
@pytest.mark.parametrize('key', [1, None, True, 2.5, (1, 2)])
def test_a_key_that_is_no_text_is_told(section: tuple[str, ...], key: object) -> None:
    [problem] = checks.find_problems(put(OURS, (*section, key), 1), training=True)
    assert problem.text == f'{dotted((*section, str(key)))} is unknown'


@given(
    st.sampled_from([key for key in signature(RAMiT).hints if key != 'tail_mobivari']),
    st.one_of(JUNK, st.sampled_from([1, 2, 3, 16, 48, 0.5, [1] * 4, [4, 4, 4, 5], [0.5] * 3, [0.5], False])),
)
def test_the_check_takes_what_the_network_takes(key: str, value: object) -> None:
    opt = {'scale': 2, 'network_g': {'type': 'RAMiT', key: value}}
    if key == 'upscale' and isinstance(value, int):
        opt['scale'] = value
    try:
        with torch.device('meta'):
            RAMiT(**{key: value})
    except (ValueError, OverflowError, RuntimeError, MemoryError):
        taken = False
    else:
        taken = True
    assert (not checks.network_problems(opt)) == taken


PLAIN = tiny_options(Path('gt'), Path('lq'))
TEST = options_of_test(PLAIN, 'net.pth')
ROOT = {'dataroot_gt': 'a', 'dataroot_lq': 'b'}
SET = 'PairedRestorationDataset'
STAGES = [{'iter': 4, 'lq_patch_size': 8, 'batch_size': 2}]
WITHOUT_SIZES = {
    k: v for k, v in PLAIN['datasets']['train'].items() if k not in ('lq_patch_size', 'batch_size_per_gpu')
}
WITHOUT_ROOTS = {k: v for k, v in PLAIN['datasets']['train'].items() if k not in ('dataroot_gt', 'dataroot_lq')}


def renamed(opt: dict, place: tuple[str, ...], name: str) -> dict:
    """A copy of options with one key called otherwise."""
    opt = copy.deepcopy(opt)
    section = opt
    for key in place[:-1]:
        section = section[key]
    section[name] = section.pop(place[-1])
    return opt


@pytest.mark.parametrize(('opt', 'messages'), [
    # a slip of the pen is told once, not what follows from it
    (renamed(PLAIN, ('datasets', 'train'), 'trian'),
     ['datasets.trian begins with none of train and val (did you mean train?)']),
    (renamed(PLAIN, ('train', 'total_iter'), 'total_itr'), ['train.total_itr is unknown (did you mean total_iter?)']),
    (renamed(put(PLAIN, ('datasets', 'train', 'lq_patch_size'), 16), ('datasets', 'train', 'lq_patch_size'), 'gt_szie'),
     ['datasets.train.gt_szie is unknown (did you mean gt_size?)']),
    (put(put(PLAIN, ('datasets', 'train'), WITHOUT_SIZES), ('train', 'progresive'), STAGES),
     ['train.progresive is unknown (did you mean progressive?)']),
    (put(put(PLAIN, ('network_g', 'type'), 'RAMIT'), ('train', 'checkpointing'), True),
     ["network_g.type is 'RAMIT', but no arch of that name is registered (did you mean RAMiT?)"]),
    (put(PLAIN, ('datasets',), 3), ['datasets is 3; it must be a section with datasets']),
    (put(put(PLAIN, ('model_type',), 'RamitModel'), ('val', 'protcol'), 'SR'),
     ["model_type is 'RamitModel', but no model of that name is registered (did you mean RAMiTModel?)"]),
    (put(PLAIN, ('datasets', 'train'), {**WITHOUT_ROOTS, 'roots': [{'dataroot_gt': 'a'}, {**ROOT, 'reapeat': 2}]}),
     ['datasets.train.roots[1].reapeat is unknown (did you mean repeat?)']),
    (put(PLAIN, ('datasets', 'train'), {**WITHOUT_ROOTS, 'roots': [{'dataroot_gt': 'a'}, ROOT]}),
     ['datasets.train.roots[0].dataroot_lq is missing; give a folder or a store']),
    (put(PLAIN, ('train', 'scheduler'), {'type': 'CosineAnnealingRestartLR'}),
     ["train.scheduler.type is 'CosineAnnealingRestartLR'; it must be 'MultiStepLR'"]),
    # what would be ignored
    (put(PLAIN, ('datasets', 'train_2'), PLAIN['datasets']['train']),
     ['datasets.train_2 is a second training set; give the first several roots']),
    (put(PLAIN, ('val',), None), ['val is missing, so that no validation set would be restored or scored']),
    (put(PLAIN, ('datasets', 'val'), {'name': 'v', 'type': SET, 'roots': [{**ROOT, 'repeat': 3}]}),
     ['datasets.val.roots[0].repeat is for training; remove it here']),
    (put(PLAIN, ('datasets', 'val', 'num_worker_per_gpu'), 2),
     ['datasets.val.num_worker_per_gpu is for training; remove it here']),
    (put(PLAIN, ('datasets', 'val', 'persistent_workers'), True),
     ['datasets.val.persistent_workers is for training; remove it here']),
    (put({**PLAIN, 'model_type': 'SRModel'}, ('logger', 'keep_best'), 'psnr'),
     ['logger.keep_best: SRModel does not read it; set model_type to RAMiTModel']),
    (put({**PLAIN, 'model_type': 'SRModel'}, ('train', 'scheduler', 'milestones'), [0.5, 0.9]),
     ['train.scheduler.milestones: SRModel knows no fractions of total_iter; give iterations, or set model_type to '
      'RAMiTModel']),
    # what would end the run later
    (put(PLAIN, ('network_g', 'mobivari_version'), 2.0), ['network_g.mobivari_version is 2.0; it must be 1 or 2']),
    (put(PLAIN, ('network_g', 'dim'), 2**50),
     [f'network_g.dim is {2**50}; it must be a multiple of 16 from 16 to 8,192']),
    (put(PLAIN, ('manual_seed',), 2**32), [f'manual_seed is {2**32}; it must be an integer from 0 to 2,147,483,648']),
    (put(PLAIN, ('network_g',), {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feats': 64}),
     ['network_g.num_feats is unknown (did you mean num_feat?)']),
    (put(PLAIN, ('train', 'pixel_opt'), {'type': 'PerceptualLoss', 'layer_weights': {'conv5_4': 1}}),
     ['train.pixel_opt: PerceptualLoss is not a pixel loss']),
    (put(PLAIN, ('train', 'perceptual_opt'), {'type': 'PerceptualLoss', 'layer_weights': {'conv5_4': 1}}), []),
    (put(PLAIN, ('train', 'perceptual_opt'), {'type': 'L1Loss'}),
     ['train.perceptual_opt: L1Loss is not a perceptual loss']),
    (put(PLAIN, ('train', 'pixel_opt'), {'type': 'CharbonnierLoss', 'eps': 'abc'}),
     ["train.pixel_opt: CharbonnierLoss fails with these arguments (unsupported operand type(s) for +: 'Tensor' and "
      "'str')"]),
    (put(PLAIN, ('val', 'metrics', 'psnr', 'input_order'), 'CWH'),
     ["val.metrics.psnr.input_order is 'CWH'; it must be 'HWC'"]),
    (put(PLAIN, ('logger', 'wandb'), {'project': 'mine'}),
     ['logger.wandb needs logger.use_tb_logger: true, from which it gets its values']),
    # what is right
    (put(PLAIN, ('logger', 'wandb'), {'resume_id': '48291e57'}), []),
    (put(PLAIN, ('train', 'total_iter'), 4.0), []),
], ids=lambda value: (value or ['fine'])[0][:40] if isinstance(value, list) else '')  # fmt: skip
def test_a_mistake_is_told_and_not_what_follows_from_it(
    opt: dict, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: True)
    assert [problem.text for problem in checks.find_problems(opt, training=True)] == messages


@pytest.mark.parametrize(('opt', 'messages'), [
    ({**TEST, 'train': {'bf16': True}}, []),
    (put(TEST, ('datasets',), {}), ['datasets is {}; it must be a section with datasets']),
    (put(TEST, ('datasets', 'test_s0.5'), ROOT),
     ['datasets.test_s0.5.name is missing', 'datasets.test_s0.5.type is missing']),
    (put(TEST, ('val', 'strips'), 2), ['val.strips is for training; set val.save_img for the whole images']),
    ({**TEST, 'scale': 1, 'network_g': {'type': 'RAMiT', 'upscale': 1}, 'val': {'protocol': 'CDN', 'save_img': False},
      'datasets': {'test': {'name': 'a_sigma25', 'type': 'GaussianDenoisingDataset', 'dataroot_gt': 'a',
                            'sigma': [0, 50]}}},
     ['datasets.test.sigma is [0.0, 50.0]; a range is for training, give one level here']),
    ({**TEST, 'scale': 1, 'network_g': {'type': 'RAMiT', 'upscale': 1},
      'datasets': {'test': {'name': 'a', 'type': 'GaussianDenoisingDataset', 'dataroot_gt': 'a', 'sigma': ['a', 1]}}},
     ["datasets.test.sigma is ['a', 1]; it must be a noise level from 0 up, or [low, high]"]),
])  # fmt: skip
def test_the_same_in_a_test(opt: dict, messages: list[str]) -> None:
    assert [problem.text for problem in checks.find_problems(opt, training=False)] == messages


@pytest.mark.parametrize(('options', 'message'), [
    ({'betas': [0.9, 0.99, 0.999]}, 'too many values to unpack'),
    ({'fused': True, 'foreach': True}, '`fused` and `foreach` cannot be `True` together'),
])  # fmt: skip
def test_adam_takes_a_step_with_its_arguments(options: dict, message: str) -> None:
    opt = put(PLAIN, ('train', 'optim_g'), {'type': 'Adam', 'lr': 0.1, **options})
    [problem] = checks.find_problems(opt, training=True)
    assert problem.text.startswith('train.optim_g: Adam does not take')
    assert message in problem.text


MANY = """\
name: many
model_type: RAMiTModel
scale: 3
num_gpu: 0
datasets:
  train:
    name: mine
    type: PairedRestorationDataset
    dataroot_gt: /no/such/gt
    dataroot_lq: /no/such/lq
    gt_size: 64
    color: rgb
    use_hflp: true
    batch_size_per_gpu: four
    num_worker_per_gpu: 0
network_g: {type: RAMiT, upscale: 3, num_heads: [3, 4, 4, 4], dim: 64,
            expand_groups: 5}
path: {}
train:
  total_iter: 1000
  optim_g: {type: Adam, lr: 1e-4}
  scheduler: {type: MultiStepLR,
    milestones: [500, 2000]}
  pixel_opt: {type: L1Los}
  ema_decay: 1.5
  warm_start: {iter: 100}
logger: {print_freq: 1, save_checkpoint_freq: 5000, use_tb_logger: no}
"""
VALUES = """\
error: 6 problems
--force_yml val={save_img: 1, val_freq: 9}: val.save_img is 1; it must be true or false
many.yml:13: datasets.train.use_hflp is unknown (did you mean use_hflip?)
many.yml:14: datasets.train.batch_size_per_gpu is 'four'; it must be an integer from 1 up
many.yml:21: train.optim_g.lr: YAML reads 1e-4 as text; write 0.0001 or !!float 1e-4
many.yml:24: train.pixel_opt.type is 'L1Los', but no loss of that name is registered (did you mean L1Loss?)
many.yml:25: train.ema_decay is 1.5; it must be a number from 0 to below 1
"""
CONTRADICTIONS = """\
error: 5 problems
many.yml:9: datasets.train.dataroot_gt is /no/such/gt, which does not exist
many.yml:10: datasets.train.dataroot_lq is /no/such/lq, which does not exist
many.yml:11: datasets.train.gt_size is 64, no multiple of scale 3
many.yml:23: train.scheduler.milestones reach 2000, beyond train.total_iter 1000 less the 100 of the warm start; \
change either
many.yml:26: train.warm_start needs path.pretrain_network_g, the checkpoint to start from
"""


def test_every_pass_reports_all_its_problems_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / 'many.yml'
    mend = [('use_hflp', 'use_hflip'), ('four', '4'), ('1e-4', '1.0e-4'), ('L1Los}', 'L1Loss}'), ('1.5', '0.5')]
    for text, changes in [(VALUES, []), (CONTRADICTIONS, mend)]:
        content = MANY
        for before, after in changes:
            content = content.replace(before, after)
        file.write_text(content)
        for verb in ('check', 'train'):
            val = f'val={{save_img: {"false" if changes else 1}, val_freq: 9}}'
            result = call_basicsr(verb, '-opt', 'many.yml', '--force_yml', val, cwd=tmp_path)
            assert result.returncode == 1
            assert result.stderr == text
            assert [path.name for path in tmp_path.iterdir()] == ['many.yml']


def test_the_third_pass_reports_what_cannot_be_built(tmp_path: Path) -> None:
    opt = tiny_options(*write_pairs(tmp_path / 'data'), checkpointing=True, warm_start={'iter': 1})
    opt['path']['pretrain_network_g'] = 'train.yml'
    opt['network_g'] = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 'many'}
    opt['datasets']['train']['lq_patch_size'] = 500
    opt['train']['pixel_opt'] = {'type': 'CharbonnierLoss', 'eps': 'abc'}
    write_options(tmp_path / 'train.yml', opt)
    text = call_basicsr('check', '-opt', 'train.yml', cwd=tmp_path).stderr
    assert text.startswith('error: 3 problems\n')
    for part in (': datasets: tiny: 3 of 3 images cannot be used', ': network_g: EDSR cannot be built with these arg',
                 ': train.pixel_opt: CharbonnierLoss fails with these arguments'):  # fmt: skip
        assert part in text
    opt['network_g'] = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3}
    write_options(tmp_path / 'train.yml', opt)
    text = call_basicsr('check', '-opt', 'train.yml', cwd=tmp_path).stderr
    assert 'train.checkpointing: EDSR does not support activation checkpointing; remove it' in text
    assert 'train.warm_start: EDSR has no attribute reconstruction_head' in text


@pytest.mark.parametrize('value', [3, 'text', [1]])
def test_what_is_no_section_is_told(value: object) -> None:
    _, problems = validate(PairedRestorationOptions, value)
    assert [text for _, text in problems] == [f'the section is {value!r}; it must be a section with keys of its own']


@pytest.mark.parametrize('flag', [[], ['--auto_resume']])
def test_a_state_that_is_none_is_told_before_the_start(flag: list[str], tmp_path: Path) -> None:
    opt = tiny_options(*write_pairs(tmp_path / 'data'))
    opt['path']['resume_state'] = 'train.yml'
    write_options(tmp_path / 'train.yml', opt)
    result = call_basicsr('train', '-opt', 'train.yml', *flag, cwd=tmp_path)
    assert re.match(r'error: train\.yml:\d+: train\.yml: damaged or no training state', result.stderr)
    assert not (tmp_path / 'experiments').exists()


def test_a_section_merged_into_itself_is_told_without_lines(tmp_path: Path) -> None:
    (tmp_path / 'loop.yml').write_text('train: &x {<<: *x, total_iter: 0}\n')
    result = call_basicsr('check', '-opt', 'loop.yml', cwd=tmp_path)
    assert 'loop.yml: train.total_iter is 0; it must be' in result.stderr


def test_lines_are_those_of_the_file_that_says_it(tmp_path: Path) -> None:
    (tmp_path / 'base.yml').write_text('name: a\ntrain:\n  total_iter: 9\n  ema_decay: 2\n  list: [a,\n    b]\n')
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub' / 'top.yml').write_text(
        'base: ../base.yml\n\ncommon: &common\n  warmup_iter: 1\nmore: &more {warmup_iter: 2}\n'
        'train:\n  <<: [*common, *more]\n  total_iter: 8\n'
    )
    lines = find_lines(tmp_path / 'sub' / 'top.yml', ['name=b'])
    base, top = tmp_path / 'base.yml', tmp_path / 'sub' / 'top.yml'
    assert lines[('train', 'ema_decay')] == f'{base}:4'
    assert lines[('train', 'list', 1)] == f'{base}:6'
    assert lines[('train', 'total_iter')] == f'{top}:8'
    assert lines[('train', 'warmup_iter')] == f'{top}:4'
    assert lines[('name',)] == '--force_yml name=b'
    with pytest.raises(UserError, match=r'base\.yml:4: wrong'):
        raise_problems([Problem(('train', 'ema_decay', 'deeper'), 'wrong')], str(top), [])


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('5e-4', 5e-4),
        ('[1, 2]', [1, 2]),
        ('None', None),
        ('~', None),
        ('true', True),
        ("'{}x3'", '{}x3'),
        ('a=b', 'a=b'),
    ],
)
def test_force_yml_values_are_yaml(text: str, value: object) -> None:
    opt: dict = {'train': {'key': 0}}
    override(opt, [f'train:key={text}'])
    assert opt['train']['key'] == value
