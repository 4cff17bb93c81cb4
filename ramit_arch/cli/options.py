"""`basicsr options`"""

from __future__ import annotations

import argparse
from pathlib import Path

from ramit_arch import options
from ramit_arch.cli.pipeline import resolve
from ramit_arch.options import ablations, packaged


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
    if 'ablations' in content and '::' not in args.opt:
        print(ablations.listing(content))
        return
    opt = resolve(args, args.opt)
    if opt == content:
        print(file.read_text(encoding='utf-8'), end='')  # with its comments
    else:
        print(('' if 'ablations' in content else packaged.head(file)) + options.dump(opt), end='')
