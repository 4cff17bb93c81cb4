"""`basicsr train`"""

from __future__ import annotations

import argparse

from basicsr.train import train_pipeline

from ramit_arch.cli.pipeline import run_pipeline


def run(args: argparse.Namespace) -> None:
    """Train by BasicSR's own loop."""
    run_pipeline(args, train_pipeline, training=True)
