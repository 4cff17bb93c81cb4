"""`basicsr export`"""

from __future__ import annotations

import argparse
from pathlib import Path

from ramit_arch.errors import UserError
from ramit_arch.files import atomic_write
from ramit_arch.inference.export import INPUT, OPSET, OUTPUT, export
from ramit_arch.inference.networks import load

KINDS = ('safetensors', 'onnx', 'pt2')


def run(args: argparse.Namespace) -> None:
    """Write a network, its moving average if it has one, for other programs.

    Raises:
        UserError: the checkpoint cannot be used, or the file cannot be made.
    """
    target = Path(args.to).expanduser()
    kind = target.suffix[1:]
    if kind not in KINDS:
        raise UserError(f'--to {args.to}: must end in .{", .".join(KINDS[:-1])} or .{KINDS[-1]}')
    if not target.absolute().parent.is_dir():
        raise UserError(f'--to {args.to}: no such folder')
    loaded = load(args.model, args.task)
    exported = export(loaded, kind, args.fp16)
    atomic_write(target, exported.content)
    for shape, difference in exported.differences.items():
        print(f'{"x".join(map(str, shape))}: differs from PyTorch by at most {difference:.1e}')
    graph = f', opset {OPSET}, {INPUT} (batch, channels, height, width) -> {OUTPUT}' if kind == 'onnx' else ''
    print(f'{loaded.file} ({loaded.key}) -> {target}: {len(exported.content) / 1e6:.2f} MB{graph}')
