"""The published datasets as `datasets.yml` describes them, and where their images lie in an unpacked archive."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ramit_arch.data.stores import SUFFIXES
from ramit_arch.errors import UserError, check_keys, suggestion
from ramit_arch.preparation.blocks import block_paths, is_block_file

MAX_DEPTH = 8  # folders below --from


@dataclass(frozen=True)
class Source:
    """A folder of clean images, with or without the folder of their low-quality partners, in an archive; its fields are
    explained in datasets.yml."""

    hq: str
    lq: str | None = None
    hq_files: str = '*'
    lq_files: str = '*'
    prefix: str = ''
    strip: str = ''
    strip_lq: str = ''  # cut off low-quality names besides
    shared: str = ''
    more_hq: bool = False
    dot: str = '.'
    border: int = 0

    def key(self, file: Path, low: bool = False) -> str:
        """The name that an image gets, by which its partner is found."""
        stem = re.sub(self.strip_lq, '', file.stem) if low else file.stem
        return self.prefix + re.sub(self.strip, '', stem).replace('.', self.dot)

    def owner(self, file: Path) -> str:
        """The name of the clean image that a low-quality one belongs to."""
        return re.sub(self.shared, '', self.key(file, low=True))

    @property
    def named_by_lq(self) -> bool:
        """Whether low-quality images, and not clean ones, say which pairs there are."""
        return bool(self.shared) or self.more_hq

    def files(self, folder: Path, low: bool = False) -> list[Path]:
        """The images of one of its folders."""
        return image_files(folder, self.lq_files if low else self.hq_files)


@dataclass(frozen=True)
class Part:
    """One training or test set; the fields are those of datasets.yml."""

    to: str
    use: str
    tasks: tuple[str, ...]
    count: int | None
    hq: str
    lq: str | None
    scales: tuple[int, ...]
    layouts: tuple[tuple[Source, ...], ...]

    @property
    def stores(self) -> list[str]:
        """The names of all stores."""
        return [self.hq, *([self.lq] if self.lq else []), *(f'LRx{scale}' for scale in self.scales)]


@dataclass(frozen=True)
class DataSet:
    name: str
    archive: str
    cite: str
    note: str
    parts: tuple[Part, ...]


@functools.cache
def _catalogue() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name('datasets.yml').read_text(encoding='utf-8'))


def data_sets() -> list[DataSet]:
    """All datasets, in the order of datasets.yml."""
    return [
        DataSet(
            name, entry['archive'], entry['cite'], entry.get('note', ''), tuple(_part(part) for part in entry['parts'])
        )
        for name, entry in _catalogue()['data_sets'].items()
    ]


def data_set(name: str) -> DataSet:
    """One dataset by its name, in upper or lower case.

    Raises:
        UserError: there is none of that name.
    """
    known = {entry.name.lower(): entry for entry in data_sets()}
    if name.lower() not in known:
        names = [entry.name for entry in known.values()]
        raise UserError(
            f'no dataset {name}{suggestion(name, names)}; there are {", ".join(names)}, and own for images of yours'
        )
    return known[name.lower()]


def known_overlap(train: Part, test: Part) -> str | None:
    """Why a training and a test set may share images, or None where they must not."""
    if not set(train.tasks) & set(test.tasks):
        return 'no task trains on the one and tests on the other'
    for overlap in _catalogue()['known_overlaps']:
        if (overlap['train'], overlap['test']) == (train.to, test.to):
            return overlap['why']
    return None


def _part(entry: dict[str, Any]) -> Part:
    known = 'to use tasks count hq lq scales layouts'.split()
    check_keys(entry, known, 'datasets.yml')
    written = Source(f'{entry["to"]}/{entry["hq"]}', f'{entry["to"]}/{entry["lq"]}' if 'lq' in entry else None)
    layouts = [tuple(Source(**source) for source in layout) for layout in entry['layouts']]
    return Part(
        entry['to'],
        entry['use'],
        tuple(entry['tasks']),
        entry['count'],
        entry['hq'],
        entry.get('lq'),
        tuple(entry.get('scales', ())),
        (*layouts, (written,)),
    )


class Located(NamedTuple):
    """The folders of a part, each with its source; `lq` is empty where there are only clean images."""

    hq: list[tuple[Source, Path]]
    lq: list[tuple[Source, Path]]


def locate(part: Part, root: Path) -> Located:
    """Find a part's folders below the root of an unpacked archive.

    Raises:
        UserError: no layout is there, or a folder is there twice.
    """
    if root.is_file():
        raise UserError(f'{root}: --from is a file; unpack it and give the folder')
    if not root.is_dir():
        raise UserError(f'{root}: --from is no folder')
    folders = list(_image_folders(root))
    for layout in part.layouts:
        found = [
            (_folders(folders, source, source.hq), _folders(folders, source, source.lq) if source.lq else None)
            for source in layout
        ]
        if all(hq and lq != [] for hq, lq in found):
            return Located([one for hq, _ in found for one in hq], [one for _, lq in found for one in lq or []])
    (only, *more) = part.layouts[0]
    if root in folders and not more and only.lq is None:
        return Located([(only, root)], [])
    layouts = [' and '.join(f for source in layout for f in (source.hq, source.lq) if f) for layout in part.layouts]
    looked = ', or '.join(dict.fromkeys(layouts))
    raise UserError(f'{root}: the folders of {part.to} are not below it, with images in them; looked for {looked}')


def image_files(folder: Path, pattern: str = '*') -> list[Path]:
    """The files of a folder that are images by their suffix and fit a pattern, sorted; hidden ones are none. Of a
    MATLAB file its blocks."""
    if is_block_file(folder):
        return block_paths(folder)
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise UserError(f'{folder}: cannot be read ({error.strerror})') from error
    return [
        folder / name
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith('.') and _fits(name, pattern)
    ]


def _image_folders(root: Path) -> Iterator[Path]:
    """The folder and all below it that hold image files, and MATLAB files, the nearest first; links are followed, each
    folder once."""
    level, seen = [root], set()
    for _ in range(MAX_DEPTH):
        below = []
        for folder in level:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:  # a link back
                continue
            seen.add((status.st_dev, status.st_ino))
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except PermissionError:
                continue
            if any(Path(entry.name).suffix.lower() in SUFFIXES for entry in entries):
                yield folder
            yield from (folder / entry.name for entry in entries if is_block_file(Path(entry.path)))
            below += [folder / entry.name for entry in entries if _is_folder(entry)]
        level = below


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir() and not entry.name.startswith(('.', '__MACOSX'))
    except OSError:  # a link that points to itself
        return False


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name.lower(), pattern.lower())


def _folders(folders: list[Path], source: Source, wanted: str) -> list[tuple[Source, Path]]:
    """Folders whose path ends as wanted, below the nearest root; `*` may match several, whose names replace `*` in the
    prefix. Raises UserError if two roots are equally near."""
    patterns = Path(wanted).parts
    found: dict[Path, list[tuple[Source, Path]]] = {}
    for folder in folders:
        for path in dict.fromkeys((folder.absolute(), folder.resolve())):  # as reached through links, and as called
            names = path.parts[-len(patterns) :]
            if len(names) == len(patterns) and all(map(_fits, names, patterns)):
                star = names[patterns.index('*')] if '*' in patterns else ''
                one = replace(source, prefix=source.prefix.replace('*', star))
                found.setdefault(path.parents[len(patterns) - 1], []).append((one, folder))
                break
    nearest, *others = found.values() or [[]]
    if others and len(nearest[0][1].parts) == len(others[0][0][1].parts):
        raise UserError(
            f'{nearest[0][1]} and {others[0][0][1]} could both be {wanted}; give the folder of one as --from'
        )
    return nearest
