"""What figures of images share: where text goes, and files that do not change from run to run. Needs matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ramit_arch.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ('.png', '.pdf', '.svg')
WIDTH = 7.0  # inches, of a page of text: the sizes of type are those in print
LARGEST = 2.3  # inches, of either side of a panel
TITLE = 8  # points
SMALL = 7
DATES = {'.png': {}, '.pdf': {'CreationDate': None}, '.svg': {'Date': None}}  # that would be written


def save(draw: Callable[[], Figure], file: Path) -> None:
    """Draw and write a figure as PNG, PDF or SVG, without date and random names; text in a PDF or SVG stays text."""
    import matplotlib

    content = io.BytesIO()
    kind = file.suffix.lower()
    with matplotlib.rc_context({'svg.hashsalt': 'basicsr', 'svg.fonttype': 'none', 'pdf.fonttype': 42}):
        draw().savefig(content, format=kind[1:], metadata=DATES[kind])
    atomic_write(file, number_clips(content.getvalue()) if kind == '.svg' else content.getvalue())


def number_clips(svg: bytes) -> bytes:
    """Number an SVG's clip paths: matplotlib names them by coordinates whose last bits vary from run to run."""
    numbers: dict[bytes, int] = {}
    name = rb'(?<=["#])p[0-9a-f]{10}(?=[")])'
    return re.sub(name, lambda found: b'clip%d' % numbers.setdefault(found[0], len(numbers)), svg)


def show(axes: Axes, image: np.ndarray, title: str = '', caption: str = '', **look: object) -> None:
    """An image (H, W) or (H, W, C) without ticks, a title above and a caption below."""
    axes.imshow(image, interpolation='nearest', **look)  # type: ignore[arg-type]
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=TITLE, parse_math=False)
    axes.set_xlabel(caption, fontsize=TITLE)


def outline(axes: Axes, x: float, y: float, width: float, height: float) -> None:
    """A box around pixels, red between white lines: seen on any background, in grey too."""
    from matplotlib.patches import Rectangle

    for colour, line in [('white', 1.7), ('#B2182B', 0.8)]:
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor=colour, linewidth=line))


def panel_size(image: np.ndarray, room: float) -> tuple[float, float]:
    """Height and width in inches of an image in a column `room` inches wide."""
    height, width = image.shape[:2]
    scale = min(min(room, LARGEST) / width, LARGEST / height)
    return scale * height, scale * width


def wrapped(name: str, room: float) -> str:
    """The title of a panel in lines that fit into `room` inches, broken after spaces and -, _, / where possible."""
    most = max(int(room * 15), 4)  # characters
    lines = ['']
    for part in re.findall(rf'[^-_/ ]{{0,{most - 1}}}[-_/ ]|[^-_/ ]{{1,{most}}}', name):
        if len(lines[-1] + part.rstrip()) > most and lines[-1]:
            lines.append('')
        lines[-1] += part
    return '\n'.join(line.rstrip() for line in lines)
