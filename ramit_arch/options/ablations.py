"""Rows of an ablation file such as options/ablations.yml: a variant of an experiment for one task.

FILE::EXPERIMENT_TASK_VARIANT is a row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ramit_arch.errors import UserError, suggestion
from ramit_arch.options.section import Section, Text, parse

SEPARATOR = '::'


class Variant(Section):
    """What an ablation changes; all other keys of its section are options."""

    source: Text
    tasks: list[Text]


class AblationFile(Section):
    """An experiment, whose option files of the tasks are the bases, and its variants."""

    experiment: Text
    ablations: dict[str, Variant]


def rows(content: dict[str, Any]) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Name of each row, with its task, its variant, and the variant's section.

    Raises:
        UserError: the file's own keys are missing or wrong.
    """
    file = parse(AblationFile, content, 'ablation file')
    return {
        f'{file.experiment}_{task}_{variant}': (task, variant, content['ablations'][variant])
        for variant, section in file.ablations.items()
        for task in section.tasks
    }


def listing(content: dict[str, Any]) -> str:
    """The rows, a line each."""
    found = rows(content)
    width = max(map(len, found))
    return '\n'.join(f'{name:<{width}}  {section["source"]}' for name, (_, _, section) in found.items())


def base_of(file: Path, content: dict[str, Any], name: str, testing: bool) -> Path:
    """The option file of which a row is a variant.

    Raises:
        UserError: there is no such row.
    """
    found = rows(content)
    if not name:
        raise UserError(f'{file}{SEPARATOR}ROW runs one of its rows:\n{listing(content)}')
    if name not in found:
        raise UserError(f'{file}: no row {name}{suggestion(name, found)}; basicsr options {file} lists them')
    return file.with_name(f'{"test" if testing else "train"}_{content["experiment"]}_{found[name][0]}.yml')


def apply(opt: dict[str, Any], content: dict[str, Any], name: str, testing: bool) -> dict[str, Any]:
    """The options of a row.

    Args:
        opt: those of its base.
        content: the ablation file.
        name: the row.
        testing: whether the options are for a test, of the row's own network.
    """
    task, variant, section = rows(content)[name]
    network = {**opt['network_g'], **section.get('network_g', {})}  # also where the type is another
    changes = {key: value for key, value in section.items() if key not in (*Variant.model_fields, 'network_g')}
    result = {**opt, **changes, 'name': name}
    result['network_g'] = {key: value for key, value in network.items() if value is not None}
    first = f'{content["experiment"]}_SRx2_{variant}'  # the warm start of x3 and x4
    source = name if testing else first if task in ('SRx3', 'SRx4') else None
    if source and (testing or source in rows(content)):
        result['path'] = {**opt['path'], 'pretrain_network_g': f'experiments/{source}/models/net_g_latest.pth'}
    return result
