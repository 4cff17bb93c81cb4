"""`basicsr models`"""

from __future__ import annotations

import argparse

from ramit_arch.evaluation.text import aligned
from ramit_arch.inference.networks import load
from ramit_arch.inference.packaged import networks


def run(args: argparse.Namespace) -> None:
    """List the packaged networks: what they restore, size, scores, data and licence."""
    rows = [['name', 'restores', 'parameters', 'file', 'PSNR', 'trained on', 'licence']]
    for name, packaged in networks().items():
        parameters = sum(parameter.numel() for parameter in load(name).network.parameters())
        scores = ', '.join(f'{test} {psnr:.2f}' for test, psnr in packaged.scores.items())
        size = f'{packaged.file.stat().st_size / 1e6:.2f} MB'
        rows.append([name, packaged.purpose, f'{parameters:,}', size, scores, packaged.data, packaged.licence])
    print(aligned(rows))
    print('\nuse: basicsr restore photo.jpg -m NAME')
