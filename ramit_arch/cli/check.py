"""`basicsr check`"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from ramit_arch.cli import checks
from ramit_arch.cli.pipeline import resolve
from ramit_arch.data.progression import read_progression
from ramit_arch.data.restoration_dataset import RestorationDataset
from ramit_arch.data.samplers import ResumableBatchSampler
from ramit_arch.data.stores import FolderStore, Store
from ramit_arch.errors import UserError, counted
from ramit_arch.models.options import Training
from ramit_arch.models.schedule import explain_rate
from ramit_arch.options import dump
from ramit_arch.preparation.workers import cores, in_threads

SHOWN = 50  # images that cannot be decoded


def run(args: argparse.Namespace) -> None:
    """Look at all that `train` or `test` would look at before it starts, and say what the run would be.

    Raises:
        UserError: all that is wrong; with `--decode` also images that cannot be decoded.
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
    if training and network is not None:
        print(f'# {_disk(opt, network)}')
    if args.decode:
        _decode(datasets)


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
    lines = []
    for phase, dataset in datasets.items():
        lines.append(f'{phase}: {opt["datasets"][phase]["name"]}, {counted(sum(map(len, dataset.roots)), "image")}')
        for store in dataset.stores:
            ignored = store.ignored if isinstance(store, FolderStore) else []
            if ignored:
                some = ', '.join(ignored[:3]) + (', ...' if len(ignored) > 3 else '')
                lines.append(f'  {store.root}: {counted(len(ignored), "other")} ignored: {some}')
    return lines


def _size(network: nn.Module | None) -> list[str]:
    if network is None:
        return []
    return [f'{type(network).__name__}: {sum(p.numel() for p in network.parameters()):,} parameters']


def _disk(opt: dict[str, Any], network: nn.Module) -> str:
    """What the checkpoints and states of a training take.

    Raises:
        UserError: nothing can be written here.
    """
    train = opt['train']
    place = next(path for path in (Path('experiments', opt['name']), Path('experiments'), Path()) if path.is_dir())
    if not os.access(place, os.W_OK):
        raise UserError(f'{place.absolute()}: cannot be written to; run in a folder of your own')
    weights = 4 * sum(p.numel() for p in network.parameters())
    each = weights * (2 if train.get('ema_decay') else 1) + 2 * weights  # the networks, and Adam's moments
    count = int(train['total_iter']) // opt['logger']['save_checkpoint_freq'] + 1
    count = min(count, opt['logger'].get('keep_checkpoints') or count)
    free = shutil.disk_usage(place).free
    text = f'checkpoints and states: {count:,} of {_mib(each)}, about {_mib(count * each)}; {_mib(free)} free'
    return text if count * each < free else f'{text}; too little, set logger.keep_checkpoints'


def _mib(size: float) -> str:
    return f'{size / 2**20:,.1f} MiB' if size < 2**30 else f'{size / 2**30:,.1f} GiB'


def _decode(datasets: dict[str, RestorationDataset]) -> None:
    """Decode every image once.

    Raises:
        UserError: names those that cannot be.
    """
    stores = [store for dataset in datasets.values() for store in dataset.stores]
    named = {(store.root, type(store), name): (store, name) for store in stores for name in store.names()}
    images = list(named.values())
    progress = tqdm(in_threads(_problem, images, cores()), 'Decode', len(images), unit='image', disable=None)
    problems = [problem for problem in progress if problem is not None]
    if problems:
        shown = problems[:SHOWN] + (['...'] if len(problems) > SHOWN else [])
        raise UserError('\n'.join([f'{len(problems):,} of {counted(len(images), "image")} cannot be decoded', *shown]))
    print(f'# decoded {counted(len(images), "image")}')


def _problem(image: tuple[Store, str]) -> str | None:
    store, name = image
    try:
        store.pixels(name)
    except UserError as error:
        return str(error)
    return None
