"""The forward pass, side by side: RAMiT x2, SwinIR-light x2 and the paper written out literally.

    python benchmarks/network.py
    python benchmarks/network.py --operators --json network.json

On a CPU with LQ 256x256, on a GPU (where there is one) with LQ 640x360, for 1280x720 outputs as in the paper's Tab. E.
`compiled` is what the key `val.compile` does. `--operators` prints what the time is spent in.
"""

from __future__ import annotations

import collections
import copy
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from side_by_side import DEVICE, Report, Timing, interleaved, network_arguments, oracle, published, swinir_light
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ramit_arch import RAMiT
from ramit_arch.evaluation.complexity import OUTPUT_SIZE, complexity
from ramit_arch.models.compute import read_compute
from ramit_arch.models.options import Validation

SIZE = (256, 256) if DEVICE.type == 'cpu' else (OUTPUT_SIZE[0] // 2, OUTPUT_SIZE[1] // 2)


def in_bf16(network: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    with torch.autocast(DEVICE.type, torch.bfloat16):
        return network(image)


def peaks(rounds: int) -> dict[str, float]:
    """The machine's greatest float32 rates, in operations a second: a product, and a convolution as in the network."""
    side, pixels, channels = 2048, 64 * 64, 512
    a, b = torch.rand(2, side, side, device=DEVICE)
    image = torch.rand(1, channels, 64, 64, device=DEVICE).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(channels, channels, 1, 1, device=DEVICE)
    operations = {
        f'torch.mm, {side}x{side}x{side}': (lambda: a @ b, 2 * side**3),
        f'1x1 convolution, {channels} to {channels} channels': (
            lambda: F.conv2d(image, weight),
            2 * pixels * channels**2,
        ),
    }
    timings = interleaved(rounds, {name: run for name, (run, _) in operations.items()})
    return {name: count / timings[name].median for name, (_, count) in operations.items()}


class Operators(TorchDispatchMode):
    """Seconds by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self.calls: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        start = time.perf_counter()
        result = function(*args, **(kwargs or {}))
        if DEVICE.type == 'cuda':
            torch.cuda.synchronize()
        name = function.name().removeprefix('aten::').partition('.')[0]
        self.seconds[name] += time.perf_counter() - start
        self.calls[name] += 1
        return result


def report_operators(report: Report, network: RAMiT, image: Tensor, rounds: int) -> None:
    with Operators() as operators:
        for _ in range(rounds):
            network(image)
    total = sum(operators.seconds.values())
    top = sorted(operators.seconds.items(), key=lambda item: -item[1])[:10]
    rows = [[name, f'{value / total:.1%}', f'{operators.calls[name] // rounds}'] for name, value in top]
    report.table('operator', ['share of the time', 'calls'], rows, {name: value / total for name, value in top})


def report_share(report: Report, network: RAMiT, forward: Timing, rates: dict[str, float]) -> None:
    pixels = SIZE[0] * SIZE[1]
    per_pixel = complexity(network, 3, 2).mult_adds / (OUTPUT_SIZE[0] // 2 * (OUTPUT_SIZE[1] // 2))
    rate = 2 * per_pixel * pixels / forward.median
    rows = [['RAMiT', f'{rate / 1e9:,.0f}', '']]
    rows += [[name, f'{peak / 1e9:,.0f}', f'{rate / peak:.0%}'] for name, peak in rates.items()]
    report.table('float32 rate', ['10^9 operations/s', 'share that RAMiT reaches'], rows, {'RAMiT': rate, **rates})


def main() -> None:
    parser = network_arguments(__doc__, rounds=3)
    parser.add_argument('--operators', action='store_true', help='print the ten operators that take most of the time')
    args = parser.parse_args()
    report = Report(args)
    torch.manual_seed(0)
    ours, theirs = RAMiT(upscale=2).to(DEVICE).eval(), swinir_light(2).eval()
    compiled = read_compute(Validation(save_img=False, compile=True), 'val', DEVICE)[0].network(copy.deepcopy(ours))
    state, image = ours.state_dict(), torch.rand(1, 3, *SIZE, device=DEVICE)
    contestants = {
        'RAMiT': lambda: ours(image),
        'RAMiT, compiled': lambda: compiled(image),
        'RAMiT, bf16': lambda: in_bf16(ours, image),
        'RAMiT, bf16, compiled': lambda: in_bf16(compiled, image),
        'SwinIR-light': lambda: theirs(image),
    }
    if args.published:
        authors = published(args.published).eval()
        contestants['published RAMiT'] = lambda: authors(image)
    if DEVICE.type == 'cuda':
        contestants['SwinIR-light, bf16'] = lambda: in_bf16(theirs, image)
    else:  # window by window, it takes minutes on a GPU
        contestants['literal transcription'] = lambda: oracle.ramit(state, image, upscale=2)
    with torch.no_grad():
        timings = interleaved(args.rounds, contestants)
        title = f'forward x2, LQ {SIZE[1]}x{SIZE[0]}'
        report.timings(title, timings, 'RAMiT', ('images/s', 1.0))
        report_share(report, ours, timings['RAMiT'], peaks(5 * args.rounds))
        if args.operators:
            report_operators(report, ours, image, args.rounds)


if __name__ == '__main__':
    main()
