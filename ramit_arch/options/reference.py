"""The option reference (docs/options.md) and the JSON Schema for editors, both made of `schema`.

python -m ramit_arch.options.reference docs
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema

from ramit_arch.options import schema
from ramit_arch.options.schema import Kind, Section, kinds_of

MARKDOWN, JSON = 'options.md', 'options.schema.json'
DATA_SETS: dict[str, type[schema.Restoration]] = {
    'PairedRestorationDataset': schema.PairedRestoration,
    'GaussianDenoisingDataset': schema.GaussianDenoising,
}
NAMED = {('datasets.train.', 'name'), ('datasets.train.', 'type')}  # needed in every set

# Title, section, the section's place, and a sentence.
CHAPTERS: list[tuple[str, type[Section], str, str]] = [
    ('At the top', schema.RAMiTOptionFile, '', ''),
    ('`datasets`: `train`, `val`, `test_1` and so on', schema.Restoration, 'datasets.train.', 'Of both kinds of set:'),
    *(
        (f'`type: {name}`', kind, 'datasets.train.', (kind.__doc__ or '').partition('`: ')[2])
        for name, kind in DATA_SETS.items()
    ),
    ('`network_g` with `type: RAMiT`', schema.RAMiTNetwork, 'network_g.', 'The arguments of the network (Tab. H).'),
    ('`path`', schema.RAMiTPaths, 'path.', ''),
    ('`train`', schema.RAMiTTraining, 'train.', ''),
    ('`val`', schema.RAMiTValidation, 'val.', ''),
    ('`logger`', schema.RAMiTLogging, 'logger.', ''),
]
HEAD = """# Options

Made of `ramit_arch/options/schema.py` by `make reference`; a test keeps both alike.

All keys of an option file with `model_type: RAMiTModel`, those of BasicSR's that it reads among them. A key without a
value (`~`) means what a missing key means. `basicsr check -opt FILE` tells all that is wrong with a file, line by line,
and what its run would be. Of files for other models only what BasicSR's own loop and data sets read is checked, and
our data sets and network where they are used.

`base: FILE` at the top names a file, relative to this one, on which it stands: sections are merged key by key, a list
or a plain value replaces that of the base, and `~` removes it.

Editors that know JSON Schema complete and check these files by `docs/options.schema.json`. For YAML in VS Code, with
the extension of Red Hat, in `settings.json`:

    "yaml.schemas": {"docs/options.schema.json": "options/**/*.yml"}

They do not follow `base`: there a file is checked in full if it repeats `model_type`, and the `type` of its network
and sets.
"""


def markdown() -> str:
    """The reference, a table for each section."""
    parts = [HEAD]
    for title, kind, place, text in CHAPTERS:
        own = kind in DATA_SETS.values()
        rows = list(_rows(kind, place, '', set(schema.Restoration.model_fields) if own else set()))
        table = ['| key | value | default | meaning |', '|---|---|---|---|', *rows]
        parts.append('\n'.join([f'{"###" if own else "##"} {title}', '', *([text, ''] if text else []), *table, '']))
    return '\n'.join(parts)


def _rows(kind: type[Section], place: str, prefix: str, skip: set[str]) -> Iterator[str]:
    """A row for every key of a section, and of the sections in it that have no chapter."""
    chapters = [kind for _, kind, *_ in CHAPTERS]
    for key, field in kind.model_fields.items():
        if field.exclude or key in skip:
            continue
        inner = next((k for k in kinds_of(field.annotation) if issubclass(k, Section)), None)
        cause = schema.NEEDED.get(f'{place}{prefix}{key}', 'always' if not prefix and (place, key) in NAMED else None)
        default = 'needed' if cause == 'always' else f'needed {cause}' if cause else _default(field, inner)
        text = _line(field.description).replace('|', '\\|')
        yield f'| `{prefix}{key}` | {_words(field, inner)} | {default} | {text} |'
        if (
            inner is not None and inner not in chapters and not issubclass(inner, schema.Root)
        ):  # with the set's own keys
            step = {list: '[]', dict: '.NAME'}.get(_container(field.annotation), '')
            yield from _rows(inner, place, f'{prefix}{key}{step}.', set())


def _words(field: FieldInfo, inner: type[Section] | None) -> str:
    """What a key takes."""
    if inner is not None:
        return {list: 'a list of sections', dict: 'a section with names'}.get(_container(field.annotation), 'a section')
    for part in _parts(field.annotation, field.metadata):
        if isinstance(part, Kind):
            return part.words.replace('|', '\\|')
        if get_origin(part) is Literal:
            return ', '.join(f'`{value}`' for value in get_args(part))
    raise TypeError(f'{field}: no words for it')


def _parts(annotation: Any, metadata: Any = ()) -> Iterator[Any]:
    """Metadata and types in an annotation, the outermost first."""
    yield from reversed(metadata)
    yield from reversed(getattr(annotation, '__metadata__', ()))
    yield annotation
    if get_origin(annotation) is not Literal:
        for part in (annotation.__origin__,) if hasattr(annotation, '__metadata__') else get_args(annotation):
            yield from _parts(part)


def _container(annotation: Any) -> Any:
    """list or dict, if there is one in an annotation."""
    return next((origin for part in _parts(annotation) if (origin := get_origin(part)) in (list, dict)), None)


def _line(text: str | None) -> str:
    return ' '.join((text or '').split())


def _default(field: FieldInfo, inner: Any) -> str:
    if inner is not None or field.default is None:
        return ''
    return f'`{field.default if isinstance(field.default, str) else json.dumps(field.default)}`'


# --------------------------------------------------------------------------------------------------------- JSON Schema


def json_schema() -> dict[str, Any]:
    """A JSON Schema of option files (draft 7)."""
    files: list[type[Section]] = [schema.OptionFile, schema.RAMiTOptionFile]
    kinds: list[type[Section]] = [*files, schema.Loader, *DATA_SETS.values(), schema.RAMiTNetwork]
    definitions = models_json_schema([(kind, 'validation') for kind in kinds])[1]['$defs']
    for definition in definitions.values():
        definition['properties'] = {
            key: _property(value) for key, value in definition['properties'].items() if key not in ('phase',)
        }
    for name in ('Loader', *(data_set.__name__ for data_set in DATA_SETS.values())):
        del definitions[name]['properties']['scale']
    for kind in files:
        properties = definitions[kind.__name__]['properties']
        properties['base'] = {'type': 'string', 'description': 'An option file on which this one stands.'}
        properties['network_g'] = _or_null(_by_type({'RAMiT': schema.RAMiTNetwork}, {}))
        one = _by_type(DATA_SETS, _ref(schema.Loader))
        properties['datasets'] = _or_null({'additionalProperties': _or_null(one)})
    return {
        '$schema': 'http://json-schema.org/draft-07/schema#',
        'title': 'Option file of RAMiT for BasicSR',
        'type': 'object',
        **_choose('model_type', 'RAMiTModel', _ref(schema.RAMiTOptionFile), _ref(schema.OptionFile)),
        '$defs': definitions,
    }


def _ref(kind: type[Section]) -> dict[str, Any]:
    return {'$ref': f'#/$defs/{kind.__name__}'}


def _choose(key: str, value: str, then: Any, otherwise: Any) -> dict[str, Any]:
    return {'if': {'properties': {key: {'const': value}}, 'required': [key]}, 'then': then, 'else': otherwise}


def _by_type(kinds: dict[str, Any], otherwise: dict[str, Any]) -> dict[str, Any]:
    for name, kind in kinds.items():
        otherwise = _choose('type', name, _ref(kind), otherwise)
    return otherwise


def _or_null(section: dict[str, Any]) -> dict[str, Any]:
    """A section or null. Of an anyOf, editors would say no more than that none fits."""
    return {'if': {'type': 'object'}, 'then': section, 'else': {'type': 'null'}}


def _property(value: dict[str, Any]) -> dict[str, Any]:
    """Without a title, which only repeats the key, and null, which means that the key is not there."""
    told = {'description': _line(value['description'])} if 'description' in value else {}
    told |= {'default': value['default']} if value.get('default') is not None else {}
    rule = {key: part for key, part in value.items() if key not in ('title', 'description', 'default')}
    choices = [part for part in rule.get('anyOf', [rule]) if part != {'type': 'null'}]
    [*others, last] = choices
    if not others and '$ref' in last:
        return {**told, **_or_null(last)}
    if not others and isinstance(last.get('type'), str) and 'enum' not in last and 'const' not in last:
        return {**told, **last, 'type': [last['type'], 'null']}
    return {**told, 'anyOf': [*choices, {'type': 'null'}]}


def main(folder: Path) -> None:
    """Write both files."""
    (folder / MARKDOWN).write_text(markdown(), encoding='utf-8')
    (folder / JSON).write_text(json.dumps(json_schema(), indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
