"""Sections of option files as classes: an annotation says once what a key takes.

`validate` and `validate_arguments` report everything that is wrong with keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from ramit_arch.archs.arguments import LARGEST, must_be, words, wrong_arguments
from ramit_arch.errors import UserError, nearest, suggestion

SECTION = 'a section with keys of its own'

KeyPath = tuple[str | int, ...]  # the keys and list positions that lead to a value in a file
Conflict = tuple[str | KeyPath, str]  # the key, or the path to one further down, and the rest of the sentence


class Problem(NamedTuple):
    """What is wrong in an option file: where, and a line that names the place and says what to do."""

    path: KeyPath
    text: str


def dotted(path: KeyPath) -> str:
    """train.progressive[1].iter"""
    return ''.join(f'[{key}]' if isinstance(key, int) else f'.{key}' for key in path).lstrip('.')


# --------------------------------------------------------------------------------------------------------------- values


def whole(value: Any) -> Any:
    """BasicSR's own files write 5e3 as !!float 5e3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, Ge(1), Le(LARGEST)]
Natural = Annotated[int, Ge(0), Le(LARGEST)]
Iterations = Annotated[Count, BeforeValidator(whole)]
Positive = Annotated[float, Gt(0)]
Fraction = Annotated[float, Gt(0), Lt(1)]
Share = Annotated[float, Ge(0), Lt(1)]
Text = Annotated[str, MinLen(1)]


def in_iterations(value: Any, total: int) -> Any:
    """A fraction of `total` as a number of iterations; any other value as it is."""
    return round(value * total) if isinstance(value, float) and 0 < value < 1 else value


# ------------------------------------------------------------------------------------------------------------- sections


class Section(BaseModel):
    """A section of which others may read more keys; null means unset."""

    model_config = ConfigDict(
        extra='ignore', strict=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )

    @model_validator(mode='before')
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values

    def conflicts(self) -> Iterator[Conflict]:
        """Values of this section that contradict each other."""
        yield from ()


class OwnSection(Section):
    """A section of which we know every key that is read."""

    model_config = ConfigDict(extra='forbid')


S = TypeVar('S', bound=Section)


def validate(kind: type[S], values: Any, path: KeyPath = ()) -> tuple[S | None, list[Problem]]:
    """Parse a section; None with everything that is wrong with its keys and values."""
    values = with_text_keys(values)
    try:
        return kind.model_validate(values), []
    except ValidationError as error:
        problems = {p.path: p for p in (_problem(kind, values, detail, path) for detail in error.errors())}
        missing = [p.path for p in problems.values() if p.text.endswith(' is missing')]
        for at, text in list(problems.values()):
            if ' is unknown' in text:  # the key that was meant is not missing
                known = [str(other[-1]) for other in missing if other[:-1] == at[:-1]]
                problems.pop((*at[:-1], nearest(str(at[-1]), known) or ''), None)
        return None, list(problems.values())


def parse(kind: type[S], values: Any, where: str) -> S:
    """A section without contradictions, for the constructor that reads it.

    Raises:
        UserError: everything that is wrong with it, after `where`.
    """
    section, problems = validate(kind, values)
    problems = problems or list(contradictions(section))
    if section is None or problems:
        raise UserError(f'{where}: {"; ".join(problem.text for problem in problems)}')
    return section


def contradictions(value: Any, path: KeyPath = ()) -> Iterator[Problem]:
    """The conflicts of a section and of all sections in it."""
    if isinstance(value, Section):
        for key, text in value.conflicts():
            at = (*path, *(key if isinstance(key, tuple) else (key,)))
            yield Problem(at, f'{dotted(at)} {text}')
    parts: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, (Section, dict)):
        parts = value if isinstance(value, Section) else value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    for step, part in parts:
        yield from contradictions(part, (*path, step))


def with_text_keys(values: Any) -> Any:
    """A copy of options whose keys are all text; YAML has others."""
    if isinstance(values, dict):
        return {str(key): with_text_keys(value) for key, value in values.items()}
    return [with_text_keys(value) for value in values] if isinstance(values, list) else values


def unknown(path: KeyPath, known: Iterable[str]) -> Problem:
    """A key that nothing reads."""
    return Problem(path, f'{dotted(path)} is unknown{suggestion(str(path[-1]), known)}')


def _problem(kind: type[Section], values: Any, error: Any, above: KeyPath) -> Problem:
    """An error of pydantic's; what is wrong inside a value is reported of the value."""
    loc, section, accepted, depth = error['loc'], kind, SECTION, 0
    while depth < len(loc) and loc[depth] in section.model_fields:
        field = section.model_fields[loc[depth]]
        accepted, inner, depth = words(field.annotation, field.metadata), section_in(field.annotation), depth + 1
        if inner is None:
            break
        if depth < len(loc) and loc[depth] not in inner.model_fields and _container(field.annotation):
            accepted, depth = SECTION, depth + 1  # an item of a list or dictionary of sections
        section = inner
    if error['type'] == 'extra_forbidden':
        return unknown((*above, *loc), section.model_fields)
    if error['type'] == 'missing':
        return Problem((*above, *loc), f'{dotted((*above, *loc))} is missing')
    for key in loc[:depth]:
        values = values[key]
    return wrong_value((*above, *loc[:depth]), values, accepted)


def wrong_value(path: KeyPath, value: Any, accepted: str) -> Problem:
    """A value that its key does not take."""
    return Problem(path, f'{dotted(path) or "the section"} {must_be(value, accepted)}')


def section_in(annotation: Any) -> type[Section] | None:
    """The class of a section in an annotation such as `list[Stage] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = (section_in(part) for part in get_args(annotation) if get_origin(annotation) is not Literal)
    return next(filter(None, found), None)


def _container(annotation: Any) -> type | None:
    """list or dict, if there is one in an annotation."""
    if get_origin(annotation) in (list, dict):
        return get_origin(annotation)
    found = (_container(part) for part in get_args(annotation) if get_origin(annotation) is not Literal)
    return next(filter(None, found), None)


def validate_arguments(
    target: Callable, values: dict[str, Any], path: KeyPath, given: Iterable[str] = (), closed: bool = False
) -> list[Problem]:
    """What is wrong with a section that becomes arguments; see `wrong_arguments`."""
    wrong = wrong_arguments(target, values, given, closed)
    return [Problem((*path, key), f'{dotted((*path, key))} {text}') for key, text in wrong]
