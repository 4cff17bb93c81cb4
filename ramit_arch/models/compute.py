"""How a network is computed: precision, memory format, compilation and activation checkpointing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ramit_arch.errors import UserError
from ramit_arch.models.options import ComputeOptions

GRAPHS = 64  # that training and validation may compile of one function


@dataclass(frozen=True)
class Compute:
    """What is set for training or for validation.

    bf16: bfloat16 autocast; weights stay in float32.
    tf32: products and convolutions of float32 on the TF32 units of a GPU, with 10 bits of mantissa.
    channels_last: images and weights of convolutions in the channels-last memory format.
    compile: `torch.compile`. On a CPU a network that has `set_compiled` chooses what to compile. On a GPU, and of
        another network, the whole is, for every size of image on its own, up to `GRAPHS` graphs.
    checkpointing: activation checkpointing.
    """

    device: torch.device
    bf16: bool
    tf32: bool
    channels_last: bool
    compile: bool
    checkpointing: bool = False

    @contextmanager
    def active(self) -> Iterator[None]:
        """Compute as set. TF32 stays set afterwards: it is global, and backward passes need it too."""
        if self.device.type == 'cuda':
            torch.backends.cuda.matmul.allow_tf32 = self.tf32
            torch.backends.cudnn.allow_tf32 = self.tf32
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield

    def image(self, image: Tensor) -> Tensor:
        return image.contiguous(memory_format=torch.channels_last) if self.channels_last else image

    def network(self, network: nn.Module) -> Any:
        """What to call instead of the network, whose parameters it shares."""
        if self.compile:  # the limit is of a function, which training and validation share
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
        if self.device.type == 'cpu' and hasattr(unwrapped(network), 'set_compiled'):
            return partial(self._call, network)
        return torch.compile(network, dynamic=False) if self.compile else network

    def _call(self, network: nn.Module, image: Tensor) -> Tensor:
        # Set at every call and left so: training and validation may share the network, and a backward pass with
        # checkpointing needs what its forward pass had.
        unwrapped(network).set_compiled(self.compile)  # type: ignore[operator]
        return network(image)


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel."""
    return network.module if isinstance(network, DistributedDataParallel) else network


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
    compiler = os.environ.get('CXX') or ('clang++' if sys.platform == 'darwin' else 'g++')  # as PyTorch looks for it
    if values['compile'] and not gpu and not shutil.which(compiler):
        raise UserError(f'{name}.compile needs a C++ compiler, {compiler}; install it, or set CXX to another')
    return Compute(device, **values), f'Computing ({name}): {", ".join(parts)}.'


def _defaults(name: str, gpu: bool) -> dict[str, tuple[bool, str]]:
    training = name == 'train'
    defaults = {
        'bf16': (False, 'the published networks are of float32'),
        'tf32': (gpu and training, 'faster, and as good for training' if training else 'scores are of float32'),
        'channels_last': (gpu, 'what tensor cores read' if gpu else 'no gain on a CPU'),
        'compile': (
            False,
            'it takes minutes before it starts' if gpu else 'a little faster on a CPU, with a C++ compiler',
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
