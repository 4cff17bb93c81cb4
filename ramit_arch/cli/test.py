"""`basicsr test`"""

from __future__ import annotations

import argparse

from basicsr.test import test_pipeline

from ramit_arch.cli.model import choose_option_file
from ramit_arch.cli.pipeline import run_pipeline


def run(args: argparse.Namespace) -> None:
    """Restore and score by BasicSR's own test loop."""
    choose_option_file(args)
    run_pipeline(args, test_pipeline, training=False)
