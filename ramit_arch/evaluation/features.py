"""Feature maps and attention of a network for an image, as Figs. 4 and E of the RAMiT paper.

A network says by `feature_maps` and `attention_maps` what there is to see (see `ramit_arch.archs`); forward hooks
collect it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ramit_arch.errors import UserError, suggestion
from ramit_arch.evaluation.figures import SMALL, WIDTH, outline, panel_size, show, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

COLOURS = 'viridis'  # lighter for more, in grey too, and for colour-blind readers
RANGE = (-2, 3)  # standard deviations around the mean that a map shows
COLUMNS = 4  # of maps
ROOM = (WIDTH - 0.8) / COLUMNS - 0.1  # inches for a map
HEADS = 5  # panels in a row of attention


def feature_maps(network: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """The maps that a network says are worth showing, by title.

    Args:
        network: defines `feature_maps`.
        image: (1, C, H, W), padded to a size that the network takes without padding.

    Returns:
        Maps (C, h, w) in float32 on the CPU; h and w are those of the image or a share of them.

    Raises:
        UserError: the network does not define it, or names something that is no submodule or returns no map.
    """
    if not hasattr(network, 'feature_maps'):
        raise UserError(f'{type(network).__name__} does not define `feature_maps()`, which names the maps to show')
    titles: Mapping[str, Sequence[str]] = network.feature_maps()  # type: ignore[operator]
    for title, names in titles.items():
        if isinstance(names, str):
            kind = type(network).__name__
            raise UserError(f'{kind}.feature_maps: {title!r} has {names!r}; give a tuple of names, ({names!r},)')
    outputs = _outputs(network, {name for names in titles.values() for name in names}, image)
    maps = {}
    for title, names in titles.items():
        product = outputs[names[0]]
        for name in names[1:]:
            product = product * outputs[name]
        maps[title] = product[0].movedim(getattr(network, 'channel_axis', 1) % 4 - 1, 0).float().cpu()
    return maps


def _outputs(network: nn.Module, names: set[str], image: Tensor) -> dict[str, Tensor]:
    """What submodules return, the first of several."""
    found: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        found[name] = output[0] if isinstance(output, (tuple, list)) else output

    hooks = []
    try:
        for name in names:
            module = _submodule(network, name)
            hooks.append(module.register_forward_hook(lambda *call, name=name: keep(name, call[-1])))
        with torch.no_grad():
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    for name in names:
        if not isinstance(found.get(name), Tensor) or found[name].ndim != 4:
            raise UserError(f'{type(network).__name__}.{name}: returns no map (N, C, H, W) or (N, H, W, C)')
    return found


def _submodule(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError:
        raise UserError(f'{type(network).__name__} has no submodule {name}') from None


class _Reached(Exception):
    """Stops the forward pass at a block, with its first argument."""


class BlockAttention(NamedTuple):
    """The attention of a block.

    Attributes:
        block: its name.
        token: column and row of a position of its map.
        stride: pixels of the image for a position of the map.
        maps: `spatial` (heads, h, w), the weights of all positions at the token, NaN for those out of its reach, and
            `channel` (heads, D, D), either or both, in float32 on the CPU; rows sum to 1.
    """

    block: str
    token: tuple[int, int]
    stride: int
    maps: dict[str, Tensor]

    def heads(self) -> dict[str, range]:
        """Numbers of the heads by kind, as the network numbers them: spatial before channel."""
        counts = {kind: len(values) for kind, values in self.maps.items()}
        first = counts.get('spatial', 0)
        return {kind: range(first, first + n) if kind == 'channel' else range(n) for kind, n in counts.items()}

    @property
    def window(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns in reach of the token, in the order of a window, which may lie around the border."""
        reached = np.isfinite(self.maps['spatial'][0].numpy())
        rows, columns = (np.flatnonzero(reached.any(axis)) for axis in (1, 0))
        return _unwrap(rows), _unwrap(columns)


def _unwrap(indices: np.ndarray) -> np.ndarray:
    """0, 1, 30, 31 -> 30, 31, 0, 1."""
    gaps = np.flatnonzero(np.diff(indices) > 1)
    return np.roll(indices, -gaps[0] - 1) if len(gaps) else indices


def attention_maps(network: nn.Module, image: Tensor, block: str, token: tuple[int, int]) -> BlockAttention:
    """The attention of a block at a token.

    Args:
        network: has a block that defines `attention_maps`.
        image: (1, C, H, W), padded as for `feature_maps`.
        block: name of a submodule that defines `attention_maps`; inner parts may be left out if it stays unique.
        token: column and row, in pixels of the image.

    Raises:
        UserError: there is no such block.
    """
    name = _find_block(network, block)
    module: Any = network.get_submodule(name)
    with torch.no_grad():
        x = _first_argument(network, module, image)
        stride = image.shape[2] // x.shape[2 if getattr(network, 'channel_axis', 1) == 1 else 1]
        column, row = (position // stride for position in token)
        maps = module.attention_maps(x, row, column)
    return BlockAttention(name, (column, row), stride, {kind: value.float().cpu() for kind, value in maps.items()})


def _find_block(network: nn.Module, block: str) -> str:
    known = [name for name, module in network.named_modules() if hasattr(module, 'attention_maps')]
    if not known:
        raise UserError(f'{type(network).__name__}: none of its blocks defines `attention_maps`; remove --block')
    matching = [name for name in known if name == block] or [name for name in known if _is_short(block, name)]
    if len(matching) != 1:
        near = '' if matching else suggestion(block, known)
        text = 'several blocks' if matching else 'no block with attention maps'
        near = near or f'; there are {known[0]} to {known[-1]}'
        raise UserError(f'--block {block}: {text} of this name in {type(network).__name__}{near}')
    return matching[0]


def _is_short(block: str, name: str) -> bool:
    """Whether a block is the name without some of its inner parts: stage1.block0 for stage1.blocks.block0."""
    parts = iter(name.split('.'))
    return all(part in parts for part in block.split('.')) and name.endswith(block.split('.')[-1])


def _first_argument(network: nn.Module, module: nn.Module, image: Tensor) -> Tensor:
    """What a submodule gets when the network sees an image."""

    def stop(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        raise _Reached(arguments[0])

    hook = module.register_forward_pre_hook(stop)
    try:
        network(image)
    except _Reached as reached:
        return reached.args[0]
    finally:
        hook.remove()
    raise UserError(f'{type(network).__name__}: the block is not computed for this image')


def standardise(features: Tensor, pool: Literal['max', 'mean'] = 'max') -> np.ndarray:
    """A map (C, h, w) pooled over its channels, minus its mean and divided by its standard deviation: (h, w)."""
    values = (features.amax(0) if pool == 'max' else features.mean(0)).numpy().astype(np.float64)
    return (values - values.mean()) / max(values.std(), 1e-12)


# ----------------------------------------------------------------------------------------------------------- figure


def figure(
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    pool: str,
    attention: BlockAttention | None = None,
    head: int | None = None,
) -> Figure:
    """The image and its maps, four a row; below them the attention of a block, a panel for every head.

    Args:
        image: (H, W) or (H, W, 3) in [0, 1].
        maps: standardised, by title.
        pool: how the channels were pooled.
        attention: of a block.
        head: one instead of all.
    """
    from matplotlib.figure import Figure

    panels = _panels(attention, head) if attention else []
    rows = [-(-(1 + len(maps)) // COLUMNS), -(-len(panels) // HEADS)]
    height, _ = panel_size(image, ROOM)
    heights = [rows[0] * (height + 0.3) + 0.4, rows[1] * (WIDTH / HEADS + 0.4) + 0.4][: 2 if panels else 1]
    page = Figure(figsize=(WIDTH, sum(heights)), layout='constrained', dpi=200)
    parts = page.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    first = _draw_maps(parts[0], image, maps, rows[0], pool)
    if attention is not None:
        _outline_window(first, attention)
        _draw_attention(parts[1], image, attention, panels, rows[1])
    return page


def _panels(attention: BlockAttention, head: int | None) -> list[tuple[str, int]]:
    """(kind, head) of each panel; the image in the window comes first if a spatial head is drawn."""
    panels = [(kind, i) for kind, heads in attention.heads().items() for i in heads if head in (None, i)]
    return [('window', 0), *panels] if 'spatial' in dict(panels) else panels


def _grid(part: SubFigure, rows: int, columns: int, used: int) -> list[Axes]:
    axes = list(part.subplots(rows, columns, squeeze=False).flat)
    for empty in axes[used:]:
        empty.set_axis_off()
    return axes[:used]


def _draw_maps(part: SubFigure, image: np.ndarray, maps: Mapping[str, np.ndarray], rows: int, pool: str) -> Axes:
    first, *others = axes = _grid(part, rows, COLUMNS, 1 + len(maps))
    show(first, image, 'input', cmap='gray', vmin=0, vmax=1)
    for place, (title, values) in zip(others, maps.items(), strict=True):
        show(place, values, wrapped(title, ROOM), cmap=COLOURS, vmin=RANGE[0], vmax=RANGE[1])
    bar = part.colorbar(others[-1].images[0], ax=axes, fraction=0.03, pad=0.01, extend='both')
    bar.ax.tick_params(labelsize=SMALL)
    bar.set_label('standard deviations from the mean', fontsize=SMALL)
    kind = 'maximum' if pool == 'max' else 'mean'
    part.supxlabel(f'Feature maps: {kind} over the channels, standardised.', fontsize=SMALL)
    return first


def _draw_attention(
    part: SubFigure, image: np.ndarray, attention: BlockAttention, panels: Sequence[tuple[str, int]], rows: int
) -> None:
    for place, (kind, head) in zip(_grid(part, rows, HEADS, len(panels)), panels, strict=True):
        if kind == 'window':
            _draw_window(place, image, attention)
            continue
        values = attention.maps[kind][head - attention.heads()[kind].start].numpy()
        if kind == 'spatial':
            values = values[np.ix_(*attention.window)]
            outline(place, *_in_window(attention), 1, 1)
        show(place, values, f'{kind}, head {head}', f'0 to {values.max():.2g}', cmap=COLOURS, vmin=0)
    text = (
        f'{attention.block}. Spatial: weights of the values in the window at the token in the box. Channel: weights of '
        'the channels of a head, rows for queries, columns for keys. Every panel has its own range, dark for 0.'
    )
    part.supxlabel(fill(text, int(part.bbox.width / part.dpi * 19)), fontsize=SMALL)


def _in_window(attention: BlockAttention) -> tuple[int, int]:
    """Column and row of the token in its window."""
    rows, columns = attention.window
    return int(np.flatnonzero(columns == attention.token[0])[0]), int(np.flatnonzero(rows == attention.token[1])[0])


def _draw_window(place: Axes, image: np.ndarray, attention: BlockAttention) -> None:
    """The window of the image, padded as for the network."""
    stride = attention.stride
    padding = [
        (0, stride * side - have)
        for side, have in zip(attention.maps['spatial'].shape[1:], image.shape[:2], strict=True)
    ]
    padded = np.pad(image, padding + [(0, 0)] * (image.ndim - 2), mode='symmetric')
    pixels = ((stride * side[:, None] + np.arange(stride)).ravel() for side in attention.window)
    token = f'token {attention.token[0] * stride},{attention.token[1] * stride}'
    show(place, padded[np.ix_(*pixels)], 'window', token, cmap='gray', vmin=0, vmax=1)
    column, row = _in_window(attention)
    outline(place, column * stride, row * stride, stride, stride)


def _outline_window(axes: Axes, attention: BlockAttention) -> None:
    """Outline the window in the image; only the token if the window wraps around the border, or without a window."""
    (column, row), stride, across, down = attention.token, attention.stride, 1, 1
    if 'spatial' in attention.maps:
        rows, columns = attention.window
        if rows[0] < rows[-1] and columns[0] < columns[-1]:
            column, row, across, down = columns[0], rows[0], len(columns), len(rows)
    outline(axes, column * stride, row * stride, across * stride, down * stride)
