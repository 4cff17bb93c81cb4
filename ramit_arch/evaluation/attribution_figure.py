"""Local attribution maps of several networks side by side, as Figs. 3a and D of the RAMiT paper."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from ramit_arch.evaluation.attribution import Box, contribution_area, diffusion_index
from ramit_arch.evaluation.figures import outline, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 2.3  # inches of the longer side of a panel
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

    height, width = image.shape[:2]
    inch = SIDE / max(height, width)
    size = (1 + len(maps)) * (width * inch + 0.1) + 0.9, 2 * (height * inch + 0.3) + 0.5
    page = Figure(figsize=size, layout='constrained', dpi=200)
    panels = page.subplots(2, 1 + len(maps), squeeze=False)
    show(panels[0, 0], image, 'input', cmap='gray', vmin=0, vmax=1)
    outline(panels[0, 0], *box, box.size)
    detail = image[box.y : box.y + box.size, box.x : box.x + box.size]
    show(panels[1, 0], detail, '', f'box: {box.size}x{box.size} at {box.x},{box.y}', cmap='gray', vmin=0, vmax=1)
    scale = LogNorm(SMALLEST, 1, clip=True)  # a linear scale shows a few pixels and white
    pale = 0.45 + 0.55 * (image if image.ndim == 2 else image @ np.array(LUMINANCE))
    for column, (name, values) in zip(panels.T[1:], maps.items(), strict=True):
        show(column[0], values / values.max(), name, cmap=COLOURS, norm=scale)
        area = contribution_area(values)
        show(column[1], pale, '', f'DI {diffusion_index(values):.2f}', cmap='gray', vmin=0, vmax=1)
        column[1].imshow(area, cmap=COLOURS, vmin=0, vmax=1, alpha=0.8 * np.sqrt(area), interpolation='nearest')
        column[1].contour(area, list(CONTOURS), colors='black', linewidths=0.9, linestyles=list(CONTOURS.values()))
        for axes in column:
            outline(axes, *box, box.size)
    panels[0, 1].set_ylabel('attribution map', fontsize=9)
    panels[1, 1].set_ylabel('contribution area', fontsize=9)
    bar = page.colorbar(ScalarMappable(scale, COLOURS), ax=panels[0].tolist(), fraction=0.04, pad=0.01, format='%g')
    bar.ax.tick_params(labelsize=7)
    bar.set_label('share of the maximum', fontsize=8)
    page.supxlabel(fill(TEXT, int(size[0] * 20)), fontsize=7)
    return page
