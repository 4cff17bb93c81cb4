"""`basicsr train`"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import basicsr.train
import torch
from basicsr.models.base_model import BaseModel
from basicsr.train import train_pipeline
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only

from ramit_arch import stopping
from ramit_arch.cli.pipeline import SHORT_START, print_written, replaced, run_pipeline
from ramit_arch.cli.progress import TrainingProgress
from ramit_arch.files import atomic_write
from ramit_arch.models.ramit_model import RAMiTModel


def run(args: argparse.Namespace) -> None:
    """Train by BasicSR's own loop."""
    archive = partial(_archive, shlex.join(['basicsr', *sys.argv[1:]]))
    with stoppable(), replaced(basicsr.train, copy_opt_file=archive, **SHORT_START):
        name = run_pipeline(args, train_pipeline, training=True)
    print_written('Networks, states, scores and log', Path('experiments', name))


@master_only
def _archive(command: str, opt_file: str, experiments_root: str) -> None:
    """Keep the options in the experiment's folder, under its name and with the command as it was typed."""
    head = f'# {" ".join(command.split())}\n# {time.strftime("%Y-%m-%d %H:%M:%S")}\n\n'
    text = Path(opt_file).read_text(encoding='utf-8')
    root = Path(experiments_root)
    atomic_write(root / f'{root.name}.yml', (head + text).encode())


@contextmanager
def stoppable() -> Iterator[None]:
    """Let BasicSR's loop save the last finished iteration of any model on an error, and stop on a signal.

    RAMiTModel stops by itself, also in the middle of a validation.
    """
    create_loaders, build_model = basicsr.train.create_train_val_dataloader, basicsr.train.build_model
    samplers: list[Any] = []
    models: list[BaseModel] = []
    progress: list[TrainingProgress] = []

    def create_loaders_and_note(opt: dict[str, Any], logger: Any) -> tuple:
        loaders = create_loaders(opt, logger)
        samplers.append(loaders[1])
        return loaders

    def build_and_note(opt: dict[str, Any]) -> BaseModel:
        model = build_model(opt)
        models.append(model)
        progress.append(TrainingProgress(model, opt))
        model.finished = 0
        model.optimize_parameters = partial(_finish, model.optimize_parameters, model, progress[0])
        if not isinstance(model, RAMiTModel):
            group = torch.distributed.new_group(backend='gloo') if opt['dist'] else None
            model.update_learning_rate = partial(_leave_or, model.update_learning_rate, model, samplers[0], group)
        return model

    with replaced(basicsr.train, create_train_val_dataloader=create_loaders_and_note, build_model=build_and_note):
        try:
            yield
        except Exception:
            if models:
                _save_after_error(models[0], samplers[0])
            raise
        finally:
            for each in progress:
                each.close()


def _finish(optimize: Callable[[int], None], model: BaseModel, progress: TrainingProgress, current_iter: int) -> None:
    """`optimize_parameters`, noting that the iteration is finished."""
    optimize(current_iter)
    model.finished = current_iter
    progress.step()


def _save_after_error(model: BaseModel, sampler: Any) -> None:
    """Save the last finished iteration, unless it is saved, its loss was not finite, or other processes would wait."""
    done = model.finished
    if not done or model.opt['dist'] or getattr(model, 'failed_at', 0):
        return
    if isinstance(model, RAMiTModel) and not model.can_save(done):
        return
    if not Path(model.opt['path']['training_states'], f'{done}.state').is_file():
        try:
            model.save(sampler.epoch or 0, done)
        except Exception as error:  # a full disk, whose error is reported already
            get_root_logger().error(f'Iteration {done:,} cannot be saved: {error}')
            return
    get_root_logger().error(f'Stopped by an error after iteration {done:,}, which is saved; see --auto_resume.')


def _leave_or(
    update: Callable[..., None], model: BaseModel, sampler: Any, group: Any, current_iter: int, warmup_iter: int = -1
) -> None:
    """`update_learning_rate`, with which an iteration begins: if asked to stop, save the previous one and exit."""
    number = stopping.received(group)
    if number:
        done, name = current_iter - 1, signal.Signals(number).name
        if done % model.opt['logger']['save_checkpoint_freq']:  # else the loop has just saved it
            model.save(sampler.epoch, done)
        saved = f'after iteration {done:,}, which is saved; see --auto_resume' if done else 'before the first iteration'
        get_root_logger().info(f'Stopped by {name} {saved}.')
        raise SystemExit(128 + number)
    update(current_iter, warmup_iter=warmup_iter)
