"""What is found wrong before a run starts: BasicSR archives the previous experiment first of all."""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from basicsr.utils.registry import DATASET_REGISTRY

from ramit_arch.archs.ramit_arch import RAMiT
from ramit_arch.compat import read_state
from ramit_arch.data.progression import read_progression, training_section
from ramit_arch.data.restoration_dataset import RestorationDataset
from ramit_arch.errors import UserError
from ramit_arch.models.checkpoints import fitting_weights, read_weights
from ramit_arch.models.compute import read_compute
from ramit_arch.models.ramit_model import RECONSTRUCTION
from ramit_arch.options import checks
from ramit_arch.options.lines import refuse
from ramit_arch.options.schema import Place, Problem


def preflight(opt: dict[str, Any], args: argparse.Namespace, training: bool) -> dict[str, RestorationDataset]:
    """Check the options, build our data sets once, and fit the checkpoint to the network.

    Returns the data sets of ours by their key in `datasets`.

    Args:
        opt: the options as the pipeline will get them; they are not changed.
        args: the command line; its option file's name goes into the messages.
        training: whether this is a training run.

    Raises:
        UserError: all that is wrong: file and line, the key, and what to do.
    """
    continuing = training and args.auto_resume and _has_states(opt, args.debug)
    problems = checks.check(opt, training)
    refuse([*problems, *checks.missing_files(opt, checkpoints=not continuing)], args.opt, args.force_yml)
    datasets: dict[str, RestorationDataset] = {}
    with _noting(problems, ('num_gpu',)):
        _look_at_the_machine({**opt, **place(opt, args.launcher)}, training, problems)
    for phase in opt['datasets']:
        with _noting(problems, ('datasets', phase)):
            dataset = _build_dataset(opt, phase)
            datasets |= {phase: dataset} if dataset else {}
    state = opt['path'].get('resume_state') if training else None
    if state is not None and not continuing:
        with _noting(problems, ('path', 'resume_state')):
            read_state(Path(state).expanduser())
    elif not continuing:
        with _noting(problems, ('path', 'pretrain_network_g')):
            _fit_checkpoint(opt, training)
    refuse(problems, args.opt, args.force_yml)
    return datasets


@contextmanager
def _noting(problems: list[Problem], at: Place) -> Iterator[None]:
    """Go on after a UserError, which becomes a problem at this place."""
    try:
        yield
    except UserError as error:
        problems.append(Problem(at, str(error)))


def _has_states(opt: dict[str, Any], debug: bool) -> bool:
    name = str(opt.get('name'))
    name = name if not debug or name.startswith('debug') else f'debug_{name}'
    return any(Path('experiments', name, 'training_states').glob('*.state'))


def place(opt: dict[str, Any], launcher: str) -> dict[str, Any]:
    """Where the run will take place, before any process has met another."""
    gpus = torch.cuda.device_count() if opt['num_gpu'] == 'auto' else opt['num_gpu']
    if launcher != 'none' and gpus == 0 and torch.cuda.is_available():
        raise UserError(f'num_gpu is 0, but --launcher {launcher} takes the CUDA devices; set num_gpu: auto')
    size = os.environ.get({'pytorch': 'WORLD_SIZE', 'slurm': 'SLURM_NTASKS'}.get(launcher, ''), '1')
    return {'dist': launcher != 'none', 'world_size': int(size), 'num_gpu': gpus}


def _look_at_the_machine(opt: dict[str, Any], training: bool, problems: list[Problem]) -> None:
    """Whether it and its processes can do what is asked for."""
    if opt['model_type'] != 'RAMiTModel':
        return
    device = torch.device('cuda' if opt['num_gpu'] != 0 else 'cpu')  # as BasicSR's model chooses it
    for name in ('train', 'val') if training else ('val',):
        with _noting(problems, (name,)):
            read_compute(opt.get(name) or {}, name, device)
    if training:
        with _noting(problems, ('train', 'progressive')):
            read_progression(opt)


def _build_dataset(opt: dict[str, Any], phase: str) -> RestorationDataset | None:
    """The data set, if it is one of ours."""
    section = training_section(opt) if phase == 'train' else opt['datasets'][phase]
    kind = DATASET_REGISTRY.get(section['type'])
    if not issubclass(kind, RestorationDataset):
        return None
    return kind({**copy.deepcopy(section), 'phase': phase.split('_')[0], 'scale': opt.get('scale', 1)})


def _fit_checkpoint(opt: dict[str, Any], training: bool) -> None:
    path = opt['path'].get('pretrain_network_g')
    if path is None or opt['network_g']['type'] != 'RAMiT' or opt['model_type'] != 'RAMiTModel':
        return
    with torch.device('meta'):
        network = RAMiT(**{key: value for key, value in opt['network_g'].items() if key != 'type'})
    skip = RECONSTRUCTION if training and opt['train'].get('warm_start') else None
    strict = opt['path'].get('strict_load_g', True)
    fitting_weights(network, read_weights(path, opt['path'].get('param_key_g', 'params')), path, strict, skip)
