"""Which LQ image belongs to which ground truth, where their names differ."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_WORDS = re.compile(r'([^A-Za-z0-9]+)')


class Renaming(NamedTuple):
    """A rule by which the names of all LQ images follow from those of the ground truth.

    Attributes:
        names: LQ by ground truth.
        template: the rule as `filename_tmpl`, where that can say it.
        text: the rule in words.
    """

    names: dict[str, str]
    template: str | None
    text: str


def find_renaming(gt: Iterable[str], lq: Iterable[str]) -> Renaming | None:
    """A rule for all names: something before or after them (`a`, `a_noisy`), or one word of them replaced by another
    (`a_iso100`, `a_iso6400`); None if there is none, or a partner is missing."""
    gt, lq = (sorted(names, key=lambda name: (len(name), name)) for names in (gt, lq))
    if len(gt) != len(lq) or len(gt) < 2:
        return None
    first, partner = gt[0], lq[0]
    if first in partner:
        head, _, tail = partner.partition(first)
        names = {name: f'{head}{name}{tail}' for name in gt}
        if set(names.values()) == set(lq):
            template = None if '{' in head + tail or '}' in head + tail else f'{head}{{}}{tail}'
            return Renaming(names, template, f'{head}NAME{tail}')
    old, new = _WORDS.split(first), _WORDS.split(partner)
    places = [i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b]
    if len(old) != len(new) or len(places) != 1:
        return None
    [place] = places
    names = {name: _replace(name, place, old[place], new[place]) for name in gt}
    return Renaming(names, None, f'{old[place]} -> {new[place]}') if set(names.values()) == set(lq) else None


def _replace(name: str, place: int, old: str, new: str) -> str:
    words = _WORDS.split(name)
    if place < len(words) and words[place] == old:
        words[place] = new
    return ''.join(words)
