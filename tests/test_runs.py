"""`basicsr runs`: trainings side by side, from their folders."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml
from helpers import call_basicsr, run_basicsr, tiny_options, write_options, write_pairs
from PIL import Image

from ramit_arch.evaluation.comparison_sheet import THUMBNAIL
from ramit_arch.evaluation.runs import Point, Run, differing, read_run, rows


@pytest.fixture(scope='module')
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with experiments `a` and `b`, which differ in the learning rate."""
    folder = tmp_path_factory.mktemp('runs')
    gt, lq = write_pairs(folder)
    for name, lr in [('a', 0.001), ('b', 0.002)]:
        opt = tiny_options(gt, lq, name)
        opt['train']['optim_g']['lr'] = lr
        write_options(folder / f'{name}.yml', opt)
        result = call_basicsr('train', '-opt', f'{name}.yml', cwd=folder)
        assert result.returncode == 0, result.stderr
    return folder


def cells(text: str) -> dict[str, list[str]]:
    """Rows of a CSV table by their first cell."""
    return {name: values for name, *values in csv.reader(text.splitlines())}


def test_table_has_what_differs_and_the_scores(home: Path) -> None:
    result = call_basicsr('runs', 'experiments/a', 'experiments/b', '--format', 'csv', cwd=home)
    assert result.returncode == 0, result.stderr
    table = cells(result.stdout)
    assert table[''] == ['a', 'b']
    assert table['train.optim_g.lr'] == ['0.001', '0.002']
    assert 'train.total_iter' not in table
    assert table['iterations'] == ['4 of 4', '4 of 4']
    logged = yaml.safe_load((home / 'experiments/a/scores/tiny_val_4.json').read_text())['mean']['psnr']
    assert table['tiny_val psnr, best'][0] == f'{logged:.2f} @ 4'
    assert float(table['images/s'][0]) > 0


def test_plot_and_sheet_are_written(home: Path) -> None:
    result = run_basicsr('runs', 'experiments/a', 'experiments/b', '--plot', 'c.svg', '--sheet', 's.png', cwd=home)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith('Curves: c.svg\nSheet of crops: s.png\n')
    assert all(name in (home / 'c.svg').read_text() for name in ('iterations', 'hours', 'PSNR'))
    page = Image.open(home / 's.png')
    assert (page.width // THUMBNAIL, page.height // THUMBNAIL) == (6, 3)  # a, b beside LQ, bicubic; three images


@pytest.mark.parametrize(
    ('arguments', 'error'),
    [
        (['started'], 'error: no training with an iteration in its log'),
        (['nothing'], 'error: nothing: not the folder of a training (experiments/NAME)'),
        (['gt'], 'error: gt: not the folder of a training (experiments/NAME)'),
        (['experiments/a', '--plot', 'c.gif'], 'error: --plot c.gif: give a .png or .pdf or .svg file in a folder'),
        (['experiments/a', '--sheet', 'no/s.png'], 'error: --sheet no/s.png: give a .png file in a folder that exists'),
    ],
)
def test_mistakes_are_named(home: Path, arguments: list[str], error: str) -> None:
    (home / 'started' / 'models').mkdir(parents=True, exist_ok=True)
    write_options(home / 'started' / 'started.yml', {'name': 'started'})
    result = call_basicsr('runs', *arguments, cwd=home)
    assert result.returncode == 1
    assert result.stderr.startswith(error)


def write_log(folder: Path, name: str, start: int, iterations: list[int], minute: int) -> None:
    """A log that begins at `minute` and logs an iteration a minute."""
    lines = [f'2026-01-01 00:{minute:02}:00,000 INFO: Start training from epoch: 0, iter: {start}']
    for i, iteration in enumerate(iterations, 1):
        loss = iteration / 1e6
        lines.append(
            f'2026-01-01 00:{minute + i:02}:00,000 INFO: [x..][epoch:  0, iter:{iteration:8,}, lr:(1.000e-03,)] '
            f'[eta: 0:01:00, time (data): 0.1 (0.0)] l_pix: {loss:.4e} '
        )
    (folder / f'train_x_{name}.log').write_text('\n'.join(lines))


def test_a_continued_run_counts_its_hours_once(tmp_path: Path) -> None:
    write_log(tmp_path, '1', 0, [1000, 2000, 3000], minute=0)
    write_log(tmp_path, '2', 2000, [3000, 4000], minute=30)
    run = read_run(tmp_path, {})
    assert [point.iteration for point in run.losses] == [1000, 2000, 3000, 4000]
    assert [round(point.hours * 60) for point in run.losses] == [1, 2, 3, 4]
    assert run.losses[-1].value == pytest.approx(0.004)


def test_differing_keys_are_found_in_nested_sections() -> None:
    runs = [Run(Path(name), {'name': name, 'train': {'lr': lr, 'other': 1}, **more}) for name, lr, more in
            [('a', 1, {}), ('b', 2, {'val': {'bf16': True}})]]  # fmt: skip
    assert differing(runs) == {'train.lr': [1, 2], 'val.bf16': ['-', True]}


def test_best_is_the_lowest_where_lower_is_better() -> None:
    options = {
        'train': {'total_iter': 2},
        'datasets': {'train': {'name': 'x', 'type': 'X', 'batch_size_per_gpu': 1}},
        'val': {'metrics': {'niqe': {'type': 'calculate_niqe', 'better': 'lower'}}},
    }
    run = Run(Path('a'), options)
    run.losses = [Point(1, 0.1, 1.0), Point(2, 0.2, 1.0)]
    run.scores = {'Set': {'niqe': [Point(1, 0.1, 3.0), Point(2, 0.2, 4.0)]}}
    table = {row[0]: row[1] for row in rows([run], [None])}
    assert table['Set niqe, best'] == '3.0000 @ 1'
    assert table['Set niqe, last'] == '4.0000'
