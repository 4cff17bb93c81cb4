"""The `Restorer` that `basicsr restore` uses for pictures and videos, from its arguments."""

from __future__ import annotations

import argparse
import os

import torch

from ramit_arch.errors import UserError
from ramit_arch.inference import packaged
from ramit_arch.inference.folders import result_suffix
from ramit_arch.inference.restorer import Restorer


def open_restorer(args: argparse.Namespace, processes: int = 1) -> tuple[Restorer, str]:
    """A restorer, and the path or name of its network.

    Raises:
        UserError: arguments contradict each other, or the network cannot be loaded.
    """
    tile = {'auto': 'auto', 'off': None}.get(args.tile, args.tile)
    if isinstance(tile, int) and tile <= args.overlap:
        raise UserError(f'--tile {tile}: must be above the overlap, which is {args.overlap}')
    model = args.model or packaged.choose(args.task, args.scale)
    restorer = Restorer(
        model, task=args.task, device=_device(args.device, processes), tile=tile, overlap=args.overlap,
        precision='bfloat16' if args.bf16 else 'float32', ensemble=args.ensemble,
    )  # fmt: skip
    if args.bf16 and restorer.file is not None and restorer.file.suffix == '.onnx':
        raise UserError(f'--bf16: {restorer.file} computes as it was exported; leave it out')
    if args.scale not in (None, restorer.scale):
        raise UserError(f'--scale {args.scale}: {restorer.file} is a network for scale {restorer.scale}; leave it out')
    return restorer, model


def name_suffix(args: argparse.Namespace, restorer: Restorer) -> str:
    """What is appended to the file names of results."""
    if args.suffix is not None:
        return args.suffix
    return '' if args.output else result_suffix(restorer)


def describe(restorer: Restorer, model: str, args: argparse.Namespace) -> str:
    """A line about the network and where it runs."""
    name = f'{type(restorer.network).__name__} x{restorer.scale}'
    source = restorer.file if args.model else f'{model}, a small packaged network (use -m for a better one)'
    return f'{name}{f" for {restorer.task}" if restorer.task else ""} from {source}, on {restorer.device}'


def _device(asked: str | None, processes: int) -> str | None:
    """A GPU for each process, if there are several."""
    if asked is None and processes > 1 and torch.cuda.is_available():
        return f'cuda:{int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()}'
    return asked
