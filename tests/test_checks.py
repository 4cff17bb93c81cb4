"""Checks of option files: other networks' files pass, and every value that BasicSR reads has a rule."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramit_arch.errors import UserError
from ramit_arch.options import checks, override

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


def test_an_option_file_of_another_network_passes() -> None:
    opt = copy.deepcopy(FOREIGN)
    checks.check(opt, training=True)
    assert opt == FOREIGN


def problem(opt: dict) -> str:
    """The message of the check, or nothing; any other exception is a failure."""
    try:
        checks.check(opt, training=True)
    except UserError as error:
        return str(error)
    return ''


@pytest.mark.parametrize('key', [*checks._VALUES, *(f'datasets.train.{key}' for key in checks._DATASET_VALUES)])
@given(value=st.one_of(st.just(float('nan')), st.just(-7), st.just([1]), st.just({'a': [{}]}), st.just('../..')))
def test_a_value_of_the_wrong_kind_is_an_error_in_one_line_and_never_a_crash(key: str, value: object) -> None:
    opt = copy.deepcopy(FOREIGN)
    section = opt
    *parents, last = key.split('.')
    for parent in parents:
        section = section[parent]
    section[last] = value
    assert '\n' not in problem(opt)


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
