"""`basicsr runs`"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from basicsr.data import build_dataset
from basicsr.utils import tensor2img
from tqdm import tqdm

from ramit_arch import options
from ramit_arch.cli.model import options_of_test
from ramit_arch.errors import UserError
from ramit_arch.evaluation import comparison
from ramit_arch.evaluation.comparison_sheet import cut, save, sheet
from ramit_arch.evaluation.complexity import complexity
from ramit_arch.evaluation.protocols import standard_metrics
from ramit_arch.evaluation.runs import Run, curves, read_run, rows
from ramit_arch.evaluation.text import FORMATS
from ramit_arch.inference.networks import build, option_file_of
from ramit_arch.inference.restorer import Restorer

SHEET_ROWS = 4


def run(args: argparse.Namespace) -> None:
    """Print a table of several trainings, and draw their curves and a sheet of their networks' crops.

    Raises:
        UserError: a folder is no experiment, or a picture cannot be made.
    """
    for flag, file, kinds in [('--plot', args.plot, ('.png', '.pdf', '.svg')), ('--sheet', args.sheet, ('.png',))]:
        if file is not None and (Path(file).suffix.lower() not in kinds or not Path(file).absolute().parent.is_dir()):
            raise UserError(f'{flag} {file}: give a {" or ".join(kinds)} file in a folder that exists')
    if args.plot and importlib.util.find_spec('matplotlib') is None:
        raise UserError('--plot needs matplotlib: pip install matplotlib')
    runs = _read_all([Path(folder) for folder in args.experiments])
    print(FORMATS[args.format](rows(runs, [_cost(run) for run in runs])))
    if args.plot:
        curves(runs).savefig(args.plot)
        print(f'Curves: {args.plot}')
    if args.sheet:
        save(sheet([cut(compared) for compared in _compare(runs)]), Path(args.sheet))
        print(f'Sheet of crops: {args.sheet}')


def _read_all(folders: list[Path]) -> list[Run]:
    """The trainings that have logged something; the others are named.

    Raises:
        UserError: a folder is no experiment, or there is none left.
    """
    found = []
    for folder in folders:
        file = option_file_of(folder) if folder.is_dir() else None
        if file is None:
            raise UserError(f'{folder}: not the folder of a training (experiments/NAME)')
        run = read_run(folder.resolve(), options.load(file))
        if run.losses:
            found.append(run)
        else:
            print(f'skipping {folder}: no iteration in its log')
    if not found:
        raise UserError('no training with an iteration in its log')
    names = [run.name for run in found]
    for run in found:
        run.name = run.name if names.count(run.name) == 1 else f'{run.folder.parent.parent.name}/{run.name}'
    return found


def _cost(run: Run) -> tuple[int, float] | None:
    network = run.options['network_g']
    try:
        built = build(network, str(run.folder))
    except UserError as error:
        print(f'{error}; not counted')
        return None
    counted = complexity(built, network.get('in_chans', 3), int(run.options.get('scale', 1)))
    return counted.parameters, counted.mult_adds


def _compare(runs: list[Run]) -> Iterator[comparison.Comparison]:
    """The first images of the first run's validation set, restored by all.

    Raises:
        UserError: the runs are not of one scale and colour, or the first has no validation set.
    """
    scales = {int(run.options.get('scale', 1)) for run in runs}
    if len(scales) > 1:
        raise UserError(f'--sheet: the runs are of scales {", ".join(map(str, sorted(scales)))}; give those of one')
    [scale] = scales
    restorers = {run.name: Restorer(run.folder) for run in runs}
    if len({restorer.channels for restorer in restorers.values()}) > 1:
        raise UserError('--sheet: some of the runs are gray, some in colour; give those of one kind')
    opt = options_of_test(runs[0].options, str(runs[0].folder))
    metrics = {**standard_metrics(opt['val'].get('protocol'), scale), **(opt['val'].get('metrics') or {})}
    section: dict[str, Any] = {**opt['datasets']['test_1'], 'phase': 'test', 'scale': scale}
    dataset = build_dataset(section)
    for i in tqdm(range(min(SHEET_ROWS, len(dataset))), 'Restore', unit='image', disable=None):
        item = dataset[i]
        compared = comparison.beside_baseline(Path(item['gt_path']).stem, item, scale, metrics)
        for name, restorer in restorers.items():
            picture = tensor2img(restorer.restore_tensor(item['lq'][None]))
            scores = comparison.score(picture, compared.gt, metrics)
            compared.methods[name] = comparison.Restoration(picture, scores)
        yield compared
