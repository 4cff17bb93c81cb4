"""`basicsr compare`"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ramit_arch.cli import checks
from ramit_arch.cli.figures import check_figure
from ramit_arch.cli.methods import Setup, TestSet, check_networks, of_networks, of_results
from ramit_arch.cli.model import choose_option_file
from ramit_arch.cli.pipeline import resolve
from ramit_arch.errors import UserError, counted, suggestion
from ramit_arch.evaluation import comparison, comparison_figure, figures
from ramit_arch.evaluation.comparison import Means, Metrics, Scores
from ramit_arch.evaluation.comparison_sheet import Box, Detail, cut, save, sheet
from ramit_arch.evaluation.comparison_tables import Cost, Summary, as_latex, as_markdown
from ramit_arch.files import atomic_write
from ramit_arch.inference.folders import make_output_folder
from ramit_arch.inference.networks import load
from ramit_arch.options.lines import raise_problems

SHEET_ROWS = 12
FIGURE_ROWS = 3


def run(args: argparse.Namespace) -> None:
    """Print each test set's scores by all methods; write tables and sheets of crops to the results, and the figure.

    Raises:
        UserError: an argument does not fit, found before anything is restored; or a method fails.
    """
    figure = _check_arguments(args)
    paths = args.model or []
    args.opt, args.model = choose_option_file(args.opt, paths[0] if paths else None)
    networks = [load(path, args.task) for path in paths]
    opt = resolve(args, args.opt, networks[0] if networks else None)
    check_networks(opt, paths, networks)
    problems = checks.find_problems(opt, training=False) or checks.missing_files(opt, checkpoints=False)
    raise_problems(problems, args.opt, args.force_yml, testing=True)
    folder = Path(args.output).expanduser() / opt['name']
    if figure is not None:
        check_figure('--figure', args.figure, _image_folders(opt))
    setup = of_networks(args, opt, paths, networks) if networks else of_results(args, opt, folder)
    if args.order not in ('given', *setup.metrics):
        near = suggestion(args.order, setup.metrics)
        raise UserError(f'--order {args.order}: give given or a metric: {", ".join(setup.metrics)}{near}')
    _choose_images(args, setup.sets)
    make_output_folder(folder)

    rows = Rows(None if args.images else FIGURE_ROWS)
    means = {}
    for test_set in setup.sets:
        scores, details = _compare_set(test_set, setup, rows)
        means[test_set.name] = comparison.mean_by_method(scores)
        _write_set(folder, test_set.name, scores, details, _order(args.order, means[test_set.name], setup.metrics))
    order = _order(args.order, comparison.mean_over_sets(list(means.values())), setup.metrics)
    _write_tables(folder, setup, means, order)
    if figure is not None:
        note = comparison.describe_metrics(setup.metrics, setup.channels == 1, ' of the whole image')
        details = [detail.ordered(order) for _, detail in rows.found]
        figures.save(lambda: comparison_figure.figure(details, note, setup.metrics, args.difference), figure)
        print(f'Figure: {figure}')


# ------------------------------------------------------------------------------------------------- before all restoring


def _check_arguments(args: argparse.Namespace) -> Path | None:
    """The file of the figure, if one is wanted.

    Raises:
        UserError: arguments contradict each other.
    """
    if args.difference and args.figure is None:
        raise UserError('--difference needs --figure, in which the maps are drawn')
    boxes, images = len(args.crops), len(args.images or [])
    if boxes > 1 and boxes != images:
        named = counted(images, 'image') if images else 'no --images'
        raise UserError(f'--crops: {boxes} boxes for {named}; give one for all, or one for each of --images')
    return None if args.figure is None else check_figure('--figure', args.figure, args.pictures)


def _image_folders(opt: dict[str, Any]) -> list[str]:
    """Where the images of the test sets are."""
    sections = opt['datasets'].values()
    roots = [root for section in sections for root in (section, *(section.get('roots') or []))]
    return [value for root in roots for key, value in root.items() if key.startswith('dataroot') and value]


def _choose_images(args: argparse.Namespace, sets: Sequence[TestSet]) -> None:
    """Set what to draw of every set.

    Raises:
        UserError: no set has such an image, or a box is not inside its image.
    """
    boxes = [Box(*box) if box else None for box in args.crops]
    if not args.images:
        for test_set in sets:
            test_set.box = boxes[0]
            for image, size in comparison.ground_truths(test_set.dataset) if boxes[0] else ():
                _check_inside(boxes[0], image, size, '; say by --images which to draw')
        return
    boxes = boxes * len(args.images) if len(boxes) == 1 else boxes
    known: dict[str, None] = {}
    for test_set in sets:
        test_set.chosen = {}
        for index, (image, size) in enumerate(comparison.ground_truths(test_set.dataset)):
            known[image] = None
            for position, (wanted, box) in enumerate(zip(args.images, boxes, strict=True)):
                if image == wanted:
                    _check_inside(box, image, size)
                    test_set.chosen.setdefault(index, []).append((position, box))
    for image in args.images:
        if image not in known:
            near = suggestion(image, known)
            raise UserError(f'--images {image}: no such image in {", ".join(each.name for each in sets)}{near}')


def _check_inside(box: Box | None, image: str, size: tuple[int, int], advice: str = '') -> None:
    if box is not None and not box.inside(*size):
        text = f'not inside {image}, which has {size[1]}x{size[0]} pixels'
        raise UserError(f'--crops {",".join(map(str, box))}: {text}{advice}')


# ------------------------------------------------------------------------------------------------ restoring and drawing


@dataclass
class Rows:
    """What the figure shows: the images that were asked for, in their order, or else the hardest.

    Attributes:
        most: of the hardest.
        found: by increasing key.
    """

    most: int | None
    found: list[tuple[float, Detail]] = field(default_factory=list)

    def wants(self, key: float) -> bool:
        """Whether an image with this key would be kept."""
        full = len(self.found) == self.most
        return not full or key < self.found[-1][0]

    def add(self, key: float, detail: Detail) -> None:
        """Insert an image; of the hardest, drop the easiest beyond `most`."""
        self.found = sorted([*self.found, (key, detail)], key=itemgetter(0))[: self.most]


def _compare_set(test_set: TestSet, setup: Setup, rows: Rows) -> tuple[list[Scores], list[Detail]]:
    """The scores of all images, and the crops of those on the sheet; `rows` gets those of the figure."""
    scores: list[Scores] = []
    details: list[Detail] = []
    images = comparison.compare(test_set.dataset, test_set.methods, setup.scale, setup.metrics)
    bar = tqdm(images, f'Compare {test_set.name}', len(test_set.dataset), unit='image', disable=None)
    for index, compared in enumerate(bar):
        each = {title: method.scores for title, method in compared.methods.items()}
        scores.append((compared.name, each))
        if test_set.chosen is None:
            drawn = [(comparison.ease(next(iter(each.values())), setup.metrics), test_set.box)]
            on_sheet = index < SHEET_ROWS
        else:
            drawn, on_sheet = list(test_set.chosen.get(index, [])), True
        for key, box in drawn:
            if on_sheet or rows.wants(key):
                detail = cut(compared, box)
                details += [detail] if on_sheet else []
                rows.add(key, detail._replace(name=f'{test_set.name}: {detail.name}'))
    return scores, details


def _order(order: str, means: Means, metrics: Metrics) -> list[str]:
    return list(means) if order == 'given' else comparison.ascending(means, order, metrics)


def _write_set(folder: Path, name: str, scores: list[Scores], details: list[Detail], order: list[str]) -> None:
    """The table of a set, also on stdout, and its sheet."""
    text = comparison.table([(image, {title: each[title] for title in order}) for image, each in scores])
    file = folder / f'comparison_{name}.txt'
    atomic_write(file, f'{text}\n'.encode())
    print(f'\n{name}\n{text}\n')
    if not details:
        print(f'Table: {file}')
        return
    picture = file.with_suffix('.png')
    save(sheet([detail.ordered(order) for detail in details]), picture)
    print(f'Table and sheet of crops: {file}, {picture}')


def _write_tables(folder: Path, setup: Setup, means: dict[str, Means], order: list[str]) -> None:
    """The mean scores of all sets, as Markdown and LaTeX."""
    scored = comparison.describe_metrics(setup.metrics, setup.channels == 1)
    caption = f'{scored}.' if setup.scale == 1 else f'Super-resolution x{setup.scale}. {scored}.'
    methods = {title: setup.costs.get(title, Cost()) for title in order}
    summary = Summary(methods, means, setup.metrics, caption)
    files = folder / 'comparison.md', folder / 'comparison.tex'
    for file, text in zip(files, (as_markdown(summary), as_latex(summary)), strict=True):
        atomic_write(file, text.encode())
    print(f'Tables of all sets: {files[0]}, {files[1]}')
