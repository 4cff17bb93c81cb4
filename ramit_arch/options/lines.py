"""File and line of every value of an option file, for error messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from ramit_arch.errors import UserError, counted
from ramit_arch.options import base_file, read, rows
from ramit_arch.options.section import KeyPath, Problem

MERGE = 'tag:yaml.org,2002:merge'  # <<, which takes the keys of another section


def raise_problems(problems: Iterable[Problem], file: str, assignments: list[str], testing: bool = False) -> None:
    """Raise all problems, each with its file and line.

    Args:
        problems: what is wrong, if anything.
        file: the option file.
        assignments: those of `--force_yml`.
        testing: whether a row is for a test.

    Raises:
        UserError: there are problems.
    """
    found = list(problems)
    if not found:
        return
    try:
        lines = find_lines(file, assignments, testing)
    except RecursionError:  # a section that is merged into itself
        lines = {(): file}
    located = [f'{line}: {text}' for line, text in sorted(_locate(found, lines), key=lambda item: _order(item[0]))]
    raise UserError('\n'.join(located if len(located) == 1 else [counted(len(located), 'problem'), *located]))


def find_lines(name: str | Path, assignments: Iterable[str] = (), testing: bool = False) -> dict[KeyPath, str]:
    """`file:line` of every value of an option file that can be loaded, and of its bases; of the file itself at ().

    Of a row all is in the base but what the row changes.
    """
    path, _, row = str(name).partition(rows.SEPARATOR)
    file = Path(path)
    root = yaml.compose(file.read_text(encoding='utf-8'), yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    lines: dict[KeyPath, str] = {}
    base = next((value.value for key, value in root.value if key.value == 'base'), '~')
    if base not in ('', '~', 'null'):
        lines = find_lines(base_file(file, base))
    lines[()] = str(file)
    _walk(root, (), str(file), lines)
    if row:
        content = read(file)
        at = rows.rows(content)[row][:2]
        changed = {key[len(at) :]: line for key, line in lines.items() if key[: len(at)] == at}
        lines = {**find_lines(rows.base_of(file, content, row, testing)), **changed}
    for assignment in assignments:
        place: KeyPath = tuple(assignment.partition('=')[0].strip().split(':'))
        lines = {p: line for p, line in lines.items() if p[: len(place)] != place}
        lines[place] = f'--force_yml {assignment}'
    return lines


def _walk(node: yaml.Node, place: KeyPath, file: str, lines: dict[KeyPath, str]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in sorted(node.value, key=lambda pair: pair[0].tag != MERGE):  # what is merged comes first
            if key.tag == MERGE:
                for merged in reversed(value.value) if isinstance(value, yaml.SequenceNode) else [value]:
                    _walk(merged, place, file, lines)
                continue
            lines[(*place, key.value)] = f'{file}:{key.start_mark.line + 1}'
            _walk(value, (*place, key.value), file, lines)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[(*place, i)] = f'{file}:{value.start_mark.line + 1}'
            _walk(value, (*place, i), file, lines)


def _locate(problems: list[Problem], lines: dict[KeyPath, str]) -> Iterator[tuple[str, str]]:
    """Each with its line; a missing key has that of its section."""
    for path, text in problems:
        yield next(lines[path[:i]] for i in range(len(path), -1, -1) if path[:i] in lines), text


def _order(line: str) -> tuple[str, int]:
    file, _, number = line.rpartition(':')
    return (file, int(number)) if number.isdecimal() else (line, 0)
