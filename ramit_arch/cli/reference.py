"""The references of options and commands (docs/options.md, docs/command-line.md) and the JSON Schema for editors.

python -m ramit_arch.cli.reference docs
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

import basicsr_command
from ramit_arch.archs.arguments import signature, words
from ramit_arch.data.gaussian_denoising_dataset import GaussianDenoisingDataset
from ramit_arch.data.paired_restoration_dataset import PairedRestorationDataset
from ramit_arch.data.restoration_dataset import RestorationOptions, RootOptions
from ramit_arch.models import options as model
from ramit_arch.options import basicsr
from ramit_arch.options.section import Section, section_in

MARKDOWN, COMMANDS, JSON = 'options.md', 'command-line.md', 'options.schema.json'
DATASETS = {kind.__name__: kind.section for kind in (PairedRestorationDataset, GaussianDenoisingDataset)}
NETWORKS = {name: kind for name, kind in ARCH_REGISTRY if kind.__module__.startswith('ramit_arch.archs.')}
HEAD = """# Options

Generated from the code that reads the options by `make reference`; a test keeps it current.

All keys of an option file with `model_type: RAMiTModel`, including those of BasicSR that it reads. null means unset.
`basicsr check -opt FILE` reports all errors in a file with their lines, and a summary of the run. In files for other
models, only the keys that BasicSR's own loop and datasets read are checked, and those of our datasets and networks.

`base: FILE` at the top names a file, relative to this one, or a packaged one (`basicsr options` lists them). Sections
are merged key by key; a list, a plain value or a section with a different `type` replaces the base's; null removes it.

Editors with JSON Schema support can complete and check these files with `docs/options.schema.json`. For VS Code with
Red Hat's YAML extension, add to `settings.json`:

    "yaml.schemas": {"docs/options.schema.json": "options/**/*.yml"}

Editors do not follow `base`: they check a file in full only if it repeats `model_type`, and the `type` of its network
and datasets.
"""
CHAPTERS: list[tuple[str, type[Section]]] = [
    ('`path`', model.Paths), ('`train`', model.Training), ('`val`', model.Validation), ('`logger`', model.Logging),
]  # fmt: skip


def markdown() -> str:
    """The reference, a table for each section."""
    parts = [HEAD, _table('## At the top', _rows(model.TrainFile))]
    parts.append(_table('## `datasets`: `train`, `val`, `test_1` and so on', _rows(RestorationOptions)))
    for name, kind in DATASETS.items():
        text = ' '.join((kind.__doc__ or '').split())
        parts.append(_table(f'### `type: {name}`', _rows(kind, skip=set(RestorationOptions.model_fields)), text))
    for name, network in NETWORKS.items():
        if '__init__' in vars(network):
            heirs = [f'`{heir}`' for heir, kind in NETWORKS.items() if network in kind.__bases__]
            text = f'{" and ".join(heirs)} have the same arguments.' if heirs else ''
            parts.append(_table(f'## `network_g` with `type: {name}`', _argument_rows(network), text))
    parts += [_table(f'## {title}', _rows(kind)) for title, kind in CHAPTERS]
    return '\n'.join(parts)


def _table(title: str, rows: Iterator[str], text: str = '') -> str:
    head = ['| key | value | default | meaning |', '|---|---|---|---|']
    return '\n'.join([title, '', *([text, ''] if text else []), *head, *rows, ''])


def _row(key: str, accepted: str, default: str, meaning: str | None) -> str:
    text = ' '.join((meaning or '').split())
    return f'| `{key}` | {accepted} | {default} | {text} |'.replace("'|'", "'\\|'")


def _rows(kind: type[Section], prefix: str = '', skip: set[str] | None = None) -> Iterator[str]:
    """A row for every key of a section, and of the sections in it that have no chapter."""
    chapters = [chapter for _, chapter in CHAPTERS]
    for key, field in kind.model_fields.items():
        if field.exclude or key in (skip or ()):
            continue
        inner = section_in(field.annotation)
        default = 'required' if field.is_required() else _default(field.default)
        accepted = _code(words(field.annotation, field.metadata))
        yield _row(f'{prefix}{key}', accepted, default, field.description)
        if inner is not None and inner not in chapters and not issubclass(inner, RootOptions):
            step = '.NAME' if 'dict[' in str(field.annotation) else '[]' if 'list[' in str(field.annotation) else ''
            yield from _rows(inner, f'{prefix}{key}{step}.')


def _argument_rows(network: type) -> Iterator[str]:
    described = describe_arguments(network)
    for name, parameter in inspect.signature(network).parameters.items():
        accepted = _code(words(signature(network).hints[name]))
        yield _row(name, accepted, _default(parameter.default), described[name][0].upper() + described[name][1:])


def describe_arguments(function: Any) -> dict[str, str]:
    """The descriptions in the `Args:` of a docstring."""
    text = (inspect.getdoc(function) or '').partition('Args:\n')[2].partition('\n\n')[0]
    found = re.findall(r'^ {4}(\w[\w, ]*): (.+(?:\n {8}.+)*)', text, re.MULTILINE)
    return {name: ' '.join(meaning.split()) for names, meaning in found for name in names.split(', ')}


def _code(accepted: str) -> str:
    return re.sub(r"'([\w.{}]+)'", r'`\1`', accepted)


def _default(value: Any) -> str:
    if value is None or isinstance(value, Section):
        return ''
    return f'`{value if isinstance(value, str) else json.dumps(value)}`'


# -------------------------------------------------------------------------------------------------------- command line

COMMANDS_HEAD = """# Command line

Generated from the parser by `make reference`; a test keeps it current.

    basicsr VERB ...           # BasicSR's train and test, and what this package adds
    basicsr VERB --help        # the same as below
    basicsr --version

All verbs exit with 0 on success, 1 after an error, 2 for an invalid command line, and 130 after Ctrl-C. All of them
accept `--traceback`, which shows where an error was raised.
"""


def command_line() -> str:
    """Every verb with its examples and a table of its arguments."""
    actions = basicsr_command.build_parser()._actions
    (verbs,) = (action for action in actions if isinstance(action, argparse._SubParsersAction))
    parts = [COMMANDS_HEAD, '| verb | description |', '|---|---|']
    parts += [f'| [`{name}`](#{name}) | {verb.description} |' for name, verb in verbs.choices.items()]
    for name, verb in verbs.choices.items():
        examples = [f'    {line.strip()}' for line in basicsr_command.EXAMPLES[name].splitlines()]
        parts += ['', f'## {name}', '', str(verb.description), '', *examples]
        rows = [_command_row(action) for action in verb._actions if action.dest not in ('help', 'traceback')]
        parts += ['', '| argument | meaning |', '|---|---|', *rows] if rows else []
    return '\n'.join([*parts, ''])


def _command_row(action: argparse.Action) -> str:
    choices = ','.join(map(str, action.choices or ()))
    value = '' if action.nargs == 0 else action.metavar or (f'{{{choices}}}' if choices else 'N')
    value = ' '.join(value) if isinstance(value, tuple) else f'{value} ...' if action.nargs in ('+', '*') else value
    names = [f'`{f"{name} {value}".strip()}`' for name in action.option_strings or ['']]
    return f'| {", ".join(names)} | {(action.help or "").replace("|", chr(92) + "|")} |'


# --------------------------------------------------------------------------------------------------------- JSON Schema


def json_schema() -> dict[str, Any]:
    """A JSON Schema of option files (draft 7). A file may have a `base`, so that nothing is required."""
    files: list[type[Section]] = [basicsr.TrainFile, model.TrainFile]
    kinds: list[type[Section]] = [*files, basicsr.DatasetOptions, *DATASETS.values()]
    definitions = models_json_schema([(kind, 'validation') for kind in kinds])[1]['$defs']
    own = {
        name: next(kind for kind in network.__mro__ if '__init__' in vars(kind)).__name__
        for name, network in NETWORKS.items()
    }
    for name in own.values():
        definitions[name] = network_schema(NETWORKS[name])
    for definition in definitions.values():
        definition.pop('required', None)
        properties = definition['properties']
        definition['properties'] = {key: _property(value) for key, value in properties.items() if key != 'phase'}
    for kind in kinds[2:]:
        del definitions[kind.__name__]['properties']['scale']
    for kind in files:
        properties = definitions[_name(kind)]['properties']
        properties['base'] = {'type': 'string', 'description': 'An option file on which this one is based.'}
        properties['network_g'] = _or_null(_by_type({name: _ref(own[name]) for name in NETWORKS}, {}))
        one = _by_type({name: _ref(kind.__name__) for name, kind in DATASETS.items()}, _ref('DatasetOptions'))
        properties['datasets'] = _or_null({'additionalProperties': _or_null(one)})
    return {
        '$schema': 'http://json-schema.org/draft-07/schema#',
        'title': 'Option file of RAMiT for BasicSR',
        'type': 'object',
        **_choose('model_type', 'RAMiTModel', _ref(_name(model.TrainFile)), _ref(_name(basicsr.TrainFile))),
        '$defs': definitions,
    }


def network_schema(network: type) -> dict[str, Any]:
    """A network's arguments as a section."""
    described, hints = describe_arguments(network), signature(network).hints
    properties = {}
    for name, parameter in inspect.signature(network).parameters.items():
        rule = TypeAdapter(hints[name]).json_schema()
        default = json.loads(json.dumps(parameter.default))
        properties[name] = {**rule, 'description': described[name], 'default': default}
    return {'type': 'object', 'additionalProperties': False, 'properties': {'type': {'type': 'string'}, **properties}}


def _name(kind: type[Section]) -> str:
    """Of two classes with one name, pydantic writes the module too."""
    return f'{kind.__module__}__{kind.__name__}'.replace('.', '__')


def _ref(name: str) -> dict[str, Any]:
    return {'$ref': f'#/$defs/{name}'}


def _choose(key: str, value: str, then: Any, otherwise: Any) -> dict[str, Any]:
    return {'if': {'properties': {key: {'const': value}}, 'required': [key]}, 'then': then, 'else': otherwise}


def _by_type(kinds: dict[str, Any], otherwise: dict[str, Any]) -> dict[str, Any]:
    for name, kind in kinds.items():
        otherwise = _choose('type', name, kind, otherwise)
    return otherwise


def _or_null(section: dict[str, Any]) -> dict[str, Any]:
    """A section or null. Of an anyOf, editors would say no more than that none fits."""
    return {'if': {'type': 'object'}, 'then': section, 'else': {'type': 'null'}}


def _property(value: dict[str, Any]) -> dict[str, Any]:
    """Without a title, which only repeats the key, and with null, which means unset."""
    documented = {'description': ' '.join(value['description'].split())} if 'description' in value else {}
    documented |= {'default': value['default']} if value.get('default') is not None else {}
    rule = {key: part for key, part in value.items() if key not in ('title', 'description', 'default')}
    choices = [part for part in rule.get('anyOf', [rule]) if part != {'type': 'null'}]
    [*others, last] = choices
    if not others and '$ref' in last:
        return {**documented, **_or_null(last)}
    if not others and isinstance(last.get('type'), str) and 'enum' not in last and 'const' not in last:
        return {**documented, **last, 'type': [last['type'], 'null']}
    return {**documented, 'anyOf': [*choices, {'type': 'null'}]}


def main(folder: Path) -> None:
    """Write all files."""
    (folder / MARKDOWN).write_text(markdown(), encoding='utf-8')
    (folder / COMMANDS).write_text(command_line(), encoding='utf-8')
    (folder / JSON).write_text(json.dumps(json_schema(), indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
