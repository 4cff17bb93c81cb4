"""What `train` and `test` share: check the option file, then hand over to BasicSR's own pipeline."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from basicsr.utils import get_env_info, get_root_logger
from basicsr.utils.dist_util import get_dist_info
from basicsr.utils.options import dict2str

from ramit_arch import options, stopping
from ramit_arch.cli.checks import check
from ramit_arch.cli.model import options_of_test, set_model, set_network
from ramit_arch.errors import UserError
from ramit_arch.inference.networks import Loaded
from ramit_arch.inference.packaged import networks


def resolve(args: argparse.Namespace, file: str, network: Loaded | None = None) -> dict[str, Any]:
    """The options of a file with `--force_yml`, `-m` and `--only` applied; of a training file, those of its test.

    Args:
        args: of the command.
        file: the option file.
        network: in place of `-m`, for results under the file's own name.

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
    if network is not None:
        set_network(opt, network)
    elif model is not None:
        set_model(opt, model, args.task)
    if opt.get('model_type') == 'RAMiTModel':  # BasicSR's own models need some keys to be there, if only as null
        opt = options.without_nulls(opt)
    if getattr(args, 'only', None):
        options.keep_datasets(opt, args.only)
    path = opt.get('path')
    given = path.get('pretrain_network_g') if isinstance(path, dict) else None
    if isinstance(given, str) and given in networks() and not Path(given).exists():
        opt['path'] = {**opt['path'], 'pretrain_network_g': str(networks()[given].file)}
    if args.verb in ('train', 'check') and isinstance(opt.get('train'), dict):
        options.fill_in(opt)
    return opt


def run_pipeline(args: argparse.Namespace, pipeline: Callable[[str], None], training: bool) -> str:
    """Run BasicSR's train_pipeline or test_pipeline in the current folder, and return the run's name.

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
    return str(opt['name'])


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


@contextmanager
def replaced(module: ModuleType, **functions: Any) -> Iterator[None]:
    """Functions that BasicSR's loop, in `module`, calls, replaced by others."""
    originals = {name: getattr(module, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(module, name, function)
        yield
    finally:
        for name, function in originals.items():
            setattr(module, name, function)


class _ForTheFile(str):
    """A message for the log file only."""


def _env_info() -> _ForTheFile:
    for handler in get_root_logger().handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.addFilter(lambda record: not isinstance(record.msg, _ForTheFile))
    return _ForTheFile(get_env_info())


def _options_as_text(opt: dict[str, Any]) -> _ForTheFile:
    folder = opt['path'].get('experiments_root') or opt['path']['results_root']
    get_root_logger().info(f'Writing to {relative(folder)}')
    return _ForTheFile(dict2str(opt))


# A log starts with a screenful of what runs; versions and all options go to the file.
SHORT_START = {'get_env_info': _env_info, 'dict2str': _options_as_text}


def relative(path: str | Path) -> Path:
    """A path as one would type it: from the current folder, if it lies below."""
    path, here = Path(path), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def print_written(what: str, folder: str | Path) -> None:
    """The last line of a run, of its first process."""
    if get_dist_info()[0] == 0:
        print(f'{what}: {relative(folder)}')
