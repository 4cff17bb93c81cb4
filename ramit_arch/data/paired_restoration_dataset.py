"""Pairs of low- and high-quality images, for every task whose LQ images exist as files."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor
from torch.utils.data import Dataset

from ramit_arch.data.draws import generator
from ramit_arch.data.pixels import augment, crop_pair, decode, to_tensor
from ramit_arch.data.stores import Store, open_store
from ramit_arch.errors import UserError, check_keys

ROOT_KEYS = frozenset(['dataroot_lq', 'dataroot_gt', 'repeat', 'meta_info_file', 'filename_tmpl'])
OWN_KEYS = ROOT_KEYS | frozenset(['roots', 'io_backend', 'lq_patch_size', 'gt_size', 'use_hflip', 'use_rot', 'color'])
LOADER_KEYS = frozenset(  # read by BasicSR's loop and loader; use_shuffle stands in its files and is read by nobody
    'name type phase scale num_worker_per_gpu batch_size_per_gpu dataset_enlarge_ratio prefetch_mode '
    'num_prefetch_queue pin_memory persistent_workers use_shuffle'.split()
)


class Pair(NamedTuple):
    lq_store: Store
    gt_store: Store
    lq_name: str
    gt_name: str

    def __str__(self) -> str:
        return f'{self.lq_store.path(self.lq_name)} and {self.gt_store.path(self.gt_name)}'


@DATASET_REGISTRY.register()
class PairedRestorationDataset(Dataset):
    """LQ/HQ pairs from folders or LMDBs.

    Option keys:
        dataroot_lq, dataroot_gt: a folder or LMDB each.
        repeat: how often an epoch holds the images; 18.551 takes each image 18 times and draws the rest at random.
            Default 1. Training only.
        meta_info_file: text file with the GT file names, one a line. Disk only.
        filename_tmpl: LQ name from the GT name, without suffix; '{}x2' finds babyx2.png for baby.png. Default '{}'.
        roots: instead of one root a list of them in one set, each with the keys above; what a root leaves out is
            taken from the set.
        io_backend: {type: disk} or {type: lmdb}. Default disk.
        color: rgb or gray (OpenCV's conversion). Default rgb.
        lq_patch_size: side of the random crop in LQ pixels; or BasicSR's gt_size, `scale` times as large. Training.
        use_hflip, use_rot: random flip, random rotation by quarter turns. Default true. Training only.
        scale: added by BasicSR from the file's `scale`; 1 keeps the size.

    An item is a dictionary: `lq` (C, h, w) and `gt` (C, h * scale, w * scale), float32 in [0, 1], RGB or gray;
    `lq_path` and `gt_path` are file paths, of an LMDB root/name.png. Where GT exceeds LQ * scale by less than `scale`,
    as in benchmark images whose size `scale` does not divide, it is cropped at the right and bottom.

    Raises:
        UserError: on construction for unknown or contradicting keys, missing roots or partners, sizes that do not fit
            the scale, images smaller than the patch (told from the headers); later for a file that does not decode.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt
        self.where = f'datasets: {opt.get("name", opt.get("phase"))}'
        check_keys(opt, OWN_KEYS | LOADER_KEYS, self.where)
        self.training = opt['phase'] == 'train'
        self.scale = int(opt.get('scale', 1))
        self.color = opt.get('color', 'rgb')
        if self.color not in ('rgb', 'gray'):
            raise UserError(f'{self.where}: color is {self.color!r}; it must be rgb or gray')
        self.patch = self._patch_size() if self.training else None
        self.flip, self.rotate = opt.get('use_hflip', True), opt.get('use_rot', True)

        roots = self._root_options()
        self.repeats = [self._repeat(root) for root in roots]
        self.roots = [self._find_pairs(root) for root in roots]
        self._check_pairs()
        lengths = [int(len(pairs) * repeat + 1e-6) for pairs, repeat in zip(self.roots, self.repeats, strict=True)]
        self.ends = list(accumulate(lengths))
        self._check_batch()

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        rng = generator(index) if self.training else None
        pair = self._pair(index, rng)
        lq, gt = self._load(pair)
        if rng is not None:
            assert self.patch is not None
            lq, gt = crop_pair(lq, gt, self.patch, self.scale, rng)
            lq, gt = augment([lq, gt], self.flip, self.rotate, rng)
        paths = {'lq_path': pair.lq_store.path(pair.lq_name), 'gt_path': pair.gt_store.path(pair.gt_name)}
        return {'lq': to_tensor(lq), 'gt': to_tensor(gt), **paths}

    def _pair(self, index: int, rng: Any) -> Pair:
        root = bisect_right(self.ends, index)
        pairs = self.roots[root]
        offset = index - (self.ends[root - 1] if root else 0)
        if rng is not None and offset >= len(pairs) * math.floor(self.repeats[root]):
            offset = int(rng.integers(len(pairs)))  # the fraction of `repeat`: no image is favoured for good
        return pairs[offset % len(pairs)]

    def _load(self, pair: Pair) -> tuple[Any, Any]:
        """Decode both and crop GT to LQ * scale."""
        lq = decode(pair.lq_store.read(pair.lq_name), self.color, f'{self.where}: LQ of {pair}')
        gt = decode(pair.gt_store.read(pair.gt_name), self.color, f'{self.where}: GT of {pair}')
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

    # ------------------------------------------------------------------------------ reading and checking the options

    def _patch_size(self) -> int:
        patch, gt_size = self.opt.get('lq_patch_size'), self.opt.get('gt_size')
        if patch is None and gt_size is None:
            raise UserError(f'{self.where}: lq_patch_size is missing; give the side of the LQ patch in pixels')
        if patch is None:
            if not isinstance(gt_size, int) or gt_size % self.scale:
                raise UserError(f'{self.where}: gt_size {gt_size} is not a multiple of scale {self.scale}')
            patch = gt_size // self.scale
        elif gt_size is not None and gt_size != patch * self.scale:
            raise UserError(f'{self.where}: gt_size {gt_size} is not lq_patch_size {patch} * scale {self.scale}')
        if not isinstance(patch, int) or patch < 1:
            raise UserError(f'{self.where}: lq_patch_size is {patch!r}; it must be an integer from 1 up')
        return patch

    def _root_options(self) -> list[dict[str, Any]]:
        common = {key: value for key, value in self.opt.items() if key in ROOT_KEYS}
        roots = self.opt.get('roots')
        if roots is None:
            return [common]
        if not isinstance(roots, list) or not roots or not all(isinstance(root, dict) for root in roots):
            raise UserError(f'{self.where}: roots must be a list of sections with dataroot_gt and dataroot_lq')
        if common.keys() & {'dataroot_gt', 'dataroot_lq'}:
            raise UserError(f'{self.where}: give either roots or dataroot_gt and dataroot_lq')
        for root in roots:
            check_keys(root, ROOT_KEYS, f'{self.where}: roots')
        return [{**common, **root} for root in roots]

    def _repeat(self, root: dict[str, Any]) -> float:
        repeat = root.get('repeat', 1)
        if isinstance(repeat, bool) or not isinstance(repeat, (int, float)) or not 0 < repeat < math.inf:
            raise UserError(f'{self.where}: repeat is {repeat!r}; it must be a positive number')
        if repeat != 1 and not self.training:
            raise UserError(f'{self.where}: repeat is for training; remove it here')
        return repeat

    def _find_pairs(self, root: dict[str, Any]) -> list[Pair]:
        for key in ('dataroot_lq', 'dataroot_gt'):
            if not isinstance(root.get(key), str):
                raise UserError(f'{self.where}: {key} is missing; give a folder or an LMDB (several: see roots)')
        template, meta = root.get('filename_tmpl', '{}'), root.get('meta_info_file')
        if template.count('{}') != 1:
            raise UserError(f"{self.where}: filename_tmpl is {template!r}; it must contain {{}} once, as in '{{}}x2'")
        io_backend = self.opt.get('io_backend') or {}
        check_keys(io_backend, ('type',), f'{self.where}: io_backend')
        backend = io_backend.get('type', 'disk')
        lq_store = open_store(str(Path(root['dataroot_lq']).expanduser()), backend)
        gt_store = open_store(str(Path(root['dataroot_gt']).expanduser()), backend, meta)
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
                f'{", ".join(lonely[:3])}; check the roots and filename_tmpl'
            )
        return [Pair(lq_store, gt_store, lq, gt) for gt, lq in wanted.items()]

    def _check_pairs(self) -> None:
        problems = []
        for pair in (pair for pairs in self.roots for pair in pairs):
            try:
                problem = self._misfit(pair.lq_store.size(pair.lq_name), pair.gt_store.size(pair.gt_name))
            except UserError as error:
                problem = str(error)
            if problem:
                problems.append(f'{pair}: {problem}')
        if problems:
            total = sum(map(len, self.roots))
            raise UserError(f'{self.where}: {len(problems)} of {total} pairs cannot be used, first {problems[0]}')

    def _check_batch(self) -> None:
        batch = self.opt.get('batch_size_per_gpu', 1)
        images = len(self) * self.opt.get('dataset_enlarge_ratio', 1)
        if self.training and images < batch:  # BasicSR would end at once, without a word
            raise UserError(
                f'{self.where}: an epoch has {images} images, fewer than batch_size_per_gpu {batch}; raise repeat'
            )
