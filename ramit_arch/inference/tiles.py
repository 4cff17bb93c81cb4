"""Restoring an image tile by tile, so that memory does not grow with its size."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Grid(NamedTuple):
    """Tiles of equal size along one axis.

    Attributes:
        size: of a tile, in LQ pixels.
        starts: of all tiles; neighbours overlap by at least what was asked for.
    """

    size: int
    starts: list[int]


def grid(length: int, tile: int, overlap: int, multiple: int = 1) -> Grid:
    """Cover an axis with as few tiles as possible, and those as small as possible.

    Args:
        length: of the axis.
        tile: largest size of a tile, above `overlap`.
        overlap: of neighbours, at least.
        multiple: of which a network pads its input; tiles are multiples too, if they can be.
    """
    if length <= tile:
        return Grid(length, [0])
    count = -(-(length - overlap) // (tile - overlap))
    needed = -(-(length + (count - 1) * overlap) // count)
    size = min(-(-needed // multiple) * multiple, tile)
    return Grid(size, [i * (length - size) // (count - 1) for i in range(count)])


def restore_tiled(
    restore: Callable[[int, int, int, int], Tensor],
    write: Callable[[int, Tensor], None],
    rows: Grid,
    columns: Grid,
    scale: int,
) -> None:
    """Restore tiles and blend them linearly over their overlaps.

    No more than a row of tiles is held. A tile is blended by linear interpolation with what is there already, so that
    pixels on which tiles agree are exact, and a tile counts in full at the image's border.

    Args:
        restore: top, bottom, left and right of a tile in LQ pixels -> (C, H * scale, W * scale).
        write: takes finished rows: the first one's number, and (C, rows, width * scale).
        rows: tiles from top to bottom.
        columns: tiles from left to right.
        scale: factor of super-resolution.
    """
    width = columns.starts[-1] + columns.size
    above: Tensor | None = None  # the last rows of the tiles above, which this row of tiles overlaps
    for top, following in zip(rows.starts, [*rows.starts[1:], rows.starts[-1] + rows.size], strict=True):
        band: Tensor | None = None
        done = 0
        for left in columns.starts:
            tile = restore(top, top + rows.size, left, left + columns.size)
            if band is None:
                band = tile.new_empty(*tile.shape[:2], width * scale)
            at = left * scale
            seam = done - at
            band[..., at:done] = _blend(band[..., at:done], tile[..., :seam], axis=-1)
            done = at + tile.shape[-1]
            band[..., at + seam : done] = tile[..., seam:]
        assert band is not None
        if above is not None:
            seam = above.shape[1]
            band[:, :seam] = _blend(above, band[:, :seam], axis=-2)
        finished = (following - top) * scale
        write(top * scale, band[:, :finished])
        above = band[:, finished:].clone()


def _blend(first: Tensor, second: Tensor, axis: int) -> Tensor:
    """From the first to the second along an axis."""
    length = first.shape[axis]
    ramp = (torch.arange(length, device=first.device) + 0.5) / max(length, 1)
    return torch.lerp(first, second, ramp if axis == -1 else ramp[:, None])
