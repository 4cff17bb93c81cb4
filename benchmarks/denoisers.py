"""A denoising network beside classical denoisers: PSNR in RGB on the same noisy images.

python benchmarks/denoisers.py IMAGES ... [-m RAMiT-tiny_CDN] [--sigma 25] [--sheet sheet.png]

IMAGES are clean colour files. The noise is that of the tests (white Gaussian, seeded with 0 for every image). OpenCV's
and scikit-image's denoisers are given the noise level and use the parameters that are best on the middles of three of
scikit-image's photographs; the network is blind. OpenCV takes the noisy image in 8 bits. Needs PyWavelets.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from skimage import data
from skimage.restoration import denoise_nl_means, denoise_wavelet

from ramit_arch import Restorer  # makes BasicSR importable
from ramit_arch.data.gaussian_denoising_dataset import evaluation_noise
from ramit_arch.evaluation.comparison import Comparison, Restoration
from ramit_arch.evaluation.comparison_sheet import cut, sheet
from ramit_arch.evaluation.text import aligned

from basicsr.metrics import calculate_psnr  # isort: skip

TUNING_IMAGES = ('astronaut', 'chelsea', 'coffee')
Denoiser = Callable[..., np.ndarray]  # RGB image with noise, float32 in units of [0, 1]; sigma; parameters


def to_uint8(image: np.ndarray) -> np.ndarray:
    return (image * 255).round().clip(0, 255).astype(np.uint8)


def opencv_nlm(noisy: np.ndarray, sigma: float, h: float, h_colour: float) -> np.ndarray:
    bgr = np.ascontiguousarray(to_uint8(noisy)[..., ::-1])
    return cv2.fastNlMeansDenoisingColored(bgr, None, h * sigma, h_colour * sigma, 7, 21)[..., ::-1] / np.float32(255)


def skimage_wavelet(noisy: np.ndarray, sigma: float, method: str, factor: float, ycbcr: bool) -> np.ndarray:
    return denoise_wavelet(
        noisy, sigma=factor * sigma / 255, method=method, convert2ycbcr=ycbcr, channel_axis=-1, rescale_sigma=True
    )


def skimage_nlm(noisy: np.ndarray, sigma: float, h: float, patch_size: int, patch_distance: int) -> np.ndarray:
    level = sigma / 255
    return denoise_nl_means(
        noisy, h=h * level, sigma=level, patch_size=patch_size, patch_distance=patch_distance, channel_axis=-1
    )


CLASSICAL: dict[str, tuple[Denoiser, dict[str, list[Any]]]] = {
    "OpenCV's fastNlMeansDenoisingColored": (
        opencv_nlm,
        {'h': [0.4, 0.6, 0.8, 1.0, 1.3], 'h_colour': [0.4, 0.7, 1.0, 1.5, 2.0]},
    ),
    "scikit-image's wavelet": (
        skimage_wavelet,
        {'method': ['BayesShrink', 'VisuShrink'], 'factor': [0.25, 0.5, 0.75, 1.0, 1.25], 'ycbcr': [True, False]},
    ),
    "scikit-image's non-local means": (
        skimage_nlm,
        {'h': [0.3, 0.5, 0.7, 0.9, 1.1], 'patch_size': [3, 5, 7], 'patch_distance': [6, 10]},
    ),
}


def noisy_version(clean: np.ndarray, sigma: float) -> np.ndarray:
    noise = evaluation_noise((3, *clean.shape[:2]), sigma).numpy().transpose(1, 2, 0)
    return clean.astype(np.float32) / 255 + noise


def psnr(restored: np.ndarray, clean: np.ndarray) -> float:
    return float(calculate_psnr(restored, clean, crop_border=0))


def settings(grid: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def tuned(denoise: Denoiser, grid: dict[str, list[Any]], sigma: float) -> dict[str, Any]:
    """The setting of a grid with the best mean PSNR on the middles (256x256) of the tuning images."""
    cleans = []
    for name in TUNING_IMAGES:
        image = getattr(data, name)()
        y, x = image.shape[0] // 2 - 128, image.shape[1] // 2 - 128
        cleans.append(np.ascontiguousarray(image[y : y + 256, x : x + 256]))
    pairs = [(clean, noisy_version(clean, sigma)) for clean in cleans]

    def mean(setting: dict[str, Any]) -> float:
        return float(np.mean([psnr(to_uint8(denoise(noisy, sigma, **setting)), clean) for clean, noisy in pairs]))

    return max(settings(grid), key=mean)


def network(model: str) -> Denoiser:
    restorer = Restorer(model, task='CDN' if model.endswith('.pth') else None)

    def denoise(noisy: np.ndarray, sigma: float) -> np.ndarray:
        x = torch.from_numpy(noisy.transpose(2, 0, 1).copy())[None]
        with torch.inference_mode():
            return restorer.network(x)[0].numpy().transpose(1, 2, 0)

    return denoise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', nargs='+', type=Path)
    parser.add_argument('-m', dest='model', default='RAMiT-tiny_CDN')
    parser.add_argument('--sigma', type=float, default=25)
    parser.add_argument('--sheet', type=Path, help='write crops of all images and methods to this file')
    args = parser.parse_args()
    denoisers: dict[str, tuple[Denoiser, dict[str, Any]]] = {}
    for name, (denoise, grid) in CLASSICAL.items():
        setting = tuned(denoise, grid, args.sigma)
        print(f'{name}: {", ".join(f"{key} {value}" for key, value in setting.items())}', flush=True)
        denoisers[name] = denoise, setting
    denoisers[args.model] = network(args.model), {}

    comparisons = []
    seconds = dict.fromkeys(denoisers, 0.0)
    for file in args.images:
        clean = cv2.imread(str(file))
        if clean is None:
            raise SystemExit(f'{file}: not an image')
        noisy = noisy_version(clean[..., ::-1], args.sigma)
        lq = np.ascontiguousarray(to_uint8(noisy)[..., ::-1])
        methods = {'LQ': Restoration(lq, {'psnr': psnr(lq, clean)})}
        for name, (denoise, setting) in denoisers.items():
            start = time.perf_counter()
            restored = np.ascontiguousarray(to_uint8(denoise(noisy, args.sigma, **setting))[..., ::-1])
            seconds[name] += time.perf_counter() - start
            methods[name] = Restoration(restored, {'psnr': psnr(restored, clean)})
        comparisons.append(Comparison(file.stem, lq, clean, methods))
    rows = [[f'PSNR, sigma {args.sigma:g}', *(c.name for c in comparisons), 'mean', 'seconds']]
    for name in comparisons[0].methods:
        scores = [c.methods[name].scores['psnr'] for c in comparisons]
        taken = f'{seconds[name]:.1f}' if name in seconds else ''
        rows.append([name, *(f'{score:.2f}' for score in [*scores, np.mean(scores)]), taken])
    print(aligned(rows))
    if args.sheet:
        sheet([cut(c) for c in comparisons]).save(args.sheet)


if __name__ == '__main__':
    main()
