"""The paper's datasets as `datasets.yml` describes them, and where their images lie in an unpacked archive."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ramit_arch.data.stores import SUFFIXES
from ramit_arch.errors import UserError, check_keys, suggestion

MAX_DEPTH = 8  # folders below --from


@dataclass(frozen=True)
class Source:
    """A folder of clean images, with or without the folder of their low-quality partners, in an archive."""

    hq: str
    lq: str | None = None
    prefix: str = ''
    strip: str = ''
    strip_lq: str = ''  # cut off low-quality names besides

    def key(self, file: Path, low: bool = False) -> str:
        """The name that an image gets, by which its partner is found."""
        stem = re.sub(self.strip_lq, '', file.stem) if low else file.stem
        return self.prefix + re.sub(self.strip, '', stem)


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


def locate(part: Part, root: Path) -> list[tuple[Source, Path, Path | None]]:
    """Find a part's folders below the root of an unpacked archive.

    Returns:
        Each source with its folder of clean images and its folder of low-quality ones, if it has one.

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
            (source, _folder(folders, source.hq), _folder(folders, source.lq) if source.lq else None)
            for source in layout
        ]
        if all(hq and (lq or not source.lq) for source, hq, lq in found):
            return [(source, hq, lq) for source, hq, lq in found if hq]
    (only, *more) = part.layouts[0]
    if root in folders and not more and only.lq is None:
        return [(only, root, None)]
    layouts = [' and '.join(f for source in layout for f in (source.hq, source.lq) if f) for layout in part.layouts]
    looked = ', or '.join(dict.fromkeys(layouts))
    raise UserError(f'{root}: the folders of {part.to} are not below it, with images in them; looked for {looked}')


def image_files(folder: Path) -> list[Path]:
    """The files of a folder that are images by their suffix, sorted; hidden ones are none."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise UserError(f'{folder}: cannot be read ({error.strerror})') from error
    return [folder / name for name in names if Path(name).suffix.lower() in SUFFIXES and not name.startswith('.')]


def _image_folders(root: Path) -> Iterator[Path]:
    """The folder and all below it that hold image files, the nearest first; links are followed, each folder once."""
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
            below += [folder / entry.name for entry in entries if _is_folder(entry)]
        level = below


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir() and not entry.name.startswith(('.', '__MACOSX'))
    except OSError:  # a link that points to itself
        return False


def _folder(folders: list[Path], wanted: str) -> Path | None:
    """The folder whose path ends as wanted; raises UserError where two are equally near."""
    parts = [part.lower() for part in Path(wanted).parts]

    def ends(path: Path) -> bool:
        return [part.lower() for part in path.parts[-len(parts) :]] == parts

    # As it is reached, perhaps through links, or as it really is called.
    found = [folder for folder in folders if ends(folder.absolute()) or ends(folder.resolve())]
    if len(found) > 1 and len(found[0].parts) == len(found[1].parts):
        raise UserError(f'{found[0]} and {found[1]} could both be {wanted}; give the folder of one as --from')
    return found[0] if found else None
