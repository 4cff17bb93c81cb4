"""What our datasets share: their options, roots and repeats, patch size, augmentation, and checks of all that."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from annotated_types import MinLen
from pydantic import ConfigDict
from torch import Tensor
from torch.utils.data import Dataset

from ramit_arch.data.pixels import augment
from ramit_arch.data.samplers import SampleIndex, generator
from ramit_arch.data.stores import Store, open_store
from ramit_arch.errors import UserError
from ramit_arch.options.basicsr import DatasetOptions
from ramit_arch.options.section import Conflict, Count, OwnSection, Positive, Text, parse

Entry = TypeVar('Entry')

FOR_TRAINING = (
    'lq_patch_size gt_size use_hflip use_rot repeat batch_size_per_gpu num_worker_per_gpu dataset_enlarge_ratio '
    'prefetch_mode num_prefetch_queue'
).split()


class Backend(OwnSection):
    type: Literal['disk', 'lmdb', 'raw'] = 'disk'
    """A folder of images, BasicSR's LMDB, or pixels without encoding; `basicsr prepare` writes all three."""


class RootOptions(OwnSection):
    """One of several roots of a dataset; what it leaves out is taken from the dataset."""

    dataroot_gt: Text | None = None
    """Folder, LMDB or raw store of ground truth images. Required, here or in `roots`."""
    meta_info_file: Text | None = None
    """Text file with the names of the ground truth files, one per line. With `io_backend: {type: disk}` only."""
    repeat: Positive = 1
    """Number of times the images are repeated per epoch; 18.551 uses each 18 times and samples the rest. Training."""


class RestorationOptions(RootOptions, DatasetOptions):
    """Options of both datasets."""

    model_config = ConfigDict(extra='forbid')

    roots: Annotated[list[RootOptions], MinLen(1), 'a list of sections'] | None = None
    """Several roots instead of one: a list of sections with `dataroot_gt` and, where they differ from the dataset's,
    `dataroot_lq`, `filename_tmpl`, `meta_info_file` and `repeat`."""
    io_backend: Backend = Backend()
    """How the roots are stored."""
    color: Literal['rgb', 'gray'] = 'rgb'
    """rgb, or gray by OpenCV's conversion."""
    lq_patch_size: Count | None = None
    """Side of the random crop in LQ pixels. Training; with `train.progressive` every stage has its own."""
    gt_size: Count | None = None
    """The same in ground truth pixels, as in BasicSR: `scale` times as large. Training."""
    use_hflip: bool = True
    """Random horizontal flips. Training."""
    use_rot: bool = True
    """Random rotations by multiples of 90 degrees, which includes vertical flips. Training."""

    def conflicts(self) -> Iterator[Conflict]:
        yield from super().conflicts()
        yield from self._root_conflicts()
        if self.phase != 'train':
            for key in FOR_TRAINING:
                if key in self.model_fields_set and not (key == 'repeat' and self.repeat == 1):
                    yield key, 'is for training; remove it here'
            for i, root in enumerate(self.roots or []):
                if root.repeat != 1:
                    yield ('roots', i, 'repeat'), 'is for training; remove it here'
        patch, size = self.lq_patch_size, self.gt_size
        if size is not None and size % self.scale:
            yield 'gt_size', f'is {size}, no multiple of scale {self.scale}'
        elif size is not None and patch is not None and size != patch * self.scale:
            yield 'gt_size', f'is {size}, which is not lq_patch_size {patch} * scale {self.scale}'

    def _root_conflicts(self) -> Iterator[Conflict]:
        keys = [key for key in type(self).model_fields if key.startswith('dataroot_')]
        for key in keys:
            if self.roots is not None and key in self.model_fields_set:
                yield key, f'contradicts roots; give either roots or {" and ".join(keys)}'
            elif self.roots is None and key not in self.model_fields_set:
                yield key, 'is missing; give a folder or a store (several: see roots)'
            for i, root in enumerate(self.roots or []):
                if getattr(root, key) is None:
                    yield ('roots', i, key), 'is missing; give a folder or a store'
        for path, root in [((), self), *((('roots', i), root) for i, root in enumerate(self.roots or []))]:
            if root.meta_info_file is not None and self.io_backend.type != 'disk':
                yield (*path, 'meta_info_file'), 'is for io_backend disk; a store has its own meta_info.txt'


class RestorationDataset(Dataset, ABC, Generic[Entry]):
    """Images of one or several roots; an entry is an image or a pair.

    A dataset declares its options, finds entries, checks one, and makes an item of one.

    Args:
        opt: the section of the option file, see `section`, with `phase` and the file's `scale`, which BasicSR adds.

    Raises:
        UserError: on construction for wrong options, missing roots, images that cannot be used; later for a file that
            does not decode.
    """

    section: ClassVar[type[RestorationOptions]]
    options: RestorationOptions

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt  # for BasicSR
        self.where = f'datasets: {opt.get("name", opt.get("phase"))}'
        self.options = parse(self.section, opt, self.where)
        self.training = self.options.phase == 'train'
        self.scale, self.color = self.options.scale, self.options.color
        self.patch = self._patch_size() if self.training else None

        self.stores: list[Store] = []
        roots = self._root_options()
        self.repeats = [root.repeat for root in roots]
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
        patch = index.patch if isinstance(index, SampleIndex) and index.patch is not None else self.patch
        return self.item(self._entry(index, rng), patch, rng)

    @abstractmethod
    def find(self, root: Any) -> list[Entry]:
        """All entries of a root, from its options: `section` itself, or one of its `roots`."""

    @abstractmethod
    def problem(self, entry: Entry) -> str | None:
        """What is wrong with an entry, from its headers, or None."""

    @abstractmethod
    def item(self, entry: Entry, patch: int | None, rng: np.random.Generator | None) -> dict[str, Tensor | str]:
        """An item of a batch; `patch` and `rng` are None outside training."""

    def augmented(self, images: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """Flip and rotate all images equally."""
        return augment(images, self.options.use_hflip, self.options.use_rot, rng)

    def _entry(self, index: int, rng: np.random.Generator | None) -> Entry:
        root = bisect_right(self.ends, index)
        entries = self.roots[root]
        offset = index - (self.ends[root - 1] if root else 0)
        if rng is not None and offset >= len(entries) * math.floor(self.repeats[root]):
            offset = int(rng.integers(len(entries)))  # the fraction of `repeat` is sampled
        return entries[offset % len(entries)]

    # ------------------------------------------------------------------------------ reading and checking the options

    def open(self, root: str, meta_info: str | None = None) -> Store:
        """Open a folder or store as `io_backend` says."""
        self.stores.append(open_store(str(Path(root).expanduser()), self.options.io_backend.type, meta_info))
        return self.stores[-1]

    def _patch_size(self) -> int:
        if self.options.lq_patch_size is not None:
            return self.options.lq_patch_size
        if self.options.gt_size is None:
            raise UserError(f'{self.where}: lq_patch_size is missing; give the side of the LQ patch in pixels')
        return self.options.gt_size // self.scale

    def _root_options(self) -> list[Any]:
        if self.options.roots is None:
            return [self.options]
        return [
            root.model_copy(
                update={
                    key: getattr(self.options, key)
                    for key in type(root).model_fields.keys() - root.model_fields_set
                    if key in self.options.model_fields_set
                }
            )
            for root in self.options.roots
        ]

    def _check_entries(self) -> None:
        problems = [f'{entry}: {text}' for entry in self._entries() if (text := _problem_of(self.problem, entry))]
        if problems:
            total = sum(map(len, self.roots))
            raise UserError(f'{self.where}: {len(problems)} of {total} images cannot be used, first {problems[0]}')

    def _entries(self) -> list[Entry]:
        return [entry for entries in self.roots for entry in entries]


def _problem_of(problem: Callable[[Entry], str | None], entry: Entry) -> str | None:
    """The problem of an entry; a header that cannot be read is one."""
    try:
        return problem(entry)
    except UserError as error:
        return str(error)
