"""Local attribution maps of several networks side by side, as Figs. 3a and D of the RAMiT paper."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from ramit_arch.evaluation.attribution import Box, contribution_area, diffusion_index
from ramit_arch.evaluation.figures import SMALL, TITLE, WIDTH, outline, panel_size, show, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NARROWEST = 0.9  # inches of a column: with more than five networks the page is wider than WIDTH
SHORTEST = 1.3  # inches of either side of a panel's place, unless the column is narrower
COLOURS = 'Reds'  # of one hue, darker for more: the order survives colour blindness and a grey printer
SMALLEST = 1e-3  # share of the maximum of the palest colour
CONTOURS = {0.1: 'dashed', 0.5: 'solid'}  # shares of the maximum
LUMINANCE = (0.299, 0.587, 0.114)
TEXT = (
    'Attribution map: absolute value of the path integral of the gradients. Contribution area: its kernel density, '
    'contours at 10% (dashed) and 50% (solid) of the maximum. DI: diffusion index.'
)


def figure(image: np.ndarray, box: Box, maps: Mapping[str, np.ndarray]) -> Figure:
    """The image with its box; then for every network its attribution map, above the area that contributes.

    Args:
        image: (H, W) or (H, W, 3) in [0, 1].
        box: in pixels of the image.
        maps: attribution maps (H, W) by network, not all zero.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    columns = 1 + len(maps)
    room = max((WIDTH - 0.9) / columns - 0.1, NARROWEST)
    height, width = (max(side, min(SHORTEST, room)) for side in panel_size(image, room))
    titles = [wrapped(name, width) for name in maps]
    lines = max(title.count('\n') for title in titles)
    size = columns * (width + 0.1) + 0.9, 2 * (height + 0.3) + 0.5 + 0.12 * lines
    page = Figure(figsize=size, layout='constrained', dpi=200)
    panels = page.subplots(2, columns, squeeze=False)
    show(panels[0, 0], image, 'input', cmap='gray', vmin=0, vmax=1)
    outline(panels[0, 0], *box, box.size)
    detail = image[box.y : box.y + box.size, box.x : box.x + box.size]
    show(panels[1, 0], detail, '', f'box: {box.size}x{box.size} at {box.x},{box.y}', cmap='gray', vmin=0, vmax=1)
    scale = LogNorm(SMALLEST, 1, clip=True)  # a linear scale shows a few pixels and white
    for (above, below), title, values in zip(panels.T[1:], titles, maps.values(), strict=True):
        show(above, values / values.max(), title, cmap=COLOURS, norm=scale)
        _draw_area(below, image, values)
        for axes in (above, below):
            outline(axes, *box, box.size)
    for axes, label in zip(panels[:, 1], ('attribution map', 'contribution area'), strict=True):
        axes.set_ylabel(label, fontsize=TITLE)
    bar = page.colorbar(
        ScalarMappable(scale, COLOURS), ax=list(panels.flat), fraction=0.04, pad=0.01, shrink=0.5, anchor=(0, 1),
        format='%g',
    )  # fmt: skip
    bar.ax.tick_params(labelsize=SMALL)
    bar.set_label('share of the maximum', fontsize=SMALL)
    page.supxlabel(fill(TEXT, int(size[0] * 19)), fontsize=SMALL)
    return page


def _draw_area(axes: Axes, image: np.ndarray, values: np.ndarray) -> None:
    """The contribution area of an attribution map, over the image in pale grey."""
    area = contribution_area(values)
    pale = 0.45 + 0.55 * (image if image.ndim == 2 else image @ np.array(LUMINANCE))
    show(axes, pale, '', f'DI {diffusion_index(values):.2f}', cmap='gray', vmin=0, vmax=1)
    axes.imshow(area, cmap=COLOURS, vmin=0, vmax=1, alpha=0.8 * np.sqrt(area), interpolation='nearest')
    axes.contour(area, list(CONTOURS), colors='black', linewidths=0.9, linestyles=list(CONTOURS.values()))
