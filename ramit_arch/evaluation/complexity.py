"""Parameters and Mult-Adds as the paper's tables give them."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

OUTPUT_SIZE = (720, 1280)  # (height, width) for which the field quotes Mult-Adds


class Complexity(NamedTuple):
    parameters: int
    mult_adds: int


def _products(*_: Any, out_shape: tuple[int, ...], **__: Any) -> int:
    return 2 * math.prod(out_shape)  # the counter counts a Mult-Add as two operations


def complexity(network: nn.Module, in_chans: int, upscale: int) -> Complexity:
    """Count on the real network, run on the meta device (no memory, no time).

    Counted are convolutions, matrix products (both attentions included) and element-wise products between tensors (the
    reciprocal helper's, H-RAMi's and the attentions' scales), one each. Not counted are additions, layer norms,
    softmax and activations. Every published count is met within 0.5%; the rest is which element-wise products were
    counted there (the helper's, for one, also in blocks that have none).

    Args:
        network: maps (1, in_chans, h, w) to (1, in_chans, h * upscale, w * upscale); it is not changed.
        in_chans: channels of its input.
        upscale: its factor; the input is 1280x720 divided by it, rounded down.
    """
    network = copy.deepcopy(network).to('meta').eval()
    image = torch.empty(1, in_chans, *(side // upscale for side in OUTPUT_SIZE), device='meta')
    mapping = {torch.ops.aten.mul: _products}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter, torch.no_grad():
        network(image)
    return Complexity(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2)


def row(name: str, upscale: int, cost: Complexity) -> str:
    """One line as in Tab. 2: `RAMiT_SRx2  163.4G  940K  x2`."""
    giga = cost.mult_adds / 1e9
    digits = 1 if giga >= 100 else 2
    return f'{name:<28} {giga:>8.{digits}f}G {cost.parameters / 1e3:>9,.0f}K    x{upscale}'
