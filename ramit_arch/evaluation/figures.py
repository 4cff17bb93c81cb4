"""What figures of images share: where text goes, and files that do not change from run to run. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ramit_arch.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ('.png', '.pdf', '.svg')
DATES = {'.png': {}, '.pdf': {'CreationDate': None}, '.svg': {'Date': None}}  # that would be written


def save(draw: Callable[[], Figure], file: Path) -> None:
    """Draw and write a figure as PNG, PDF or SVG, without date and random names; text in a PDF or SVG stays text."""
    import matplotlib

    content = io.BytesIO()
    kind = file.suffix.lower()
    with matplotlib.rc_context({'svg.hashsalt': 'basicsr', 'svg.fonttype': 'none', 'pdf.fonttype': 42}):
        draw().savefig(content, format=kind[1:], metadata=DATES[kind])
    atomic_write(file, content.getvalue())


def show(axes: Axes, image: np.ndarray, title: str = '', caption: str = '', **look: object) -> None:
    """An image (H, W) or (H, W, C) without ticks, a title above and a caption below."""
    axes.imshow(image, interpolation='nearest', **look)  # type: ignore[arg-type]
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(caption, fontsize=9)


def outline(axes: Axes, x: float, y: float, width: float, height: float) -> None:
    """A box around pixels, red between white lines: seen on any background, in grey too."""
    from matplotlib.patches import Rectangle

    for colour, line in [('white', 3.0), ('#B2182B', 1.4)]:
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor=colour, linewidth=line))
