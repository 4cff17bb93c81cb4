"""Check prepared datasets (`basicsr verify datasets`): all that could make training or scores differ from the paper's.

Every image is decoded once. All problems are reported together, and the exit status is 1
if there is one. `NAME.checksums.txt` beside a store keeps a digest of every image's pixels, the same for all formats;
the first run without problems writes it, later ones compare.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ramit_arch.data.pixels import convert_color, decode
from ramit_arch.data.stores import EncodedStore, LmdbStore, Store, backend_of, open_store
from ramit_arch.errors import UserError, counted
from ramit_arch.evaluation.text import aligned
from ramit_arch.preparation.bicubic import downscale
from ramit_arch.preparation.catalogue import Part, data_set, data_sets, known_overlap
from ramit_arch.preparation.images import check_whole
from ramit_arch.preparation.workers import Progress, cores, in_processes
from ramit_arch.preparation.writers import WRITERS

THUMB = 16  # pixels a side of the thumbnail by which images are recognised
NEAR = 2.0  # grey levels by which thumbnails of one picture may differ on average: other codecs, gray or colour
FLAT = 4.0  # standard deviation below which a thumbnail shows nothing to recognise
SUBIMAGE = re.compile(r'_s\d{3,}(x\d)?$')


class Place(NamedTuple):
    """A store to check."""

    path: Path
    backend: str
    role: str  # hq, lq, or bicubic
    scale: int

    @property
    def checksums(self) -> Path:
        """Where the digests are; the formats of one store share them."""
        path = self.path.absolute()
        name = path.stem if path.suffix in ('.lmdb', '.raw') else path.name
        return path.with_name(f'{name}.checksums.txt')


class Group(NamedTuple):
    """Stores of one set of images, clean ones first, each with its names under the keys by which pairs are found."""

    title: str
    part: Part | None
    stores: dict[Place, dict[str, str]]
    problems: list[str]  # of stores that cannot be opened


class Look(NamedTuple):
    """What decoding one image showed."""

    digest: str
    thumb: np.ndarray | None  # of clean images, None if flat


class Found(NamedTuple):
    """What looking at one key in all stores of a group showed."""

    looks: dict[int, Look]  # by the store's place in the group
    problems: list[str]


def run(args: argparse.Namespace) -> None:
    """The verb `verify`."""
    if (args.root is None) == (args.gt is None):
        raise UserError('give either the folder of prepared datasets, or --gt with or without --lq')
    if args.lq is not None and args.gt is None:
        raise UserError('--lq goes with --gt')
    if args.scale is not None and args.lq is None:
        raise UserError('--scale goes with --lq')
    if args.gt is not None and args.only:
        raise UserError('--only goes with the folder of prepared datasets')
    groups = [_own_group(args)] if args.gt is not None else list(_groups(Path(args.root).expanduser(), args.only))
    problems: list[str] = []
    known: list[str] = []
    looks: dict[str, dict[str, Look]] = {}
    rows = [['store', 'images', 'checksums']]
    for group in groups:
        found, clean = _look(group, args.workers or cores(), args.any_count)
        found += _duplicates(group, clean)
        problems += found
        for i, store in enumerate(group.stores):
            seen = {key: one.looks[i] for key, one in clean.items() if i in one.looks}
            more, state = _checksums(store, group.stores[store].keys(), seen, args.renew, bool(found))
            problems += more
            rows.append([str(store.path), f'{len(seen):,}', state])
        if group.part is not None:
            looks[group.title] = {key: one.looks[0] for key, one in clean.items() if 0 in one.looks}
    for text, reason in _leaks(groups, looks):
        (known if reason else problems).append(f'{text} ({reason})' if reason else text)
    print(aligned(rows))
    if known:
        print('\n  '.join(['known to overlap:', *known]))
    if problems:
        raise UserError('\n  '.join([counted(len(problems), 'problem'), *problems]))
    print('no problems')


# ------------------------------------------------------------------------------------------------- what is there


def _groups(root: Path, only: list[str] | None) -> Iterator[Group]:
    """The datasets below a folder."""
    if not root.is_dir():
        raise UserError(
            f'{root}: {"is a file; give the folder of the datasets" if root.exists() else "no such folder"}'
        )
    chosen = [data_set(name) for name in dict.fromkeys(only)] if only else data_sets()
    count = 0
    for part in (part for entry in chosen for part in entry.parts):
        places = list(_places(root, part))
        if places:
            count += 1
            yield _group(part.to, part, places)
        elif only:
            raise UserError(f'{root}: {part.to} is not there; make it by `basicsr prepare`')
    if not count:
        raise UserError(
            f'{root}: no published dataset is there (basicsr prepare lists them); your own need --gt, --lq, --scale'
        )


def _places(root: Path, part: Part) -> Iterator[Place]:
    """All stores of a part, in all formats; the clean images first."""
    for name in part.stores:
        role = 'hq' if name == part.hq else 'lq' if name == part.lq else 'bicubic'
        scale = int(name.removeprefix('LRx')) if role == 'bicubic' else 1
        for format_, writer in WRITERS.items():
            path = root / part.to / (name + writer.suffix)
            if path.is_dir():
                yield Place(path, 'disk' if format_ == 'png' else format_, role, scale)


def _own_group(args: argparse.Namespace) -> Group:
    places = []
    for root, role, scale in ((args.gt, 'hq', 1), (args.lq, 'lq', args.scale or 1)):
        if root is not None:
            path = Path(root).expanduser()
            places.append(Place(path, backend_of(path), role, scale))
    return _group(str(args.gt), None, places)


def _group(title: str, part: Part | None, places: list[Place]) -> Group:
    stores, problems = {}, []
    for place in places:
        try:
            store = open_store(str(place.path), place.backend)
        except UserError as error:
            problems.append(str(error))
        else:
            stores[place] = names = _names(place, store.names())
            if not names:
                problems.append(f'{place.path}: no images')
            if isinstance(store, LmdbStore) and store.entries() != len(names):
                problems.append(f'{place.path}: holds {store.entries():,} images, meta_info.txt lists {len(names):,}')
    roles = {place.role for place in places}
    wanted = [] if part is None else [('hq', part.hq), *([('lq', part.lq)] if part.lq else [])]
    problems += [f'{title}: {name} is missing' for role, name in wanted if role not in roles]
    return Group(title, part, stores, problems)


def _names(place: Place, names: list[str]) -> dict[str, str]:
    """The names of a store's images under their keys: in folders the LR images of babyx2.png are called so."""
    suffix = f'x{place.scale}'
    marked = place.backend == 'disk' and place.scale > 1 and all(name.endswith(suffix) for name in names)
    return {name.removesuffix(suffix) if marked else name: name for name in names}


# ------------------------------------------------------------------------------------------------ looking at images


def _look(group: Group, workers: int, any_count: bool) -> tuple[list[str], dict[str, Found]]:
    """Decode every image of a group once; the problems, and what was found under every key."""
    keys = sorted({key for names in group.stores.values() for key in names})
    problems = list(group.problems)
    problems += [text for place in group.stores for text in _count_problems(group, place, keys, any_count)]
    found = {}
    with Progress(f'verify {group.title}', len(keys)) as progress:
        tasks = ([(place, names.get(key)) for place, names in group.stores.items()] for key in keys)
        for key, one in zip(keys, in_processes(_look_at, tasks, workers), strict=True):
            found[key] = one
            problems += one.problems
            progress.step()
    return problems, found


def _count_problems(group: Group, place: Place, keys: list[str], any_count: bool) -> Iterator[str]:
    expected, names = group.part.count if group.part else None, group.stores[place]
    if expected not in (None, len(names)) and not any_count:
        yield f'{place.path}: {len(names):,} images, but {group.title} has {expected:,}; --any_count accepts them'
    for key in keys:
        if key not in names:
            yield f'{place.path}: {key} is missing, other stores of {group.title} have it'


def _look_at(images: list[tuple[Place, str | None]]) -> Found:
    """Everything about the images of one key, by their stores and names there; runs in a worker."""
    looks, problems = {}, []
    clean: np.ndarray | None = None
    for i, (place, name) in enumerate(images):
        if name is None:
            continue
        try:
            store = _opened(str(place.path), place.backend)
            image = _whole(store, name)
        except UserError as error:
            problems.append(str(error))
            continue
        size = (image.shape[0], image.shape[1])
        if store.size(name) != size:
            problems.append(f'{store.path(name)}: meta_info.txt says another size than {size[1]}x{size[0]}')
        if place.role == 'hq':
            clean = image
        elif clean is not None:
            problem = _misfit(clean, image, place, bool(SUBIMAGE.search(name)))
            if problem:
                problems.append(f'{store.path(name)}: {problem}')
        digest = hashlib.blake2b(f'{image.shape} {image.dtype}'.encode(), digest_size=16)
        digest.update(np.ascontiguousarray(image).data)
        looks[i] = Look(digest.hexdigest(), _thumbnail(image) if place.role == 'hq' else None)
    return Found(looks, problems)


@functools.lru_cache(maxsize=64)
def _opened(path: str, backend: str) -> Store:
    return open_store(path, backend)


def _whole(store: Store, name: str) -> np.ndarray:
    """An image's pixels, after seeing that its file is whole: decoders fill in what is missing."""
    if not isinstance(store, EncodedStore):
        return store.pixels(name)
    data, path = store.read(name), store.path(name)
    check_whole(data, path)
    return decode(data, path)


def _misfit(clean: np.ndarray, low: np.ndarray, place: Place, piece: bool) -> str | None:
    """What is wrong with a pair, or None. A piece was cut after it was made: its outer pixels saw what is beyond."""
    sides = list(zip(clean.shape[:2], low.shape[:2], strict=True))
    if any(not 0 <= g - q * place.scale < place.scale for g, q in sides):
        return f'is {low.shape[1]}x{low.shape[0]}, GT {clean.shape[1]}x{clean.shape[0]}, no fit at x{place.scale}'
    if place.role == 'bicubic' and clean.dtype == np.uint8:
        expected = downscale(clean, place.scale)
        if expected.shape != low.shape:
            return f'has {low.shape[2]} channels, GT has {clean.shape[2]}'
        inner = slice(2, -2) if piece else slice(None)
        differ = np.abs(expected.astype(int) - low)[inner, inner]
        if differ.any():
            share = np.count_nonzero(differ) / differ.size
            return f"is not MATLAB's bicubic of GT: {share:.1%} of the values differ, by up to {differ.max()}"
    return None


def _thumbnail(image: np.ndarray) -> np.ndarray | None:
    """(256,) float32 grey levels, the same for a gray and a colour file of one picture; None where all is flat."""
    gray = convert_color(np.ascontiguousarray(image), 'gray').astype(np.float32) / np.float32(
        np.iinfo(image.dtype).max / 255
    )
    thumb = cv2.resize(gray, (THUMB, THUMB), interpolation=cv2.INTER_AREA).ravel()
    return thumb if thumb.std() > FLAT else None


# ------------------------------------------------------------------------------- checksums, duplicates and leaks


def _checksums(
    store: Place, names: Collection[str], seen: dict[str, Look], renew: bool, faulty: bool
) -> tuple[list[str], str]:
    """Compare with the digests of before, or write them; the problems, and a word for the table."""
    file = store.checksums
    now = {name: look.digest for name, look in seen.items()}
    if file.exists() and not renew:
        before: dict[str, str] = {}
        for line in file.read_text(encoding='utf-8', errors='surrogateescape').splitlines():
            digest, _, name = line.partition('  ')
            before[name] = digest
        since = f'since {file.name} was written'
        problems = [f'{store.path}: {name} is gone {since}' for name in before.keys() - set(names)]
        problems += [f'{store.path}: {name} is new {since}' for name in now.keys() - before.keys()]
        problems += [
            f'{store.path}: {name} has other pixels {since}'
            for name in before.keys() & now.keys()
            if before[name] != now[name]
        ]
        return sorted(problems), 'differ' if problems else 'as before'
    if faulty:
        return [], 'not written'
    part = file.with_name(f'.{file.name}.part')
    text = ''.join(f'{digest}  {name}\n' for name, digest in now.items())
    try:
        part.write_text(text, encoding='utf-8', errors='surrogateescape')
        part.replace(file)
    except OSError as error:  # data that may only be read can still be checked
        return [], f'not written ({error.strerror})'
    return [], 'written'


def _duplicates(group: Group, found: dict[str, Found]) -> Iterator[str]:
    """Images with the same pixels: among partners where there are any (a clean image may have several), or among
    clean images."""
    stores = list(group.stores)
    paired = [i for i, store in enumerate(stores) if store.role == 'lq']
    chosen = paired[0] if paired else 0
    by_digest = defaultdict(list)
    for key, one in found.items():
        if chosen in one.looks and not SUBIMAGE.search(key):  # pieces of plain sky may well be the same
            by_digest[one.looks[chosen].digest].append(key)
    for keys in by_digest.values():
        if len(keys) > 1:
            yield f'{stores[chosen].path}: the same pixels in {", ".join(keys)}'


def _leaks(groups: list[Group], looks: dict[str, dict[str, Look]]) -> Iterator[tuple[str, str | None]]:
    """Pictures that a training and a test set share, with the reason if that is known and meant."""
    parts = [group.part for group in groups if group.part is not None]
    for train in (part for part in parts if part.use == 'train'):
        # A mean absolute difference below NEAR implies that the means differ by less than NEAR: compare only those.
        distinct: dict[str, tuple[str, np.ndarray]] = {}  # of the pairs that share a ground truth, the first
        for key, look in looks[train.to].items():
            if look.thumb is not None:
                distinct.setdefault(look.digest, (key, look.thumb))
        if not distinct:
            continue
        ordered = sorted(distinct.values(), key=lambda one: float(one[1].mean()))
        names, thumbs = [key for key, _ in ordered], np.stack([thumb for _, thumb in ordered])
        means = thumbs.mean(axis=1)
        for test in (part for part in parts if part.use == 'test'):
            shared = []
            for key, look in looks[test.to].items():
                if look.thumb is None:
                    continue
                mean = float(look.thumb.mean())
                begin, end = np.searchsorted(means, [mean - NEAR, mean + NEAR])
                distance = np.abs(thumbs[begin:end] - look.thumb).mean(axis=1)
                if distance.size and distance.min() < NEAR:
                    shared.append(f'{key} = {names[begin + int(distance.argmin())]}')
            if shared:
                text = f'{test.to} and {train.to} share {counted(len(shared), "picture")}: {", ".join(shared)}'
                yield text, known_overlap(train, test)
