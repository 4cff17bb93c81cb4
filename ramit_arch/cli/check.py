"""`basicsr check`"""

from __future__ import annotations

import argparse
from typing import Any

from torch import nn

from ramit_arch.cli import checks
from ramit_arch.cli.pipeline import resolve
from ramit_arch.data.progression import read_progression
from ramit_arch.data.restoration_dataset import RestorationDataset
from ramit_arch.data.samplers import ResumableBatchSampler
from ramit_arch.errors import counted
from ramit_arch.models.options import Training
from ramit_arch.models.schedule import explain_rate
from ramit_arch.options import dump


def run(args: argparse.Namespace) -> None:
    """Look at all that `train` or `test` would look at before it starts, and say what the run would be.

    Raises:
        UserError: all that is wrong.
    """
    opt = resolve(args, args.opt)
    sets = opt.get('datasets')
    phases = [str(phase) for phase in sets] if isinstance(sets, dict) else []
    training = 'train' in phases or ('train' in opt and not any(phase.startswith('test') for phase in phases))
    network, datasets = checks.check(opt, args, training)
    print(dump(opt))
    model = opt['model_type']
    how = 'that can start' if network is not None else f'as far as can be seen; the keys of {model} itself are its own'
    print(f'# {args.opt}: a {"training" if training else "test"} {how}.')
    for line in [*_length(opt, args, datasets), *_sets(opt, datasets), *_size(network)]:
        print(f'# {line}')


def _length(opt: dict[str, Any], args: argparse.Namespace, datasets: dict[str, RestorationDataset]) -> list[str]:
    if 'train' not in datasets:
        iterations = (opt.get('train') or {}).get('total_iter')
        return [f'{int(iterations):,} iterations'] if iterations else []
    whole = {**opt, **checks.launch_info(opt, args.launcher)}
    progression = read_progression(whole)
    ratio = opt['datasets']['train'].get('dataset_enlarge_ratio', 1)
    sampler = ResumableBatchSampler(len(datasets['train']), progression, 0, ratio=ratio)
    drawn = progression.images_before(progression.total) + progression.stage(progression.total).batch
    lines = [
        f'{progression.total:,} iterations, {drawn:,} images, {drawn / sampler.size:,.1f} epochs of {sampler.size:,}'
    ]
    train = Training.model_validate(opt['train']) if opt['model_type'] == 'RAMiTModel' else None
    several = len(progression.stages) > 1
    for stage in progression.stages:
        rate = f'learning rate {explain_rate(train, stage.batch)}' if train else ''
        what = f'LQ patches of {stage.patch}, ' if several else ''
        text = f'{stage.iterations:,} iterations: {what}batches of {stage.batch}{", " if rate else ""}{rate}'
        lines += [f'  {text}'] if several or rate else []
    return lines


def _sets(opt: dict[str, Any], datasets: dict[str, RestorationDataset]) -> list[str]:
    return [
        f'{phase}: {opt["datasets"][phase]["name"]}, {counted(sum(map(len, dataset.roots)), "image")}'
        for phase, dataset in datasets.items()
    ]


def _size(network: nn.Module | None) -> list[str]:
    if network is None:
        return []
    return [f'{type(network).__name__}: {sum(p.numel() for p in network.parameters()):,} parameters']
