"""Clean images that become noisy on the fly, for colour and gray denoising."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Len
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor

from ramit_arch.data.pixels import convert_color, crop, to_tensor
from ramit_arch.data.restoration_dataset import RestorationDataset, RestorationOptions, RootOptions
from ramit_arch.data.stores import Store
from ramit_arch.errors import UserError
from ramit_arch.options.section import Conflict

NOISE_SEED = 0  # of the noise of every test image (paper, Appendix B)

Level = Annotated[float, Ge(0)]


class GaussianDenoisingOptions(RestorationOptions):
    """Clean images, to which noise is added on the fly."""

    sigma: Annotated[Level | Annotated[list[Level], Len(2, 2)], 'a noise level from 0 up, or [low, high]']
    """Standard deviation of the noise for values in [0, 255]; from [low, high] it is sampled uniformly for every
    training image."""

    def conflicts(self) -> Iterator[Conflict]:
        yield from super().conflicts()
        if isinstance(self.sigma, list):
            if self.sigma[0] > self.sigma[1]:
                yield 'sigma', f'is {self.sigma}; low must not exceed high'
            elif self.sigma[0] != self.sigma[1] and self.phase != 'train':
                yield 'sigma', f'is {self.sigma}; a range is for training, give one level here'
        if self.scale != 1:
            yield 'type', f'is denoising, which keeps the size, but scale is {self.scale}; it must be 1'


class Clean(NamedTuple):
    store: Store
    name: str

    def __str__(self) -> str:
        return self.store.path(self.name)


def evaluation_noise(shape: Sequence[int], sigma: float) -> Tensor:
    """Noise of a test image: the random seed is 0 for every image (paper, Appendix B).

    Args:
        shape: (C, H, W), channels in RGB order.
        sigma: standard deviation, for values in [0, 255].

    Returns:
        float32, in units of [0, 1].
    """
    return torch.randn(*shape, generator=torch.Generator().manual_seed(NOISE_SEED)) * sigma / 255


@DATASET_REGISTRY.register()
class GaussianDenoisingDataset(RestorationDataset[Clean]):
    """Clean images from folders, LMDBs or raw stores; `lq` is the image plus white Gaussian noise, not clipped.

    A level is sampled uniformly from a range of `sigma` for every training image (blind denoising). The noise of
    validation and test images depends only on their size and `sigma`.

    An item is a dictionary: `lq` and `gt` (C, h, w), float32, RGB or gray; `gt` is in [0, 1], `lq` may exceed it.
    `lq_path` and `gt_path` are both the clean file's path, of a store root/name.png. Training noise is added to the
    crop, after augmentation; it is new in every epoch and determined by `manual_seed`.

    Raises:
        UserError: see `RestorationDataset`; also for a `sigma` that is no noise level and a scale other than 1.
    """

    section: ClassVar[type[RestorationOptions]] = GaussianDenoisingOptions
    options: GaussianDenoisingOptions

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        sigma = self.options.sigma
        self.sigma = (sigma[0], sigma[1]) if isinstance(sigma, list) else (sigma, sigma)

    def find(self, root: RootOptions) -> list[Clean]:
        assert root.dataroot_gt is not None
        store = self.open(root.dataroot_gt, root.meta_info_file)
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
        image = convert_color(image, self.color)
        if rng is not None:
            (image,) = self.augmented([image], rng)
        gt = to_tensor(image)
        return {'lq': gt + self._noise(gt, rng), 'gt': gt, 'lq_path': str(entry), 'gt_path': str(entry)}

    def ground_truth(self, index: int) -> tuple[str, tuple[int, int]]:
        """Path and (height, width) of an image of a test set, without decoding it."""
        entry = self._entry(index, None)
        return str(entry), entry.store.size(entry.name)

    def _noise(self, gt: Tensor, rng: np.random.Generator | None) -> Tensor:
        if rng is None:
            return evaluation_noise(gt.shape, self.sigma[0])
        sigma = rng.uniform(*self.sigma)
        return torch.from_numpy(rng.standard_normal(gt.shape, np.float32)) * (sigma / 255)
