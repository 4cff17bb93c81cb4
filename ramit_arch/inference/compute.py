"""How a network is computed: precision, memory format and compilation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ramit_arch.archs.window_attention import compiler
from ramit_arch.errors import UserError

logger = logging.getLogger('basicsr')
GRAPHS = 64  # compiled graphs of one function


@dataclass(frozen=True)
class Compute:
    """Precision, memory format and compilation of a network.

    bf16: bfloat16 autocast; weights stay in float32.
    tf32: products and convolutions of float32 on the TF32 units of a GPU, with 10 bits of mantissa.
    channels_last: images and weights of convolutions in the channels-last memory format.
    compile: on a CPU the native kernels of a network that has `set_compiled`. Otherwise `torch.compile` of the whole
        network, for every size of image on its own, up to `GRAPHS` graphs.
    checkpointing: activation checkpointing.
    """

    device: torch.device
    bf16: bool = False
    tf32: bool = False
    channels_last: bool = False
    compile: bool = False
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
        """What to call instead of the network, whose parameters it shares.

        Raises:
            UserError: the whole network is to be compiled on a CPU, and there is no C++ compiler.
        """
        inner = unwrapped(network)
        if self.device.type == 'cpu' and hasattr(inner, 'set_compiled'):
            missing = inner.set_compiled(self.compile)  # type: ignore[operator]
            if missing:
                logger.warning(f'PyTorch computes instead of the native kernel: {missing}.')
            return partial(self._call, network)
        if not self.compile:
            return network
        if self.device.type == 'cpu' and compiler() is None:
            raise UserError('compile: no C++ compiler was found (g++, clang++, or what CXX names); install one')
        # The limit is of a function, which training and validation share.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
        return torch.compile(network, dynamic=False)

    def _call(self, network: nn.Module, image: Tensor) -> Tensor:
        # Set at every call and left so: training and validation may share the network, and a backward pass with
        # checkpointing needs what its forward pass had.
        unwrapped(network).set_compiled(self.compile)  # type: ignore[operator]
        return network(image)


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel."""
    return network.module if isinstance(network, DistributedDataParallel) else network
