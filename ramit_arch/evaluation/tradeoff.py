"""The trade-off figure: Mult-Adds against average PSNR, circle area by parameters (paper, Fig. F)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ramit_arch.evaluation.tables import AVERAGE, Result, add_results, paper_tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Okabe and Ito's colours differ in lightness too, so that they survive colour blindness and a grey printer.
COLOURS = {'other': '#56B4E9', 'paper': '#E69F00', 'here': '#009E73'}
LEGEND = {'other': 'other methods (paper)', 'paper': 'RAMiT (paper)', 'here': 'tested here'}
AREA_PER_KILO = 0.55  # square points a thousand parameters
PLACES = [(0, 1), (0, -1), (1, 0), (-1, 0), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8)]  # of a name; radii


class Point(NamedTuple):
    kind: str  # a key of COLOURS
    method: str
    mult_adds: float  # G
    params: float  # K
    psnr: float  # dB, average over the five benchmark sets


def points(scale: int, results: list[Result]) -> list[Point]:
    """The paper's methods at a scale (Tabs. 2 and Ca), and our results that cover all five sets."""
    tables = [t for t in paper_tables() if t.task == 'SR' and t.scale == scale and t.number in ('2', 'Ca')]
    found: dict[tuple[str, str], Point] = {}
    for table in tables:
        for row in (add_results(table, results) or table).rows:
            score = row.scores.get(AVERAGE)
            if row.kind != 'difference' and score and not score.partial and row.mult_adds and row.params:
                kind = 'here' if row.kind == 'here' else 'paper' if row.method.startswith('RAMiT') else 'other'
                point = Point(kind, row.method, row.mult_adds, row.params, score.psnr)
                found.setdefault((kind, row.method), point)
    return list(found.values())


def figure(scales: Sequence[int], results: list[Result]) -> Figure:
    """One panel a scale, of 2, 3 and 4. Needs matplotlib."""
    from matplotlib.figure import Figure

    page = Figure(figsize=(7.5 * len(scales), 5.6), layout='constrained', dpi=150)
    panels = list(zip(page.subplots(1, len(scales), squeeze=False)[0], scales, strict=True))
    drawn = {scale: points(scale, results) for scale in scales}
    for axes, scale in panels:
        _panel(axes, scale, drawn[scale])
    _legend(page, panels[0][0], {p.kind for shown in drawn.values() for p in shown})
    for axes, scale in panels:
        _label(page, axes, drawn[scale])
    return page


def _panel(axes: Axes, scale: int, shown: list[Point]) -> None:
    for kind, colour in COLOURS.items():
        group = [p for p in shown if p.kind == kind]
        axes.scatter(
            [p.mult_adds for p in group],
            [p.psnr for p in group],
            [p.params * AREA_PER_KILO for p in group],
            color=colour,
            zorder=3 if kind == 'here' else 2,
            **_edge(kind),
        )
    axes.set(
        title=f'Super-resolution x{scale}',
        xlabel='Mult-Adds for a 1280x720 output [G]',
        ylabel='Average PSNR over five sets [dB]',
    )
    axes.margins(0.14, 0.16)
    axes.grid(color='0.88', zorder=0)
    axes.set_axisbelow(True)


def _edge(kind: str) -> dict[str, Any]:
    hatch = {'hatch': '////', 'linewidths': 1.4} if kind == 'here' else {'linewidths': 0.7}
    return {'edgecolors': 'black', 'alpha': 0.85, **hatch}


def _legend(page: Figure, axes: Axes, kinds: set[str]) -> None:
    """Below the panels, where it hides nothing."""
    keys = [axes.scatter([], [], 120, color=c, label=LEGEND[k], **_edge(k)) for k, c in COLOURS.items() if k in kinds]
    area = 1000 * AREA_PER_KILO
    keys.append(axes.scatter([], [], area, color='white', edgecolors='black', label='1,000K parameters'))
    page.legend(handles=keys, loc='outside lower center', ncols=len(keys), fontsize=9, borderpad=0.9)


def _label(page: Figure, axes: Axes, shown: list[Point]) -> None:
    """Write each name where it covers no circle and no other name, as far as there is such a place."""
    page.draw_without_rendering()
    taken = [_circle(axes, p) for p in shown]
    for p in sorted(shown, key=lambda p: -p.params):
        texts = [_write(axes, p, dx, dy) for dx, dy in PLACES]
        boxes = [text.get_window_extent() for text in texts]
        frame = axes.get_window_extent()
        covered = [sum(_overlap(box, other) for other in taken) + _outside(box, frame) for box in boxes]
        best = covered.index(min(covered))
        taken.append(boxes[best])
        for i, text in enumerate(texts):
            if i != best:
                text.remove()


def _write(axes: Axes, p: Point, dx: float, dy: float) -> Annotation:
    gap = (p.params * AREA_PER_KILO / math.pi) ** 0.5 + 3
    return axes.annotate(
        p.method,
        (p.mult_adds, p.psnr),
        (dx * gap, dy * gap),
        textcoords='offset points',
        ha='center' if dx == 0 else 'left' if dx > 0 else 'right',
        va='center' if dy == 0 else 'bottom' if dy > 0 else 'top',
        fontsize=9,
        fontweight='normal' if p.kind == 'other' else 'bold',
        zorder=4,
    )


def _circle(axes: Axes, p: Point) -> Bbox:
    from matplotlib.transforms import Bbox

    x, y = axes.transData.transform((p.mult_adds, p.psnr))
    radius = (p.params * AREA_PER_KILO / math.pi) ** 0.5 * axes.figure.dpi / 72 * 0.8
    return Bbox([[x - radius, y - radius], [x + radius, y + radius]])


def _overlap(a: Bbox, b: Bbox) -> float:
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(0.0, width) * max(0.0, height)


def _outside(a: Bbox, frame: Bbox) -> float:
    return a.width * a.height - _overlap(a, frame)
