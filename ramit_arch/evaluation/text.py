"""Tables as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first to the left and the others to the right."""
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = ['  '.join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows]
    return '\n'.join(line.rstrip() for line in lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table; the first row is its head."""
    head, *body = ('| ' + ' | '.join(row) + ' |' for row in rows)
    return '\n'.join([head, '|---' + '|---:' * (len(rows[0]) - 1) + '|', *body])


def comma_separated(rows: Sequence[Sequence[str]]) -> str:
    """The same as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue().rstrip('\n')


FORMATS = {'text': aligned, 'markdown': markdown, 'csv': comma_separated}
