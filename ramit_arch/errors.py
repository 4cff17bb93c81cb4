"""Mistakes a user can correct. This module imports nothing of the package."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches


class UserError(Exception):
    """What is wrong, where (file, key) and what to do: one or two lines, or one for each of several problems.

    The command prints it without traceback.
    """


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The nearest known word, if one is near: `cutoff` is difflib's ratio, up to 1 for equal words."""
    spelt = {str(name).lower(): name for name in known}
    near = get_close_matches(str(word).lower(), list(spelt), n=1, cutoff=cutoff)
    return spelt[near[0]] if near else None


def suggestion(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """' (did you mean X?)' for the nearest known word, or nothing."""
    near = nearest(word, known, cutoff)
    return f' (did you mean {near}?)' if near else ''


def counted(number: int, noun: str) -> str:
    """'1 problem', '1,200 problems'."""
    return f'{number:,} {noun}' if number == 1 else f'{number:,} {noun}s'


def check_keys(given: Iterable[str], known: Collection[str], where: str) -> None:
    """Refuse keys that nothing reads.

    Raises:
        UserError: names every unknown key and the nearest known one.
    """
    unknown = [f'{key}{suggestion(key, known)}' for key in given if key not in known]
    if unknown:
        raise UserError(f'{where}: unknown key {", ".join(unknown)}')
