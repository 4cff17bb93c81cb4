"""A training step, side by side: RAMiT x2, batch 8 of LQ 64x64, L1 loss, forward and backward.

python benchmarks/training.py
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from side_by_side import DEVICE, Report, interleaved, network_arguments, oracle, published
from torch import Tensor, nn

from ramit_arch import RAMiT
from ramit_arch.models.compute import read_compute
from ramit_arch.models.options import Validation

BATCH, PATCH = 8, 64


def pair(batch: int, patch: int) -> tuple[Tensor, Tensor]:
    lq, gt = torch.rand(batch, 3, patch, patch), torch.rand(batch, 3, 2 * patch, 2 * patch)
    return lq.to(DEVICE), gt.to(DEVICE)


def step(network: nn.Module, bf16: bool = False, batch: int = BATCH, patch: int = PATCH) -> Callable[[], None]:
    lq, gt = pair(batch, patch)

    def run() -> None:
        network.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            output = network(lq)
        F.l1_loss(output.float(), gt).backward()

    return run


def literal_step(network: nn.Module) -> Callable[[], None]:
    lq, gt = pair(BATCH, PATCH)
    state = {name: value.detach().clone() for name, value in network.state_dict().items()}
    for value in state.values():
        value.requires_grad_(value.is_floating_point())
    return lambda: F.l1_loss(oracle.ramit(state, lq, upscale=2), gt).backward()


def ours(checkpointing: bool = False) -> RAMiT:
    network = RAMiT(upscale=2).to(DEVICE)
    if checkpointing:
        network.set_grad_checkpointing()
    return network


class Compiled(nn.Module):
    """A network as `train.compile` computes it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.compiled = read_compute(Validation(save_img=False, compile=True), 'train', DEVICE)[0].network(network)

    def forward(self, image: Tensor) -> Tensor:
        return self.compiled(image)


def main() -> None:
    args = network_arguments(__doc__, rounds=2).parse_args()
    report = Report(args)
    network = ours()
    contestants = {
        'RAMiT': step(network),
        'RAMiT, compiled': step(Compiled(ours())),
        'RAMiT, bf16': step(network, bf16=True),
        'RAMiT, bf16, compiled': step(Compiled(ours()), bf16=True),
        'RAMiT, checkpointing': step(ours(checkpointing=True)),
    }
    if args.published:
        contestants['published RAMiT'] = step(published(args.published))
    if DEVICE.type == 'cpu':
        contestants['literal transcription'] = literal_step(network)
    timings = interleaved(args.rounds, contestants)
    report.timings(f'training step x2, batch {BATCH}, LQ {PATCH}x{PATCH}', timings, 'RAMiT', ('patches/s', BATCH))


if __name__ == '__main__':
    main()
