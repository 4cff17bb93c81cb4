"""Crops of compared images with their scores, as Figs. 5 and H to M of the RAMiT paper, and maps of the differences.

Sizes are in inches, on a page of a paper's width, so that captions are printed at the size that is set here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from ramit_arch.evaluation.comparison import GT, LQ, Metrics, form, ranks
from ramit_arch.evaluation.comparison_sheet import Detail
from ramit_arch.evaluation.figures import outline, show

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

WIDTH = 7.0  # of the page
OVERVIEW = 1.5  # of the image with the box
LARGEST = 1.3  # of a crop
PER_LINE = 6  # crops
GAP = 0.07
SIZE, LINE = 7, 0.125  # points of the text, and its line height
ASCENT = 0.11  # from the top of a line to its baseline
CHARACTER, PROSE = 0.62 * SIZE / 72, 0.54 * SIZE / 72  # average width in names, and in sentences
BAR = 1.6, 0.09  # the colour bar
BAR_FOOT = 0.4  # with its numbers and label
COLOURS = 'Reds'  # of one hue, darker for more: the order survives colour blindness and a grey printer
SHARE = 99.5  # percentile of the differences that gets the darkest colour
DIFFERENCE = f'Difference maps: |output - {GT}|, mean of the channels, on one scale of 8-bit levels.'


class Panel(NamedTuple):
    """A crop with its title, and of a method the scores and which of them are the best."""

    title: str
    crop: np.ndarray
    scores: Mapping[str, float] = {}
    best: Collection[str] = ()


def difference_map(output: np.ndarray, gt: np.ndarray) -> np.ndarray:
    """|output - ground truth| of uint8 images in their levels, (H, W): the mean over the channels."""
    difference = np.abs(output.astype(np.float32) - gt.astype(np.float32))
    return difference.mean(-1) if difference.ndim == 3 else difference


def figure(details: Sequence[Detail], note: str, metrics: Metrics, difference: bool = False) -> Figure:
    """A row an image: the ground truth with the box, then its crops by all methods, their scores below.

    Args:
        details: the rows, all with the same methods.
        note: what the scores mean.
        metrics: for the direction of each.
        difference: also draw the difference maps, on one scale for all.
    """
    from matplotlib.figure import Figure

    layout = Layout.of(details, difference)
    scale = _scale(details) if difference else None
    text = [f'{note[:1].upper()}{note[1:]}; the best in bold.', *[DIFFERENCE] * difference]
    room = int((WIDTH - (BAR[0] + 4 * GAP) * difference) / PROSE)
    lines = [line for sentence in text for line in wrap(sentence, room)]
    foot = max(len(lines) * LINE, BAR_FOOT * difference) + GAP
    height = GAP + sum(layout.height(detail) for detail in details) + foot
    page = Figure(figsize=(WIDTH, height), dpi=300)
    top = height - GAP
    for detail in details:
        _draw_row(page, detail, layout, top, metrics, scale)
        top -= layout.height(detail)
    _write(page, lines, GAP, foot, ha='left')
    if scale is not None:
        _draw_bar(page, scale, foot)
    return page


class Layout(NamedTuple):
    """Where the panels of a row are; the same for all rows.

    Attributes:
        lines: of crops.
        columns: crops of a line.
        cell: side of the square that a crop fits in.
        titles: text lines of the longest title.
        scores: text lines of the scores.
        maps: 2 where difference maps lie below the crops, else 1.
    """

    lines: int
    columns: int
    cell: float
    titles: int
    scores: int
    maps: int

    @classmethod
    def of(cls, details: Sequence[Detail], difference: bool) -> Layout:
        first = details[0]
        count = len(first.methods) + 1 + (first.lq is not None)
        lines = math.ceil(count / PER_LINE)
        columns = math.ceil(count / lines)
        cell = min(LARGEST, (WIDTH - OVERVIEW - (columns + 2) * GAP) / columns)
        titles = max(len(_wrapped(title, cell)) for title in [GT, *first.methods])
        metrics = len(next(iter(first.methods.values())).scores)
        return cls(lines, columns, cell, titles, math.ceil(metrics / 2), 1 + difference)

    def crop(self, detail: Detail) -> tuple[float, float]:
        """Width and height of the image's crops."""
        longer = max(detail.box.width, detail.box.height)
        return self.cell * detail.box.width / longer, self.cell * detail.box.height / longer

    def line(self, detail: Detail) -> float:
        """Height of a line of crops with its captions."""
        return self.maps * (self.crop(detail)[1] + GAP / 2) + (self.titles + self.scores) * LINE + GAP

    def overview(self, detail: Detail) -> tuple[float, float]:
        """Width and height of the image with the box."""
        room = self.lines * self.line(detail) - len(_name(detail)) * LINE - GAP
        share = min(OVERVIEW / detail.width, max(room, self.cell) / detail.height)
        return detail.width * share, detail.height * share

    def height(self, detail: Detail) -> float:
        """Height of the whole row."""
        overview = self.overview(detail)[1] + len(_name(detail)) * LINE + 2 * GAP
        return max(self.lines * self.line(detail), overview) + GAP


def _panels(detail: Detail, metrics: Metrics) -> list[Panel]:
    scores = [each.scores for each in detail.methods.values()]
    rank = {metric: ranks([each[metric] for each in scores], metric, metrics) for metric in scores[0]}
    return [
        *([] if detail.lq is None else [Panel(LQ, detail.lq)]),
        *(
            Panel(title, each.picture, each.scores, [metric for metric in rank if rank[metric][i] == 1])
            for i, (title, each) in enumerate(detail.methods.items())
        ),
        Panel(GT, detail.gt),
    ]


def _draw_row(
    page: Figure, detail: Detail, layout: Layout, top: float, metrics: Metrics, scale: ScalarMappable | None
) -> None:
    width, height = layout.overview(detail)
    axes = _axes(page, GAP, top, width, height)
    _show(axes, detail.overview)
    outline(axes, *(side * detail.overview.shape[1] / detail.width for side in detail.box))
    _write(page, _name(detail), GAP, top - height, ha='left')
    for i, panel in enumerate(_panels(detail, metrics)):
        line, column = divmod(i, layout.columns)
        left = OVERVIEW + 2 * GAP + column * (layout.cell + GAP)
        _draw_panel(page, panel, detail, layout, left + layout.cell / 2, top - line * layout.line(detail), scale)


def _draw_panel(
    page: Figure, panel: Panel, detail: Detail, layout: Layout, middle: float, top: float, scale: ScalarMappable | None
) -> None:
    """A crop, its difference map if there is a scale, title and scores, from the top downwards."""
    width, height = layout.crop(detail)
    _show(_axes(page, middle - width / 2, top, width, height), panel.crop)
    top -= height
    if scale is not None and panel.scores:
        top -= GAP / 2
        axes = _axes(page, middle - width / 2, top, width, height)
        show(axes, difference_map(panel.crop, detail.gt), cmap=scale.get_cmap(), norm=scale.norm)
        top -= height
    title = _wrapped(panel.title, layout.cell)
    _write(page, title, middle, top)
    _write_scores(page, panel, middle, top - len(title) * LINE)


def _show(axes: Axes, image: np.ndarray) -> None:
    if image.ndim == 2:
        show(axes, image, cmap='gray', vmin=0, vmax=255)
    else:
        show(axes, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def _axes(page: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the left and the bottom of the page."""
    page_height = page.get_figheight()
    axes = page.add_axes((left / WIDTH, (top - height) / page_height, width / WIDTH, height / page_height))
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)
    return axes


def _write(page: Figure, lines: Sequence[str], x: float, top: float, ha: str = 'center') -> None:
    height = page.get_figheight()
    for i, line in enumerate(lines):
        y = (top - ASCENT - i * LINE) / height
        page.text(x / WIDTH, y, line, fontsize=SIZE, ha=ha, va='baseline', parse_math=False)


def _write_scores(page: Figure, panel: Panel, x: float, top: float) -> None:
    """Two metrics a line, between them a slash; the best are bold."""
    from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea

    texts = [(f'{value:{form(name)}}', name in panel.best) for name, value in panel.scores.items()]
    for line, pair in enumerate(texts[i : i + 2] for i in range(0, len(texts), 2)):
        parts = [pair[0], (' / ', False), pair[1]] if len(pair) == 2 else pair
        areas: list[Artist] = [TextArea(text, textprops=_weight(bold)) for text, bold in parts]
        row = HPacker(children=areas, pad=0, sep=0, align='baseline')
        place = x / WIDTH, (top - 0.03 - line * LINE) / page.get_figheight()
        page.add_artist(
            AnnotationBbox(row, place, xycoords='figure fraction', frameon=False, pad=0, box_alignment=(0.5, 1))
        )


def _weight(bold: bool) -> dict[str, object]:
    return {'fontsize': SIZE, 'fontweight': 'bold' if bold else 'normal'}


def _scale(details: Sequence[Detail]) -> ScalarMappable:
    """One scale for all differences; a few that are larger get its darkest colour."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    values = [difference_map(each.picture, detail.gt).ravel() for detail in details for each in detail.methods.values()]
    largest = max(1, math.ceil(np.percentile(np.concatenate(values), SHARE)))
    return ScalarMappable(Normalize(0, largest, clip=True), COLOURS)


def _draw_bar(page: Figure, scale: ScalarMappable, top: float) -> None:
    width, height = BAR
    axes = _axes(page, WIDTH - width - 3 * GAP, top - 0.03, width, height)
    bar = page.colorbar(scale, cax=axes, orientation='horizontal', extend='max', extendfrac=0.04)
    bar.ax.tick_params(labelsize=SIZE, width=0.4, length=2, pad=1)
    bar.outline.set_linewidth(0.4)
    bar.set_label('8-bit levels', fontsize=SIZE, labelpad=1)


def _wrapped(title: str, width: float) -> list[str]:
    return wrap(title, max(4, int(width / CHARACTER)))


def _name(detail: Detail) -> list[str]:
    """The caption of an overview: set, name and box."""
    box = detail.box
    where = f'{box.width}x{box.height} at {box.x},{box.y}'
    return [*_wrapped(detail.name, OVERVIEW), *_wrapped(where, OVERVIEW)]
