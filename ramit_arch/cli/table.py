"""`basicsr table`"""

from __future__ import annotations

import argparse
from pathlib import Path

from ramit_arch.errors import UserError
from ramit_arch.evaluation import tables, text

FORMATS = {'text': tables.as_text, 'markdown': tables.as_markdown, 'csv': tables.as_csv}


def run(args: argparse.Namespace) -> None:
    """Print our scores beside the paper's, table by table, and those that the paper has no table for by themselves."""
    paths = [Path(path) for path in args.results]
    results = tables.read_results(paths)
    every = tables.paper_tables()
    numbers = list(dict.fromkeys(table.number for table in every))
    for number in args.tables or []:
        if number not in numbers:
            raise UserError(f'--tables {number}: no such table; there are {", ".join(numbers)}')
    found = [tables.add_results(table, results) for table in every if not args.tables or table.number in args.tables]
    shown = [table for table in found if table is not None]
    others = [] if args.tables else tables.other_scores(paths, shown)
    if not shown and not others:
        raise UserError('no scores found' if not args.tables else 'none of these scores are on a set of these tables')
    texts = [FORMATS[args.format](shown)] if shown else []
    texts += [text.FORMATS[args.format](others)] if others else []
    print('\n\n'.join(texts))
