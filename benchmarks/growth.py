"""Time and memory by the size of the image, for each pixel of it: RAMiT, LAformer and IPT-V2 at x2.

    python benchmarks/growth.py
    python benchmarks/growth.py --rounds 3 --json growth.json

Square LQ images from 64x64 to 1024x1024, of the default networks (0.9M parameters), in float32, whole: without tiles. A
network whose cost is linear takes the same for each pixel at every size; time per pixel that falls at first is
per-call overhead. Peak memory is taken in a process of its own, on Linux only. IPT-V2 at 1024x1024 takes minutes on a
CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from side_by_side import DEVICE, Report, arguments, peak_memory
from torch import nn

from ramit_arch import IPTV2, LAformer, RAMiT

NETWORKS = {'RAMiT': RAMiT, 'LAformer': LAformer, 'IPTV2': IPTV2}
SIDES = (64, 128, 256, 512, 1024)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name](upscale=2).to(DEVICE).eval()


def forward(name: str, side: int, begin: Callable[[], None]) -> None:
    """Restore one image, after a small one that loads what libraries load once."""
    measured = network(name)
    with torch.no_grad():
        measured(torch.rand(1, 3, 32, 32, device=DEVICE))
        image = torch.rand(1, 3, side, side, device=DEVICE)
        begin()
        measured(image)


def main() -> None:
    args = arguments(__doc__, rounds=1).parse_args()
    report = Report(args)
    networks = {name: network(name) for name in NETWORKS}
    times, peaks = {}, {}
    with torch.no_grad():
        for side in (SIDES[0], *SIDES):  # the first does not count
            image = torch.rand(1, 3, side, side, device=DEVICE)
            seconds: dict[str, list[float]] = {name: [] for name in NETWORKS}
            for _ in range(args.rounds):
                for name, net in networks.items():
                    start = time.perf_counter()
                    net(image)
                    if DEVICE.type == 'cuda':
                        torch.cuda.synchronize()
                    seconds[name].append(time.perf_counter() - start)
            times |= {(name, side): median(several) / side**2 for name, several in seconds.items()}
    for side in SIDES:
        for name in NETWORKS:
            peaks[name, side] = peak_memory(forward, name, side) / side**2
    for title, values, factor in [('us a pixel', times, 1e6), ('KiB a pixel', peaks, 1 / 1024)]:
        rows = []
        for side in SIDES:
            cells = [
                f'{values[name, side] * factor:.2f} ({values[name, side] / values[name, 256]:.2f})' for name in NETWORKS
            ]
            rows.append([f'{side}x{side}', *cells])
        numbers = {name: {side: values[name, side] for side in SIDES} for name in NETWORKS}
        report.table(f'{title} (256x256 = 1)', list(NETWORKS), rows, numbers)


if __name__ == '__main__':
    main()
