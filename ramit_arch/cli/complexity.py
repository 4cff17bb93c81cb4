"""`basicsr complexity`"""

from __future__ import annotations

import argparse

from basicsr.archs import build_network

from ramit_arch.cli.pipeline import resolve
from ramit_arch.evaluation.complexity import complexity, row
from ramit_arch.options import checks


def run(args: argparse.Namespace) -> None:
    """Print a row for the network of every option file, as in the paper's Tab. 2."""
    print(f'{"Network":<28} {"Mult-Adds":>9} {"#Params":>10}  Scale')
    for file in args.opt:
        opt = resolve(args, file)
        with checks.naming(file):
            checks.check_network(opt)
        network = build_network(opt['network_g'])
        scale = opt.get('scale', 1)
        print(row(str(opt.get('name', file)), scale, complexity(network, opt['network_g'].get('in_chans', 3), scale)))
    print('Mult-Adds for a 1280x720 output: convolutions, matrix products and element-wise products.')
