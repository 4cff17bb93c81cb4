"""The loaders of a training run, in place of BasicSR's `create_train_val_dataloader`.

Batch and patch size of progressive learning, the order of the images and the point to resume at are all functions of
the iteration. One batch sampler computes them; datasets only read the patch size of an index, and BasicSR's loop is
unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from logging import Logger
from typing import Any

import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.prefetch_dataloader import PrefetchDataLoader
from torch.utils.data import DataLoader, Dataset

from ramit_arch.data.progression import Progression, processes, read_progression, training_section
from ramit_arch.data.samplers import ResumableBatchSampler, seed_worker
from ramit_arch.options.basicsr import DatasetOptions

_FROM_START = {'iter': 0, 'epoch': 0}

Loaders = tuple[DataLoader, ResumableBatchSampler, list[DataLoader], int, int]


@dataclass(frozen=True)
class RunState:
    """Run state shared with the model, which needs it to stop and to resume.

    It is passed in the options, which BasicSR copies deeply, except for this.
    """

    sampler: ResumableBatchSampler
    val_loaders: list[DataLoader]

    def __deepcopy__(self, _: dict) -> RunState:
        return self


def create_train_val_dataloader(opt: dict[str, Any], logger: Logger) -> Loaders:
    """BasicSR's contract: the training loader and its sampler, validation loaders, the last epoch, the iterations.

    Args:
        opt: the whole option dictionary; `resumed` in it, if any, holds the `iter` and `epoch` of a training state.
        logger: BasicSR's.
    """
    dataset = build_dataset(training_section(opt))
    section, resumed = DatasetOptions.model_validate(opt['datasets']['train']), opt.get('resumed') or _FROM_START
    progression = read_progression(opt)
    rank, replicas = (opt['rank'], opt['world_size']) if opt['dist'] else (0, 1)
    ratio = section.dataset_enlarge_ratio
    done = resumed['iter']
    sampler = ResumableBatchSampler(len(dataset), progression, opt['manual_seed'], rank, replicas, ratio, done)
    last_epoch = max(resumed['epoch'], sampler.epoch_of(progression.total))
    _log_plan(logger, sampler, processes(opt))

    val_loaders = []
    for phase, val_section in opt['datasets'].items():
        if phase.split('_')[0] == 'val':
            val_set = build_dataset(val_section)
            val_loaders.append(build_dataloader(val_set, val_section, opt['num_gpu'], opt['dist'], None))
            logger.info(f'Validation on {val_section["name"]}: {len(val_set)} images.')
    opt['run_state'] = RunState(sampler, val_loaders)
    return _training_loader(dataset, section, sampler, opt), sampler, val_loaders, last_epoch, progression.total


def _training_loader(
    dataset: Dataset, section: DatasetOptions, sampler: ResumableBatchSampler, opt: dict[str, Any]
) -> DataLoader:
    loader: type[DataLoader] | partial = DataLoader
    if section.prefetch_mode == 'cpu':
        loader = partial(PrefetchDataLoader, section.num_prefetch_queue)
    return loader(
        dataset=dataset,
        batch_sampler=sampler,
        num_workers=(section.num_worker_per_gpu or 0) * (1 if opt['dist'] else max(1, opt['num_gpu'])),
        worker_init_fn=seed_worker,
        pin_memory=section.pin_memory and torch.cuda.is_available(),
        persistent_workers=section.persistent_workers,
    )


def _log_plan(logger: Logger, sampler: ResumableBatchSampler, shares: int) -> None:
    progression: Progression = sampler.progression
    epochs = sampler.epoch_of(progression.total) + 1
    logger.info(f'Training: {progression.total:,} iterations, {epochs:,} epochs of {sampler.size:,} images.')
    first = 1
    for i, (stage, last) in enumerate(zip(progression.stages, progression.ends, strict=True), 1):
        patches = f'LQ patches of {stage.patch}, ' if stage.patch else ''
        share = f' ({stage.batch // shares} on each of {shares})' if shares > 1 else ''
        logger.info(f'  stage {i}: iterations {first:,} to {last:,}, {patches}batches of {stage.batch}{share}')
        first = last + 1
