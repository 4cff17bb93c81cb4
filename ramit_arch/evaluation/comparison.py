"""Methods side by side on the same images: a table, and a sheet of zoomed crops."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from basicsr.data import build_dataset
from basicsr.metrics import calculate_metric
from basicsr.utils import tensor2img
from basicsr.utils.matlab_functions import imresize
from PIL import Image, ImageDraw, ImageFont

from ramit_arch.errors import UserError
from ramit_arch.evaluation.scores import mean_scores
from ramit_arch.evaluation.text import aligned
from ramit_arch.files import atomic_write

CROP = 64  # ground truth pixels a side
ZOOM = 4
DETAIL = 7  # pixels that are blurred away
LQ = 'LQ'  # the baseline of all tasks but super-resolution
MARGIN, LINE = 8, 18
THUMBNAIL = CROP * ZOOM
CELL = THUMBNAIL + MARGIN, THUMBNAIL + 2 * LINE + MARGIN
STRIP = 6  # validations


class Restoration(NamedTuple):
    """The output of a method: uint8 BGR or gray, and its scores."""

    picture: np.ndarray
    scores: dict[str, float]


class Comparison(NamedTuple):
    """One image; every picture is uint8 BGR or gray at the ground truth's size.

    Attributes:
        name: of the image.
        lq: enlarged without interpolation.
        gt: the ground truth.
        methods: by name, the baseline first.
    """

    name: str
    lq: np.ndarray
    gt: np.ndarray
    methods: dict[str, Restoration]


def read_results(folder: Path, dataset: str) -> dict[str, Any]:
    """The score file of a test.

    Raises:
        UserError: there is none, or the test did not keep its images.
    """
    file = folder / 'scores' / f'{dataset}.json'
    if not file.is_file():
        raise UserError(f'{file}: no scores yet; run `basicsr test` with this option file first')
    results = json.loads(file.read_text(encoding='utf-8'))
    if any('restored' not in row for row in results['images']):
        raise UserError(f'{file}: the test kept no images; set val.save_img to true and run it again')
    return results


def compare(dataset_opt: dict[str, Any], results: dict[str, Any], network: str) -> Iterator[Comparison]:
    """The images of a finished test beside their baseline, under the test's own protocol.

    Args:
        dataset_opt: the dataset's section with `phase` and `scale`.
        results: what `read_results` returned.
        network: the name of what has been tested.
    """
    dataset = build_dataset(dataset_opt)
    metrics = results['metrics']
    if len(dataset) != len(results['images']):
        raise UserError(f'{dataset_opt["name"]}: the set has changed since the test; run `basicsr test` again')
    for i, row in enumerate(results['images']):
        item = dataset[i]
        if item['gt_path'] != row['gt']:
            raise UserError(f'{dataset_opt["name"]}: the set has changed since the test; run `basicsr test` again')
        compared = beside_baseline(row['image'], item, results['scale'], metrics)
        restored = cv2.imread(row['restored'], cv2.IMREAD_UNCHANGED)
        if restored is None or restored.shape != compared.gt.shape:
            raise UserError(f'{row["restored"]}: missing, or not of this test set; run `basicsr test` again')
        compared.methods[network] = Restoration(restored, {name: row[name] for name in metrics})
        yield compared


def beside_baseline(name: str, item: dict[str, Any], scale: int, metrics: dict[str, Any]) -> Comparison:
    """An item of a dataset with its baseline: bicubic interpolation (MATLAB's kernel) for super-resolution, else the LQ
    image itself."""
    gt, lq = tensor2img(item['gt']), item['lq'].numpy().transpose(1, 2, 0)
    baseline = tensor2img(_tensor(imresize(lq, scale) if scale > 1 else lq))
    enlarged = cv2.resize(tensor2img(item['lq']), gt.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    method = 'bicubic' if scale > 1 else LQ
    return Comparison(name, enlarged, gt, {method: Restoration(baseline, score(baseline, gt, metrics))})


def score(picture: np.ndarray, gt: np.ndarray, metrics: dict[str, Any]) -> dict[str, float]:
    """Every metric of a picture, as a test computes it."""
    return {name: float(calculate_metric({'img': picture, 'img2': gt}, opt)) for name, opt in metrics.items()}


def _tensor(image: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))


Scores = tuple[str, dict[str, dict[str, float]]]  # image, scores by method


def table(scores: list[Scores]) -> str:
    """Aligned text: a row an image and their mean, all methods side by side; of two, the gain of each metric."""
    methods, metrics = list(scores[0][1]), list(next(iter(scores[0][1].values())))
    gains = len(methods) == 2
    lines = [['image', *(f'{who} {metric.upper()}' for who in methods for metric in metrics)]]
    lines[0] += [f'gain {metric.upper()}' for metric in metrics] if gains else []
    mean = {who: mean_scores([each[who] for _, each in scores], metrics) for who in methods}
    for name, each in [*scores, ('mean', mean)]:
        lines.append([name, *(f'{each[who][m]:{_format(m)}}' for who in methods for m in metrics)])
        if gains:
            before, after = (each[who] for who in methods)
            lines[-1] += [f'{after[m] - before[m]:+{_format(m)}}' for m in metrics]
    return aligned(lines)


def _format(metric: str) -> str:
    return '.4f' if 'ssim' in metric.lower() else '.2f'


def sheet(comparisons: list[Comparison]) -> Image.Image:
    """A row an image: the ground truth with a box, then the box zoomed in LQ, by every method and in the ground truth.

    The box lies where bicubic interpolation is farthest from the ground truth, or without it where the ground truth has
    most detail, so that the choice favours no method.
    """
    return _grid([_cells(comparison) for comparison in comparisons])


def add_to_strip(folder: Path, iteration: int, comparison: Comparison) -> None:
    """Draw the outputs of a training so far: the sheet's crop, of at most six validations.

    Args:
        folder: keeps the crops from validation to validation; `folder`.png shows them.
        iteration: of this validation.
        comparison: the image; the last method is the network as it is now.
    """
    *before, now, gt = _cells(comparison)
    folder.mkdir(parents=True, exist_ok=True)
    _save(now, folder / f'{iteration}.png')
    kept = {int(file.stem): file for file in folder.glob('*.png') if file.stem.isdecimal()}
    past = sorted(i for i in kept if i < iteration)
    chosen = past if len(past) < STRIP else [past[i * (len(past) - 1) // (STRIP - 2)] for i in range(STRIP - 1)]
    _save(_grid([[*before, *(Image.open(kept[i]) for i in chosen), now, gt]]), folder.with_suffix('.png'))


def _save(image: Image.Image, file: Path) -> None:
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


def _cells(c: Comparison) -> list[Image.Image]:
    y, x = _hardest_place(c)
    overview = _picture(c.gt)
    box = (x, y, x + CROP - 1, y + CROP - 1)
    line = max(2, c.gt.shape[1] // 150)
    for colour, width in [('black', 2 * line), ('yellow', line)]:  # seen on any background
        ImageDraw.Draw(overview).rectangle(box, outline=colour, width=width)
    overview.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    cells = [_cell(overview, f'{c.name}\n{c.gt.shape[1]}x{c.gt.shape[0]}')]
    shown = [] if LQ in c.methods else [(c.lq, LQ)]
    shown += [(method.picture, f'{name}\n{_scores(method.scores)}') for name, method in c.methods.items()]
    for image, caption in [*shown, (c.gt, 'ground truth')]:
        crop = _picture(image[y : y + CROP, x : x + CROP])
        cells.append(_cell(crop.resize((crop.width * ZOOM, crop.height * ZOOM), Image.Resampling.NEAREST), caption))
    return cells


def _cell(picture: Image.Image, caption: str) -> Image.Image:
    cell = Image.new('RGB', CELL, 'white')
    cell.paste(picture, (0, 0))
    font = ImageFont.load_default(14)
    ImageDraw.Draw(cell).multiline_text((0, THUMBNAIL + 2), caption, 'black', font, spacing=3)
    return cell


def _hardest_place(c: Comparison) -> tuple[int, int]:
    gt = c.gt.astype(np.float32)
    baseline = cv2.blur(gt, (DETAIL, DETAIL)) if LQ in c.methods else next(iter(c.methods.values())).picture
    error = np.abs(baseline - gt)
    error = error.mean(-1) if error.ndim == 3 else error
    means = cv2.boxFilter(error, -1, (CROP, CROP), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    means = means[: max(1, error.shape[0] - CROP + 1), : max(1, error.shape[1] - CROP + 1)]
    y, x = np.unravel_index(int(means.argmax()), means.shape)
    return int(y), int(x)


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB))


def _scores(scores: dict[str, float]) -> str:
    units = {metric: ' dB' if 'psnr' in metric.lower() else '' for metric in scores}
    return ' / '.join(f'{value:{_format(metric)}}{units[metric]}' for metric, value in scores.items())
