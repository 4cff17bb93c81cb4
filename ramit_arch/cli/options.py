"""`basicsr options`"""

from __future__ import annotations

import argparse

from ramit_arch.cli.pipeline import resolve
from ramit_arch.options import dump


def run(args: argparse.Namespace) -> None:
    """Print the full result of an option file: its bases merged, `--force_yml` applied."""
    print(dump(resolve(args, args.opt)), end='')
