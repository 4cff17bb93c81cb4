"""Clean images that become noisy on the fly, for colour and gray denoising."""

from __future__ import annotations

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
from ramit_arch.options.schema import GaussianDenoising, Restoration, Root

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

    Options: `options.schema.GaussianDenoising`. From a range of `sigma` every training image draws its own, uniformly
    (blind denoising). Validation and test have noise that depends on the image's size alone.

    An item is a dictionary: `lq` and `gt` (C, h, w), float32, RGB or gray; `gt` is in [0, 1] and `lq` may leave it.
    `lq_path` and `gt_path` are both the clean file's path, of a store root/name.png. Training noise is drawn on the
    crop, after augmentation; it is new in every epoch and decided by `manual_seed`.

    Raises:
        UserError: see `RestorationDataset`; also for a `sigma` that is no noise level and a scale other than 1.
    """

    section: ClassVar[type[Restoration]] = GaussianDenoising
    options: GaussianDenoising

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        sigma = self.options.sigma
        assert sigma is not None
        self.sigma = (sigma[0], sigma[1]) if isinstance(sigma, list) else (sigma, sigma)

    def find(self, root: Root) -> list[Clean]:
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
