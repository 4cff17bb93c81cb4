"""Peak memory, side by side, every contestant in a process of its own: the forward pass at LQ 640x360, a training step.

    python benchmarks/memory.py

Counted is what a call takes beyond the process before it: weights and input are there, PyTorch is loaded and warm. On a
CPU it is read from /proc, so on Linux only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from side_by_side import DEVICE, Report, network_arguments, oracle, peak_memory, published, swinir_light
from torch import nn
from training import BATCH, PATCH, Compiled, literal_step, ours, step

LQ = (360, 640)


def network(contestant: str, folder: Path | None) -> nn.Module:
    if contestant == 'SwinIR-light':
        return swinir_light(2)
    if contestant == 'published RAMiT':
        assert folder is not None
        return published(folder)
    built = ours('checkpointing' in contestant)
    return Compiled(built) if 'compiled' in contestant else built


def forward(contestant: str, folder: Path | None, begin: Callable[[], None]) -> None:
    measured = network(contestant, folder).eval()
    state = measured.state_dict()

    def run(height: int, width: int) -> None:
        image = torch.rand(1, 3, height, width, device=DEVICE)
        if height == LQ[0]:
            begin()
        if contestant == 'literal transcription':
            oracle.ramit(state, image, upscale=2)
        else:
            measured(image)

    with torch.no_grad():
        run(32, 32)
        run(*LQ)


def training(contestant: str, folder: Path | None, begin: Callable[[], None]) -> None:
    measured = network(contestant, folder)
    run = literal_step(measured) if 'literal' in contestant else step(measured, bf16='bf16' in contestant)
    begin()
    run()


def main() -> None:
    args = network_arguments(__doc__, rounds=1).parse_args()
    report = Report(args)
    others = [
        *(['published RAMiT'] if args.published else []),
        *([] if DEVICE.type == 'cuda' else ['literal transcription']),
    ]
    variants = ['RAMiT', 'RAMiT, compiled', 'RAMiT, bf16', 'RAMiT, bf16, compiled', 'RAMiT, checkpointing']
    for title, function, contestants in [
        (f'forward x2, LQ {LQ[1]}x{LQ[0]}', forward, ['RAMiT', 'RAMiT, compiled', 'SwinIR-light', *others]),
        (
            f'training step x2, batch {BATCH}, LQ {PATCH}x{PATCH}',
            training,
            [*variants, *others],
        ),
    ]:
        peaks = {
            name: [peak_memory(function, name, args.published) for _ in range(args.rounds)] for name in contestants
        }
        least = {name: min(several) for name, several in peaks.items()}
        rows = [[name, f'{value / 2**20:,.0f} MiB', f'{value / least["RAMiT"]:.2f}'] for name, value in least.items()]
        report.table(f'peak memory, {title}', ['peak', 'RAMiT = 1'], rows, peaks)


if __name__ == '__main__':
    main()
