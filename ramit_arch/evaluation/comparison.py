"""A finished test beside its baseline: a table, and a sheet of zoomed crops."""

from __future__ import annotations

import json
from collections.abc import Iterator
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

CROP = 64  # target pixels a side
ZOOM = 4
MARGIN, LINE = 8, 18
THUMBNAIL = CROP * ZOOM


class Comparison(NamedTuple):
    """One test image; every picture is uint8 BGR or gray at the target's size."""

    name: str
    lq: np.ndarray
    baseline: np.ndarray
    restored: np.ndarray
    target: np.ndarray
    baseline_scores: dict[str, float]
    restored_scores: dict[str, float]


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


def compare(dataset_opt: dict[str, Any], results: dict[str, Any]) -> Iterator[Comparison]:
    """Score the baseline of every image of a test set under the test's own protocol.

    The baseline is bicubic interpolation (MATLAB's kernel) for super-resolution and the LQ image itself otherwise.

    Args:
        dataset_opt: the dataset's section with `phase` and `scale`.
        results: what `read_results` returned.
    """
    dataset = build_dataset(dataset_opt)
    scale, metrics = results['scale'], results['metrics']
    if len(dataset) != len(results['images']):
        raise UserError(f'{dataset_opt["name"]}: the set has changed since the test; run `basicsr test` again')
    for i, row in enumerate(results['images']):
        item = dataset[i]
        if item['gt_path'] != row['gt']:
            raise UserError(f'{dataset_opt["name"]}: the set has changed since the test; run `basicsr test` again')
        target = tensor2img(item['gt'])
        lq = item['lq'].numpy().transpose(1, 2, 0)
        up = imresize(lq, scale) if scale > 1 else lq
        baseline = tensor2img(_tensor(up))
        enlarged = cv2.resize(tensor2img(item['lq']), target.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        restored = cv2.imread(row['restored'], cv2.IMREAD_UNCHANGED)
        if restored is None or restored.shape != target.shape:
            raise UserError(f'{row["restored"]}: missing, or not of this test set; run `basicsr test` again')
        scores = {name: float(calculate_metric({'img': baseline, 'img2': target}, o)) for name, o in metrics.items()}
        own = {name: row[name] for name in metrics}
        yield Comparison(row['image'], enlarged, baseline, restored, target, scores, own)


def _tensor(image: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))


Scores = tuple[str, dict[str, float], dict[str, float]]  # image, scores of the baseline, scores of the network


def table(scores: list[Scores], baseline: str, network: str) -> str:
    """Aligned text: a row an image and their mean, baseline and network side by side, and the gain of each metric."""
    metrics = list(scores[0][2])
    columns = [f'{who} {metric.upper()}' for who in (baseline, network) for metric in metrics]
    columns += [f'gain {metric.upper()}' for metric in metrics]
    before, after = (
        mean_scores([old for _, old, _ in scores], metrics),
        mean_scores([new for *_, new in scores], metrics),
    )
    lines = [['image', *columns]]
    for name, old, new in [*scores, ('mean', before, after)]:
        values = [old[m] for m in metrics] + [new[m] for m in metrics]
        gains = [f'{new[m] - old[m]:+{_format(m)}}' for m in metrics]
        lines.append([name, *(f'{v:{_format(m)}}' for v, m in zip(values, metrics * 2, strict=True)), *gains])
    return aligned(lines)


def _format(metric: str) -> str:
    return '.4f' if 'ssim' in metric.lower() else '.2f'


def sheet(comparisons: list[Comparison], baseline: str, network: str) -> Image.Image:
    """A row an image: the target with a box, then the box zoomed in LQ, baseline, network and target, with scores.

    The box lies where the baseline is farthest from the target, so that the choice favours no method.
    """
    columns = 5 if any((c.lq != c.baseline).any() for c in comparisons) else 4
    width = MARGIN + columns * (THUMBNAIL + MARGIN)
    row_height = THUMBNAIL + 2 * LINE + MARGIN
    page = Image.new('RGB', (width, MARGIN + len(comparisons) * row_height), 'white')
    for i, comparison in enumerate(comparisons):
        top = MARGIN + i * row_height
        for j, (picture, caption) in enumerate(_row(comparison, baseline, network)):
            left = MARGIN + j * (THUMBNAIL + MARGIN)
            page.paste(picture, (left, top))
            draw = ImageDraw.Draw(page)
            draw.multiline_text((left, top + THUMBNAIL + 2), caption, 'black', ImageFont.load_default(14), spacing=3)
    return page


def _row(c: Comparison, baseline: str, network: str) -> list[tuple[Image.Image, str]]:
    y, x = _hardest_place(c)
    overview = _picture(c.target)
    box = (x, y, x + CROP - 1, y + CROP - 1)
    line = max(2, c.target.shape[1] // 150)
    for colour, width in [('black', 2 * line), ('yellow', line)]:  # seen on any background
        ImageDraw.Draw(overview).rectangle(box, outline=colour, width=width)
    overview.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    cells = [(overview, f'{c.name}\n{c.target.shape[1]}x{c.target.shape[0]}')]
    shown = [(c.lq, 'LQ'), (c.baseline, f'{baseline}\n{_scores(c.baseline_scores)}')]
    if (c.lq == c.baseline).all():  # the baseline is the LQ image
        shown = [(c.lq, f'LQ\n{_scores(c.baseline_scores)}')]
    shown += [(c.restored, f'{network}\n{_scores(c.restored_scores)}'), (c.target, 'target')]
    for image, caption in shown:
        crop = _picture(image[y : y + CROP, x : x + CROP])
        cells.append((crop.resize((crop.width * ZOOM, crop.height * ZOOM), Image.Resampling.NEAREST), caption))
    return cells


def _hardest_place(c: Comparison) -> tuple[int, int]:
    error = np.abs(c.baseline.astype(np.float32) - c.target)
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
