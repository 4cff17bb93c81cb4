"""What all our data sets share: roots and their repeats, draws, patch size, augmentation, and checks of all that."""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ramit_arch.data.draws import Draw, generator
from ramit_arch.data.pixels import augment
from ramit_arch.data.stores import Store, open_store
from ramit_arch.errors import UserError, check_keys

_COMMON_KEYS = frozenset('roots repeat meta_info_file io_backend lq_patch_size gt_size use_hflip use_rot color'.split())
_LOADER_KEYS = frozenset(  # read by the loop and its loaders; use_shuffle stands in BasicSR's files, nobody reads it
    'name type phase scale num_worker_per_gpu batch_size_per_gpu dataset_enlarge_ratio prefetch_mode '
    'num_prefetch_queue pin_memory persistent_workers use_shuffle'.split()
)
_TRAINING_KEYS = frozenset('lq_patch_size gt_size use_hflip use_rot dataset_enlarge_ratio prefetch_mode'.split())

Entry = TypeVar('Entry')


class RestorationDataset(Dataset, Generic[Entry]):
    """Images of one or several roots, one entry an image or pair.

    A data set names its own keys and says how to find entries, what is wrong with one, and how to make an item of one.

    Option keys of all:
        repeat: how often an epoch holds the images; 18.551 takes each image 18 times and draws the rest at random.
            Default 1. Training only.
        meta_info_file: text file with the GT file names, one a line. Disk only.
        roots: instead of one root a list of them in one set, each with the data roots, `repeat` and the like; what a
            root leaves out is taken from the set.
        io_backend: {type: disk}, {type: lmdb} or {type: raw} (`basicsr prepare` writes all three). Default disk.
        color: rgb or gray (OpenCV's conversion). Default rgb.
        lq_patch_size: side of the random crop in LQ pixels; or BasicSR's gt_size, `scale` times as large. Training;
            `train.progressive` names a side for every stage instead.
        use_hflip, use_rot: random flip, random rotation by quarter turns. Default true. Training only.
        scale: added by BasicSR from the file's `scale`; 1 keeps the size.

    Raises:
        UserError: on construction for unknown or contradicting keys, missing roots, images that cannot be used; later
            for a file that does not decode.
    """

    data_roots: ClassVar[tuple[str, ...]]  # the keys of a root that name folders or stores
    root_keys: ClassVar[frozenset[str]]  # further keys of a root
    own_keys: ClassVar[frozenset[str]] = frozenset()  # further keys of the set

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt
        self.where = f'datasets: {opt.get("name", opt.get("phase"))}'
        self._all_root_keys = frozenset(['repeat', 'meta_info_file', *self.data_roots]) | self.root_keys
        check_keys(opt, _COMMON_KEYS | _LOADER_KEYS | self._all_root_keys | self.own_keys, self.where)
        self.training = opt['phase'] == 'train'
        self.scale = int(opt.get('scale', 1))
        self.color = opt.get('color', 'rgb')
        if self.color not in ('rgb', 'gray'):
            raise UserError(f'{self.where}: color is {self.color!r}; it must be rgb or gray')
        for key in _TRAINING_KEYS & opt.keys() if not self.training else ():
            raise UserError(f'{self.where}: {key} is for training; remove it here')
        self.patch = self._patch_size() if self.training else None
        self.flip, self.rotate = opt.get('use_hflip', True), opt.get('use_rot', True)

        roots = self._root_options()
        self.repeats = [self._repeat(root) for root in roots]
        self.roots = [self.find(root) for root in roots]
        self._check_entries()
        images = accumulate(len(entries) * repeat for entries, repeat in zip(self.roots, self.repeats, strict=True))
        self.ends = [int(count + 1e-6) for count in images]
        if not len(self):
            raise UserError(f'{self.where}: repeat leaves no image in an epoch; raise it')

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        rng = generator(index) if self.training else None
        patch = index.patch if isinstance(index, Draw) and index.patch is not None else self.patch
        return self.item(self._entry(index, rng), patch, rng)

    @abstractmethod
    def find(self, root: dict[str, Any]) -> list[Entry]:
        """All entries of a root, from its options."""

    @abstractmethod
    def problem(self, entry: Entry) -> str | None:
        """What is wrong with an entry as its headers tell, or None."""

    @abstractmethod
    def item(self, entry: Entry, patch: int | None, rng: np.random.Generator | None) -> dict[str, Tensor | str]:
        """What a batch is made of; `patch` and `rng` are None outside training."""

    def augmented(self, images: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """Flip and rotate all alike."""
        return augment(images, self.flip, self.rotate, rng)

    def _entry(self, index: int, rng: np.random.Generator | None) -> Entry:
        root = bisect_right(self.ends, index)
        entries = self.roots[root]
        offset = index - (self.ends[root - 1] if root else 0)
        if rng is not None and offset >= len(entries) * math.floor(self.repeats[root]):
            offset = int(rng.integers(len(entries)))  # the fraction of `repeat`: no image is favoured for good
        return entries[offset % len(entries)]

    # ------------------------------------------------------------------------------ reading and checking the options

    def open(self, root: dict[str, Any], key: str, meta_info: str | None = None) -> Store:
        """Open the folder or store that a root names under `key`."""
        if not isinstance(root.get(key), str):
            raise UserError(f'{self.where}: {key} is missing; give a folder or a store (several: see roots)')
        io_backend = self.opt.get('io_backend') or {}
        check_keys(io_backend, ('type',), f'{self.where}: io_backend')
        backend = io_backend.get('type', 'disk')
        if backend != 'disk' and root.get('meta_info_file') is not None:
            raise UserError(f'{self.where}: meta_info_file is for io_backend disk; a store has its own meta_info.txt')
        return open_store(str(Path(root[key]).expanduser()), backend, meta_info)

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
        common = {key: value for key, value in self.opt.items() if key in self._all_root_keys}
        roots = self.opt.get('roots')
        if roots is None:
            return [common]
        names = ' and '.join(self.data_roots)
        if not isinstance(roots, list) or not roots or not all(isinstance(root, dict) for root in roots):
            raise UserError(f'{self.where}: roots must be a list of sections with {names}')
        if common.keys() & set(self.data_roots):
            raise UserError(f'{self.where}: give either roots or {names}')
        for root in roots:
            check_keys(root, self._all_root_keys, f'{self.where}: roots')
        return [{**common, **root} for root in roots]

    def _repeat(self, root: dict[str, Any]) -> float:
        repeat = root.get('repeat', 1)
        if isinstance(repeat, bool) or not isinstance(repeat, (int, float)) or not 0 < repeat < math.inf:
            raise UserError(f'{self.where}: repeat is {repeat!r}; it must be a positive number')
        if repeat != 1 and not self.training:
            raise UserError(f'{self.where}: repeat is for training; remove it here')
        return repeat

    def _check_entries(self) -> None:
        problems = [f'{entry}: {text}' for entry in self._entries() if (text := _told(self.problem, entry))]
        if problems:
            total = sum(map(len, self.roots))
            raise UserError(f'{self.where}: {len(problems)} of {total} images cannot be used, first {problems[0]}')

    def _entries(self) -> list[Entry]:
        return [entry for entries in self.roots for entry in entries]


def _told(problem: Callable[[Entry], str | None], entry: Entry) -> str | None:
    """The problem of an entry; a header that cannot be read is one."""
    try:
        return problem(entry)
    except UserError as error:
        return str(error)
