"""The tasks of relatives.py: their training and test sets, and the scores of the input. Not a benchmark itself."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import yaml
from short_training import OPTIONS

from ramit_arch.data.stores import RawImage, open_store
from ramit_arch.evaluation.comparison import beside_baseline
from ramit_arch.evaluation.protocols import standard_metrics
from ramit_arch.evaluation.scores import mean_scores
from ramit_arch.options import without_nulls

from basicsr.data import build_dataset  # isort: skip

TEST_CROP, KERNEL, LONGEST = 256, 17, 15.0  # sides of test images and kernels; pixels of a motion


class Task(NamedTuple):
    """The project's option file it starts from, the scale, the protocol, the test set's name, and a title."""

    base: str
    scale: int
    protocol: str
    test: str
    title: str


TASKS = {
    'SRx2': Task('train_RAMiT-tiny_SRx2.yml', 2, 'SR', 'Set5', 'Super-resolution x2, Set5'),
    'CDN25': Task('train_RAMiT-tiny_CDN.yml', 1, 'CDN', 'McMaster_sigma25', 'Denoising, sigma 25, McMaster'),
    'DR': Task('train_RAMiT-tiny_CDN.yml', 1, 'DR', 'Rain100H', 'Deraining, Rain100H'),
    'blur': Task('train_RAMiT-tiny_CDN.yml', 1, 'RGB', 'McMaster_blurred', 'Motion deblurring, McMaster'),
}


def motion_kernel(rng: np.random.Generator) -> np.ndarray:
    """Blur kernel of a random motion: a path of up to `LONGEST` pixels that turns and changes its speed at random.

    Returns:
        (KERNEL, KERNEL), float64, with sum 1 and its centre of mass in the middle.
    """
    steps = 64
    direction = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, rng.uniform(0, 0.3), steps))
    speed = np.exp(np.cumsum(rng.normal(0, 0.2, steps)))
    speed *= rng.uniform(3, LONGEST) / speed.sum()
    path = np.cumsum(speed * np.stack([np.sin(direction), np.cos(direction)]), axis=1)
    path -= path.mean(axis=1, keepdims=True)
    points = path * min(1, (KERNEL // 2 - 0.5) / np.abs(path).max()) + KERNEL // 2
    kernel = np.zeros((KERNEL, KERNEL))
    whole = np.floor(points).astype(int)
    for dy, dx in np.ndindex(2, 2):  # bilinear weights, which keep the centre of mass
        weight = np.abs(1 - dy - points[0] + whole[0]) * np.abs(1 - dx - points[1] + whole[1])
        np.add.at(kernel, (whole[0] + dy, whole[1] + dx), weight)
    return kernel / kernel.sum()


def blur(image: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    """Convolve with the motion kernel of a seed, with reflected borders, and round to 8 bits."""
    kernel = motion_kernel(np.random.default_rng(seed))[::-1, ::-1]  # filter2D correlates
    blurred = cv2.filter2D(image.astype(np.float32), -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return blurred.round().clip(0, 255).astype(np.uint8)


def centre(image: np.ndarray) -> np.ndarray:
    y, x = ((side - TEST_CROP) // 2 for side in image.shape[:2])
    return image[y : y + TEST_CROP, x : x + TEST_CROP]


def write_raw(folder: Path, images: Mapping[str, np.ndarray]) -> None:
    """Write a raw store, complete or not at all."""
    part = folder.with_suffix('.part')
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    offset, lines = 0, []
    with (part / 'pixels.bin').open('wb') as pixels:
        for name, image in images.items():
            lines.append(str(RawImage(f'{name}.png', image.shape, 'uint8', offset)))  # type: ignore[arg-type]
            offset += pixels.write(np.ascontiguousarray(image).tobytes())
    (part / 'meta_info.txt').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    part.rename(folder)


def read(root: Path, names: list[str] | None = None) -> dict[str, np.ndarray]:
    """Images of a folder or raw store, all or those named."""
    store = open_store(str(root), 'raw' if root.suffix == '.raw' else 'disk')
    return {name: store.pixels(name) for name in names or store.names()}


def prepare(datasets: Path, data: Path) -> None:
    """Write what the tasks need beyond the datasets as raw stores: McMaster's centres, pairs of DR and DB."""

    def pairs(name: str, gt: dict[str, np.ndarray] | None, lq: dict[str, np.ndarray]) -> None:
        for kind, images in [('gt', gt), ('lq', lq)]:
            if images is not None and not (data / f'{name}_{kind}.raw').is_dir():
                write_raw(data / f'{name}_{kind}.raw', images)

    if (data / 'complete').exists():
        return
    centres = {name: centre(image) for name, image in read(datasets / 'McMaster/HQ').items()}
    pairs('McMaster', centres, {name: blur(image, (1, i)) for i, (name, image) in enumerate(centres.items())})
    tiles = read(datasets / 'photographs/HR.raw')
    pairs('blurred', None, {name: blur(image, (0, i)) for i, (name, image) in enumerate(tiles.items())})
    rainy = list(read(datasets / 'Rain100H/HQ'))
    trained = len(rainy) - round(0.3 * len(rainy))
    for name, names in [('rain_train', rainy[:trained]), ('rain_test', rainy[trained:])]:
        pairs(name, read(datasets / 'Rain100H/HQ', names), read(datasets / 'Rain100H/LQ', names))
    (data / 'complete').touch()


def sets(task: str, datasets: Path, data: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sections of the training and the test set."""
    paired = {'type': 'PairedRestorationDataset', 'sigma': None, 'io_backend': {'type': 'raw'}}
    photographs, mcmaster = str(datasets / 'photographs/HR.raw'), str(data / 'McMaster_gt.raw')
    if task == 'SRx2':
        train = {'dataroot_gt': photographs, 'dataroot_lq': str(datasets / 'photographs/LRx2.raw')}
        return train, {'dataroot_gt': str(datasets / 'Set5/HR'), 'dataroot_lq': str(datasets / 'Set5/LRx2')}
    if task == 'CDN25':
        return {'dataroot_gt': photographs, 'sigma': 25}, {'dataroot_gt': mcmaster, 'io_backend': {'type': 'raw'}}
    if task == 'DR':
        train, test = (
            {f'dataroot_{kind}': str(data / f'rain_{phase}_{kind}.raw') for kind in ('gt', 'lq')}
            for phase in ('train', 'test')
        )
        return {**paired, **train, 'repeat': 2000}, {**paired, **test}
    train = {'dataroot_gt': photographs, 'dataroot_lq': str(data / 'blurred_lq.raw')}
    return {**paired, **train}, {**paired, 'dataroot_gt': mcmaster, 'dataroot_lq': str(data / 'McMaster_lq.raw')}


def baseline(task: str, datasets: Path, data: Path) -> dict[str, float]:
    """Mean scores of the input: enlarged by bicubic interpolation for super-resolution."""
    base = yaml.safe_load((OPTIONS / TASKS[task].base).read_text(encoding='utf-8'))
    val = without_nulls({**base['datasets']['val'], **sets(task, datasets, data)[1]})
    dataset = build_dataset({**val, 'name': TASKS[task].test, 'phase': 'val', 'scale': TASKS[task].scale})
    metrics = standard_metrics(TASKS[task].protocol, TASKS[task].scale)
    compared = (beside_baseline('', dataset[i], TASKS[task].scale, metrics) for i in range(len(dataset)))
    return mean_scores([next(iter(each.methods.values())).scores for each in compared], list(metrics))
