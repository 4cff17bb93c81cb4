"""`basicsr test`"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import basicsr.test
from basicsr.utils.options import parse_options

from ramit_arch.cli.model import choose_option_file
from ramit_arch.cli.pipeline import SHORT_START, print_written, replaced, run_pipeline


def run(args: argparse.Namespace) -> None:
    """Restore and score by BasicSR's own test loop."""
    args.opt, args.model = choose_option_file(args.opt, args.model)
    results = Path(args.output)

    def parse_and_place(root_path: str, is_train: bool) -> tuple[dict[str, Any], argparse.Namespace]:
        opt, parsed = parse_options(root_path, is_train)
        folder = results.absolute() / opt['name']
        opt['path'] |= {'results_root': str(folder), 'log': str(folder), 'visualization': str(folder / 'visualization')}
        return opt, parsed

    with replaced(basicsr.test, parse_options=parse_and_place, **SHORT_START):
        name = run_pipeline(args, basicsr.test.test_pipeline, training=False)
    print_written('Scores, images and log', results / name)
