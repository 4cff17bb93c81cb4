"""Trainings side by side: what their folders hold, a table of what differs, and curves."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml

from ramit_arch.data.progression import read_progression

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart, and line styles, which print in grey.
COLOURS = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000']
STYLES = ['-', '--', '-.', ':']
WINDOW = 15  # points of the log of which a curve of the loss shows the median
STARTED = re.compile(r'Start training from epoch: \d+, iter: (\d+)')
LOGGED = re.compile(r'iter:\s*([\d,]+), lr:.*?\] (\w+): (\S+)')
LAUNCHED = re.compile(r'^  (dist|world_size|num_gpu): (\w+)$')
ABSENT = '-'


class Point(NamedTuple):
    iteration: int
    hours: float  # of training, without the time between a stop and its continuation
    value: float


@dataclass
class Run:
    """What the folder of a training holds.

    Attributes:
        folder: experiments/NAME.
        name: of its column.
        options: of its newest option file.
        launch: its processes and GPUs, from the log.
        losses: the first loss in the log.
        scores: of validation, by test set and metric.
    """

    folder: Path
    options: dict[str, Any]
    name: str = ''
    launch: dict[str, Any] = field(default_factory=lambda: {'dist': False, 'world_size': 1, 'num_gpu': 1})
    losses: list[Point] = field(default_factory=list)
    scores: dict[str, dict[str, list[Point]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = self.name or self.folder.name

    def images_per_second(self) -> float | None:
        """The median over the log; None if it is too short."""
        progression = read_progression({**self.options, **self.launch})
        pairs = zip(self.losses, self.losses[1:], strict=False)
        rates = [
            (b.iteration - a.iteration) * progression.stage(b.iteration).batch / ((b.hours - a.hours) * 3600)
            for a, b in pairs
            if b.hours > a.hours
        ]
        return float(np.median(rates)) if rates else None


def read_run(folder: Path, options: dict[str, Any]) -> Run:
    """Logs and validation scores of an experiment folder.

    Args:
        folder: experiments/NAME.
        options: of the training.
    """
    run = Run(folder, options)
    for log in sorted(folder.glob('train_*.log')):
        _read_log(log, run)
    if not run.losses:
        return run
    iterations, hours, _ = zip(*run.losses, strict=True)
    for file in sorted((folder / 'scores').glob('*.json')):
        scores = json.loads(file.read_text(encoding='utf-8'))
        iteration = scores.get('iteration')
        if isinstance(iteration, int):
            reached = float(np.interp(iteration, iterations, hours))
            for metric, value in scores['mean'].items():
                points = run.scores.setdefault(scores['dataset'], {}).setdefault(metric, [])
                points.append(Point(iteration, reached, value))
    for metrics in run.scores.values():
        for points in metrics.values():
            points.sort()
    return run


def _read_log(file: Path, run: Run) -> None:
    """Add the losses of a log; where it continues an earlier one, what that computed beyond is dropped."""
    points = run.losses
    began: datetime | None = None
    before = 0.0  # hours, of the logs until then
    for line in file.read_text(encoding='utf-8', errors='replace').splitlines():
        if launched := LAUNCHED.search(line):
            run.launch[launched[1]] = yaml.safe_load(launched[2])
        started, logged = STARTED.search(line), LOGGED.search(line)
        if started is None and logged is None:
            continue
        try:
            time = datetime.strptime(line[:23], '%Y-%m-%d %H:%M:%S,%f')
            value = float(logged[3]) if logged else 0.0
        except ValueError:  # a line that was cut short
            continue
        if started is not None:
            began = time
            points[:] = [point for point in points if point.iteration <= int(started[1])]
            before = points[-1].hours if points else 0.0
        elif logged is not None and began is not None:
            hours = before + (time - began).total_seconds() / 3600
            points.append(Point(int(logged[1].replace(',', '')), hours, value))


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The option keys (`train.optim_g.lr`) whose values are not the same in all runs, with the values."""
    flat = [_flatten(run.options) for run in runs]
    keys = dict.fromkeys(key for options in flat for key in options if key != 'name')
    found = {key: [options.get(key, ABSENT) for options in flat] for key in keys}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def _flatten(value: Any, key: str = '') -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for part in value for k, v in _flatten(value[part], f'{key}.{part}' if key else part).items()}
    return {key: value}


def rows(runs: Sequence[Run], costs: Sequence[tuple[int, float] | None]) -> list[list[str]]:
    """A table with a column a run: differing options, size, progress, rate, and the scores of every test set.

    Args:
        runs: at least one.
        costs: parameters and Mult-Adds of their networks, where they are known.
    """
    table = [['', *(run.name for run in runs)]]
    table += [[key, *(_short(value) for value in values)] for key, values in differing(runs).items()]
    table.append(['parameters', *(ABSENT if cost is None else f'{cost[0]:,}' for cost in costs)])
    table.append(['Mult-Adds, 1280x720', *(ABSENT if cost is None else f'{cost[1] / 1e9:.1f}G' for cost in costs)])
    ends = [run.losses[-1] for run in runs]
    totals = [run.options.get('train', {}).get('total_iter', 0) for run in runs]
    table.append(['iterations', *(f'{end.iteration:,} of {total:,}' for end, total in zip(ends, totals, strict=True))])
    table.append(['hours', *(f'{end.hours:.2f}' for end in ends)])
    rates = [run.images_per_second() for run in runs]
    table.append(['images/s', *(ABSENT if rate is None else f'{rate:.1f}' for rate in rates)])
    for dataset, metric in _measured(runs):
        points = [run.scores.get(dataset, {}).get(metric, []) for run in runs]
        better = min if lower_is_better(runs, dataset, metric) else max
        digits = '.2f' if 'psnr' in metric.lower() else '.4f'
        best = [better(p, key=lambda point: point.value) if p else None for p in points]
        cells = [ABSENT if b is None else f'{b.value:{digits}} @ {b.iteration:,}' for b in best]
        table.append([f'{dataset} {metric}, best', *cells])
        table.append([f'{dataset} {metric}, last', *(f'{p[-1].value:{digits}}' if p else ABSENT for p in points)])
    return table


def lower_is_better(runs: Sequence[Run], dataset: str, metric: str) -> bool:
    """As the options of the first run that has the metric say; a higher score is better by default."""
    for run in runs:
        metrics = run.options.get('val', {}).get('metrics') or {}
        if metric in run.scores.get(dataset, {}) and metric in metrics:
            return metrics[metric].get('better') == 'lower'
    return False


def _measured(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """All test sets with their metrics."""
    found = ((dataset, metric) for run in runs for dataset, metrics in run.scores.items() for metric in metrics)
    return list(dict.fromkeys(found))


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, (list, dict)) else str(value)
    return text if len(text) <= 28 else f'{text[:10]}...{text[-15:]}'


def curves(runs: Sequence[Run]) -> Figure:
    """The loss, and every test set's PSNR (or first metric), over iterations and over hours. Needs matplotlib."""
    from matplotlib.figure import Figure

    datasets: dict[str, str] = {}
    for dataset, metric in _measured(runs):
        if dataset not in datasets or 'psnr' in metric.lower():
            datasets[dataset] = metric
    page = Figure(figsize=(11, 3.2 * (1 + len(datasets)) + 0.5), layout='constrained', dpi=120)
    panels = page.subplots(1 + len(datasets), 2, squeeze=False, sharey='row', sharex='col')
    for i, run in enumerate(runs):
        look = {'color': COLOURS[i % len(COLOURS)], 'linestyle': STYLES[i // len(COLOURS) % len(STYLES)]}
        _draw(panels[0], _smooth(run.losses), look, label=run.name)
        for row, (dataset, metric) in zip(panels[1:], datasets.items(), strict=True):
            points = run.scores.get(dataset, {}).get(metric, [])
            _draw(row, points, {**look, 'marker': '.'})
    for row, (dataset, metric) in zip(panels[1:], datasets.items(), strict=True):
        by_run = [[point.value for point in run.scores.get(dataset, {}).get(metric, [])] for run in runs]
        values, best = [value for each in by_run for value in each], [max(each) for each in by_run if each]
        lowest = max(values) - 4 * (max(values) - float(np.quantile(values, 0.25)))
        lowest = min(lowest, min(best) - 0.1 * (max(best) - min(best)))
        if min(values) < lowest and not lower_is_better(runs, dataset, metric):
            row[0].set_ylim(bottom=lowest)  # the first validations would hide all later differences
    panels[0, 0].set_ylabel('loss')
    panels[0, 0].set_yscale('log')
    for row, (dataset, metric) in zip(panels[1:], datasets.items(), strict=True):
        row[0].set_ylabel(f'{dataset} {metric.upper()}{" (dB)" if "psnr" in metric.lower() else ""}')
    panels[-1, 0].set_xlabel('iterations')
    panels[-1, 1].set_xlabel('hours')
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    page.legend(loc='outside upper center', ncols=min(len(runs), 4), frameon=False)
    return page


def _draw(axes: Sequence[Axes], points: Sequence[Point], look: dict[str, Any], label: str | None = None) -> None:
    values = [point.value for point in points]
    axes[0].plot([point.iteration for point in points], values, **look, label=label)
    axes[1].plot([point.hours for point in points], values, **look)


def _smooth(points: Sequence[Point]) -> list[Point]:
    """The median of `WINDOW` points around each."""
    half = WINDOW // 2
    values = [point.value for point in points]
    medians = [float(np.median(values[max(i - half, 0) : i + half + 1])) for i in range(len(values))]
    return [Point(p.iteration, p.hours, median) for p, median in zip(points, medians, strict=True)]
