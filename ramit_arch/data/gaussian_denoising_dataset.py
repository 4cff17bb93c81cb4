"""Clean images that become noisy on the fly, for colour and gray denoising."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor

from ramit_arch.data.pixels import crop, in_color, to_tensor
from ramit_arch.data.restoration_dataset import RestorationDataset
from ramit_arch.data.stores import Store
from ramit_arch.errors import UserError

NOISE_SEED = 0  # of the noise of every test image (paper, Appendix B)


class Clean(NamedTuple):
    store: Store
    name: str

    def __str__(self) -> str:
        return self.store.path(self.name)


def evaluation_noise(shape: Sequence[int], sigma: float) -> Tensor:
    """The noise of a test image: the generator is seeded with 0 for every image (paper, Appendix B).

    Args:
        shape: (C, H, W), channels in RGB order.
        sigma: standard deviation of values in [0, 255].

    Returns:
        float32, in units of [0, 1].
    """
    return torch.randn(*shape, generator=torch.Generator().manual_seed(NOISE_SEED)) * sigma / 255


@DATASET_REGISTRY.register()
class GaussianDenoisingDataset(RestorationDataset[Clean]):
    """Clean images from folders, LMDBs or raw stores; `lq` is the image plus white Gaussian noise, not clipped.

    Option keys beside those of `RestorationDataset`:
        dataroot_gt: a folder, LMDB or raw store of clean images.
        sigma: standard deviation of the noise for values in [0, 255]; or [low, high], from which every training image
            draws its own, uniformly (blind denoising). Validation and test take one number, and noise that depends on
            the image's size alone.

    An item is a dictionary: `lq` and `gt` (C, h, w), float32, RGB or gray; `gt` is in [0, 1] and `lq` may leave it.
    `lq_path` and `gt_path` are both the clean file's path, of a store root/name.png. Training noise is drawn on the
    crop, after augmentation; it is new in every epoch and decided by `manual_seed`.

    Raises:
        UserError: see `RestorationDataset`; also for a `sigma` that is no noise level and a scale other than 1.
    """

    data_roots: ClassVar[tuple[str, ...]] = ('dataroot_gt',)
    root_keys: ClassVar[frozenset[str]] = frozenset()
    own_keys: ClassVar[frozenset[str]] = frozenset(['sigma'])

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        if self.scale != 1:
            raise UserError(f'{self.where}: denoising keeps the size; scale is {self.scale}, it must be 1')
        self.sigma = self._read_sigma()

    def find(self, root: dict[str, Any]) -> list[Clean]:
        store = self.open(root, 'dataroot_gt', root.get('meta_info_file'))
        names = store.names()
        if not names:
            raise UserError(f'{self.where}: {store.root}: no images')
        return [Clean(store, name) for name in names]

    def problem(self, entry: Clean) -> str | None:
        height, width = entry.store.size(entry.name)
        if self.patch and min(height, width) < self.patch:
            return f'it is {width}x{height}, smaller than the patch of {self.patch}'
        return None

    def item(self, entry: Clean, patch: int | None, rng: np.random.Generator | None) -> dict[str, Tensor | str]:
        image = entry.store.pixels(entry.name)
        if rng is not None:
            assert patch is not None
            if min(image.shape[:2]) < patch:  # a header or meta_info.txt that lies
                raise UserError(f'{self.where}: {entry}: smaller than the patch of {patch}')
            image = crop(image, patch, rng)
        image = in_color(image, self.color)
        if rng is not None:
            (image,) = self.augmented([image], rng)
        gt = to_tensor(image)
        return {'lq': gt + self._noise(gt, rng), 'gt': gt, 'lq_path': str(entry), 'gt_path': str(entry)}

    def _noise(self, gt: Tensor, rng: np.random.Generator | None) -> Tensor:
        if rng is None:
            return evaluation_noise(gt.shape, self.sigma[0])
        sigma = rng.uniform(*self.sigma)
        return torch.from_numpy(rng.standard_normal(gt.shape, np.float32)) * (sigma / 255)

    def _read_sigma(self) -> tuple[float, float]:
        sigma = self.opt.get('sigma')
        levels: list[Any] = sigma if isinstance(sigma, list) else [sigma, sigma]
        numbers = len(levels) == 2 and all(
            isinstance(level, (int, float)) and not isinstance(level, bool) and math.isfinite(level) for level in levels
        )
        if not numbers or not 0 <= levels[0] <= levels[1]:
            raise UserError(f'{self.where}: sigma is {sigma!r}; it must be a noise level from 0 up, or [low, high]')
        if levels[0] != levels[1] and not self.training:
            raise UserError(f'{self.where}: sigma is {sigma!r}; a range is for training, give one level here')
        return float(levels[0]), float(levels[1])
