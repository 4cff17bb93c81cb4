"""Option files: reading them without executing anything, `--force_yml`, and checks before anything starts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from ramit_arch.errors import UserError, check_keys, suggestion

_FLOAT_AS_TEXT = re.compile(r'[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+')
# With RAMiTModel every key has a reader; what another model reads is not ours to know.
_TOP_KEYS = frozenset(
    'name model_type scale num_gpu manual_seed datasets network_g path train val logger dist_params '
    'find_unused_parameters'.split()
)
_PATH_KEYS = frozenset(['pretrain_network_g', 'strict_load_g', 'param_key_g', 'resume_state', 'ignore_resume_networks'])
_LOGGER_KEYS = frozenset(['print_freq', 'save_checkpoint_freq', 'use_tb_logger', 'wandb'])
_PATH_KEY = re.compile(r'dataroot_.+|meta_info_file|pretrain_network_.+|resume_state')


def load(file: str | Path) -> dict[str, Any]:
    """Read an option file as plain data.

    Raises:
        UserError: the file is missing, is not YAML, or holds tags that would run code.
    """
    try:
        with Path(file).open(encoding='utf-8') as stream:
            opt = yaml.safe_load(stream)
    except OSError as error:
        raise UserError(f'{file}: cannot be read ({error.strerror})') from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, 'problem_mark', None)
        line = f':{mark.line + 1}' if mark else ''
        raise UserError(f'{file}{line}: not plain YAML: {getattr(error, "problem", None) or error}') from error
    if not isinstance(opt, dict):
        raise UserError(f'{file}: empty; an option file holds keys such as name, datasets and network_g')
    return opt


def override(opt: dict[str, Any], assignments: list[str]) -> None:
    """Apply `--force_yml` assignments such as `train:ema_decay=0.999` in place; values are YAML data.

    Raises:
        UserError: an assignment has no `=`, or its key's parents are not in the file.
    """
    for assignment in assignments:
        keys, equals, text = assignment.partition('=')
        *parents, last = keys.strip().split(':')
        section: Any = opt
        for parent in parents:
            if not isinstance(section, dict) or parent not in section:
                known = section if isinstance(section, dict) else ()
                raise UserError(f'--force_yml {assignment}: no key {parent} in the file{suggestion(parent, known)}')
            section = section[parent]
        if not equals or not isinstance(section, dict):
            raise UserError(f'--force_yml {assignment}: expected key:key=value')
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f'--force_yml {assignment}: the value is not YAML') from error
        section[last] = float(value) if isinstance(value, str) and _FLOAT_AS_TEXT.fullmatch(value) else value


def keep_datasets(opt: dict[str, Any], names: list[str]) -> None:
    """Drop the data sets that are not named, in place.

    Raises:
        UserError: a name is not that of a data set.
    """
    datasets = opt.get('datasets') or {}
    known = [dataset.get('name') for dataset in datasets.values()]
    for name in names:
        if name not in known:
            raise UserError(f'--only {name}: no such data set{suggestion(name, known)}; there are {", ".join(known)}')
    opt['datasets'] = {key: dataset for key, dataset in datasets.items() if dataset.get('name') in names}


def check(opt: dict[str, Any], file: str | Path, training: bool) -> None:
    """Find what would stop a run, or be ignored by it, before it starts and before any folder is made.

    Checked are the keys that BasicSR's loop needs, the registered names, the existence of every path and, in full,
    the options of RAMiT. Data sets and models of this package check their own keys when they are built.

    Raises:
        UserError: names the file, the key, and what to do.
    """
    with _naming(file):
        _check_sections(opt, training)
        _check_values(opt)
        _check_names(opt)
        _check_keys(opt)
        _check_network(opt)


def check_network(opt: dict[str, Any], file: str | Path) -> None:
    """Check the network of an option file alone.

    Raises:
        UserError: names the file, the key, and what to do.
    """
    with _naming(file):
        if not isinstance(opt.get('network_g'), dict):
            raise UserError('the section network_g is missing or empty')
        _check_registered('network_g.type', opt['network_g'].get('type'), 'arch')
        _check_network(opt)


@contextmanager
def _naming(file: str | Path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f'{file}: {error}') from error


def _check_sections(opt: dict[str, Any], training: bool) -> None:
    needed: dict[str, tuple[str, ...]] = {
        '': ('name', 'model_type', 'num_gpu', 'datasets', 'network_g', 'path'),
    }
    if training:
        needed[''] += ('train', 'logger')
        needed['train'] = ('total_iter', 'optim_g')
        needed['train.optim_g'] = ('type', 'lr')
        needed['logger'] = ('print_freq', 'save_checkpoint_freq', 'use_tb_logger')
        needed['val'] = ('val_freq', 'save_img') if opt.get('val') is not None else ()
        needed['datasets.train'] = ('name', 'type', 'batch_size_per_gpu', 'num_worker_per_gpu')
    else:
        needed[''] += ('val',)
        needed['val'] = ('save_img',)
    for section, keys in needed.items():
        values: Any = opt
        for part in filter(None, section.split('.')):
            values = values.get(part) if isinstance(values, dict) else None
        if keys and not isinstance(values, dict):
            raise UserError(f'the section {section} is missing or empty')
        for key in keys:
            if key not in values:
                raise UserError(f'the key {f"{section}.{key}".lstrip(".")} is missing')
    for section in ('datasets', 'network_g', 'path'):
        if not isinstance(opt[section], dict):
            raise UserError(f'{section} must be a section with keys of its own')
    for phase, dataset in opt['datasets'].items():
        allowed = ('train', 'val') if training else ('test', 'val')
        if phase.split('_')[0] not in allowed:
            raise UserError(f'datasets.{phase}: the name must begin with {" or ".join(allowed)}')
        if not isinstance(dataset, dict) or 'type' not in dataset or 'name' not in dataset:
            raise UserError(f'datasets.{phase}: the keys name and type are needed')


def walk(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every leaf of a nested option dictionary with its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, (*path, str(key)))
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner, path)
    else:
        yield path, value


def _check_values(opt: dict[str, Any]) -> None:
    for path, value in walk(opt):
        if not isinstance(value, str):
            continue
        if _FLOAT_AS_TEXT.fullmatch(value):
            raise UserError(f'{".".join(path)}: YAML reads {value} as text; write {float(value)!r} or !!float {value}')
        if _PATH_KEY.fullmatch(path[-1]) and not Path(value).expanduser().exists():
            raise UserError(f'{".".join(path)}: {value} does not exist')
    if opt['num_gpu'] != 'auto' and not (isinstance(opt['num_gpu'], int) and opt['num_gpu'] >= 0):
        raise UserError(f'num_gpu is {opt["num_gpu"]!r}; it must be auto or a number, 0 for the CPU')
    if opt['num_gpu'] not in ('auto', 0) and not torch.cuda.is_available():
        raise UserError(f'num_gpu is {opt["num_gpu"]}, but torch finds no CUDA device here; set num_gpu: auto or 0')


def _check_names(opt: dict[str, Any]) -> None:
    _check_registered('model_type', opt['model_type'], 'model')
    for key, network in opt.items():
        if key.startswith('network_'):
            _check_registered(f'{key}.type', network.get('type'), 'arch')
    for key, dataset in opt['datasets'].items():
        _check_registered(f'datasets.{key}.type', dataset['type'], 'dataset')


def _check_registered(key: str, name: Any, kind: str) -> None:
    from basicsr.utils import registry

    known = getattr(registry, f'{kind.upper()}_REGISTRY')
    if name not in known:
        raise UserError(f'{key}: no {kind} is registered as {name!r}{suggestion(str(name), known.keys())}')


def _check_keys(opt: dict[str, Any]) -> None:
    if opt['model_type'] == 'RAMiTModel':
        check_keys(opt, _TOP_KEYS, 'at the top')
        check_keys(opt['path'], _PATH_KEYS, 'path')
        check_keys(opt.get('logger') or {}, _LOGGER_KEYS, 'logger')


def _check_network(opt: dict[str, Any]) -> None:
    from ramit_arch.archs.ramit_arch import RAMiT

    options = {key: value for key, value in opt['network_g'].items() if key != 'type'}
    if opt['network_g']['type'] != 'RAMiT':
        return
    check_keys(options, inspect.signature(RAMiT).parameters, 'network_g')
    try:
        with torch.device('meta'):
            network = RAMiT(**options)
    except ValueError as error:
        raise UserError(f'network_g: {error}') from error
    if network.upscale != opt.get('scale', 1):
        raise UserError(f'scale is {opt.get("scale", 1)}, but network_g.upscale is {network.upscale}; they must agree')
