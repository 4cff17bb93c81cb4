"""`basicsr export`"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ramit_arch.errors import UserError
from ramit_arch.inference.checkpoints import write_checkpoint
from ramit_arch.inference.networks import describe, load


def run(args: argparse.Namespace) -> None:
    """Write a network, its moving average if it has one, as safetensors with its description.

    Raises:
        UserError: the checkpoint cannot be used, or the file cannot be written.
    """
    target = Path(args.to).expanduser()
    if target.suffix != '.safetensors':
        raise UserError(f'--to {args.to}: must end in .safetensors')
    loaded = load(args.model, args.task)
    weights = {name: _compact(tensor) for name, tensor in loaded.network.state_dict().items()}
    network = describe(loaded.network_g, loaded.scale, loaded.task, loaded.color, loaded.size_multiple)
    write_checkpoint({'params': weights, 'network': network}, target)
    print(f'{loaded.file} ({loaded.key}) -> {target}: {target.stat().st_size / 1e6:.2f} MB')


def _compact(tensor: Tensor) -> Tensor:
    """Indices in one byte each, where they fit; loading a state dict casts them back."""
    if tensor.dtype == torch.int64 and tensor.numel() and int(tensor.min()) >= 0 and int(tensor.max()) < 256:
        return tensor.to(torch.uint8)
    return tensor
