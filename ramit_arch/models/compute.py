"""How a network is computed in training and validation: the options, their defaults, and what a machine can do."""

from __future__ import annotations

import torch
from torch import nn

from ramit_arch.errors import UserError
from ramit_arch.inference.compute import Compute
from ramit_arch.models.options import ComputeOptions


def read_compute(section: ComputeOptions | None, name: str, device: torch.device) -> tuple[Compute, str]:
    """The settings of `train` or `val`, and a line that says what was chosen and why.

    Raises:
        UserError: the machine cannot do what is asked for.
    """
    gpu = device.type == 'cuda'
    values, parts = {}, []
    for key, (default, why) in _defaults(name, gpu).items():
        given = getattr(section, key, None)
        values[key] = default if given is None else given
        why = f'default: {why}' if given is None else f'{name}.{key}'
        if key == 'tf32' and not gpu:
            values[key], why = False, 'only GPUs have it'
        parts.append(f'{key} {"on" if values[key] else "off"} ({why})')
    if values['bf16'] and gpu and not torch.cuda.is_bf16_supported():
        raise UserError(f'{name}.bf16: {torch.cuda.get_device_name()} does not compute in bfloat16')
    return Compute(device, **values), f'Computing ({name}): {", ".join(parts)}.'


def _defaults(name: str, gpu: bool) -> dict[str, tuple[bool, str]]:
    training = name == 'train'
    defaults = {
        'bf16': (False, 'the published networks are of float32'),
        'tf32': (gpu and training, 'faster, and as good for training' if training else 'scores are of float32'),
        'channels_last': (gpu, 'what tensor cores read' if gpu else 'no gain on a CPU'),
        'compile': (
            False,
            'it takes minutes before it starts' if gpu else 'needs a C++ compiler',
        ),
    }
    if training:
        defaults['checkpointing'] = (False, 'slower; for patches that do not fit in memory')
    return defaults


def check_checkpointing(network: nn.Module) -> None:
    """Raises UserError if a network has no activation checkpointing."""
    if not hasattr(network, 'set_grad_checkpointing'):
        name = type(network).__name__
        raise UserError(f'train.checkpointing: {name} does not support activation checkpointing; remove it')
