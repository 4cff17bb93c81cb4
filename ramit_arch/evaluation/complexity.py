"""What a network costs: counted as the paper's tables count, and measured on this machine."""

from __future__ import annotations

import copy
import math
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ramit_arch.errors import UserError

OUTPUT_SIZE = (720, 1280)  # (height, width) for which the field quotes Mult-Adds


class Complexity(NamedTuple):
    """Counts for one image: parameters, Mult-Adds, and activations, the elements that convolutions put out."""

    parameters: int
    mult_adds: int
    activations: int


class Measurement(NamedTuple):
    """One image in float32: the median time in seconds, and the peak memory in bytes beyond what was held before.

    `memory` is None on a CPU of a system without /proc.
    """

    seconds: float
    memory: int | None
    device: str


def input_size(upscale: int) -> tuple[int, int]:
    """(height, width) of the LQ image for a 1280x720 output, rounded down."""
    return OUTPUT_SIZE[0] // upscale, OUTPUT_SIZE[1] // upscale


# ----------------------------------------------------------------------------------------------------------- counted


def _products(*_: Any, out_shape: tuple[int, ...], **__: Any) -> int:
    return 2 * math.prod(out_shape)  # the counter counts a Mult-Add as two operations


def complexity(network: nn.Module, in_chans: int, upscale: int) -> Complexity:
    """Count parameters, Mult-Adds and activations of the real network, run on the meta device (no memory, no time).

    Mult-Adds are convolutions, matrix products (including both attentions) and element-wise products between tensors
    (the reciprocal helper, H-RAMi and the scales of the attentions), one each; additions, layer norms, softmax and
    activation functions are not counted. Every published count is matched within 0.5%: the paper also counts the
    helper's products in blocks that have no helper, and the product of every query with 1/tau.

    Args:
        network: maps (1, in_chans, h, w) to (1, in_chans, h * upscale, w * upscale); it is not changed.
        in_chans: channels of its input.
        upscale: super-resolution factor; the input is 1280x720 divided by it, rounded down.

    Raises:
        UserError: the output is not `upscale` times the input.
    """
    network = copy.deepcopy(network).to('meta').eval()
    activations = 0

    def add(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        nonlocal activations
        activations += output.numel()

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            module.register_forward_hook(add)
    image = torch.empty(1, in_chans, *input_size(upscale), device='meta')
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mul: _products}) as counter, torch.no_grad():
        output = network(image)
    height, width = output.shape[-2:]
    if (height, width) != tuple(side * upscale for side in image.shape[-2:]):
        raise UserError(f'the network makes {width}x{height} of {image.shape[-1]}x{image.shape[-2]}, not x{upscale}')
    return Complexity(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2, activations)


# ---------------------------------------------------------------------------------------------------------- measured


def measure(section: dict[str, Any], upscale: int, repeats: int) -> Measurement:
    """Run a network on a random image for a 1280x720 output, in a process of its own, for its peak memory.

    Args:
        section: `network_g` of an option file.
        upscale: its factor.
        repeats: timed runs after one to warm up.

    Raises:
        UserError: the process died, as a rule for want of memory.
    """
    from concurrent.futures.process import BrokenProcessPool

    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        try:
            return pool.submit(_measure, section, upscale, repeats).result()
        except BrokenProcessPool as error:
            raise UserError('the measuring process died, probably for want of memory; --counts skips it') from error


def _measure(section: dict[str, Any], upscale: int, repeats: int) -> Measurement:
    from basicsr.archs import build_network

    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    network = build_network(dict(section)).to(device).eval()
    image = torch.rand(1, section.get('in_chans', 3), *input_size(upscale), device=device)
    seconds = []
    with torch.no_grad():
        network(image[..., :32, :32])  # loads what libraries load once
        before = memory(device, 'VmRSS')
        for _ in range(1 + repeats):
            start = time.perf_counter()
            network(image)
            if device.type == 'cuda':
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    peak = memory(device, 'VmHWM')
    used = None if before is None or peak is None else peak - before
    name = torch.cuda.get_device_name() if device.type == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    return Measurement(median(seconds[1:]), used, name)


def memory(device: torch.device, field: str) -> int | None:
    """Bytes held now (VmRSS) or at most so far (VmHWM)."""
    if device.type == 'cuda':
        return torch.cuda.memory_allocated() if field == 'VmRSS' else torch.cuda.max_memory_allocated()
    status = Path('/proc/self/status')
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(f'{field}:'))
    return int(line.split()[1]) * 1024


# ----------------------------------------------------------------------------------------------------------- as text

HEADER = ['network', 'scale', '#Params', 'Mult-Adds', 'activations', 'time', 'peak memory']


def cells(name: str, upscale: int, cost: Complexity, measured: Measurement | None) -> list[str]:
    """A row of the table: `RAMiT_SRx2  x2  940K  163.3G  1,174M  11.2 s  1.61 GiB`."""
    giga = cost.mult_adds / 1e9
    row = [
        name,
        f'x{upscale}',
        f'{cost.parameters / 1e3:,.0f}K',
        f'{giga:.{1 if giga >= 100 else 2}f}G',
        f'{cost.activations / 1e6:,.0f}M',
    ]
    if measured is None:
        return row
    digits = max(0, 2 - math.floor(math.log10(measured.seconds * 1e3)))
    time_ = f'{measured.seconds:.2f} s' if measured.seconds >= 1 else f'{measured.seconds * 1e3:.{digits}f} ms'
    return [*row, time_, '' if measured.memory is None else f'{measured.memory / 2**30:.2f} GiB']
