"""Reading option files without executing anything, and changing them from the command line."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from ramit_arch.errors import UserError, suggestion
from ramit_arch.options import packaged, rows

FLOAT_AS_TEXT = re.compile(r'[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+')  # YAML 1.1 wants a dot: 1.0e-4
KEEP_NULLS = ('pixel_opt', 'perceptual_opt', 'metrics')
MAX_VALUES = 100_000  # aliases of aliases can grow without end


class _Loader(yaml.SafeLoader):
    """Plain data only, and no key twice: YAML would keep the last and drop the others without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.composer.ComposerError(problem='a key must be a word', problem_mark=key.start_mark)
            if key.value in seen and key.value != '<<':
                problem = f'the key {key.value} is repeated in one section'
                raise yaml.composer.ComposerError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def load(file: str | Path, testing: bool = False) -> dict[str, Any]:
    """Read an option file as plain data, on top of the file that its key `base` names, if any.

    FILE::ROW is a row of a row file, which becomes the options of a training, or with `testing` of its test.

    `base` is a path relative to the file, or the name of a packaged option file. Sections are merged key by key, unless
    they name another `type` than the base's; any other value, a list too, replaces that of the base, and a null removes
    it.

    Raises:
        UserError: a file is missing, is not YAML, repeats a key, holds tags that would run code, or is its own base.
    """
    path, separator, row = str(file).partition(rows.SEPARATOR)
    opt = _load(Path(path), ())
    if not rows.has_rows(opt) and not separator:
        return opt
    if not rows.has_rows(opt):
        raise UserError(f'{path} has no rows; give the file alone, without {separator}{row}')
    base = rows.base_of(Path(path), opt, row, testing)
    return rows.apply(_load(base, ()), opt, row, testing)


def _load(file: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    opt = read(file)
    base = opt.pop('base', None)
    if base is None:
        return opt
    if not isinstance(base, str):
        raise UserError(f'{file}: base is {base!r}; it must be the path of an option file, relative to this one')
    above = (*above, file.resolve())
    path = base_file(file, base)
    if path.resolve() in above:
        raise UserError(f'{file}: base {base}: a file cannot be its own base')
    return rows.merge(_load(path, above), opt)


def base_file(file: Path, base: str) -> Path:
    """The file that `base` names in an option file.

    Raises:
        UserError: there is none.
    """
    path = Path(os.path.normpath(file.parent / Path(base).expanduser()))
    if path.is_file():
        return path
    try:
        return Path(packaged.find(base))
    except UserError as error:
        raise UserError(f'{file}: base {error}') from error


def without_nulls(opt: dict[str, Any]) -> dict[str, Any]:
    """Leave out keys without a value: null means unset, but may be an argument of another project's loss or metric."""
    return {
        key: without_nulls(value) if isinstance(value, dict) and key not in KEEP_NULLS else value
        for key, value in opt.items()
        if value is not None
    }


def dump(opt: dict[str, Any]) -> str:
    """The options as YAML, in their order."""
    return yaml.safe_dump(opt, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def read(file: str | Path) -> dict[str, Any]:
    """Read one option file as plain data, its `base` unresolved.

    Raises:
        UserError: as `load`.
    """
    try:
        with Path(file).open(encoding='utf-8') as stream:
            opt = yaml.load(stream, Loader=_Loader)  # a SafeLoader
    except OSError as error:
        raise UserError(f'{file}: cannot be read ({error.strerror})') from error
    except UnicodeDecodeError as error:
        raise UserError(f'{file}: not UTF-8; save it with that encoding') from error
    except RecursionError as error:
        raise UserError(f'{file}: nested too deeply for an option file') from error
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        line = f':{mark.line + 1}' if mark else ''
        raise UserError(f'{file}{line}: not plain YAML: {getattr(error, "problem", None) or error}') from error
    if not isinstance(opt, dict):
        found = 'empty' if opt is None else 'no option file'
        raise UserError(f'{file}: {found}; an option file has keys such as name, datasets and network_g')
    if _values(opt) > MAX_VALUES:
        raise UserError(f'{file}: more than {MAX_VALUES:,} values with its aliases; refused')
    return opt


def _values(opt: Any) -> int:
    """How many values there are, each alias counted again; no more than just above the limit."""
    count, rest = 0, [opt]
    while rest and count <= MAX_VALUES:
        value = rest.pop()
        count += 1
        rest += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return count


def override(opt: dict[str, Any], assignments: list[str]) -> None:
    """Apply `--force_yml` assignments such as `train:ema_decay=0.999` in place; values are YAML data.

    Raises:
        UserError: an assignment has no `=`, or its key's parents are not in the file.
    """
    for assignment in assignments:
        keys, equals, text = assignment.partition('=')
        *parents, last = keys.strip().split(':')
        section: Any = opt
        if parents == ['logger'] and opt.get('logger') is None:
            opt['logger'] = {}  # optional; all its keys have defaults
        for parent in parents:
            if not isinstance(section, dict) or parent not in section:
                known = section if isinstance(section, dict) else ()
                raise UserError(f'--force_yml {assignment}: no key {parent} in the file{suggestion(parent, known)}')
            section = section[parent]
        if not parents and '.' in last and last.partition('.')[0] in opt:
            right = f'{last.replace(".", ":")}={text}'
            raise UserError(f'--force_yml {assignment}: keys are separated by colons (did you mean {right}?)')
        if not equals or not last or not isinstance(section, dict):
            raise UserError(f'--force_yml {assignment}: expected key:key=value')
        if re.search(r'\s[\w:]+=', text):
            raise UserError(f'--force_yml {assignment}: two assignments in one argument; quote each by itself')
        section[last] = _value(assignment, text)


def _value(assignment: str, text: str) -> Any:
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(
            f'--force_yml {assignment}: the value is not YAML; text may need quotes: "key=\'...\'"'
        ) from error
    if value == 'None':  # as BasicSR's users write it
        return None
    return float(value) if isinstance(value, str) and FLOAT_AS_TEXT.fullmatch(value) else value


def fill_in(opt: dict[str, Any]) -> None:
    """Give a training the keys that BasicSR's loop reads without defaults, in place; those of `basicsr.Logging`."""
    total = (opt.get('train') or {}).get('total_iter') if isinstance(opt.get('train'), dict) else None
    if not isinstance(total, (int, float)) or not 1 <= total < 1e12:
        return  # which is reported
    rarely, often = max(int(total) // 100, 1), max(int(total) // 1000, 1)
    defaults = {
        'logger': {'print_freq': often, 'save_checkpoint_freq': rarely, 'use_tb_logger': False},
        'val': {'val_freq': rarely, 'save_img': False},
    }
    for name, values in defaults.items():
        section = {} if name == 'logger' and opt.get(name) is None else opt.get(name)
        if isinstance(section, dict):
            opt[name] = {**section, **{key: value for key, value in values.items() if section.get(key) is None}}


def keep_datasets(opt: dict[str, Any], names: list[str]) -> None:
    """Drop the datasets that are not named, in place.

    Raises:
        UserError: a name is not that of a dataset.
    """
    datasets = {key: dataset for key, dataset in (opt.get('datasets') or {}).items() if isinstance(dataset, dict)}
    known = [str(dataset.get('name')) for dataset in datasets.values()]
    for name in names:
        if name not in known:
            raise UserError(f'--only {name}: no such dataset{suggestion(name, known)}; there are {", ".join(known)}')
    opt['datasets'] = {key: dataset for key, dataset in datasets.items() if dataset.get('name') in names}
