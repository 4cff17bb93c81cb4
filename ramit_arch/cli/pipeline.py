"""What `train` and `test` share: check the option file, then hand over to BasicSR's own pipeline."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ramit_arch import options, stopping
from ramit_arch.cli.checks import check
from ramit_arch.cli.model import options_of_test, set_model
from ramit_arch.errors import UserError


def resolve(args: argparse.Namespace, file: str) -> dict[str, Any]:
    """The options of a file with `--force_yml`, `-m` and `--only` applied; of a training file, those of its test.

    Raises:
        UserError: the file cannot be read, or an argument does not fit it.
    """
    testing = args.verb in ('test', 'compare')
    opt = options.load(file, testing)
    options.override(opt, args.force_yml)
    model = args.model if testing else None
    if testing and isinstance(opt.get('datasets'), dict) and 'train' in opt['datasets']:
        opt = options_of_test(opt, file)
        model = model or f'experiments/{opt.get("name")}'
    if model is not None:
        set_model(opt, model, args.task)
    if opt.get('model_type') == 'RAMiTModel':  # BasicSR's own models need some keys to be there, if only as null
        opt = options.without_nulls(opt)
    if getattr(args, 'only', None):
        options.keep_datasets(opt, args.only)
    if args.verb in ('train', 'check') and isinstance(opt.get('train'), dict):
        options.fill_in(opt)
    return opt


def run_pipeline(args: argparse.Namespace, pipeline: Callable[[str], None], training: bool) -> None:
    """Run BasicSR's train_pipeline or test_pipeline in the current folder.

    Raises:
        UserError: the option file or the launcher cannot work.
    """
    if args.launcher == 'pytorch' and 'RANK' not in os.environ:
        raise UserError('--launcher pytorch: start the processes by torchrun --nproc_per_node=N $(which basicsr) ...')
    if args.launcher == 'none' and int(os.environ.get('WORLD_SIZE', '1')) > 1:
        raise UserError('started as several processes, which would train apart; add --launcher pytorch')
    opt = resolve(args, args.opt)
    check(opt, args, training)
    with tempfile.TemporaryDirectory() as folder:
        file = args.opt
        if args.imports or '::' in file or opt != options.read(file):
            # BasicSR knows no `base` and would evaluate --force_yml as Python; it gets the resolved file instead.
            file = str(Path(folder, f'{opt["name"]}.yml'))
            Path(file).write_text(options.dump(opt), encoding='utf-8')
        sys.argv = [f'basicsr {args.verb}', '-opt', file, '--launcher', args.launcher]
        sys.argv += ['--auto_resume'] * args.auto_resume + ['--debug'] * args.debug
        sys.argv += ['--local_rank', str(args.local_rank)]
        if training:
            # Until an error is printed: torchrun sends SIGTERM to the others right after one process has died.
            args.until_reported.enter_context(stopping.deferred())
        try:
            try:
                pipeline(str(Path.cwd()))
            finally:  # in a try of its own: the handler that is reset may raise one last time
                stopping.reset_sigchld()
        except (RuntimeError, ConnectionError, EOFError) as error:
            raise _explained(error) from error


def _explained(error: Exception) -> Exception:
    """What is behind an error of PyTorch's that says little of its cause."""
    text = str(error).strip().partition('\n')[0]
    lost = isinstance(error, (ConnectionError, EOFError))  # in the middle of a batch from a worker
    kept = 'saved files are complete; resume with --auto_resume'
    if lost or ('DataLoader worker' in text and ('killed by signal' in text or 'exited unexpectedly' in text)):
        advice = 'often for want of memory: lower datasets.train.num_worker_per_gpu'
        return UserError(f'a worker of the data loader was ended from outside ({text}), {advice}; {kept}')
    if isinstance(error, torch.distributed.DistError) or 'gloo' in text or 'by peer' in text:
        return UserError(f'another process of this run has ended, see its message ({text}); {kept}')
    return error
