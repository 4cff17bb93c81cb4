"""`basicsr options`"""

from __future__ import annotations

import argparse
from pathlib import Path

from ramit_arch import options
from ramit_arch.cli.pipeline import resolve
from ramit_arch.options import packaged, rows


def run(args: argparse.Namespace) -> None:
    """Print an option file in full, or list those that come with the package."""
    if args.opt is None:
        files = packaged.files()
        width = max(map(len, files))
        for name, file in files.items():
            print(f'{name:<{width}}  {packaged.describe(file)}')
        return
    file = Path(args.opt.partition('::')[0])
    content = options.read(file)
    if rows.has_rows(content) and '::' not in args.opt:
        print(rows.listing(content))
        return
    opt = resolve(args, args.opt)
    if opt == content:
        print(file.read_text(encoding='utf-8'), end='')  # with its comments
    else:
        print(('' if rows.has_rows(content) else packaged.head(file)) + options.dump(opt), end='')
