"""`basicsr table`"""

from __future__ import annotations

import argparse
from pathlib import Path

from ramit_arch.errors import UserError
from ramit_arch.evaluation import tables

FORMATS = {'text': tables.as_text, 'markdown': tables.as_markdown, 'csv': tables.as_csv}


def run(args: argparse.Namespace) -> None:
    """Print our scores beside the paper's, table by table."""
    results = tables.read_results(map(Path, args.results))
    if not results:
        raise UserError('no scores with a protocol found; run `basicsr test` with val.protocol in the option file')
    every = tables.paper_tables()
    numbers = list(dict.fromkeys(table.number for table in every))
    for number in args.tables or []:
        if number not in numbers:
            raise UserError(f'--tables {number}: no such table; there are {", ".join(numbers)}')
    found = [tables.add_results(table, results) for table in every if not args.tables or table.number in args.tables]
    shown = [table for table in found if table is not None]
    if not shown:
        raise UserError('none of these scores are on a set of these tables')
    print(FORMATS[args.format](shown))
