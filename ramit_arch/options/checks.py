"""What an option file may say: checked before anything starts, and before any folder is made.

Keys and values that BasicSR's loop reads are checked for every model. What only other models and data sets read is
theirs and left alone; ours check the rest of their sections themselves.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from basicsr.utils import registry

from ramit_arch.archs.ramit_arch import RAMiT
from ramit_arch.errors import UserError, check_keys, suggestion
from ramit_arch.evaluation.scores import ROW_KEYS
from ramit_arch.models.compute import COMPUTE_KEYS, TRAIN_COMPUTE_KEYS
from ramit_arch.options import FLOAT_AS_TEXT

# With RAMiTModel every key has a reader; what another model reads is not ours to know.
_TOP_KEYS = frozenset(
    'name model_type scale num_gpu manual_seed datasets network_g path train val logger dist_params '
    'find_unused_parameters'.split()
)
_PATH_KEYS = frozenset('pretrain_network_g strict_load_g param_key_g resume_state ignore_resume_networks'.split())
_LOGGER_KEYS = frozenset('print_freq save_checkpoint_freq keep_checkpoints keep_best use_tb_logger wandb'.split())
_OWN_TRAIN_KEYS = frozenset('progressive lr_batch_size lr_rule warm_start accumulate grad_clip_norm'.split()).union(
    TRAIN_COMPUTE_KEYS
)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _integer(least: int) -> tuple[Callable[[Any], bool], str]:
    # BasicSR's own files write 5e3 as !!float 5e3.
    return lambda v: _number(v) and v == int(v) and v >= least, f'an integer from {least} up'


def _one_of(*values: str) -> tuple[Callable[[Any], bool], str]:
    return lambda v: v in values, f'one of {", ".join(values)}'


_COUNT = _integer(1)
_FLAG: tuple[Callable[[Any], bool], str] = (lambda v: isinstance(v, bool), 'true or false')
_POSITIVE: tuple[Callable[[Any], bool], str] = (lambda v: _number(v) and v > 0, 'a positive number')
_SHARE: tuple[Callable[[Any], bool], str] = (lambda v: _number(v) and 0 <= v < 1, 'a number from 0 to below 1')
_TEXT: tuple[Callable[[Any], bool], str] = (lambda v: isinstance(v, str) and v != '', 'text')
_NAME: tuple[Callable[[Any], bool], str] = (
    lambda v: isinstance(v, str) and v.strip(' .') != '' and v.isprintable() and '/' not in v and '\\' not in v,
    'a name for files and folders, without slashes',
)
_SECTION: tuple[Callable[[Any], bool], str] = (lambda v: isinstance(v, dict), 'a section with keys of its own')

_VALUES = {
    'name': _NAME, 'scale': _COUNT, 'manual_seed': _integer(0), 'datasets': _SECTION, 'path': _SECTION,
    'network_g': _SECTION, 'train': _SECTION, 'val': _SECTION, 'logger': _SECTION,
    'train.total_iter': _COUNT, 'train.warmup_iter': _integer(-1), 'train.optim_g': _SECTION,
    'train.scheduler': _SECTION, 'train.ema_decay': _SHARE, 'train.pixel_opt': _SECTION,
    'train.perceptual_opt': _SECTION, 'train.warm_start': _SECTION, 'train.accumulate': _COUNT,
    'train.lr_batch_size': _COUNT, 'train.grad_clip_norm': _POSITIVE,
    'val.val_freq': _COUNT, 'val.save_img': _FLAG, 'val.pbar': _FLAG, 'val.metrics': _SECTION, 'val.suffix': _NAME,
    'logger.print_freq': _COUNT, 'logger.save_checkpoint_freq': _COUNT, 'logger.use_tb_logger': _FLAG,
    'logger.wandb': _SECTION, 'logger.keep_checkpoints': _COUNT, 'logger.keep_best': _TEXT,
    'path.strict_load_g': _FLAG, 'path.param_key_g': _one_of('params', 'params_ema'),
    'path.pretrain_network_g': _TEXT, 'path.resume_state': _TEXT,
    **{f'train.{key}': _FLAG for key in TRAIN_COMPUTE_KEYS}, **{f'val.{key}': _FLAG for key in COMPUTE_KEYS},
}  # fmt: skip
_DATASET_VALUES = {
    'name': _NAME, 'type': _TEXT, 'dataroot_gt': _TEXT, 'dataroot_lq': _TEXT, 'meta_info_file': _TEXT,
    'filename_tmpl': _TEXT, 'io_backend': _SECTION, 'lq_patch_size': _COUNT, 'gt_size': _COUNT,
    'batch_size_per_gpu': _COUNT, 'num_worker_per_gpu': _integer(0), 'dataset_enlarge_ratio': _POSITIVE,
    'persistent_workers': _FLAG, 'pin_memory': _FLAG, 'use_hflip': _FLAG, 'use_rot': _FLAG,
    'prefetch_mode': _one_of('cpu', 'cuda'), 'num_prefetch_queue': _COUNT,
}  # fmt: skip


@contextmanager
def naming(file: str | Path) -> Iterator[None]:
    """Put the option file's name before the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{file}: {error}') from error


def check(opt: dict[str, Any], training: bool) -> None:
    """Find what would stop a run, or be ignored by it.

    Raises:
        UserError: names the key, its value, and what is allowed.
    """
    _check_values(opt)
    _check_required(opt, training)
    _check_datasets(opt, training)
    _check_names(opt)
    _check_calls(opt)
    if opt['model_type'] == 'RAMiTModel':
        check_keys(opt, _TOP_KEYS, 'at the top')
        check_keys(opt['path'], _PATH_KEYS, 'path')
        check_keys(opt.get('logger') or {}, _LOGGER_KEYS, 'logger')
        check_keys((opt.get('logger') or {}).get('wandb') or {}, ('project', 'resume_id'), 'logger.wandb')
    else:
        if (opt.get('val') or {}).get('protocol') is not None:
            raise UserError(f'val.protocol: {opt["model_type"]} does not know it; write out val.metrics')
        ours = _OWN_TRAIN_KEYS if opt['model_type'] == 'SRModel' else {'progressive'}
        for key in ours & (opt.get('train') or {}).keys():
            raise UserError(f'train.{key}: {opt["model_type"]} does not know it; set model_type to RAMiTModel')
        for key in set(COMPUTE_KEYS) & (opt.get('val') or {}).keys() if opt['model_type'] == 'SRModel' else ():
            raise UserError(f'val.{key}: {opt["model_type"]} does not know it; set model_type to RAMiTModel')
    check_network(opt)


def check_network(opt: dict[str, Any]) -> None:
    """Check network_g alone: RAMiT's in full, of another network only that it is registered.

    Raises:
        UserError: names the key, its value, and what is allowed.
    """
    section = opt.get('network_g')
    if not isinstance(section, dict):
        raise UserError('the section network_g is missing or empty')
    _check_registered('network_g.type', section.get('type'), 'arch')
    if section['type'] != 'RAMiT':
        return
    options = {key: value for key, value in section.items() if key != 'type'}
    check_keys(options, inspect.signature(RAMiT).parameters, 'network_g')
    try:
        with torch.device('meta'):
            network = RAMiT(**options)
    except ValueError as error:
        raise UserError(f'network_g: {error}') from error
    if network.upscale != opt.get('scale', 1):
        raise UserError(f'scale is {opt.get("scale", 1)}, but network_g.upscale is {network.upscale}; they must agree')


def check_paths(opt: dict[str, Any], checkpoints: bool) -> None:
    """Check that data roots, and with `checkpoints` also weights and states, exist.

    Raises:
        UserError: names the key and the path.
    """
    for keys, value in _leaves(opt):
        is_data = keys[-1].startswith('dataroot_') or keys[-1] == 'meta_info_file'
        is_weights = keys[0] == 'path' and (keys[-1].startswith('pretrain_network_') or keys[-1] == 'resume_state')
        if (
            isinstance(value, str)
            and (is_data or (checkpoints and is_weights))
            and not Path(value).expanduser().exists()
        ):
            raise UserError(f'{".".join(keys)}: {value} does not exist')


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    else:
        yield path, value


def _check_value(where: str, value: Any, rule: tuple[Callable[[Any], bool], str]) -> None:
    fits, allowed = rule
    if value is not None and not fits(value):
        raise UserError(f'{where} is {value!r}; it must be {allowed}')


def _check_values(opt: dict[str, Any]) -> None:
    for keys, value in _leaves(opt):
        if isinstance(value, str) and FLOAT_AS_TEXT.fullmatch(value):
            raise UserError(f'{".".join(keys)}: YAML reads {value} as text; write {float(value)!r} or !!float {value}')
    for key, rule in _VALUES.items():
        section, _, last = key.rpartition('.')
        values = opt.get(section) if section else opt
        if isinstance(values, dict):
            _check_value(key, values.get(last), rule)
    for phase, dataset in (opt.get('datasets') or {}).items():
        _check_value(f'datasets.{phase}', dataset, _SECTION)
        for key, rule in _DATASET_VALUES.items():
            _check_value(f'datasets.{phase}.{key}', (dataset or {}).get(key), rule)
    num_gpu = opt.get('num_gpu')
    if num_gpu is not None and num_gpu != 'auto' and not _integer(0)[0](num_gpu):
        raise UserError(f'num_gpu is {num_gpu!r}; it must be auto or a number, 0 for the CPU')
    if num_gpu not in (None, 'auto', 0) and not torch.cuda.is_available():
        raise UserError(f'num_gpu is {num_gpu}, but torch finds no CUDA device here; set num_gpu: auto or 0')


def _check_required(opt: dict[str, Any], training: bool) -> None:
    needed = {'': ['name', 'model_type', 'num_gpu', 'datasets', 'network_g', 'path']}
    if training:
        needed[''] += ['train', 'logger']
        needed['train'] = ['total_iter', 'optim_g']
        needed['train.optim_g'] = ['type', 'lr']
        needed['logger'] = ['print_freq', 'save_checkpoint_freq', 'use_tb_logger']
        needed['datasets'] = ['train']
        needed['datasets.train'] = ['name', 'type', 'num_worker_per_gpu']
        if opt.get('train') and opt['train'].get('progressive') is None:
            needed['datasets.train'] += ['batch_size_per_gpu']
        if opt.get('val') is not None:
            needed['val'] = ['val_freq', 'save_img']
    else:
        needed[''] += ['val']
        needed['val'] = ['save_img']
        if opt.get('model_type') == 'RAMiTModel':  # otherwise random weights would be scored
            needed['path'] = ['pretrain_network_g']
    for section, keys in needed.items():
        values: Any = opt
        for part in filter(None, section.split('.')):
            values = values[part]
        for key in keys:
            if values.get(key) is None:
                raise UserError(f'the key {f"{section}.{key}".lstrip(".")} is missing')


def _check_datasets(opt: dict[str, Any], training: bool) -> None:
    names: list[str] = []
    for phase, dataset in opt['datasets'].items():
        where, kind = f'datasets.{phase}', str(phase).split('_')[0]
        allowed = ('train', 'val') if training else ('test', 'val')
        if kind not in allowed:
            raise UserError(f'{where}: the name must begin with {" or ".join(allowed)}')
        if not dataset or dataset.get('type') is None or dataset.get('name') is None:
            raise UserError(f'{where}: the keys name and type are needed')
        for key in ('scale', 'phase'):
            if key in dataset:
                raise UserError(f'{where}.{key}: BasicSR sets it; write scale at the top of the file')
        if kind != 'train' and dataset['name'] in names:
            raise UserError(f'{where}: a second set is called {dataset["name"]}; its results would overwrite the first')
        names += [dataset['name']] if kind != 'train' else []
        if dataset.get('persistent_workers') and (kind != 'train' or not dataset.get('num_worker_per_gpu')):
            raise UserError(f'{where}.persistent_workers needs num_worker_per_gpu from 1 up, in the training set')
        if dataset.get('prefetch_mode') == 'cuda' and not torch.cuda.is_available():
            raise UserError(f'{where}.prefetch_mode is cuda, but torch finds no CUDA device here; remove it')


def _check_names(opt: dict[str, Any]) -> None:
    _check_registered('model_type', opt['model_type'], 'model')
    for key, network in opt.items():
        if str(key).startswith('network_'):
            _check_registered(f'{key}.type', network.get('type') if isinstance(network, dict) else network, 'arch')
    for key, dataset in opt['datasets'].items():
        _check_registered(f'datasets.{key}.type', dataset['type'], 'dataset')


def _check_registered(key: str, name: Any, kind: str) -> None:
    known = getattr(registry, f'{kind.upper()}_REGISTRY')
    if not isinstance(name, str) or name not in known:
        raise UserError(f'{key}: no {kind} is registered as {name!r}{suggestion(str(name), known.keys())}')


def _check_calls(opt: dict[str, Any]) -> None:
    """Sections that become arguments: BasicSR's metrics swallow unknown keys, and its losses fail late."""
    for name, section in ((opt.get('val') or {}).get('metrics') or {}).items():
        where = f'val.metrics.{name}'
        if not isinstance(name, str) or name in ('', *ROW_KEYS):
            raise UserError(f'{where}: score files have a column of that name already; call the metric otherwise')
        _check_value(where, section, _SECTION)
        _check_registered(f'{where}.type', (section or {}).get('type'), 'metric')
        metric = registry.METRIC_REGISTRY.get(section['type'])
        _check_arguments(where, section, metric, given=('img', 'img2'), extra=('better',))
        _check_value(f'{where}.crop_border', section.get('crop_border'), _integer(0))
        _check_value(f'{where}.test_y_channel', section.get('test_y_channel'), _FLAG)
    for name in ('pixel_opt', 'perceptual_opt'):
        section = (opt.get('train') or {}).get(name)
        if section is not None:
            _check_registered(f'train.{name}.type', section.get('type'), 'loss')
            _check_arguments(f'train.{name}', section, registry.LOSS_REGISTRY.get(section['type']))
            if opt['model_type'] == 'RAMiTModel':  # others may reduce by themselves
                _check_value(f'train.{name}.reduction', section.get('reduction'), _one_of('mean', 'sum'))
    optimiser = (opt.get('train') or {}).get('optim_g') or {}
    if optimiser.get('type') == 'Adam':
        _check_arguments('train.optim_g', optimiser, torch.optim.Adam, given=('params',))
        others = {key: value for key, value in optimiser.items() if key not in ('type', 'lr')}
        try:
            torch.optim.Adam([torch.zeros(1)], **others)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise UserError(f'train.optim_g: Adam does not take {others} ({error})') from error


def _check_arguments(
    where: str, section: dict[str, Any], target: Any, given: tuple[str, ...] = (), extra: tuple[str, ...] = ()
) -> None:
    parameters = inspect.signature(target).parameters
    named = {key: p for key, p in parameters.items() if p.kind is not p.VAR_KEYWORD and key not in given}
    open_ended = len(named) + len([key for key in given if key in parameters]) < len(parameters)
    stock = target.__module__.startswith('basicsr.')
    if not open_ended or stock:
        check_keys(section, {'type', *named, *extra}, where)
    for key, parameter in named.items():
        if (
            parameter.default is parameter.empty
            and parameter.kind is not parameter.VAR_POSITIONAL
            and (key not in section or (stock and section[key] is None))
        ):
            raise UserError(f'{where}: the key {key} is missing')
