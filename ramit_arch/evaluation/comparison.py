"""Methods side by side on the same images: their outputs, scores, means and ranks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from basicsr.metrics import calculate_metric
from basicsr.utils import tensor2img
from basicsr.utils.matlab_functions import imresize

from ramit_arch.errors import UserError
from ramit_arch.evaluation.scores import mean_scores
from ramit_arch.evaluation.text import aligned

LQ, BICUBIC, GT = 'LQ', 'bicubic', 'ground truth'  # titles that no method may have; the first two are baselines

Metrics = dict[str, dict[str, Any]]  # BasicSR's settings by the name of the metric
Method = Callable[[int, dict[str, Any]], np.ndarray]  # index and item of a dataset -> uint8 BGR or gray
Means = dict[str, dict[str, float]]  # mean of every metric by method
Scores = tuple[str, Means]  # image, scores by method


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
        methods: by title, the baseline first.
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
        raise UserError(
            f'{file}: no scores yet; run `basicsr test` with this option file first, or give networks by -m'
        )
    results = json.loads(file.read_text(encoding='utf-8'))
    if any('restored' not in row for row in results['images']):
        raise UserError(f'{file}: the test kept no images; set val.save_img to true and run it again')
    return results


def kept_outputs(name: str, results: dict[str, Any], images: int) -> Method:
    """The outputs that a test has kept, as a method.

    Args:
        name: of the set.
        results: what `read_results` returned.
        images: of the set as it is now.

    Raises:
        UserError: the set has changed, as far as its size tells; the method raises it for the images themselves.
    """
    changed = UserError(f'{name}: the set has changed since the test; run `basicsr test` again')
    if images != len(results['images']):
        raise changed

    def read(index: int, item: dict[str, Any]) -> np.ndarray:
        if _path(item) != results['images'][index]['gt']:
            raise changed
        file = results['images'][index]['restored']
        picture = cv2.imread(file, cv2.IMREAD_UNCHANGED)
        if picture is None or picture.shape != tensor2img(item['gt']).shape:
            raise UserError(f'{file}: missing, or not of this test set; run `basicsr test` again')
        return picture

    return read


def ground_truths(dataset: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name and (height, width) of every image of a dataset; datasets of ours know them without decoding."""
    for i in range(len(dataset)):
        if hasattr(dataset, 'ground_truth'):
            path, size = dataset.ground_truth(i)
        else:
            item = dataset[i]
            path, size = _path(item), tuple(item['gt'].shape[-2:])
        yield Path(path).stem, size


def _path(item: dict[str, Any]) -> str:
    return item['gt_path'] if 'gt_path' in item else item['lq_path']


def compare(dataset: Any, methods: Mapping[str, Method], scale: int, metrics: Metrics) -> Iterator[Comparison]:
    """The images of a dataset by the baseline and every method; each is loaded once.

    Raises:
        UserError: a method returns an image of another size than the ground truth's.
    """
    for i in range(len(dataset)):
        item = dataset[i]
        compared = beside_baseline(Path(_path(item)).stem, item, scale, metrics)
        for title, method in methods.items():
            picture = method(i, item)
            if picture.shape != compared.gt.shape:
                sizes = ['x'.join(map(str, image.shape[1::-1] + image.shape[2:])) for image in (picture, compared.gt)]
                raise UserError(f'{title}: {sizes[0]} for {_path(item)}, which is {sizes[1]}')
            compared.methods[title] = Restoration(picture, score(picture, compared.gt, metrics))
        yield compared


def beside_baseline(name: str, item: dict[str, Any], scale: int, metrics: Metrics) -> Comparison:
    """An item of a dataset with its baseline: bicubic interpolation (MATLAB's kernel) for super-resolution, else the LQ
    image itself."""
    gt, lq = tensor2img(item['gt']), item['lq'].numpy().transpose(1, 2, 0)
    baseline = tensor2img(_tensor(imresize(lq, scale) if scale > 1 else lq))
    enlarged = cv2.resize(tensor2img(item['lq']), gt.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    method = BICUBIC if scale > 1 else LQ
    return Comparison(name, enlarged, gt, {method: Restoration(baseline, score(baseline, gt, metrics))})


def score(picture: np.ndarray, gt: np.ndarray, metrics: Metrics) -> dict[str, float]:
    """Every metric of a picture, as a test computes it."""
    return {name: float(calculate_metric({'img': picture, 'img2': gt}, opt)) for name, opt in metrics.items()}


def _tensor(image: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))


# ----------------------------------------------------------------------------------------------------- means and ranks


def mean_by_method(scores: Sequence[Scores]) -> Means:
    """The mean of every metric over the images."""
    methods, metrics = list(scores[0][1]), list(next(iter(scores[0][1].values())))
    return {who: mean_scores([each[who] for _, each in scores], metrics) for who in methods}


def mean_over_sets(means: Sequence[Means]) -> Means:
    """The mean of the sets' means, each counted once."""
    return mean_by_method([('', each) for each in means])


def lower_is_better(metric: str, metrics: Metrics) -> bool:
    return metrics.get(metric, {}).get('better') == 'lower'


def ascending(means: Means, metric: str, metrics: Metrics) -> list[str]:
    """The methods from the worst to the best, after the baseline."""
    baseline, *others = means

    def key(who: str) -> float:
        value = means[who][metric] * (-1 if lower_is_better(metric, metrics) else 1)
        return -math.inf if math.isnan(value) else value

    return [baseline, *sorted(others, key=key)]


def ease(scores: dict[str, float], metrics: Metrics) -> float:
    """How easy an image is, by the first metric of its baseline; the easiest where it is not a number."""
    metric = next(iter(metrics))
    value = scores[metric] * (-1 if lower_is_better(metric, metrics) else 1)
    return math.inf if math.isnan(value) else value


def ranks(values: Sequence[float], metric: str, metrics: Metrics) -> list[int]:
    """1 for the best value, 2 for the second best, 0 for others; values that are printed alike rank alike."""
    sign = -1 if lower_is_better(metric, metrics) else 1
    printed = [sign * float(f'{value:{form(metric)}}') for value in values]
    best = sorted({value for value in printed if not math.isnan(value)}, reverse=True)[:2]
    return [best.index(value) + 1 if value in best else 0 for value in printed]


# ------------------------------------------------------------------------------------------------------------- as text


def table(scores: Sequence[Scores]) -> str:
    """Aligned text: a row an image and their mean, all methods side by side; of two, the gain of each metric."""
    methods, metrics = list(scores[0][1]), list(next(iter(scores[0][1].values())))
    gains = len(methods) == 2
    lines = [['image', *(f'{who} {metric.upper()}' for who in methods for metric in metrics)]]
    lines[0] += [f'gain {metric.upper()}' for metric in metrics] if gains else []
    for name, each in [*scores, ('mean', mean_by_method(scores))]:
        lines.append([name, *(f'{each[who][m]:{form(m)}}' for who in methods for m in metrics)])
        if gains:
            before, after = (each[who] for who in methods)
            lines[-1] += [f'{after[m] - before[m]:+{form(m)}}' for m in metrics]
    return aligned(lines)


def form(metric: str) -> str:
    """The format of a metric's values."""
    return '.4f' if 'ssim' in metric.lower() else '.2f'


def unit(metric: str) -> str:
    return ' dB' if 'psnr' in metric.lower() else ''


def describe_metrics(metrics: Metrics, gray: bool, whole: str = '') -> str:
    """What is compared: 'PSNR in dB and SSIM: Y channel, border of 2 pixels cropped'.

    Args:
        metrics: those with equal settings are named together.
        gray: whether the images are.
        whole: added to the names, such as ' of the whole image'.
    """
    groups: dict[str, list[str]] = {}
    for name, settings in metrics.items():
        channel = 'gray images' if gray else 'Y channel' if settings.get('test_y_channel') else 'RGB channels'
        border = settings.get('crop_border')
        pixels = f'border of {border} pixel{"s" * (border != 1)} cropped' if border else 'no border cropped'
        known = {'test_y_channel': channel, 'crop_border': pixels}
        facts = ', '.join(text for key, text in known.items() if key in settings)
        in_unit = f' in{unit(name)}' if unit(name) else ''
        groups.setdefault(facts, []).append(f'{name.upper()}{in_unit}')
    return '; '.join(' and '.join(names) + whole + f': {facts}' * bool(facts) for facts, names in groups.items())
