"""`basicsr complexity`"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from basicsr.archs import build_network
from tqdm import tqdm

from ramit_arch.cli import checks
from ramit_arch.cli.figures import check_figure
from ramit_arch.cli.pipeline import resolve
from ramit_arch.errors import UserError
from ramit_arch.evaluation import tables, tradeoff
from ramit_arch.evaluation.complexity import HEADER, cells, complexity, measure
from ramit_arch.evaluation.text import aligned
from ramit_arch.inference.networks import load
from ramit_arch.options.lines import raise_problems
from ramit_arch.options.section import Problem

MAX_SCALE = 16


def run(args: argparse.Namespace) -> None:
    """Print a row for the network of every option file, and with `--plot` draw the trade-off figure."""
    if not args.opt and not args.model:
        raise UserError('give option files by -opt, or checkpoints by -m')
    opts = [resolve(args, file) for file in args.opt]
    for file, opt in zip(args.opt, opts, strict=True):
        problems = checks.network_problems(opt)
        if not problems and int(opt.get('scale', 1)) > MAX_SCALE:
            text = f'scale is {opt["scale"]}; 1280x720 is divided by at most {MAX_SCALE}'
            problems.append(Problem(('scale',), text))
        raise_problems(problems, file, args.force_yml)
    opts += [_of_checkpoint(path, args.task) for path in args.model]
    scales = sorted({int(opt.get('scale', 1)) for opt in opts} - {1})
    if args.plot:
        _check_plot(args.plot, scales)

    rows, devices = [], set()
    names = [*args.opt, *args.model]
    for file, opt in zip(names, tqdm(opts, 'Measure', unit='network', leave=False, disable=None), strict=True):
        network, scale = opt['network_g'], int(opt.get('scale', 1))
        try:
            cost = complexity(build_network(dict(network)), network.get('in_chans', 3), scale)
        except UserError as error:
            raise UserError(f'{file}: {error}') from error
        measured = None if args.counts else measure(network, scale, args.repeats)
        devices |= {measured.device} if measured else set()
        rows.append(cells(str(opt.get('name', file)), scale, cost, measured))
    print(aligned([HEADER[: len(rows[0])], *rows]))
    print('For a 1280x720 output. Mult-Adds: convolutions, matrix products and element-wise products.')
    print('Activations: elements that convolutions put out.')
    for device in devices:
        print(f'Time: median of {args.repeats} runs in float32, {device}. Peak memory: beyond the loaded network.')
    if args.plot:
        _plot(args.plot, scales, opts)


def _of_checkpoint(path: str, task: str | None) -> dict[str, Any]:
    loaded = load(path, task)
    if not loaded.network_g:
        raise UserError(f'{path}: does not say which network it is, so it cannot be counted')
    return {'name': path, 'scale': loaded.scale, 'network_g': loaded.network_g}


def _check_plot(file: str, scales: list[int]) -> None:
    """Before networks are measured, which takes long."""
    if not scales or not {2, 3, 4}.issuperset(scales):
        raise UserError("--plot is for super-resolution x2, x3 and x4, where the paper gives other methods' Mult-Adds")
    check_figure('--plot', file)


def _plot(file: str, scales: list[int], opts: list[dict]) -> None:
    folders = {str(opt.get('name')): Path('results', str(opt.get('name'))) for opt in opts if opt.get('scale', 1) > 1}
    results = tables.read_results(folder for folder in folders.values() if folder.is_dir())
    tradeoff.figure(scales, results).savefig(file)
    drawn = {point.method for scale in scales for point in tradeoff.points(scale, results) if point.kind == 'here'}
    for name, folder in folders.items():
        if name not in drawn:
            print(f'Not in the figure: {name}; {folder} has no scores of all five sets.')
    print(f'Trade-off figure: {file}')
