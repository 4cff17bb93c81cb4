"""Everything that can be found wrong before a run starts: BasicSR archives the previous experiment first of all."""

from __future__ import annotations

import argparse
import copy
import os
from pathlib import Path
from typing import Any

import torch
from basicsr.utils.registry import DATASET_REGISTRY

from ramit_arch.archs.ramit_arch import RAMiT
from ramit_arch.data.progression import training_section
from ramit_arch.data.restoration_dataset import RestorationDataset
from ramit_arch.errors import UserError
from ramit_arch.models.checkpoints import fitting_weights, read_weights
from ramit_arch.models.ramit_model import RECONSTRUCTION, check_model_options
from ramit_arch.options import checks


def preflight(opt: dict[str, Any], args: argparse.Namespace, training: bool) -> dict[str, RestorationDataset]:
    """Check the options, build our data sets once, and fit the checkpoint to the network.

    Returns the data sets of ours by their key in `datasets`.

    Args:
        opt: the options as the pipeline will get them; they are not changed.
        args: the command line; its option file's name goes into the messages.
        training: whether this is a training run.

    Raises:
        UserError: names the file, the key, and what to do.
    """
    with checks.naming(args.opt):
        checks.check(opt, training)
        continuing = training and args.auto_resume and _has_states(opt, args.debug)
        checks.check_paths(opt, checkpoints=not continuing)
        if opt['model_type'] == 'RAMiTModel':
            check_model_options({**opt, **place(opt, args.launcher), 'is_train': training})
        datasets = _build_datasets(opt)
        if not continuing and not opt['path'].get('resume_state'):
            _fit_checkpoint(opt, training)
    return datasets


def _has_states(opt: dict[str, Any], debug: bool) -> bool:
    name = opt['name'] if not debug or opt['name'].startswith('debug') else f'debug_{opt["name"]}'
    return any(Path('experiments', name, 'training_states').glob('*.state'))


def place(opt: dict[str, Any], launcher: str) -> dict[str, Any]:
    """Where the run will take place, before any process has met another."""
    gpus = torch.cuda.device_count() if opt['num_gpu'] == 'auto' else opt['num_gpu']
    if launcher != 'none' and gpus == 0 and torch.cuda.is_available():
        raise UserError(f'num_gpu is 0, but --launcher {launcher} takes the CUDA devices; set num_gpu: auto')
    size = os.environ.get({'pytorch': 'WORLD_SIZE', 'slurm': 'SLURM_NTASKS'}.get(launcher, ''), '1')
    return {'dist': launcher != 'none', 'world_size': int(size), 'num_gpu': gpus}


def _build_datasets(opt: dict[str, Any]) -> dict[str, RestorationDataset]:
    datasets = {}
    for phase in opt['datasets']:
        section = training_section(opt) if phase == 'train' else opt['datasets'][phase]
        kind = DATASET_REGISTRY.get(section['type'])
        if not issubclass(kind, RestorationDataset):
            if phase == 'train' and opt['train'].get('progressive'):
                raise UserError(f'train.progressive: {section["type"]} has one patch size; take one of our data sets')
            continue
        datasets[phase] = kind({**copy.deepcopy(section), 'phase': phase.split('_')[0], 'scale': opt.get('scale', 1)})
        channels = 1 if section.get('color', 'rgb') == 'gray' else 3
        wanted = opt['network_g'].get('in_chans', 3)
        if opt['network_g']['type'] == 'RAMiT' and wanted != channels:
            color = section.get('color', 'rgb')
            raise UserError(
                f'datasets.{phase}: color {color} gives {channels} channels, network_g.in_chans is {wanted}'
            )
    return datasets


def _fit_checkpoint(opt: dict[str, Any], training: bool) -> None:
    path = opt['path'].get('pretrain_network_g')
    if path is None or opt['network_g']['type'] != 'RAMiT' or opt['model_type'] != 'RAMiTModel':
        return
    with torch.device('meta'):
        network = RAMiT(**{key: value for key, value in opt['network_g'].items() if key != 'type'})
    skip = RECONSTRUCTION if training and opt['train'].get('warm_start') else None
    strict = opt['path'].get('strict_load_g', True)
    fitting_weights(network, read_weights(path, opt['path'].get('param_key_g', 'params')), path, strict, skip)
