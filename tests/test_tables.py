"""Our scores beside the paper's: its numbers as printed, ours in the right place, nothing guessed."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from statistics import fmean

import pytest
from helpers import ROOT, call_basicsr

from ramit_arch import options
from ramit_arch.errors import UserError
from ramit_arch.evaluation.protocols import PROTOCOLS
from ramit_arch.evaluation.tables import AVERAGE, Score, Table, add_results, paper_tables, read_results
from ramit_arch.evaluation.tradeoff import figure, points

PAPER = paper_tables()


def paper(number: str, task: str, scale: int = 1, sigma: float | None = None) -> Table:
    (found,) = (t for t in PAPER if (t.number, t.task, t.scale, t.sigma) == (number, task, scale, sigma))
    return found


def row(table: Table, method: str) -> dict[str, Score]:
    (found,) = (row for row in table.rows if row.method == method)
    return found.scores


# ------------------------------------------------------------------------------------------------------- the paper's


def test_every_table_of_scores_is_there_with_all_methods() -> None:
    counts = {number: [len(t.rows) for t in PAPER if t.number == number] for number in {t.number for t in PAPER}}
    assert counts['2'] == [10] * 3
    assert (counts['3a'], counts['3b'], counts['Ga'], counts['Gb']) == ([5], [5], [2], [2])
    assert counts['5a'] == counts['5b'] == [6] * 3
    assert (counts['Ca'], counts['Cb'], counts['D'], counts['E'], counts['F']) == ([7] * 3, [2] * 3, [5] * 3, [2], [2])
    assert (counts['4a'], counts['4b'], counts['4c'], counts['A'], counts['B']) == (
        [5] * 5, [2] * 4, [5] * 3, [3] * 5, [2] * 3,
    )  # fmt: skip


@pytest.mark.parametrize(('number', 'task', 'scale', 'sigma', 'method', 'name', 'expected'), [
    ('2', 'SR', 2, None, 'CARN', 'Set5', (37.76, 0.9590)),
    ('2', 'SR', 4, None, 'SwinIR-NG', 'Manga109', (31.09, 0.9161)),
    ('3a', 'LLE', 1, None, 'RAMiT', 'VE-LOL-cap', (28.73, 0.8886)),
    ('3b', 'DR', 1, None, 'TAO-Net', 'Test100', (28.59, 0.8870)),
    ('5a', 'CDN', 1, 25, 'NGswin', 'McMaster', (32.82, 0.8978)),
    ('5b', 'GDN', 1, 50, 'CAT-light', 'Urban100', (26.06, 0.7456)),
    ('Ca', 'SR', 4, None, 'RAMiT-slimSR', AVERAGE, (29.286, 0.82762)),
    ('Cb', 'SR', 3, None, 'RAMiT, DF2K (3,450)', 'Urban100', (28.80, 0.8656)),
    ('D', 'SR', 2, None, 'RAMiT (gamma)', 'Urban100', (32.83, None)),
    ('F', 'LLE', 1, None, 'MAXIM', '493', (13.79, None)),
    ('Ga', 'LLE', 1, None, 'RAMiT-slimLLE', 'LOL', (23.77, 0.8379)),
])  # fmt: skip
def test_numbers_are_those_that_are_printed(
    number: str, task: str, scale: int, sigma: int | None, method: str, name: str, expected: tuple
) -> None:
    score = row(paper(number, task, scale, sigma), method)[name]
    assert (score.psnr, score.ssim) == expected


@pytest.mark.parametrize(('number', 'task', 'scale', 'sigma'), [
    ('2', 'SR', 2, None), ('2', 'SR', 4, None), ('5a', 'CDN', 1, 50), ('3a', 'LLE', 1, None), ('3b', 'DR', 1, None),
])  # fmt: skip
def test_averages_over_a_table_are_the_ones_of_the_ablations(
    number: str, task: str, scale: int, sigma: int | None
) -> None:
    printed = row(paper('4a', task, scale, sigma), '{v} D-RAMiT')[AVERAGE].psnr
    assert row(paper(number, task, scale, sigma), 'RAMiT')[AVERAGE].psnr == pytest.approx(printed, abs=6e-4)


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_averages_of_table_ca_are_those_of_table_2(scale: int) -> None:
    two, ca = paper('2', 'SR', scale), paper('Ca', 'SR', scale)
    for method in ('FMEN', 'ESRT', 'ELAN-light', 'NGswin'):
        for ours, printed in zip(row(two, method)[AVERAGE][:2], row(ca, method)[AVERAGE][:2], strict=True):
            assert ours == pytest.approx(printed, abs=6e-4)


def test_average_of_table_f_is_that_of_table_3a() -> None:
    table = paper('F', 'LLE')
    images = [score.psnr for name, score in row(table, 'RAMiT').items() if name != AVERAGE]
    assert fmean(images) == pytest.approx(row(paper('3a', 'LLE'), 'RAMiT')['LOL'].psnr, abs=6e-3)
    assert row(table, 'RAMiT')[AVERAGE].psnr == 24.14


# -------------------------------------------------------------------------------------------------------------- ours


def write_scores(folder: Path, experiment: str, sets: dict[str, float], **changes: object) -> Path:
    """Score files of a test, every image of a set with one PSNR and SSIM 0.9; a set's name may carry its sigma."""
    file = ROOT / 'options' / f'test_{experiment}.yml'
    opt = options.load(file if file.exists() else f'{ROOT}/options/ablations.yml::{experiment}', testing=True)
    scores = folder / experiment / 'scores'
    scores.mkdir(parents=True)
    task = opt['val']['protocol']
    for name, psnr in sets.items():
        plain, _, sigma = name.partition('_sigma')
        images = changes.get('images') or [str(i) for i in range(PROTOCOLS[task].sets[plain])]
        content = {
            'name': experiment, 'dataset': name, 'scale': opt['scale'], 'iteration': None, 'protocol': task,
            'noise': {'sigma': int(sigma)} if sigma else None, 'network_g': opt['network_g'],
            'metrics': PROTOCOLS[task].metrics(opt['scale']),
            'mean': {'psnr': psnr, 'ssim': 0.9}, 'images': [{'image': i, 'psnr': psnr, 'ssim': 0.9} for i in images],
        }  # fmt: skip
        (scores / f'{name}.json').write_text(json.dumps({**content, **changes, 'images': content['images']}))
    return folder / experiment


def ours(table: Table, *folders: Path) -> dict[str, Score]:
    result = add_results(table, read_results(folders))
    assert result is not None
    (found,) = (row for row in result.rows if row.kind == 'here')
    return found.scores


def difference(table: Table, *folders: Path) -> dict[str, Score]:
    result = add_results(table, read_results(folders))
    assert result is not None
    return next((row.scores for row in result.rows if row.kind == 'difference'), {})


def test_scores_stand_beside_their_row_and_other_sets_stay_empty(tmp_path: Path) -> None:
    folder = write_scores(tmp_path, 'RAMiT_SRx2', {'Set5': 38.06, 'Urban100': 33.0})
    assert ours(paper('2', 'SR', 2), folder).keys() == {'Set5', 'Urban100'}  # and no average
    gains = difference(paper('2', 'SR', 2), folder)
    assert gains['Set5'].psnr == pytest.approx(-0.10)
    assert gains['Urban100'].psnr == pytest.approx(0.19)
    assert gains['Set5'].ssim == pytest.approx(0.9 - 0.9612)
    assert add_results(paper('2', 'SR', 3), read_results([folder])) is None


def test_average_appears_when_every_set_was_run(tmp_path: Path) -> None:
    folder = write_scores(tmp_path, 'RAMiT_LLE_no_helper', {'LOL': 24.0, 'VE-LOL-cap': 28.0})
    assert ours(paper('4b', 'LLE'), folder)[AVERAGE].psnr == pytest.approx(26.0)
    assert difference(paper('4b', 'LLE'), folder)[AVERAGE].psnr == pytest.approx(26.0 - 25.915)  # its own row


def test_noise_levels_do_not_mix(tmp_path: Path) -> None:
    folder = write_scores(tmp_path, 'RAMiT_CDN', {'McMaster_sigma15': 35.0, 'McMaster_sigma50': 29.0})
    assert ours(paper('5a', 'CDN', 1, 15), folder)['McMaster'].psnr == 35.0
    assert ours(paper('5a', 'CDN', 1, 50), folder)['McMaster'].psnr == 29.0
    assert add_results(paper('5a', 'CDN', 1, 25), read_results([folder])) is None
    assert add_results(paper('5b', 'GDN', 1, 15), read_results([folder])) is None


def test_a_part_of_a_set_is_marked_and_not_compared(tmp_path: Path) -> None:
    folder = write_scores(tmp_path, 'RAMiT_CDN', {'McMaster_sigma50': 29.0}, images=['1', '2'])
    assert ours(paper('5a', 'CDN', 1, 50), folder)['McMaster'].partial == '2 of 18 images'
    assert difference(paper('5a', 'CDN', 1, 50), folder) == {}
    text = call_basicsr('table', str(folder), cwd=tmp_path).stdout
    assert '29.00 / 0.9000*' in text
    assert '* RAMiT_CDN: McMaster: 2 of 18 images, not compared' in text


def test_an_average_over_a_part_of_a_set_is_none(tmp_path: Path) -> None:
    whole = write_scores(tmp_path / 'whole', 'RAMiT_DR', {'Test100': 30.0})
    part = write_scores(tmp_path / 'part', 'RAMiT_DR', {'Rain100H': 29.0}, images=['1'])
    scores = ours(paper('3b', 'DR'), whole, part)
    assert scores.keys() == {'Test100', 'Rain100H'}


def test_images_of_lol_stand_in_table_f(tmp_path: Path) -> None:
    images = ['1', '22', '23', '55', '79', '111', '146', '179', '493', '547', '665', '669', '748', '778', '780']
    folder = write_scores(tmp_path, 'RAMiT_LLE', {'LOL': 24.0}, images=images)
    scores = ours(paper('F', 'LLE'), folder)
    assert scores['001'].psnr == scores[AVERAGE].psnr == 24.0
    assert len(scores) == 16
    assert difference(paper('F', 'LLE'), folder)['111'].psnr == pytest.approx(24.0 - 31.12)


def test_other_networks_are_compared_with_ramit_and_have_no_row_in_ablations(tmp_path: Path) -> None:
    folder = write_scores(tmp_path, 'RAMiT_SRx2', dict.fromkeys(PROTOCOLS['SR'].sets, 35.0), name='mine')
    assert difference(paper('2', 'SR', 2), folder)[AVERAGE].psnr == pytest.approx(35.0 - 35.324)
    assert add_results(paper('4a', 'SR', 2), read_results([folder])) is None
    assert add_results(paper('D', 'SR', 2), read_results([folder])) is None


def test_scores_without_protocol_and_of_trainings_do_not_count(tmp_path: Path) -> None:
    folder = write_scores(tmp_path, 'RAMiT_SRx2', {'Set5': 38.0}, protocol=None)
    assert read_results([folder]) == []
    training = write_scores(tmp_path / 'b', 'RAMiT_SRx2', {'Set5': 38.0}, iteration=5000)
    assert read_results([training]) == []
    assert len(read_results([training / 'scores' / 'Set5.json'])) == 1  # asked for


@pytest.mark.parametrize(('arguments', 'message'), [
    (['missing'], 'missing: no such file or folder'),
    (['a.json'], 'a.json: not a score file'),
    (['results', 'results'], 'was read from another file already'),
    (['results', '--tables', '9'], '--tables 9: no such table'),
    (['results', '--tables', '5a'], 'none of these scores are on a set'),
    (['empty'], 'no scores found'),
])  # fmt: skip
def test_mistakes_are_told(arguments: list[str], message: str, tmp_path: Path) -> None:
    write_scores(tmp_path / 'results', 'RAMiT_SRx2', {'Set5': 38.0})
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'a.json').write_text('[1]')
    result = call_basicsr('table', *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr


def test_archives_of_earlier_tests_do_not_count(tmp_path: Path) -> None:
    write_scores(tmp_path / 'results', 'RAMiT_SRx2', {'Set5': 38.0})
    archive = write_scores(tmp_path / 'old', 'RAMiT_SRx2', {'Set5': 37.0, 'Set14': 33.0})
    archive = archive.rename(tmp_path / 'results' / 'RAMiT_SRx2_archived_20260101_000000')
    assert ours(paper('2', 'SR', 2), tmp_path / 'results').keys() == {'Set5'}
    assert len(ours(paper('2', 'SR', 2), archive)) == 2  # asked for


@pytest.mark.parametrize(('changes', 'message'), [
    ({'metrics': PROTOCOLS['DR'].metrics(1)}, 'its metrics are not those of protocol SR'),
    ({'metrics': {}}, 'not a score file of this version .KeyError'),
    ({'protocol': 'XX'}, 'not a score file of this version .KeyError'),
    ({'protocol': ['SR']}, 'not a score file of this version .TypeError'),
    ({'network_g': None}, 'not a score file of this version .TypeError'),
    ({'noise': 'much'}, 'not a score file of this version .AttributeError'),
])  # fmt: skip
def test_score_files_that_contradict_themselves_are_named(changes: dict, message: str, tmp_path: Path) -> None:
    folder = write_scores(tmp_path, 'RAMiT_SRx2', {'Set5': 38.0}, **changes)
    with pytest.raises(UserError, match=f'Set5.json: {message}'):
        read_results([folder])


def test_means_are_those_of_the_images(tmp_path: Path) -> None:
    folder = write_scores(tmp_path, 'RAMiT_SRx2', {'Set5': 38.0}, mean={'psnr': 99.0, 'ssim': 1.0})
    assert ours(paper('2', 'SR', 2), folder)['Set5'].psnr == pytest.approx(38.0)
    nan = write_scores(tmp_path / 'nan', 'RAMiT_SRx2', {'Set5': float('nan')})
    with pytest.raises(UserError, match='the scores of Set5 are not finite'):
        read_results([nan])


def test_a_network_of_another_version_has_no_known_cost(tmp_path: Path) -> None:
    folder = write_scores(tmp_path, 'RAMiT_SRx2', {'Set5': 38.0}, network_g={'type': 'RAMiT', 'future': 1})
    table = add_results(paper('2', 'SR', 2), read_results([folder]))
    assert table is not None
    assert [(r.mult_adds, r.params) for r in table.rows if r.kind == 'here'] == [(None, None)]


def test_text_markdown_and_csv_hold_the_same_numbers(tmp_path: Path) -> None:
    write_scores(tmp_path / 'results', 'RAMiT_SRx2', {'Set5': 38.06})
    printed = {form: call_basicsr('table', 'results', '--tables', '2', '--format', form, cwd=tmp_path).stdout
               for form in ('text', 'markdown', 'csv')}  # fmt: skip
    here = [line for line in printed['text'].splitlines() if line.startswith('RAMiT_SRx2 (here)')]
    assert here[0].split()[2:] == ['163.1G', '940K', '38.06', '/', '0.9000']
    assert '| RAMiT_SRx2 (here) | 163.1G | 940K | 38.06 / 0.9000 |  |  |  |  |  |' in printed['markdown']
    assert 'minus RAMiT (paper)  ' in printed['text']
    rows = list(csv.DictReader(io.StringIO(printed['csv'])))
    found = {(r['kind'], r['set']): r['psnr'] for r in rows if r['kind'] != 'paper'}
    assert found['here', 'Set5'] == '38.0600'
    assert found['difference', 'Set5'] == '-0.1000'
    assert found['here', 'Set14'] == ''
    assert sum(r['kind'] == 'paper' for r in rows) == 10 * 6


# --------------------------------------------------------------------------------------------------------- the figure


def test_figure_holds_the_papers_methods_and_our_complete_results_only(tmp_path: Path) -> None:
    whole = write_scores(tmp_path / 'a', 'RAMiT_SRx3', dict.fromkeys(PROTOCOLS['SR'].sets, 31.0))
    part = write_scores(tmp_path / 'b', 'RAMiT_SRx4', {'Set5': 32.0})
    results = read_results([whole, part])
    three, four = points(3, results), points(4, results)
    assert [p.method for p in three if p.kind == 'here'] == ['RAMiT_SRx3']
    assert [p.method for p in four if p.kind == 'here'] == []
    assert [p.method for p in four if p.kind == 'paper'] == ['RAMiT', 'RAMiT-slimSR']
    assert len([p for p in four if p.kind == 'other']) == 9
    panels = figure([3, 4], results).axes
    assert [len(panel.texts) for panel in panels] == [len(three), len(four)]
    assert {text.get_text() for text in panels[0].texts} == {p.method for p in three}


def test_names_in_the_figure_do_not_cover_each_other() -> None:
    for panel in figure([2, 3, 4], []).axes:
        boxes = [text.get_window_extent() for text in panel.texts]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_scores_without_a_place_in_the_papers_tables_are_listed_plainly(tmp_path: Path) -> None:
    write_scores(tmp_path / 'results' / 'paper', 'RAMiT_SRx2', {'Set5': 38.0})
    write_scores(
        tmp_path / 'results' / 'own',
        'RAMiT_SRx2',
        {'garden': 31.5, 'Set5': 37.0},
        name='mine',
        protocol='RGB',
        images=['1'],
    )
    result = call_basicsr('table', 'results', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    tables, _, plain = result.stdout.partition('experiment')
    assert 'RAMiT_SRx2' in tables
    assert 'mine' not in tables
    rows = [line.split() for line in plain.splitlines()]
    assert rows[0] == ['set', 'images', 'scale', 'compared', 'PSNR', 'SSIM']
    assert [row[:2] + row[-2:] for row in rows[1:]] == [
        ['mine', 'Set5', '37.00', '0.9000'],
        ['mine', 'garden', '31.50', '0.9000'],
    ]
    result = call_basicsr('table', 'results/own', '--format', 'csv', cwd=tmp_path)
    assert result.stdout.startswith('experiment,set,images,scale,compared,PSNR,SSIM\nmine,Set5,')


def test_scores_of_a_task_beyond_the_paper_are_listed_plainly(tmp_path: Path) -> None:
    write_scores(tmp_path / 'results', 'RAMiT_RDN', {'SIDD': 39.5}, images=['0000_00'])
    assert not read_results([tmp_path / 'results'])
    for arguments in ((), ('--format', 'csv')):
        result = call_basicsr('table', 'results', *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert 'Tab.' not in result.stdout
        assert re.search(r'RAMiT_RDN[ ,]+SIDD[ ,]+1[ ,]+x1[ ,]+39.5', result.stdout)
