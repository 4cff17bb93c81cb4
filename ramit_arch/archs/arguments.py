"""What a network accepts, from the annotations of its `__init__`: messages, checks and the reference derive from them.

An annotation is a type, `typing.Literal`, or `typing.Annotated` with bounds of `annotated_types`; a text among its
metadata replaces the words that messages and the reference have for it.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Len, Lt, MultipleOf
from pydantic import BeforeValidator, ConfigDict, PydanticUserError, TypeAdapter, ValidationError, with_config
from pydantic_core import SchemaError
from typing_extensions import NotRequired, TypedDict

from ramit_arch.errors import nearest, suggestion

LARGEST = 2**53  # bounds above are not worth a word


def checked(init: Callable[..., None]) -> Callable[..., None]:
    """Let an `__init__` raise a ValueError for a wrong argument, which names it, its value and what is accepted."""

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        arguments = inspect.signature(init).bind(self, *args, **kwargs).arguments
        for key, text in wrong_arguments(type(self), {k: v for k, v in arguments.items() if k != 'self'}):
            raise ValueError(f'{key} {text}')
        init(self, *args, **kwargs)

    return wrapper


def wrong_arguments(
    target: Callable, values: dict[str, Any], given: Iterable[str] = (), closed: bool = False
) -> list[tuple[str, str]]:
    """What is wrong with arguments for a function or class: their names, and what to say of them.

    Args:
        target: what would be called.
        values: the arguments, plain data: lists may stand for tuples.
        given: parameters that get their arguments from elsewhere.
        closed: whether further arguments are mistakes although the target takes `**kwargs`.
    """
    parameters = signature(target, tuple(given), closed)
    values = {key: value for key, value in values.items() if value is not None or key not in parameters.optional}
    try:
        parameters.adapter.validate_json(json.dumps(values, default=repr))
    except ValidationError as error:
        wrong = dict(_wrong(parameters, values, detail) for detail in error.errors())
        meant = {nearest(key, parameters.hints) for key, text in wrong.items() if text.startswith('is unknown')}
        return [(key, text) for key, text in wrong.items() if not (key in meant and text == 'is missing')]
    return []


def _wrong(parameters: Signature, values: dict[str, Any], error: Any) -> tuple[str, str]:
    key = str(error['loc'][0])
    if error['type'] == 'extra_forbidden':
        return key, f'is unknown{suggestion(key, parameters.hints)}'
    if error['type'] == 'missing' and len(error['loc']) == 1:
        return key, 'is missing'
    return key, must_be(values[key], words(parameters.hints[key]))


def must_be(value: Any, accepted: str) -> str:
    """'is 60; it must be a multiple of 16'"""
    text = repr(value) if len(repr(value)) <= 80 else f'{value!r:.77}...'
    near = suggestion(value, re.findall(r"'([^']+)'", accepted)) if isinstance(value, str) else ''
    return f'is {text}; it must be {accepted}{near}'


class Signature(NamedTuple):
    """Parameters: their annotations, those that may be None, and what validates a dictionary of arguments."""

    hints: dict[str, Any]
    optional: set[str]
    adapter: TypeAdapter


@functools.cache
def signature(target: Callable, given: tuple[str, ...] = (), closed: bool = False) -> Signature:
    """The parameters of a function or class; see `wrong_arguments`."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        annotations = get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # of names that exist for type checkers only
        annotations = {}
    every = inspect.signature(target).parameters.values()
    parameters = [p for p in every if p.name not in given and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    hints = {p.name: _checkable(annotations.get(p.name, Any)) for p in parameters}
    fields = {p.name: hints[p.name] if p.default is p.empty else NotRequired[hints[p.name]] for p in parameters}
    arguments: Any = TypedDict('Arguments', fields)  # type: ignore[misc]
    takes_more = any(p.kind is p.VAR_KEYWORD for p in every) and not closed
    extra: Any = 'allow' if takes_more else 'forbid'
    configured = with_config(ConfigDict(extra=extra, strict=True, allow_inf_nan=False))(arguments)
    return Signature(hints, {p.name for p in parameters if p.default is None}, TypeAdapter(configured))


def _checkable(hint: Any) -> Any:
    """The annotation, or Any where it is not of plain data."""
    if get_origin(hint) is Literal and all(isinstance(value, int) for value in get_args(hint)):
        return Annotated[hint, BeforeValidator(_integer)]
    try:
        TypeAdapter(hint)
    except (PydanticUserError, SchemaError):
        return Any
    return hint


def _integer(value: Any) -> Any:
    """Literal alone takes True and 1.0 for 1."""
    if type(value) is not int:
        raise ValueError
    return value


# ---------------------------------------------------------------------------------------------------------------- words


def words(hint: Any, metadata: Iterable[Any] = ()) -> str:
    """What an annotation accepts: 'an integer from 1 up'."""
    metadata = list(metadata)
    if get_origin(hint) is Annotated:
        hint, *inner = get_args(hint)
        return words(hint, [*inner, *metadata])
    if texts := [item for item in metadata if isinstance(item, str)]:
        return texts[-1]
    origin, parts = get_origin(hint), [part for part in get_args(hint) if part is not type(None)]
    if origin in (Union, types.UnionType):
        return ' or '.join(words(part, metadata) for part in parts)
    if origin is Literal:
        return ' or '.join(filter(None, [', '.join(map(repr, parts[:-1])), repr(parts[-1])]))
    if origin in (list, Sequence, tuple) and parts:
        number = next((f'{item.min_length} ' for item in metadata if isinstance(item, Len)), '')
        return f'a list of {number}{_plural(words(parts[0]))}'
    if hint in (int, float):
        return _number(hint, {type(item): astuple(item)[0] for item in metadata if isinstance(item, BOUNDS)})
    return {bool: 'true or false', str: 'text', list: 'a list'}.get(hint, 'a section with keys of its own')


BOUNDS = (Ge, Gt, Le, Lt, MultipleOf)


def _number(kind: type, bounds: dict[type, Any]) -> str:
    noun = 'an integer' if kind is int else 'a positive number' if bounds.get(Gt) == 0 else 'a number'
    if MultipleOf in bounds:
        noun = f'a multiple of {bounds[MultipleOf]}'
    low, high = bounds.get(Ge), bounds.get(Le, LARGEST)
    upper = f'to below {bounds[Lt]}' if Lt in bounds else f'to {high:,}' if high < LARGEST else ''
    if low is None:
        return f'{noun} up {upper}' if upper else noun
    return f'{noun} from {low:,} {upper or "up"}'


def _plural(text: str) -> str:
    noun, from_, rest = text.removeprefix('an ').removeprefix('a ').partition(' from ')
    return 'sections' if noun.startswith('section') else f'{noun}s{from_}{rest}'
