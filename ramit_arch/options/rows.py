"""Row files such as options/ablations.yml and options/relatives.yml: each row is an experiment, defined as changes to a
base option file.

FILE::EXPERIMENT_TASK_VARIANT is an ablation, FILE::NETWORK_TASK another network; the base is the experiment's file for
the task. A row's sections are merged with the base's key by key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ramit_arch.errors import UserError, suggestion
from ramit_arch.options.section import Section, Text, parse

SEPARATOR = '::'
KINDS = ('ablations', 'networks')
OF_TASK = ('upscale', 'in_chans', 'img_mean', 'img_std')  # options of the task rather than of a network


class Variant(Section):
    """What a row changes; all other keys of its section are options."""

    source: Text
    tasks: list[Text]


class RowFile(Section):
    """An experiment, whose option files of the tasks are the bases, and its ablations, or networks in its place."""

    experiment: Text
    ablations: dict[str, Variant] = {}
    networks: dict[str, Variant] = {}


class Row(NamedTuple):
    """A section of a file for one task; `first` is the name of its row for SRx2, where x3 and x4 start."""

    kind: str
    variant: str
    task: str
    section: dict[str, Any]
    first: str


def has_rows(content: dict[str, Any]) -> bool:
    """Whether an option file is a row file."""
    return 'ablations' in content or {'experiment', 'networks'} <= content.keys()


def rows(content: dict[str, Any]) -> dict[str, Row]:
    """The rows by their names.

    Raises:
        UserError: the file's own keys are missing or wrong.
    """
    file = parse(RowFile, content, 'row file')
    found = {}
    for kind in KINDS:
        for variant, checked in getattr(file, kind).items():
            pattern = f'{file.experiment}_{{}}_{variant}' if kind == 'ablations' else f'{variant}_{{}}'
            for task in checked.tasks:
                row = Row(kind, variant, task, content[kind][variant], pattern.format('SRx2'))
                found[pattern.format(task)] = row
    return found


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Options changed key by key; null removes a key."""
    merged = dict(base)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            # The keys of one network, dataset, loss or optimiser mean nothing to another.
            another = 'type' in value and value['type'] != base[key].get('type', value['type'])
            merged[key] = merge({} if another else base[key], value)
        else:
            merged[key] = value
    return merged


def listing(content: dict[str, Any]) -> str:
    """The rows, a line each."""
    found = rows(content)
    width = max(map(len, found), default=0)
    return '\n'.join(f'{name:<{width}}  {row.section["source"]}' for name, row in found.items())


def base_of(file: Path, content: dict[str, Any], name: str, testing: bool) -> Path:
    """The option file of which a row is a variant.

    Raises:
        UserError: there is no such row, or no test file of its experiment.
    """
    found = rows(content)
    if not name:
        raise UserError(f'{file}{SEPARATOR}ROW runs one of its rows:\n{listing(content)}')
    if name not in found:
        raise UserError(f'{file}: no row {name}{suggestion(name, found)}; basicsr options {file} lists them')
    base = file.with_name(f'{"test" if testing else "train"}_{content["experiment"]}_{found[name].task}.yml')
    if testing and not base.is_file():
        model = f'-m experiments/{name}'
        raise UserError(f'{file}: {name} has no {base.name}; test it by another file: basicsr test -opt FILE {model}')
    return base


def apply(opt: dict[str, Any], content: dict[str, Any], name: str, testing: bool) -> dict[str, Any]:
    """The options of a row.

    Args:
        opt: those of its base.
        content: the row file.
        name: the row.
        testing: whether the options are for a test, of the row's own network.

    Raises:
        UserError: a network of x3 or x4 has no x2 to start from.
    """
    found = rows(content)
    row = found[name]
    kept = opt['network_g']
    if row.kind == 'networks':
        kept = {key: value for key, value in kept.items() if key in OF_TASK}
    network = {**kept, **row.section.get('network_g', {})}
    changes = {key: value for key, value in row.section.items() if key not in (*Variant.model_fields, 'network_g')}
    result = {**merge(opt, changes), 'name': name}
    result['network_g'] = {key: value for key, value in network.items() if value is not None}
    source = name if testing else row.first if row.task in ('SRx3', 'SRx4') else None
    if source not in (None, *found) and row.kind == 'networks':
        raise UserError(f'{name} starts from {source}; add SRx2 to the tasks of {row.variant}')
    if source and (testing or source in found):
        result['path'] = {**opt['path'], 'pretrain_network_g': f'experiments/{source}/models/net_g_latest.pth'}
    return result
