"""Peak memory, side by side, every contestant in a process of its own: the forward pass at LQ 640x360, a training step.

    python benchmarks/memory.py

Counted is what a call takes beyond the process before it: weights and input are there, PyTorch is loaded and warm. On a
CPU it is read from /proc, so on Linux only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from side_by_side import DEVICE, Report, arguments, oracle, peak_memory, swinir_light
from training import BATCH, PATCH, literal_step, ours, step

LQ = (360, 640)


def forward(contestant: str, begin: Callable[[], None]) -> None:
    network = swinir_light(2).eval() if contestant == 'SwinIR-light' else ours().eval()
    state = network.state_dict()

    def run(height: int, width: int) -> None:
        image = torch.rand(1, 3, height, width, device=DEVICE)
        if height == LQ[0]:
            begin()
        if contestant == 'literal transcription':
            oracle.ramit(state, image, upscale=2)
        else:
            network(image)

    with torch.no_grad():
        run(32, 32)
        run(*LQ)


def training(contestant: str, begin: Callable[[], None]) -> None:
    if contestant == 'literal transcription':
        run = literal_step(ours())
    else:
        run = step(ours('checkpointing' in contestant), bf16='bf16' in contestant)
    begin()
    run()


def main() -> None:
    args = arguments(__doc__, rounds=1).parse_args()
    report = Report(args.json)
    literal = [] if DEVICE.type == 'cuda' else ['literal transcription']
    for title, function, contestants in [
        (f'forward x2, LQ {LQ[1]}x{LQ[0]}', forward, ['RAMiT', 'SwinIR-light', *literal]),
        (
            f'training step x2, batch {BATCH}, LQ {PATCH}x{PATCH}',
            training,
            ['RAMiT', 'RAMiT, bf16', 'RAMiT, checkpointing', *literal],
        ),
    ]:
        peaks = {name: [peak_memory(function, name) for _ in range(args.rounds)] for name in contestants}
        least = {name: min(several) for name, several in peaks.items()}
        rows = [[name, f'{value / 2**20:,.0f} MiB', f'{value / least["RAMiT"]:.2f}'] for name, value in least.items()]
        report.table(f'peak memory, {title}', ['peak', 'RAMiT = 1'], rows, peaks)


if __name__ == '__main__':
    main()
