"""What all our data sets share: roots and their repeats, draws, patch size, augmentation, and checks of all that."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
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
from ramit_arch.errors import UserError
from ramit_arch.options.schema import Restoration, require

Entry = TypeVar('Entry')


class RestorationDataset(Dataset, ABC, Generic[Entry]):
    """Images of one or several roots, one entry an image or pair.

    A data set says what its options are, how to find entries, what is wrong with one, and how to make an item of one.

    Args:
        opt: the section of the option file (`options.schema.Restoration` and what is made of it), with `phase` and the
            file's `scale`, as BasicSR adds them.

    Raises:
        UserError: on construction for wrong options, missing roots, images that cannot be used; later for a file that
            does not decode.
    """

    section: ClassVar[type[Restoration]]  # its options
    options: Restoration  # as they were given

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt  # for BasicSR
        self.where = f'datasets: {opt.get("name", opt.get("phase"))}'
        self.options = require(self.section, opt, self.where)
        self.training = self.options.phase == 'train'
        self.scale, self.color = self.options.scale, self.options.color
        self.patch = self._patch_size() if self.training else None

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
        patch = index.patch if isinstance(index, Draw) and index.patch is not None else self.patch
        return self.item(self._entry(index, rng), patch, rng)

    @abstractmethod
    def find(self, root: Any) -> list[Entry]:
        """All entries of a root, from its options: `section` itself, or one of its `roots`."""

    @abstractmethod
    def problem(self, entry: Entry) -> str | None:
        """What is wrong with an entry as its headers tell, or None."""

    @abstractmethod
    def item(self, entry: Entry, patch: int | None, rng: np.random.Generator | None) -> dict[str, Tensor | str]:
        """What a batch is made of; `patch` and `rng` are None outside training."""

    def augmented(self, images: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """Flip and rotate all alike."""
        return augment(images, self.options.use_hflip, self.options.use_rot, rng)

    def _entry(self, index: int, rng: np.random.Generator | None) -> Entry:
        root = bisect_right(self.ends, index)
        entries = self.roots[root]
        offset = index - (self.ends[root - 1] if root else 0)
        if rng is not None and offset >= len(entries) * math.floor(self.repeats[root]):
            offset = int(rng.integers(len(entries)))  # the fraction of `repeat`: no image is favoured for good
        return entries[offset % len(entries)]

    # ------------------------------------------------------------------------------ reading and checking the options

    def open(self, root: str, meta_info: str | None = None) -> Store:
        """Open a folder or store as `io_backend` says."""
        return open_store(str(Path(root).expanduser()), self.options.io_backend.type, meta_info)

    def _patch_size(self) -> int:
        if self.options.lq_patch_size is not None:
            return self.options.lq_patch_size
        if self.options.gt_size is None:
            raise UserError(f'{self.where}: lq_patch_size is missing; give the side of the LQ patch in pixels')
        return self.options.gt_size // self.scale

    def _root_options(self) -> list[Any]:
        roots, common = self.options.roots, self.options.given()
        if roots is None:
            return [self.options]
        lacking = [type(root).model_fields.keys() - root.model_fields_set for root in roots]
        return [
            root.model_copy(update={key: common[key] for key in keys & common.keys()})
            for root, keys in zip(roots, lacking, strict=True)
        ]

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
