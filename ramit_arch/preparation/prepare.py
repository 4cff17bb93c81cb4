"""Make a dataset's stores from its unpacked archive: `basicsr prepare DIV2K --from DIR --to datasets`.

Everything is checked before anything is written, a stopped run
continues where it stopped, and a finished one does nothing.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np

from ramit_arch.errors import UserError, counted
from ramit_arch.preparation.bicubic import downscale
from ramit_arch.preparation.blocks import forget_blocks, is_block, read_block
from ramit_arch.preparation.catalogue import data_set, data_sets
from ramit_arch.preparation.images import check_whole, encode, read_pixels
from ramit_arch.preparation.plan import Cut, Entry, Image, Options, Plan, Store, plan, plan_own, report
from ramit_arch.preparation.workers import Progress, cores, in_threads
from ramit_arch.preparation.writers import WRITERS, Record, Writer

OWN = 'own'


def run(args: argparse.Namespace) -> None:
    """The verb `prepare`."""
    if not args.names:
        if args.source or args.target:
            raise UserError('no dataset given: basicsr prepare NAME --from DIR --to DIR; without options it lists them')
        print(listing())
        return
    if args.source is None or args.target is None:
        missing = '--from' if args.source is None else '--to'
        raise UserError(f'{missing} is missing: basicsr prepare {" ".join(args.names)} --from DIR --to DIR')
    cv2.setNumThreads(1)  # the workers are threads
    source, target, options = Path(args.source).expanduser(), Path(args.target).expanduser(), _options(args)
    if OWN in args.names:
        if len(args.names) > 1:
            raise UserError('own: prepare published datasets in another run')
        plans = plan_own(source, Path(args.lq).expanduser() if args.lq else None, target, options)
    elif args.lq is not None:
        raise UserError('--lq is for own; of published datasets, --from finds the LQ images')
    else:
        plans, problems = [], []
        for entry in [data_set(name) for name in args.names]:
            try:
                plans += plan(entry, source, target, options)
            except UserError as error:  # tell those of the other sets as well
                problems.append(str(error))
        if problems:
            raise UserError('\n'.join(problems))
    report(plans, target)
    if not args.dry_run:
        for one in plans:
            build(one, options.workers)
            forget_blocks()


def listing() -> str:
    """All datasets, with what is made of them."""
    rows = [['name', 'images', 'makes', 'from']]
    for entry in data_sets():
        for i, part in enumerate(entry.parts):
            suffix = '.lmdb' if part.use == 'train' else ''
            stores = f'{part.to}/' + ' '.join(store + suffix for store in part.stores)
            rows.append([entry.name if not i else '', f'{part.count:,}', stores, entry.archive if not i else ''])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['  '.join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return '\n'.join(
        [*lines, '', 'Images of yours: basicsr prepare own --from DIR --to datasets/NAME [--lq DIR] [--scale 2]']
    )


def _options(args: argparse.Namespace) -> Options:
    cut = Cut(*args.subimages) if args.subimages else None
    if cut is not None and (cut.size < 1 or cut.step < 1 or cut.threshold < 0):
        raise UserError(f'--subimages {cut.size} {cut.step} {cut.threshold}: size and step from 1 up, threshold from 0')
    scales = tuple(dict.fromkeys(args.scale)) if args.scale else None
    formats = tuple(dict.fromkeys(args.format)) if args.format else None
    return Options(scales, formats, cut, args.convert, args.any_count, workers=args.workers or cores())


def build(one: Plan, workers: int) -> None:
    """Make all stores of a part. Every file is read and decoded once, whatever is made of it.

    Raises:
        UserError: with all files that turned out to be damaged, or for what keeps a store from being written. What is
            done by then is kept for the next run.
    """
    with ExitStack() as stack:
        writers = {
            store: stack.enter_context(WRITERS[store.format](store.target, one.job(store))) for store in one.stores
        }
        for store, writer in writers.items():
            if writer.finished:
                print(f'{store.target}: exists already')
        writers = {store: writer for store, writer in writers.items() if not writer.finished}
        if not writers:
            return
        tasks = [(entry, missing) for entry in one.entries if (missing := _missing(one, entry, writers))]
        problems = []
        title = ' '.join(store.target.name for store in writers)
        produce = functools.partial(_produce, one)
        with Progress(f'{one.title} {title}', len(one.entries), len(one.entries) - len(tasks)) as progress:
            for made in in_threads(produce, tasks, workers):
                if isinstance(made, str):
                    problems.append(made)
                else:
                    for store, records in made:
                        writers[store].put(records)
                progress.step()
        if problems:
            head = f'{one.title}: {counted(len(problems), "file")} cannot be used; fix them and run again to continue'
            raise UserError('\n  '.join([head, *problems]))
        for store, writer in writers.items():
            writer.finish()
            print(f'{store.target}: {sum(len(one.names(store, entry)) for entry in one.entries):,} images')


def _missing(one: Plan, entry: Entry, writers: dict[Store, Writer]) -> list[Store]:
    return [store for store, writer in writers.items() if not writer.names.issuperset(one.names(store, entry))]


def _produce(one: Plan, task: tuple[Entry, list[Store]]) -> list[tuple[Store, list[Record]]] | str:
    """Everything that is made of one entry, or what is wrong with its files."""
    entry, stores = task
    files = _Files()
    try:
        return [(store, list(_records(one, entry, store, files))) for store in stores]
    except UserError as error:
        return str(error)


class _Files:
    """The files of one entry, each read and decoded once."""

    def __init__(self) -> None:
        self._data: dict[Path, bytes] = {}
        self._pixels: dict[Path, np.ndarray] = {}

    def data(self, image: Image) -> bytes:
        if image.file not in self._data:
            data = image.file.read_bytes()
            check_whole(data, str(image.file))
            self._data[image.file] = data
        return self._data[image.file]

    def pixels(self, image: Image) -> np.ndarray:
        if image.file not in self._pixels:
            block = is_block(image.file)
            pixels = read_block(image.file) if block else read_pixels(self.data(image), str(image.file))
            top, left = image.border, image.border
            self._pixels[image.file] = pixels[top : top + image.header.height, left : left + image.header.width]
        return self._pixels[image.file]


def _records(one: Plan, entry: Entry, store: Store, files: _Files) -> Iterator[Record]:
    image, names = store.image(entry), one.names(store, entry)
    if one.copies(store, entry):
        header = image.header
        yield Record(names[0], (header.height, header.width, header.channels), files.data(image))
        return
    pixels = files.pixels(image)[one.window(entry, store.scale if store.kind == 'lq' else 1)]
    if store.kind == 'bicubic':
        pixels = downscale(pixels, store.scale)
    pieces = [pixels]
    if one.cut is not None:
        side = one.cut.size // store.scale
        corners = [(top // store.scale, left // store.scale) for top, left in one.places(entry)]
        pieces = [pixels[top : top + side, left : left + side] for top, left in corners]
    for name, piece in zip(names, pieces, strict=True):
        height, width, channels = piece.shape
        data = piece.tobytes() if store.format == 'raw' else encode(piece)
        yield Record(name, (height, width, channels), data)
