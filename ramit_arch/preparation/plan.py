"""What `prepare` will do: every image found and checked, every store named, and how much disk it takes."""

from __future__ import annotations

import functools
import math
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path

from ramit_arch.data.pairs import find_renaming
from ramit_arch.errors import UserError, counted
from ramit_arch.evaluation.text import aligned
from ramit_arch.preparation.blocks import is_block
from ramit_arch.preparation.catalogue import DataSet, Located, Part, Source, image_files, locate
from ramit_arch.preparation.images import Header, read_header
from ramit_arch.preparation.workers import in_threads
from ramit_arch.preparation.writers import WRITERS, Job, is_finished, written

PNG_SHARE = 0.65  # of a photograph's bytes that its PNG takes, about
PAGE = 4096  # files and LMDB values begin on a new one


@dataclass(frozen=True)
class Cut:
    """Sub-images of `size` HQ pixels a side, every `step`, and one more at the far edge where more than `threshold`
    pixels would be left; what BasicSR's extract_subimages calls crop_size, step and thresh_size."""

    size: int
    step: int
    threshold: int

    def starts(self, length: int) -> list[int]:
        """Where the sub-images of a side of `length` pixels begin."""
        starts = list(range(0, length - self.size + 1, self.step))
        if starts and length - starts[-1] - self.size > self.threshold:
            starts.append(length - self.size)
        return starts


@dataclass(frozen=True)
class Options:
    """What the command line says beside names and folders; None leaves the choice to the dataset."""

    scales: tuple[int, ...] | None = None
    formats: tuple[str, ...] | None = None
    cut: Cut | None = None
    convert: bool = False
    any_count: bool = False
    skip: bool = False  # images that cannot be used, after naming them, instead of refusing the set
    workers: int = 1


Named = dict[str, tuple[str, Path]]  # names and files, under the names in lower case


@dataclass(frozen=True)
class Image:
    file: Path
    header: Header  # after `border` is cut off
    bytes: int
    modified: int  # nanoseconds
    border: int = 0

    def without_border(self, border: int) -> Image:
        """The image without so many pixels at every side."""
        height, width = self.header.height - 2 * border, self.header.width - 2 * border
        return replace(self, header=self.header._replace(height=height, width=width, fits=False), border=border)

    def signature(self) -> str:
        """By which a later run recognises that the file is the same."""
        cut = f' without {self.border} at every side' if self.border else ''
        return f'{self.file.name} {self.bytes} {self.modified}{cut}'


@dataclass(frozen=True)
class Entry:
    """A clean image and, where the archive has one, its low-quality partner."""

    key: str
    hq: Image
    lq: Image | None


@dataclass(frozen=True)
class Store:
    """A store to be made. Its images come from clean files (hq), from their partners (lq), or are made of clean ones
    (bicubic)."""

    target: Path
    format: str
    kind: str
    scale: int

    def image(self, entry: Entry) -> Image:
        """The file that an entry's image comes from."""
        if self.kind != 'lq':
            return entry.hq
        assert entry.lq is not None
        return entry.lq


@dataclass(frozen=True)
class Plan:
    """A part with all its entries and stores."""

    part: Part
    entries: list[Entry]
    stores: list[Store]
    cut: Cut | None
    middle: int | None = None  # keep only so many HQ pixels a side, in the middle

    @property
    def title(self) -> str:
        return self.part.to or 'own'

    @property
    def unit(self) -> int:
        """Clean images are cut at multiples of this, so that every scale is cut at the same places."""
        return math.lcm(*(store.scale for store in self.stores))

    def places(self, entry: Entry) -> list[tuple[int, int]]:
        """Where an entry's sub-images begin: (top, left) in HQ pixels."""
        assert self.cut is not None
        height, width = (side // self.unit * self.unit for side in (entry.hq.header.height, entry.hq.header.width))
        return list(product(self.cut.starts(height), self.cut.starts(width)))

    def window(self, entry: Entry, scale: int) -> tuple[slice, slice]:
        """What is kept of an image of 1/scale of the HQ image's size."""
        if self.middle is None:
            return slice(None), slice(None)
        slices = []
        for side in (entry.hq.header.height, entry.hq.header.width):
            kept = min(self.middle, side) // self.unit * self.unit
            start = (side - kept) // 2 // self.unit * self.unit
            slices.append(slice(start // scale, (start + kept) // scale) if kept < side else slice(None))
        return slices[0], slices[1]

    def names(self, store: Store, entry: Entry) -> list[str]:
        """What an entry's images are called in a store."""
        suffix = f'x{store.scale}' if store.scale > 1 and store.format == 'png' else ''
        if self.cut is None:
            return [entry.key + suffix]
        return [f'{entry.key}_s{number:03}{suffix}' for number in range(1, len(self.places(entry)) + 1)]

    def copies(self, store: Store, entry: Entry) -> bool:
        """Whether a file's bytes are stored as they are."""
        whole = self.cut is None and self.middle is None
        return store.kind != 'bicubic' and store.format != 'raw' and whole and store.image(entry).header.fits

    def job(self, store: Store) -> Job:
        """All that decides a store's contents: the options, and files by name, size and time of change."""
        cut = f', {self.cut}, multiples of {self.unit}' if self.cut else ''
        cut += f', middle {self.middle}' if self.middle else ''
        sources = {}
        for entry in self.entries:
            sources.update(dict.fromkeys(self.names(store, entry), store.image(entry).signature()))
        return Job(f'{store.kind} x{store.scale}{cut}', sources)

    def bytes(self, store: Store) -> int:
        """About how much a store takes."""
        return sum(self._entry_bytes(store, entry) for entry in self.entries)

    def _entry_bytes(self, store: Store, entry: Entry) -> int:
        image = store.image(entry)
        if self.copies(store, entry):
            return (image.bytes // PAGE + 1) * PAGE
        values = image.header.values
        if self.middle is not None:
            side = self.middle // store.scale if store.kind == 'lq' else self.middle
            values = min(values, side**2 * image.header.channels)
        pieces = [values // (store.scale**2 if store.kind == 'bicubic' else 1)]
        if self.cut is not None:
            pieces = [(self.cut.size // store.scale) ** 2 * image.header.channels] * len(self.places(entry))
        if store.format == 'raw':
            return sum(pieces)
        return sum((int(values * PNG_SHARE) // PAGE + 1) * PAGE for values in pieces)


def plan(entry: DataSet, source: Path, target: Path, options: Options) -> list[Plan]:
    """Find and check all images of a dataset; nothing is written.

    Args:
        source: the root of the unpacked archive.
        target: where the parts' folders will be.

    Raises:
        UserError: with all problems, one a line.
    """
    plans, problems = [], []
    for part in entry.parts:
        stores = _stores(part, _scales(part, options), target, options)
        entries, found = _entries(part, locate(part, source), options)
        trains = part.use == 'train' or all(other.use == 'test' for other in entry.parts)
        plans.append(Plan(part, entries, stores, options.cut if trains else None))
        problems += found
    if not problems:
        problems = [problem for one in plans for problem in _misfits(one)]
    return plans if not problems else _refuse(entry.name, problems)


def plan_own(hq: Path, lq: Path | None, target: Path, options: Options) -> list[Plan]:
    """The same for the user's own images: clean ones, and their partners from `lq` or made by bicubic.

    Raises:
        UserError: see `plan`.
    """
    for folder in filter(None, (hq, lq)):
        if not folder.is_dir():
            raise UserError(f'{folder}: {"is a file; give a folder" if folder.exists() else "no such folder"}')
    scales = options.scales or ()
    if lq is not None and len(scales) > 1:
        raise UserError(f'--lq has one scale; --scale is {" ".join(map(str, scales))}')
    scale = scales[0] if scales else 1
    name = 'HR' if scales else 'HQ'
    marked = lq is not None and all(file.stem.endswith(f'x{scale}') for file in image_files(lq))
    source = Source('.', '.' if lq else None, strip_lq=f'x{scale}$' if marked else '')
    part = Part('', 'train', (), None, name, 'LQ' if lq else None, () if lq else scales, ())
    stores = _stores(part, part.scales, target, options)
    if lq is not None and scales:
        stores = [
            store if store.kind == 'hq' else
            Store(store.target.with_name(f'LRx{scale}{store.target.suffix}'), store.format, 'lq', scale)
            for store in stores
        ]  # fmt: skip
    entries, problems = _entries(part, Located([(source, hq)], [(source, lq)] if lq else []), options)
    one = Plan(part, entries, stores, options.cut)
    if options.skip:
        misfits = {entry.key: list(_misfits(replace(one, entries=[entry]))) for entry in entries}
        for problem in [*problems, *chain(*misfits.values())]:
            print(f'skipping {problem}')
        return [replace(one, entries=[entry for entry in entries if not misfits[entry.key]])]
    problems = problems or list(_misfits(one))
    return [one] if not problems else _refuse('own', problems)


def report(plans: list[Plan], target: Path) -> None:
    """Print how much disk the stores will take.

    Raises:
        UserError: there is not so much room, or something else where a store is to be.
    """
    rows = [['store', 'images', 'made', 'about']]
    total = 0
    for one in plans:
        for store in one.stores:
            images = sum(len(one.names(store, entry)) for entry in one.entries)
            job = one.job(store)
            there = is_finished(store.target, job)
            size = 0 if there else max(0, one.bytes(store) - written(store.target, job))
            made = 'is there already' if there else _made(one, store)
            rows.append([str(store.target), f'{images:,}', made, _mib(size)])
            total += size
    free = _free(target)
    print(aligned(rows))
    print(f'in total about {_mib(total)}; {_mib(free)} free')
    if total > free:
        raise UserError(
            f'{target}: the disk is too small by about {_mib(total - free)}; make room or choose another folder'
        )


def _free(target: Path) -> int:
    """Bytes left on the disk where a folder is or will be."""
    existing = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def _made(one: Plan, store: Store) -> str:
    if store.kind == 'bicubic':
        return f'bicubic x{store.scale}'
    copied = sum(one.copies(store, entry) for entry in one.entries)
    if copied == len(one.entries):
        return 'copied'
    way = 'decoded' if store.format == 'raw' else 'encoded'
    return way if not copied else f'{copied:,} copied, others {way}'


def _mib(size: float) -> str:
    return f'{size / 2**20:,.1f} MiB' if size < 2**30 else f'{size / 2**30:,.1f} GiB'


def _refuse(name: str, problems: list[str]) -> list[Plan]:
    raise UserError('\n  '.join([f'{name}: {counted(len(problems), "problem")}, nothing was written', *problems]))


def _scales(part: Part, options: Options) -> tuple[int, ...]:
    for scale in options.scales or ():
        if scale not in part.scales:
            known = f'has {", ".join(map(str, part.scales))}' if part.scales else 'has no low-resolution images'
            raise UserError(f'--scale {scale}: {part.to} {known}')
    return part.scales if options.scales is None else options.scales


def _formats(part: Part, options: Options) -> tuple[str, ...]:
    return options.formats or (('png',) if part.use == 'test' else ('lmdb',))


def _stores(part: Part, scales: tuple[int, ...], target: Path, options: Options) -> list[Store]:
    kinds = [(part.hq, 'hq', 1), *([(part.lq, 'lq', 1)] if part.lq else [])]
    kinds += [(f'LRx{scale}', 'bicubic', scale) for scale in scales]
    return [
        Store(target / part.to / (name + WRITERS[format_].suffix), format_, kind, scale)
        for format_ in _formats(part, options)
        for name, kind, scale in kinds
    ]


def _entries(part: Part, located: Located, options: Options) -> tuple[list[Entry], list[str]]:
    """All images of a part, and what is wrong with them."""
    low = [(source, file) for source, folder in located.lq for file in source.files(folder, low=True)]
    hq, problems = _named([(source.key(file), file) for source, folder in located.hq for file in source.files(folder)])
    lq, more = _named([(source.key(file, True), file) for source, file in low])
    problems += more
    named_by_lq = any(source.named_by_lq for source, _ in located.lq)
    folders = [folder for _, folder in (located.lq if named_by_lq else located.hq)]
    where = ' and '.join(map(str, folders)) if len(folders) < 3 else f'{os.path.commonpath(folders)}/*'
    count = len(lq if named_by_lq else hq)
    if named_by_lq:
        hq, more = _named_by_lq(low, hq, lq)
        problems += more
    renaming = find_renaming(hq, lq) if part.lq is not None and not named_by_lq and hq.keys() != lq.keys() else None
    if renaming is not None:
        print(f'pairs by their names: {renaming.text}')
        lq = {name: lq[other] for name, other in renaming.names.items()}
    if not count:
        problems.append(f'{where}: no images')
    elif part.count not in (None, count) and not options.any_count:
        problems.append(
            f'{where}: {count:,} images, but {part.to} has {part.count:,}{_missing(list(hq), part.count)}; '
            'complete the folder, or take what is there by --any_count'
        )
    if part.lq is not None:
        problems += [f'{hq[key][1]}: no LQ image for it' for key in sorted(hq.keys() - lq.keys())]
        problems += [f'{lq[key][1]}: no ground truth image for it' for key in sorted(lq.keys() - hq.keys())]
    files = list(dict.fromkeys(file for names in (hq, lq) for _, file in names.values()))
    images: dict[Path, Image] = {}
    read = functools.partial(_image, convert=options.convert)
    for file, image in zip(files, in_threads(read, files, options.workers), strict=True):
        if isinstance(image, str):
            problems.append(image)
        else:
            images[file] = image
    if 'lmdb' in _formats(part, options):
        problems += [
            f"{file}: BasicSR's LMDB reader takes names in ASCII without dots; rename it, or --format raw"
            for key, file in hq.values()
            if not key.isascii() or '.' in key
        ]
    if problems and not options.skip:
        return [], problems
    border = max(source.border for source, _ in located.hq)
    entries = [
        _entry(name, images[file], images.get(lq[key][1]) if key in lq else None, border)
        for key, (name, file) in sorted(hq.items()) if file in images
    ]  # fmt: skip
    return [entry for entry in entries if entry.lq is not None or part.lq is None], problems


def _named_by_lq(low: list[tuple[Source, Path]], hq: Named, lq: Named) -> tuple[Named, list[str]]:
    """The ground truth of every LQ image under its name, and which ground truth has none."""
    owners = {source.key(file, True).lower(): source.owner(file).lower() for source, file in low}
    complete = not any(source.more_hq for source, _ in low)
    alone = sorted(hq.keys() - owners.values()) if complete else []
    named = {key: (lq[key][0], hq[owner][1]) for key, owner in owners.items() if owner in hq}
    return named, [f'{hq[key][1]}: no LQ image for it' for key in alone]


def _entry(key: str, hq: Image, lq: Image | None, border: int) -> Entry:
    """A pair; crops the border that only the ground truth has."""
    sides = ('height', 'width')
    if border and lq and all(getattr(hq.header, s) - getattr(lq.header, s) == 2 * border for s in sides):
        hq = hq.without_border(border)
    return Entry(key, hq, lq)


def _named(files: list[tuple[str, Path]]) -> tuple[Named, list[str]]:
    """Names and files under the names in lower case, by which partners are found; and files that share one."""
    named = defaultdict(list)
    for name, file in files:
        named[name.lower()].append((name, file))
    shared = [
        f'{several[1][1]}: has the name of {several[0][1].name}, but for case or suffix; rename or remove one'
        for several in named.values()
        if len(several) > 1
    ]
    return {key: several[0] for key, several in named.items()}, shared


def _image(file: Path, convert: bool) -> Image | str:
    """The image of a file, or what is wrong with it."""
    try:
        header = read_header(file)
        status = (file.parent if is_block(file) else file).stat()
    except UserError as error:
        return str(error)
    if not file.name.isprintable():
        return f'{str(file)!r}: a name that cannot be stored; rename it'
    if header.unusual and not convert:
        return f'{file}: {header.unusual}; make it 8-bit gray or RGB, or let --convert do so'
    return Image(file, header, status.st_size, status.st_mtime_ns)


def _missing(keys: list[str], count: int | None) -> str:
    """Which numbers are missing where names are numbers, as in 0001.png to 0800.png."""
    numbers = {int(match[1]) for key in keys if (match := re.search(r'^\D*(\d+)$', key))}
    assert count is not None
    missing = sorted(set(range(1, count + 1)) - numbers)
    if not keys or len(numbers) != len(keys) or max(numbers) > count or not missing:
        return ''
    shown = ', '.join(map(str, missing[:5])) + (', ...' if len(missing) > 5 else '')
    return f' (missing: {shown})'


def _misfits(one: Plan) -> Iterator[str]:
    """Pairs whose sizes differ, and images too small for what is to be made of them."""
    if one.cut is not None and (one.cut.size % one.unit or one.cut.step % one.unit):
        yield f'--subimages {one.cut.size} {one.cut.step}: size and step must be multiples of {one.unit}'
    scale = max(store.scale for store in one.stores)
    paired = next((store.scale for store in one.stores if store.kind == 'lq'), 1)
    for entry in one.entries:
        hq = entry.hq.header
        if entry.lq is not None:
            lq = entry.lq.header
            if any(not 0 <= h - q * paired < paired for h, q in ((hq.height, lq.height), (hq.width, lq.width))):
                yield (
                    f'{entry.lq.file}: {lq.width}x{lq.height}, which does not fit {entry.hq.file} of '
                    f'{hq.width}x{hq.height} at scale {paired}'
                )
        if min(hq.height, hq.width) < scale:
            yield f'{entry.hq.file}: {hq.width}x{hq.height} is too small for scale {scale}'
        elif one.cut is not None and not one.places(entry):
            yield f'{entry.hq.file}: {hq.width}x{hq.height} is smaller than sub-images of {one.cut.size}'
