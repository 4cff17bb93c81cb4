"""Crops of compared images, and sheets of them by Pillow alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ramit_arch.evaluation.comparison import GT, LQ, Comparison, Restoration, form, unit
from ramit_arch.files import atomic_write

CROP = 64  # ground truth pixels a side, of a box that is chosen
ZOOM = 4
DETAIL = 7  # pixels that are blurred away
OVERVIEW = 640  # pixels of the longer side
MARGIN, LINE = 8, 18
THUMBNAIL = CROP * ZOOM
CELL = THUMBNAIL + MARGIN, THUMBNAIL + 2 * LINE + MARGIN
STRIP = 6  # validations


class Box(NamedTuple):
    """A part of an image: left, top, width and height in pixels."""

    x: int
    y: int
    width: int
    height: int

    def inside(self, height: int, width: int) -> bool:
        """Whether the box is inside an image of this size."""
        return self.x + self.width <= width and self.y + self.height <= height

    def of(self, image: np.ndarray) -> np.ndarray:
        """A copy, so that the image can be freed."""
        return image[self.y : self.y + self.height, self.x : self.x + self.width].copy()


class Detail(NamedTuple):
    """What is drawn of a compared image; every picture is uint8 BGR or gray.

    Attributes:
        name: of the image.
        width: of the image.
        height: of the image.
        box: where the crops are taken.
        overview: the ground truth, reduced.
        lq: crop, or None where the LQ image is the baseline.
        gt: crop.
        methods: crops, and scores of the whole image.
    """

    name: str
    width: int
    height: int
    box: Box
    overview: np.ndarray
    lq: np.ndarray | None
    gt: np.ndarray
    methods: dict[str, Restoration]

    def ordered(self, titles: Sequence[str]) -> Detail:
        """With the methods in this order."""
        return self._replace(methods={title: self.methods[title] for title in titles})


def cut(c: Comparison, box: Box | None = None) -> Detail:
    """The crops of a compared image, in a box that `choose_box` chooses if none is given."""
    box = box or choose_box(c)
    height, width = c.gt.shape[:2]
    share = min(1, OVERVIEW / max(height, width))
    size = max(1, round(width * share)), max(1, round(height * share))
    overview = np.array(Image.fromarray(c.gt).resize(size, Image.Resampling.LANCZOS))  # channel by channel
    methods = {title: Restoration(box.of(method.picture), method.scores) for title, method in c.methods.items()}
    lq = None if LQ in c.methods else box.of(c.lq)
    return Detail(c.name, width, height, box, overview, lq, box.of(c.gt), methods)


def choose_box(c: Comparison) -> Box:
    """Where bicubic interpolation is farthest from the ground truth, or without it where the ground truth has most
    detail, so that the choice favours no method."""
    gt = c.gt.astype(np.float32)
    baseline = cv2.blur(gt, (DETAIL, DETAIL)) if LQ in c.methods else next(iter(c.methods.values())).picture
    error = np.abs(baseline - gt)
    error = error.mean(-1) if error.ndim == 3 else error
    means = cv2.boxFilter(error, -1, (CROP, CROP), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    means = means[: max(1, error.shape[0] - CROP + 1), : max(1, error.shape[1] - CROP + 1)]
    y, x = np.unravel_index(int(means.argmax()), means.shape)
    return Box(int(x), int(y), min(CROP, error.shape[1]), min(CROP, error.shape[0]))


def sheet(details: Sequence[Detail]) -> Image.Image:
    """A row an image: the ground truth with the box, then the box enlarged in LQ, by every method and in the ground
    truth."""
    return _grid([_cells(detail) for detail in details])


def add_to_strip(folder: Path, iteration: int, comparison: Comparison) -> None:
    """Draw the outputs of a training so far: the sheet's crop, of at most six validations.

    Args:
        folder: keeps the crops from validation to validation; `folder`.png shows them.
        iteration: of this validation.
        comparison: the image; the last method is the network as it is now.
    """
    *before, now, gt = _cells(cut(comparison))
    folder.mkdir(parents=True, exist_ok=True)
    save(now, folder / f'{iteration}.png')
    kept = {int(file.stem): file for file in folder.glob('*.png') if file.stem.isdecimal()}
    past = sorted(i for i in kept if i < iteration)
    chosen = past if len(past) < STRIP else [past[i * (len(past) - 1) // (STRIP - 2)] for i in range(STRIP - 1)]
    save(_grid([[*before, *(Image.open(kept[i]) for i in chosen), now, gt]]), folder.with_suffix('.png'))


def save(image: Image.Image, file: Path) -> None:
    """Write a PNG."""
    content = io.BytesIO()
    image.save(content, 'png')
    atomic_write(file, content.getvalue())


def _grid(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    width, height = CELL
    page = Image.new('RGB', (MARGIN + width * max(map(len, rows)), MARGIN + height * len(rows)), 'white')
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            page.paste(cell, (MARGIN + j * width, MARGIN + i * height))
    return page


def _cells(detail: Detail) -> list[Image.Image]:
    cells = [_cell(_overview(detail), f'{detail.name}\n{detail.width}x{detail.height}')]
    shown = [] if detail.lq is None else [(detail.lq, LQ)]
    shown += [(method.picture, f'{title}\n{_scores(method.scores)}') for title, method in detail.methods.items()]
    return cells + [_cell(_enlarged(picture), caption) for picture, caption in [*shown, (detail.gt, GT)]]


def _overview(detail: Detail) -> Image.Image:
    """The ground truth with the box, black around yellow: seen on any background."""
    overview = _picture(detail.overview)
    overview.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    share, box = overview.width / detail.width, detail.box
    corners = (box.x, box.y, box.x + box.width - 1, box.y + box.height - 1)
    for colour, line in [('black', 4), ('yellow', 2)]:
        ImageDraw.Draw(overview).rectangle([round(side * share) for side in corners], outline=colour, width=line)
    return overview


def _enlarged(picture: np.ndarray) -> Image.Image:
    """A crop at the size of a cell, each pixel a square; one that is larger than the cell is reduced."""
    crop = _picture(picture)
    zoom = THUMBNAIL // max(crop.size)
    if zoom:
        return crop.resize((crop.width * zoom, crop.height * zoom), Image.Resampling.NEAREST)
    crop.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return crop


def _cell(picture: Image.Image, caption: str) -> Image.Image:
    cell = Image.new('RGB', CELL, 'white')
    cell.paste(picture, (0, 0))
    font = ImageFont.load_default(14)
    ImageDraw.Draw(cell).multiline_text((0, THUMBNAIL + 2), caption, 'black', font, spacing=3)
    return cell


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB))


def _scores(scores: dict[str, float]) -> str:
    return ' / '.join(f'{value:{form(metric)}}{unit(metric)}' for metric, value in scores.items())
