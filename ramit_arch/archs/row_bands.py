"""Computing maps band by band, so that what is held in between stays in a processor's cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BAND = 8192  # pixels of a band: maps of 64 to 192 channels then fit into a processor's cache


def in_bands(
    function: Callable[..., Tensor],
    *maps: Tensor,
    training: bool,
    multiple: int = 1,
    halo: int = 0,
    shift: int = 0,
) -> Tensor:
    """`function(*maps)` of token-major maps, computed from bands of rows.

    In training, with gradients, in a graph that is compiled, and on a GPU, all rows are one band.

    Args:
        function: makes (N, H, W, any) of maps (N, H, W, any), for any H that is a multiple of what it asks for.
        maps: of equal N, H and W.
        training: whether the function may draw random numbers, which are for whole maps.
        multiple: rows of which bands are made.
        halo: rows above and below that the function looks at for a pixel; it may pad with zeros at the maps' borders.
        shift: the function sees the maps rolled up and left by this, and its result is rolled back; without halo.
    """
    n, h, w, _ = maps[0].shape
    rows = max(BAND // (n * w * multiple), 1) * multiple
    whole_map = training or torch.is_grad_enabled() or torch.compiler.is_compiling() or maps[0].device.type != 'cpu'
    if whole_map or rows >= h:
        if not shift:
            return function(*maps)
        rolled = function(*(x.roll((-shift, -shift), (1, 2)) for x in maps))
        return rolled.roll((shift, shift), (1, 2))
    whole: Tensor | None = None
    for top in range(shift, h + shift, rows):
        bottom, above = min(top + rows, h + shift), max(top - halo, 0)
        bands = [x[:, above : bottom + halo] for x in maps]
        if shift:
            if bottom > h:  # around the border
                bands = [torch.cat([band, x[:, : bottom - h]], 1) for band, x in zip(bands, maps, strict=True)]
            part = function(*(band.roll(-shift, 2) for band in bands)).roll(shift, 2)
        else:
            part = function(*bands)[:, top - above : bottom - above]
        if whole is None:
            whole = part.new_empty(n, h, w, part.shape[-1])
        whole[:, top:bottom] = part[:, : h - top]
        if bottom > h:
            whole[:, : bottom - h] = part[:, h - top :]
    assert whole is not None
    return whole
