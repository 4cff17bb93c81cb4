"""Local attribution maps of several networks side by side, as Figs. 3a and D of the RAMiT paper."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from ramit_arch.evaluation.attribution import Box, contribution_area, diffusion_index
from ramit_arch.evaluation.figures import outline, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 2.3  # inches of the longer side of a panel
SHORTEST = 1.3  # of the place of a panel
COLOURS = 'Reds'  # of one hue, darker for more: the order survives colour blindness and a grey printer
SMALLEST = 1e-3  # share of the maximum that is shown as white
CONTOURS = {0.1: 'dashed', 0.5: 'solid'}  # shares of the maximum
LUMINANCE = (0.299, 0.587, 0.114)
TEXT = (
    'Attribution map: absolute value of the path integral of the gradients. Contribution area: its kernel density, '
    'contours at 10 % (dashed) and 50 % (solid) of the maximum. DI: diffusion index.'
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

    height, width = (SIDE * side / max(image.shape[:2]) for side in image.shape[:2])
    size = (1 + len(maps)) * (max(width, SHORTEST) + 0.1) + 0.9, 2 * (max(height, SHORTEST) + 0.3) + 0.5
    page = Figure(figsize=size, layout='constrained', dpi=200)
    panels = page.subplots(2, 1 + len(maps), squeeze=False)
    show(panels[0, 0], image, 'input', cmap='gray', vmin=0, vmax=1)
    outline(panels[0, 0], *box, box.size)
    detail = image[box.y : box.y + box.size, box.x : box.x + box.size]
    show(panels[1, 0], detail, '', f'box: {box.size}x{box.size} at {box.x},{box.y}', cmap='gray', vmin=0, vmax=1)
    scale = LogNorm(SMALLEST, 1, clip=True)  # a linear scale shows a few pixels and white
    for (above, below), (name, values) in zip(panels.T[1:], maps.items(), strict=True):
        show(above, values / values.max(), fill(name, 24), cmap=COLOURS, norm=scale)
        _draw_area(below, image, values)
        for axes in (above, below):
            outline(axes, *box, box.size)
    for axes, label in zip(panels[:, 1], ('attribution map', 'contribution area'), strict=True):
        axes.set_ylabel(label, fontsize=9)
    bar = page.colorbar(
        ScalarMappable(scale, COLOURS), ax=list(panels.flat), fraction=0.04, pad=0.01, shrink=0.5, anchor=(0, 1),
        format='%g',
    )  # fmt: skip
    bar.ax.tick_params(labelsize=7)
    bar.set_label('share of the maximum', fontsize=8)
    page.supxlabel(fill(TEXT, int(size[0] * 20)), fontsize=7)
    return page


def _draw_area(axes: Axes, image: np.ndarray, values: np.ndarray) -> None:
    """The contribution area of an attribution map, over the image in pale grey."""
    area = contribution_area(values)
    pale = 0.45 + 0.55 * (image if image.ndim == 2 else image @ np.array(LUMINANCE))
    show(axes, pale, '', f'DI {diffusion_index(values):.2f}', cmap='gray', vmin=0, vmax=1)
    axes.imshow(area, cmap=COLOURS, vmin=0, vmax=1, alpha=0.8 * np.sqrt(area), interpolation='nearest')
    axes.contour(area, list(CONTOURS), colors='black', linewidths=0.9, linestyles=list(CONTOURS.values()))
