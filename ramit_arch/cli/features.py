"""`basicsr features`"""

from __future__ import annotations

import argparse

from torch import Tensor

from ramit_arch.archs.layers import symmetric_pad
from ramit_arch.cli.figures import check_figure, drawable, image_for, open_differentiable, read_image
from ramit_arch.errors import UserError
from ramit_arch.evaluation import figures
from ramit_arch.evaluation.features import BlockAttention, attention_maps, feature_maps, figure, standardise
from ramit_arch.evaluation.text import aligned


def run(args: argparse.Namespace) -> None:
    """Print the sizes of a network's feature maps for an image, and draw them and the attention of a block.

    Raises:
        UserError: an argument does not fit, or the network does not say what to show.
    """
    for flag in ('token', 'head'):
        if getattr(args, flag) is not None and not args.block:
            raise UserError(f'--{flag} needs --block, the block whose attention to draw')
    file = check_figure('-o', args.output, [args.image])
    image = read_image(args.image)
    height, width = image.shape[:2]
    token = (args.token[0], args.token[1]) if args.token else (width // 2, height // 2)
    if token[0] >= width or token[1] >= height:
        raise UserError(f'--token {token[0]},{token[1]}: not in {args.image}, which has {width}x{height} pixels')
    restorer = open_differentiable(args.model, args.task, args.device)
    network = restorer.network
    multiple = getattr(network, 'size_multiple', restorer.size_multiple)
    padded = symmetric_pad(image_for(restorer, image), multiple)
    with restorer.compute.active():
        maps = feature_maps(network, padded)
        attention = attention_maps(network, padded, args.block, token) if args.block else None
    if attention is not None:
        _check_head(args.head, attention)
    print(aligned([['map', 'channels', 'size'], *(
        [title, str(len(values)), f'{values.shape[2]}x{values.shape[1]}'] for title, values in maps.items()
    )]))  # fmt: skip
    if attention is not None:
        for kind, heads in attention.heads().items():
            print(f'{attention.block}: {kind} attention, {_numbers(heads)}')
    shown = {title: standardise(_crop(values, padded, height, width), args.pool) for title, values in maps.items()}
    figures.save(lambda: figure(drawable(image), shown, args.pool, attention, args.head), file)
    print(f'Feature maps: {file}')


def _crop(values: Tensor, padded: Tensor, height: int, width: int) -> Tensor:
    """The part of a map (C, h, w) that shows the image, which was padded at the right and bottom."""
    rows, columns = (
        -(-side * values.shape[axis] // padded.shape[axis + 1]) for side, axis in ((height, 1), (width, 2))
    )
    return values[:, :rows, :columns]


def _check_head(head: int | None, attention: BlockAttention) -> None:
    """Raises UserError if the block has no such head."""
    kinds = attention.heads()
    if head is not None and not any(head in heads for heads in kinds.values()):
        known = ', '.join(f'{kind} {_numbers(heads)}' for kind, heads in kinds.items())
        raise UserError(f'--head {head}: {attention.block} has {known}')


def _numbers(heads: range) -> str:
    return f'head {heads[0]}' if len(heads) == 1 else f'heads {heads[0]} to {heads[-1]}'
