"""Pairs of low- and high-quality images, for every task whose LQ images exist as files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from annotated_types import MinLen
from basicsr.utils.registry import DATASET_REGISTRY
from pydantic import Field
from torch import Tensor

from ramit_arch.data.pairs import find_renaming
from ramit_arch.data.pixels import convert_color, crop_pair, to_tensor
from ramit_arch.data.restoration_dataset import RestorationDataset, RestorationOptions, RootOptions
from ramit_arch.data.stores import LmdbStore, Store
from ramit_arch.errors import UserError
from ramit_arch.options.section import Text


class PairedRootOptions(RootOptions):
    dataroot_lq: Text | None = None
    """Folder, LMDB or raw store of LQ images. Required, here or in `roots`."""
    filename_tmpl: Annotated[str, Field(pattern=r'^[^{}]*\{\}[^{}]*$'), "text that holds {} once, as in '{}x2'"] = '{}'
    """LQ name from the ground truth name, both without suffix: '{}x2' finds babyx2.png for baby.png."""


class PairedRestorationOptions(PairedRootOptions, RestorationOptions):
    """LQ and ground truth pairs, for all tasks but Gaussian denoising."""

    roots: Annotated[list[PairedRootOptions], MinLen(1), 'a list of sections'] | None = None  # type: ignore[assignment]
    """See above."""


class Pair(NamedTuple):
    lq_store: Store
    gt_store: Store
    lq_name: str
    gt_name: str

    def __str__(self) -> str:
        return f'{self.lq_store.path(self.lq_name)} and {self.gt_store.path(self.gt_name)}'


@DATASET_REGISTRY.register()
class PairedRestorationDataset(RestorationDataset[Pair]):
    """LQ and ground truth pairs from folders, LMDBs or raw stores, for all tasks but Gaussian denoising.

    An item is a dictionary: `lq` (C, h, w) and `gt` (C, h * scale, w * scale), float32 in [0, 1], RGB or gray;
    `lq_path` and `gt_path` are file paths, of a store root/name.png. Where GT exceeds LQ * scale by less than `scale`,
    as in benchmark images whose size `scale` does not divide, it is cropped at the right and bottom.

    Raises:
        UserError: see `RestorationDataset`; also for missing partners and sizes that do not match the scale.
    """

    section: ClassVar[type[RestorationOptions]] = PairedRestorationOptions

    def find(self, root: PairedRootOptions) -> list[Pair]:
        template, meta = root.filename_tmpl, root.meta_info_file
        assert root.dataroot_lq is not None
        assert root.dataroot_gt is not None
        lq_store, gt_store = self.open(root.dataroot_lq), self.open(root.dataroot_gt, meta)
        names = gt_store.names()
        if not names:
            raise UserError(f'{self.where}: {gt_store.root}: no images')
        # A meta-info file may name subfolders of GT; LQ lies flat, as in BasicSR.
        wanted = {name: template.format(Path(name).name if meta else name) for name in names}
        have = set(lq_store.names())
        lonely = [f'{gt_store.path(name)} (LQ {lq} is missing)' for name, lq in wanted.items() if lq not in have]
        if meta is None:
            lonely += [f'{lq_store.path(name)} (GT is missing)' for name in sorted(have - set(wanted.values()))]
        if lonely:
            raise UserError(
                f'{self.where}: {len(lonely)} images of {lq_store.root} and {gt_store.root} have no partner, first '
                f'{", ".join(lonely[:3])}; {_advice(names, have)}'
            )
        return [Pair(lq_store, gt_store, lq, gt) for gt, lq in wanted.items()]

    def problem(self, entry: Pair) -> str | None:
        problem = self._misfit(entry.lq_store.size(entry.lq_name), entry.gt_store.size(entry.gt_name))
        if problem is None:
            return None
        listed = [(entry.lq_store, entry.lq_name), (entry.gt_store, entry.gt_name)]
        wrong = (store.wrong_listing(name) for store, name in listed if isinstance(store, LmdbStore))
        return next(filter(None, wrong), problem)

    def item(self, entry: Pair, patch: int | None, rng: np.random.Generator | None) -> dict[str, Tensor | str]:
        lq, gt = self._load(entry)
        if rng is not None:
            assert patch is not None
            lq, gt = crop_pair(lq, gt, patch, self.scale, rng)
        lq, gt = convert_color(lq, self.color), convert_color(gt, self.color)
        if rng is not None:
            lq, gt = self.augmented([lq, gt], rng)
        paths = {'lq_path': entry.lq_store.path(entry.lq_name), 'gt_path': entry.gt_store.path(entry.gt_name)}
        return {'lq': to_tensor(lq), 'gt': to_tensor(gt), **paths}

    def ground_truth(self, index: int) -> tuple[str, tuple[int, int]]:
        """Path and (height, width) of an image of a test set as its item has them, without decoding it."""
        pair = self._entry(index, None)
        height, width = pair.lq_store.size(pair.lq_name)
        return pair.gt_store.path(pair.gt_name), (height * self.scale, width * self.scale)

    def _load(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """The pixels of both, GT cropped to LQ * scale."""
        lq, gt = pair.lq_store.pixels(pair.lq_name), pair.gt_store.pixels(pair.gt_name)
        problem = self._misfit(lq.shape[:2], gt.shape[:2])
        if problem:  # a header or meta_info.txt that lies
            raise UserError(f'{self.where}: {pair}: {problem}')
        return lq, gt[: lq.shape[0] * self.scale, : lq.shape[1] * self.scale]

    def _misfit(self, lq: Sequence[int], gt: Sequence[int]) -> str | None:
        """What is wrong with a pair of (height, width), or None."""
        if any(not 0 <= g - q * self.scale < self.scale for q, g in zip(lq, gt, strict=True)):
            return f'LQ is {lq[1]}x{lq[0]} and GT {gt[1]}x{gt[0]}, which does not fit scale {self.scale}'
        if self.patch and min(lq) < self.patch:
            return f'LQ is {lq[1]}x{lq[0]}, smaller than the patch of {self.patch}'
        return None


def _advice(gt: Iterable[str], lq: Iterable[str]) -> str:
    """What to do about images without partners."""
    renaming = find_renaming(gt, lq)
    if renaming is None:
        return 'check the roots and filename_tmpl'
    if renaming.template is not None:
        return f"filename_tmpl: '{renaming.template}' would match them all"
    return f'all names differ by {renaming.text}: basicsr prepare own --from GT --lq LQ makes pairs of them'
