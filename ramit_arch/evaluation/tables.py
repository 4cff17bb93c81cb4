"""Our scores beside the paper's: its tables, with a row for every test of ours that scored the same sets.

Only numbers that were printed or measured appear. A set that was not run stays empty, and a set that holds another
number of images than the paper's is marked and not compared.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
import yaml
from basicsr.utils.registry import ARCH_REGISTRY

from ramit_arch.errors import UserError
from ramit_arch.evaluation.complexity import complexity
from ramit_arch.evaluation.protocols import FURTHER, NEUTRAL, PAPER
from ramit_arch.evaluation.text import aligned, markdown

AVERAGE = 'average'


class Score(NamedTuple):
    """PSNR in dB and SSIM; `partial` says how many of the set's images it averages where these are not all."""

    psnr: float
    ssim: float | None = None
    partial: str | None = None


class Row(NamedTuple):
    """A method's scores by set; `kind` is paper, here or difference."""

    kind: str
    method: str
    mult_adds: float | None
    params: float | None
    scores: dict[str, Score]
    experiment: str | None = None


class Table(NamedTuple):
    """One of the paper's, for one task, scale and noise level."""

    number: str
    title: str
    task: str
    scale: int
    sigma: float | None
    sets: list[str]
    images_of: str | None  # the set whose images the columns are
    rows: list[Row]


class Result(NamedTuple):
    """What one test measured on the sets of one task, scale and noise level."""

    experiment: str
    task: str
    scale: int
    sigma: float | None
    scores: dict[str, Score]
    images: dict[str, dict[str, Score]]
    network: dict[str, Any]


# ------------------------------------------------------------------------------------------------------ the paper


def paper_tables() -> list[Table]:
    """All tables of `paper.yml`, with the average over the sets where every set has its number."""
    content = yaml.safe_load(files('ramit_arch.evaluation').joinpath('paper.yml').read_text(encoding='utf-8'))
    return [_paper_table(entry) for entry in content['tables']]


def _paper_table(entry: dict[str, Any]) -> Table:
    sets = entry['sets']
    rows = []
    for row in entry['rows']:
        scores = {name: Score(*values) for name, values in zip(sets, row['scores'], strict=True) if values}
        rows.append(Row('paper', row['method'], row.get('mult_adds'), row.get('params'), scores, row.get('experiment')))
    return Table(
        entry['table'],
        entry['title'],
        entry['task'],
        entry.get('scale', 1),
        entry.get('sigma'),
        sets,
        entry.get('images_of'),
        [_with_average(row, sets) for row in rows],
    )._replace(sets=sets if AVERAGE in sets else [*sets, AVERAGE])


def _with_average(row: Row, sets: Iterable[str]) -> Row:
    scores = [row.scores.get(name) for name in sets]
    if AVERAGE in row.scores or not all(scores) or any(score and score.partial for score in scores):
        return row
    known = [score for score in scores if score]
    ssims = [score.ssim for score in known if score.ssim is not None]
    ssim = fmean(ssims) if len(ssims) == len(known) else None
    return row._replace(scores={**row.scores, AVERAGE: Score(fmean(s.psnr for s in known), ssim)})


# ------------------------------------------------------------------------------------------------------ our results


def read_results(paths: Iterable[Path]) -> list[Result]:
    """Collect score files: those named, and those of tests in the folders named.

    Raises:
        UserError: a path does not exist or is no score file, or two tests of one name scored the same set.
    """
    grouped: dict[tuple, Result] = {}
    for file, content in _score_files(paths):
        if content.get('protocol') in (None, *NEUTRAL, *FURTHER):
            continue  # not comparable with the paper
        try:
            _add(content, grouped)
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # written by hand or by another version
            raise UserError(f'{file}: not a score file of this version ({type(error).__name__}: {error})') from error
        except UserError as error:
            raise UserError(f'{file}: {error}') from error
    return list(grouped.values())


def other_scores(paths: Iterable[Path], shown: Iterable[Table]) -> list[list[str]]:
    """A plain table of the scores that have no place in those shown: a row a set; empty if there are none."""
    placed = {
        (row.method, table.task, table.scale, table.sigma, name)
        for table in shown for row in table.rows if row.kind == 'here' for name in row.scores
    }  # fmt: skip
    found, metrics = [], dict.fromkeys(('psnr', 'ssim'))
    for _, content in _score_files(paths):
        sigma = (content.get('noise') or {}).get('sigma')
        name = content['dataset'].removesuffix(f'_sigma{sigma:g}' if sigma is not None else '')
        if (content['name'], content.get('protocol'), content['scale'], sigma, name) not in placed:
            found.append(content)
            metrics.update(dict.fromkeys(content['mean']))
    rows = [['experiment', 'set', 'images', 'scale', 'compared', *(metric.upper() for metric in metrics)]]
    for content in found:
        mean = content['mean']
        values = [f'{mean[m]:.{2 if "psnr" in m else 4}f}' if m in mean else '' for m in metrics]
        facts = [content['dataset'], str(len(content['images'])), f'x{content["scale"]}', content.get('channel') or '']
        rows.append([content['name'], *facts, *values])
    return rows if found else []


def _add(content: dict[str, Any], grouped: dict[tuple, Result]) -> None:
    experiment, protocol = str(content['name']), PAPER[content['protocol']]
    standard = protocol.metrics(content['scale'])
    if any(content['metrics'][metric] != settings for metric, settings in standard.items()):
        raise UserError(f'its metrics are not those of protocol {content["protocol"]}')
    sigma = (content['noise'] or {}).get('sigma')
    key = (experiment, content['protocol'], content['scale'], sigma)
    result = grouped.setdefault(key, Result(*key, {}, {}, dict(content['network_g'])))
    name = content['dataset'].removesuffix(f'_sigma{sigma:g}' if sigma is not None else '')
    if name in result.scores:
        raise UserError(f'{name} of {experiment} was read from another file already; name one of them')
    images = {row['image']: Score(float(row['psnr']), float(row['ssim'])) for row in content['images']}
    psnr, ssim = (fmean(float(row[metric]) for row in content['images']) for metric in standard)
    if not math.isfinite(psnr) or not math.isfinite(ssim):
        raise UserError(f'the scores of {name} are not finite')
    expected = protocol.sets.get(name, len(images))
    partial = None if expected == len(images) else f'{len(images)} of {expected} images'
    result.scores[name] = Score(psnr, ssim, partial)
    result.images[name] = images


def _score_files(paths: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in paths:
        if path.is_file():
            yield path, _read(path)
        elif path.is_dir():
            for file in sorted(path.rglob('scores/*.json')):
                archived = any('_archived_' in part for part in file.relative_to(path).parts)  # by BasicSR
                content = None if archived else _read(file)
                if content and content['iteration'] is None:  # a training's validations are no test
                    yield file, content
        else:
            raise UserError(f'{path}: no such file or folder; `basicsr test` writes results/NAME/scores')


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
        if {'name', 'dataset', 'scale', 'iteration', 'mean', 'images'} <= content.keys():
            return content
    except (ValueError, AttributeError):
        pass
    raise UserError(f'{file}: not a score file; `basicsr test` writes results/NAME/scores/SET.json')


# ------------------------------------------------------------------------------------------------------ side by side


def add_results(table: Table, results: list[Result]) -> Table | None:
    """The table with a row for every result on its sets, and its difference to the paper's row of that network.

    The row is the one that names the result's experiment, else RAMiT's where the table compares methods and not
    variants of RAMiT; without either, or without a common set, the result has no place here. None if no result has one.
    """
    added: list[Row] = []
    for result in results:
        if (result.task, result.scale, result.sigma) != (table.task, table.scale, table.sigma):
            continue
        reference = _reference(table, result.experiment)
        scores = _columns(table, result)
        if reference is not None and scores:
            ours = _with_average(
                Row('here', result.experiment, *cost(json.dumps(result.network), result.scale), scores),
                _averaged(table),
            )
            ours = ours._replace(scores={name: ours.scores[name] for name in table.sets if name in ours.scores})
            difference = _difference(ours, reference)
            added += [row for row in (ours, difference) if row.scores]
    return table._replace(rows=[*table.rows, *added]) if added else None


def _averaged(table: Table) -> list[str]:
    """The sets that the table's average is over."""
    own = [name for name in table.sets if name != AVERAGE]
    return own or list(PAPER[table.task].sets)


def _columns(table: Table, result: Result) -> dict[str, Score]:
    if table.images_of is None:
        return dict(result.scores)
    images = result.images.get(table.images_of, {})
    by_number = {int(name): score for name, score in images.items() if name.isdecimal()}
    return {name: by_number[int(name)] for name in table.sets if name != AVERAGE and int(name) in by_number}


def _reference(table: Table, experiment: str) -> Row | None:
    named = [row for row in table.rows if row.experiment == experiment]
    variants = sum(row.experiment is not None for row in table.rows)
    default = [row for row in table.rows if row.method == 'RAMiT' and variants == 1]
    return next(iter(named or default), None)


@lru_cache(None)
def cost(network: str, scale: int) -> tuple[float | None, float | None]:
    """Mult-Adds in G and parameters in K of `network_g`, as JSON; None where it cannot be built."""
    options = json.loads(network)
    try:
        with torch.device('meta'):
            counted = complexity(ARCH_REGISTRY.get(options.pop('type'))(**options), options.get('in_chans', 3), scale)
    except (KeyError, TypeError, ValueError, RuntimeError):
        return None, None
    return counted.mult_adds / 1e9, counted.parameters / 1e3


def _difference(ours: Row, reference: Row) -> Row:
    scores = {}
    for name, score in ours.scores.items():
        other = reference.scores.get(name)
        if other is not None and score.partial is None:
            both = score.ssim is not None and other.ssim is not None
            ssim = score.ssim - other.ssim if both else None  # type: ignore[operator]
            scores[name] = Score(score.psnr - other.psnr, ssim)
    return Row('difference', f'minus {reference.method} (paper)', None, None, scores)


# ------------------------------------------------------------------------------------------------------ as text


def as_text(tables: list[Table]) -> str:
    """Aligned columns for a terminal."""
    return '\n\n'.join('\n'.join([_title(t), aligned(_lines(t)), *_notes(t)]) for t in tables)


def as_markdown(tables: list[Table]) -> str:
    """Tables for a README."""
    return '\n\n'.join('\n'.join([_title(t), '', markdown(_lines(t)), *_notes(t)]) for t in tables)


def as_csv(tables: list[Table]) -> str:
    """One line a number: table, task, scale, sigma, kind, method, Mult-Adds in G, parameters in K, set, PSNR, SSIM."""
    out = io.StringIO(newline='')
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow('table task scale sigma kind method mult_adds_g params_k set psnr ssim images'.split())
    for table in tables:
        for row in table.rows:
            for name in table.sets:
                score = row.scores.get(name)
                numbers = [f'{score.psnr:.4f}', _optional(score.ssim, '.5f'), score.partial] if score else [''] * 3
                costs = [_optional(row.mult_adds, '.4g'), _optional(row.params, '.0f')]
                key = [table.number, table.task, table.scale, table.sigma, row.kind, row.method]
                writer.writerow([*key, *costs, name, *numbers])
    return out.getvalue().rstrip('\n')


def _optional(value: float | None, form: str) -> str:
    return '' if value is None else f'{value:{form}}'


def _title(table: Table) -> str:
    protocol = PAPER[table.task]
    border = f', border of {table.scale} cropped' if protocol.crops_scale else ''
    channel = {'Y': 'Y channel', 'RGB': 'RGB channels', 'gray': 'gray images'}[protocol.channel]
    return f'Tab. {table.number}: {table.title} (PSNR in dB / SSIM, {channel}{border})'


def _lines(table: Table) -> list[list[str]]:
    return [['method', 'Mult-Adds', '#Params', *table.sets], *(_cells(table, row) for row in table.rows)]


def _cells(table: Table, row: Row) -> list[str]:
    giga = '' if row.mult_adds is None else f'{row.mult_adds:.{_digits(row)}f}G'
    kilo = '' if row.params is None else f'{row.params:,.0f}K'
    method = f'{row.method} (here)' if row.kind == 'here' else row.method
    return [method, giga, kilo, *(_score(row, name) for name in table.sets)]


def _digits(row: Row) -> int:
    """Those that the paper prints, which differ from table to table; ours as in most of them."""
    assert row.mult_adds is not None
    return 1 if row.mult_adds >= 100 or (row.kind == 'paper' and round(row.mult_adds, 1) == row.mult_adds) else 2


def _score(row: Row, name: str) -> str:
    score = row.scores.get(name)
    if score is None:
        return ''
    sign = '+' if row.kind == 'difference' else ''
    psnr = f'{score.psnr:{sign}.{3 if name == AVERAGE else 2}f}'
    ssim = '' if score.ssim is None else f' / {score.ssim:{sign}.4f}'
    return f'{psnr}{ssim}{"*" if score.partial else ""}'


def _notes(table: Table) -> list[str]:
    partial = {
        f'* {row.method}: {name}: {score.partial}, not compared'
        for row in table.rows
        for name, score in row.scores.items()
        if score.partial
    }
    return sorted(partial)
