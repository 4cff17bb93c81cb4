"""`basicsr compare`: methods, ranks, crops, tables and the figure."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataset
from helpers import (
    TINY_NETWORK,
    call_basicsr,
    options_of_test,
    photograph,
    run_basicsr,
    tiny_options,
    write_options,
    write_pairs,
)
from PIL import Image

from ramit_arch import RAMiT
from ramit_arch.cli import compare as cli_compare
from ramit_arch.cli import figures as cli_figures
from ramit_arch.cli.compare import Rows
from ramit_arch.errors import UserError
from ramit_arch.evaluation.comparison import (
    Comparison,
    Restoration,
    ascending,
    compare,
    describe_metrics,
    ease,
    ground_truths,
    ranks,
    table,
)
from ramit_arch.evaluation.comparison_figure import Layout, _scale, difference_map, figure
from ramit_arch.evaluation.comparison_sheet import CELL, CROP, MARGIN, THUMBNAIL, Box, choose_box, cut, sheet
from ramit_arch.evaluation.comparison_tables import Cost, Summary, as_latex, as_markdown, escape
from ramit_arch.evaluation.scores import mean_scores
from ramit_arch.inference.networks import describe

METRICS = {
    'psnr': {'type': 'calculate_psnr', 'crop_border': 2, 'test_y_channel': True},
    'ssim': {'type': 'calculate_ssim', 'crop_border': 2, 'test_y_channel': True},
}


def comparison(name: str = 'a', size: tuple[int, int] = (90, 120), channels: int = 3, others: int = 1) -> Comparison:
    gt = photograph(1, *size, channels).squeeze()
    baseline = gt.copy()
    baseline[-20:, :30] = 255 - baseline[-20:, :30]
    methods = {'bicubic': Restoration(baseline, {'psnr': 30.0, 'ssim': 0.9})}
    methods |= {f'network {i}': Restoration(gt, {'psnr': 31.5, 'ssim': 0.95}) for i in range(others)}
    return Comparison(name, photograph(2, *size, channels).squeeze(), gt, methods)


# ------------------------------------------------------------------------------------------------------ table of scores


def test_table_has_a_row_an_image_and_their_mean() -> None:
    scores = [('a', {'bicubic': {'psnr': 30.0, 'ssim': 0.9}, 'RAMiT': {'psnr': 31.0, 'ssim': 0.95}}),
              ('b', {'bicubic': {'psnr': 20.0, 'ssim': 0.5}, 'RAMiT': {'psnr': 20.5, 'ssim': 0.4}})]  # fmt: skip
    lines = table(scores).splitlines()
    assert lines[0].split('  ')[0] == 'image'
    assert lines[1].split() == ['a', '30.00', '0.9000', '31.00', '0.9500', '+1.00', '+0.0500']
    assert lines[3].split() == ['mean', '25.00', '0.7000', '25.75', '0.6750', '+0.75', '-0.0250']
    assert len({len(line) for line in lines}) == 1


def test_table_of_several_networks_has_no_gains() -> None:
    scores = [('a', {who: {'psnr': value} for who, value in [('LQ', 20.0), ('one', 30.0), ('two', 31.0)]})]
    assert table(scores).splitlines()[0].split('  ')[-1] == 'two PSNR'


def test_mean_is_the_mean_of_the_rows() -> None:
    rows = [{'image': 'a', 'psnr': 30.0}, {'image': 'b', 'psnr': 33.0}]
    assert mean_scores(rows, ['psnr']) == {'psnr': 31.5}


# ------------------------------------------------------------------------------------------------------ order and ranks


def test_the_best_comes_last_and_the_baseline_first() -> None:
    means = {who: {'psnr': value, 'niqe': value} for who, value in [
        ('bicubic', 35.0), ('a', 36.0), ('b', 34.0), ('c', math.nan), ('d', 35.5)
    ]}  # fmt: skip
    metrics = {'psnr': {}, 'niqe': {'better': 'lower'}}
    assert ascending(means, 'psnr', metrics) == ['bicubic', 'c', 'b', 'd', 'a']
    assert ascending(means, 'niqe', metrics) == ['bicubic', 'c', 'a', 'd', 'b']


def test_values_that_are_printed_alike_rank_alike() -> None:
    assert ranks([30.0, 31.001, 31.004, 30.5, 30.502], 'psnr', METRICS) == [0, 1, 1, 2, 2]
    assert ranks([0.9, math.nan, 0.8], 'ssim', METRICS) == [1, 0, 2]
    assert ranks([3.0, 2.0, 4.0], 'niqe', {'niqe': {'better': 'lower'}}) == [2, 1, 0]


def test_the_figure_shows_the_hardest_images() -> None:
    rows = Rows(2)
    for name, psnr in [('a', 30.0), ('b', math.nan), ('c', 25.0), ('d', 28.0), ('e', 40.0)]:
        key = ease({'psnr': psnr}, METRICS)
        assert rows.wants(key) == (name != 'e')
        rows.add(key, cut(comparison(name)))
    assert [detail.name for _, detail in rows.found] == ['c', 'd']


# ---------------------------------------------------------------------------------------------------- crops and sheets


def test_crop_lies_where_the_baseline_is_farthest_from_the_ground_truth() -> None:
    box = choose_box(comparison())
    assert (box.x, box.y + CROP) == (0, 90)


def test_crop_of_a_noisy_image_lies_where_the_ground_truth_has_most_detail() -> None:
    rng = np.random.default_rng(0)
    gt = np.full((128, 128, 3), 100, np.uint8)
    gt[64:, 64:] = rng.integers(60, 140, (64, 64, 3))
    noisy = rng.integers(0, 255, gt.shape).astype(np.uint8)
    box = choose_box(Comparison('a', noisy, gt, {'LQ': Restoration(noisy, {}), 'network': Restoration(gt, {})}))
    assert abs(box.y - 64) <= 3
    assert abs(box.x - 64) <= 3


def test_a_given_box_is_cut_from_every_picture_and_frees_them() -> None:
    compared = comparison()
    detail = cut(compared, Box(20, 10, 40, 30))
    assert np.array_equal(detail.gt, compared.gt[10:40, 20:60])
    assert np.array_equal(detail.lq, compared.lq[10:40, 20:60])
    assert np.array_equal(detail.methods['bicubic'].picture, compared.methods['bicubic'].picture[10:40, 20:60])
    for picture in (detail.gt, detail.lq, detail.overview, *(each.picture for each in detail.methods.values())):
        assert picture.base is None


@pytest.mark.parametrize(
    ('size', 'channels', 'others'), [((90, 120), 3, 1), ((90, 120), 1, 1), ((40, 30), 3, 1), ((90, 120), 3, 4)]
)
def test_sheet_has_a_column_a_method_and_a_row_an_image(size: tuple[int, int], channels: int, others: int) -> None:
    page = np.asarray(sheet([cut(comparison(name, size, channels, others)) for name in 'ab']))
    assert page.shape[1] // THUMBNAIL == 4 + others  # overview, LQ, bicubic, networks, ground truth
    assert page.shape[0] > 2 * THUMBNAIL
    top, bottom = page[: page.shape[0] // 2], page[page.shape[0] // 2 :]
    assert (top != 255).mean() > 0.1
    assert (bottom != 255).mean() > 0.1


def test_every_pixel_of_a_crop_is_a_square_on_the_sheet() -> None:
    compared = comparison()
    page = np.asarray(sheet([cut(compared, Box(20, 10, 40, 30))]))
    zoom = THUMBNAIL // 40
    left = MARGIN + 4 * CELL[0]
    cell = page[MARGIN : MARGIN + 30 * zoom, left : left + 40 * zoom]
    expected = compared.gt[10:40, 20:60, ::-1].repeat(zoom, 0).repeat(zoom, 1)
    assert np.array_equal(cell, expected)


def test_a_crop_that_is_larger_than_a_cell_is_reduced() -> None:
    page = sheet([cut(comparison(size=(300, 520)), Box(0, 0, 512, 256))])
    assert page.width == MARGIN + 5 * CELL[0]


# -------------------------------------------------------------------------------------------------------------- tables


def summary(**scores: dict[str, float]) -> Summary:
    sets = {'Set_5': scores, 'Set14': {title: {'psnr': 20.0, 'ssim': 0.5} for title in scores}}
    costs = {title: Cost(43.67, 283.2) if title == 'a_b' else Cost() for title in scores}
    return Summary(costs, sets, METRICS, 'PSNR: 100% of it.')


TIED = {
    'bicubic': {'psnr': 30.001, 'ssim': 0.8},
    'a_b': {'psnr': 31.0, 'ssim': 0.9},
    'c|d': {'psnr': 31.004, 'ssim': 0.95},
}


def test_latex_table_marks_best_and_second_best() -> None:
    lines = as_latex(summary(**TIED)).splitlines()
    assert r'\begin{tabular}{lrrcccc}' in lines
    assert r' &  &  & \multicolumn{2}{c}{Set\_5} & \multicolumn{2}{c}{Set14} \\' in lines
    assert r'\cmidrule(lr){4-5} \cmidrule(lr){6-7}' in lines
    assert r'Method & Mult-Adds & \#Params & PSNR & SSIM & PSNR & SSIM \\' in lines
    rows = lines[lines.index(r'\midrule') + 1 : lines.index(r'\bottomrule')]
    assert [row.split(' & ')[:5] for row in rows] == [
        ['bicubic', '', '', r'\underline{30.00}', '0.8000'],
        [r'a\_b', '43.67G', '283K', r'\textbf{31.00}', r'\underline{0.9000}'],
        [r'c\textbar{}d', '', '', r'\textbf{31.00}', r'\textbf{0.9500}'],
    ]
    assert rows[0].endswith(r'\textbf{20.00} & \textbf{0.5000} \\')  # all alike: nothing is second
    assert any(line.startswith(r'\caption{PSNR: 100\% of it. ') for line in lines)


def test_markdown_table_marks_best_and_second_best() -> None:
    lines = as_markdown(summary(**TIED)).splitlines()
    assert lines[0] == '| method | Mult-Adds | #Params | Set_5: PSNR / SSIM | Set14: PSNR / SSIM |'
    assert lines[3] == '| a_b | 43.67G | 283K | **31.00** / <u>0.9000</u> | **20.00** / **0.5000** |'
    assert lines[4].startswith(r'| c\|d |  |  | **31.00** / **0.9500** |')
    assert lines[-1].startswith('PSNR: 100% of it. ')


def test_latex_is_escaped() -> None:
    assert escape(r'50%_of #1 & {x}^2~\$') == (
        r'50\%\_of \#1 \& \{x\}\textasciicircum{}2\textasciitilde{}\textbackslash{}\$'
    )


def test_metrics_are_described_with_channel_and_border() -> None:
    assert describe_metrics(METRICS, False) == 'PSNR in dB and SSIM: Y channel, border of 2 pixels cropped'
    rgb = {**METRICS, 'psnr': {'crop_border': 0, 'test_y_channel': False}, 'niqe': {}}
    assert describe_metrics(rgb, False, ' of the whole image') == (
        'PSNR in dB of the whole image: RGB channels, no border cropped; '
        'SSIM of the whole image: Y channel, border of 2 pixels cropped; NIQE of the whole image'
    )
    assert describe_metrics(METRICS, True).endswith(': gray images, border of 2 pixels cropped')


# --------------------------------------------------------------------------------------------------------- the figure


def test_difference_maps_are_in_8_bit_levels() -> None:
    gt = np.array([[[10, 20, 250], [0, 0, 0]]], np.uint8)
    output = np.array([[[13, 14, 255], [255, 0, 0]]], np.uint8)
    assert difference_map(output, gt) == pytest.approx(np.array([[(3 + 6 + 5) / 3, 85]]))
    assert difference_map(output[..., 0], gt[..., 0]) == pytest.approx(np.array([[3, 255]]))


def test_difference_maps_share_one_scale() -> None:
    gt = np.zeros((4, 4), np.uint8)
    details = [
        cut(
            Comparison('a', gt, gt, {'LQ': Restoration(gt, {'psnr': 9.0}), 'b': Restoration(gt + level, {'psnr': 9.0})})
        )
        for level in (3, 40)
    ]
    assert _scale(details).get_clim() == (0, 40)
    page = figure(details, 'note', METRICS, difference=True)
    maps = [axes.images[0] for axes in page.axes if axes.images and axes.images[0].get_cmap().name == 'Reds']
    assert [image.get_clim() for image in maps] == [(0, 40)] * 4
    assert [float(image.get_array().max()) for image in maps] == [0, 3, 0, 40]
    assert all(image.get_interpolation() == 'nearest' for image in maps)


@pytest.mark.parametrize(('others', 'lines', 'columns'), [(1, 1, 4), (3, 1, 6), (4, 2, 4), (9, 2, 6)])
def test_many_methods_take_several_lines(others: int, lines: int, columns: int) -> None:
    details = [cut(comparison(others=others))]
    layout = Layout.of(details, difference=False)
    assert (layout.lines, layout.columns) == (lines, columns)
    assert layout.cell >= 0.8  # inches
    page = figure(details, 'note', METRICS)
    assert page.get_figwidth() == 7
    assert all(axes.get_position().x0 >= 0 and axes.get_position().x1 <= 1 for axes in page.axes)
    assert all(axes.get_position().y0 >= 0 and axes.get_position().y1 <= 1 for axes in page.axes)
    assert len(page.axes) == 1 + 3 + others


def test_best_scores_are_bold_in_the_figure() -> None:
    compared = comparison(others=2)
    compared.methods['network 1'].scores['ssim'] = 0.96
    page = figure([cut(compared)], 'note', METRICS)
    found = [
        (area.get_text(), area._text.get_fontweight())
        for box in page.artists for area in box.offsetbox.get_children() if '/' not in area.get_text()
    ]  # fmt: skip
    assert found == [('30.00', 'normal'), ('0.9000', 'normal'), ('31.50', 'bold'), ('0.9500', 'normal'),
                     ('31.50', 'bold'), ('0.9600', 'bold')]  # fmt: skip


# --------------------------------------------------------------------------------------------------------- the datasets


def test_images_are_known_without_decoding(pairs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    gt, lq = map(str, pairs)
    paired = {'type': 'PairedRestorationDataset', 'dataroot_gt': gt, 'dataroot_lq': lq, 'scale': 2}
    noisy = {'type': 'GaussianDenoisingDataset', 'dataroot_gt': gt, 'sigma': 5, 'scale': 1}
    for section in (paired, noisy):
        dataset = build_dataset({'name': 'a', 'phase': 'test', **section})
        items = [dataset[i] for i in range(3)]
        with monkeypatch.context() as context:
            context.setattr(type(dataset), '__getitem__', None)
            known = list(ground_truths(dataset))
        assert known == [(Path(item['gt_path']).stem, tuple(item['gt'].shape[1:])) for item in items]
        stock = [{'gt_path': item['gt_path'], 'gt': item['gt']} for item in items]  # a dataset that does not tell
        assert list(ground_truths(stock)) == known


def test_every_item_is_loaded_once_for_all_methods(pairs: tuple[Path, Path]) -> None:
    section = {'type': 'GaussianDenoisingDataset', 'dataroot_gt': str(pairs[0]), 'sigma': 5, 'scale': 1}
    dataset = build_dataset({'name': 'a', 'phase': 'test', **section})
    loaded: list[int] = []

    class Counting:
        def __len__(self) -> int:
            return len(dataset)

        def __getitem__(self, index: int) -> dict[str, Any]:
            loaded.append(index)
            return dataset[index]

    def method(_: int, item: dict[str, Any]) -> np.ndarray:
        return cv2.imread(item['gt_path'])

    found = list(compare(Counting(), {'a': method, 'b': method}, 1, METRICS))
    assert loaded == [0, 1, 2]
    assert [list(each.methods) for each in found] == [['LQ', 'a', 'b']] * 3
    assert found[0].methods['a'].scores['psnr'] == math.inf
    with pytest.raises(UserError, match=r'^c: 9x9x3 for .*0\.png, which is 48x40x3$'):
        next(compare(dataset, {'c': lambda *_: np.zeros((9, 9, 3), np.uint8)}, 1, METRICS))


# ---------------------------------------------------------------------------------------------------------- the command


def write_network(file: Path, seed: int, **options: Any) -> None:
    torch.manual_seed(seed)
    network_g = {**TINY_NETWORK, **options}
    network = RAMiT(**{key: value for key, value in network_g.items() if key != 'type'})
    known = describe(network_g, network.upscale, None, 'gray' if network.in_chans == 1 else 'rgb')
    torch.save({'params': network.state_dict(), 'network': known}, file)


@pytest.fixture(scope='module')
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of three images, named 0, 1, 2; untrained networks; outputs of another program."""
    folder = tmp_path_factory.mktemp('compare')
    gt, lq = write_pairs(folder)
    opt = options_of_test(tiny_options(gt, lq), 'a.pth')
    one = opt['datasets']['test_1']
    opt['datasets'] = {'test_1': {**one, 'name': 'one'}, 'test_2': {**one, 'name': 'two'}}
    write_options(folder / 'test.yml', opt)
    for seed, name in enumerate('ab'):
        write_network(folder / f'{name}.pth', seed)
    write_network(folder / 'x3.pth', 0, upscale=3)
    write_network(folder / 'gray.pth', 0, in_chans=1, img_mean=[0.5], img_std=[0.2])
    (folder / 'other' / 'two').mkdir(parents=True)
    for i in range(3):
        picture = cv2.imread(str(gt / f'{i}.png'))
        cv2.imwrite(str(folder / 'other' / f'{i}_x2.png'), np.clip(picture.astype(int) + 4, 0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / 'other' / 'two' / f'{i}.png'), picture)
        cv2.imwrite(str(folder / 'other' / f'{i}0_x2.png'), picture)  # another image's
    return folder


def typed(*more: str) -> list[str]:
    return ['compare', '-opt', 'test.yml', *more]


def head(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith('image '))


@pytest.mark.parametrize('multiple', [1, 6])
def test_scores_are_exactly_those_of_a_test(multiple: int, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ['--only', 'one', '--force_yml', f'val:size_multiple={multiple}', f'name=exact{multiple}']
    tested = {}
    for name in 'ab':
        result = call_basicsr('test', '-opt', 'test.yml', '-m', f'{name}.pth', *flags, cwd=home)
        assert result.returncode == 0, result.stderr
        rows = json.loads((home / f'results/exact{multiple}/scores/one.json').read_text())['images']
        tested[name] = [{metric: row[metric] for metric in METRICS} for row in rows]
    written: list[Any] = []
    monkeypatch.setattr(cli_compare, '_write_set', lambda *arguments: written.append(arguments[2]))
    result = call_basicsr(*typed('-m', 'a.pth', 'b.pth', *flags), cwd=home)
    assert result.returncode == 0, result.stderr
    result = call_basicsr(*typed(*flags), cwd=home)  # the kept results of b
    assert result.returncode == 0, result.stderr
    assert [each['a'] for _, each in written[0]] == tested['a']
    assert [each['b'] for _, each in written[0]] == tested['b']
    assert [each['RAMiT'] for _, each in written[1]] == tested['b']
    assert tested['a'] != tested['b']


def test_compare_writes_tables_and_sheets_of_all_sets(home: Path) -> None:
    result = run_basicsr(
        *typed('-m', 'a.pth', 'b.pth', '--pictures', 'other', '-o', 'out', '--order', 'psnr'), cwd=home
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == 'Tables of all sets: out/tiny/comparison.md, out/tiny/comparison.tex'
    folder = home / 'out' / 'tiny'
    assert sorted(path.name for path in folder.iterdir()) == [
        'comparison.md', 'comparison.tex', 'comparison_one.png', 'comparison_one.txt', 'comparison_two.png',
        'comparison_two.txt',
    ]  # fmt: skip
    lines = (folder / 'comparison_one.txt').read_text().splitlines()
    titles = [title.removesuffix(' PSNR').strip() for title in lines[0].split('  ') if title.endswith('PSNR')]
    values = [float(value) for value in lines[-1].split()[1::2]]
    assert titles[0] == 'bicubic'
    assert titles[-1] == 'other'
    assert values[1:] == sorted(values[1:])
    with Image.open(folder / 'comparison_one.png') as page:
        assert (page.width - MARGIN) // CELL[0] == 7  # overview, LQ, bicubic, a, b, other, ground truth
    rows = (folder / 'comparison.md').read_text().splitlines()
    costs = {row.split(' | ')[0].strip('| '): row.split(' | ')[2].strip() for row in rows[2:6]}
    assert costs == {'bicubic': '', 'a': '38K', 'b': '38K', 'other': ''}
    assert rows[5].startswith('| other |')  # the best last
    assert '**inf**' in rows[5]
    assert rows[-1].startswith('Super-resolution x2. PSNR in dB and SSIM: Y channel, border of 2 pixels cropped.')


def test_pictures_are_taken_from_the_folder_of_the_set_if_there_is_one(home: Path) -> None:
    result = call_basicsr(*typed('-m', 'a.pth', '--pictures', 'other', '--names', 'net', 'program'), cwd=home)
    assert result.returncode == 0, result.stderr
    one, two = result.stdout.split('two\n')
    assert head(one).split('  ')[-2:] == ['program PSNR', 'program SSIM']
    assert ' inf ' not in one
    assert two.count(' inf ') == 4


def test_names_are_titles(home: Path) -> None:
    result = call_basicsr(*typed('-m', 'a.pth', 'b.pth', '--names', 'A', 'B', '--pictures', 'other'), cwd=home)
    assert [title.strip() for title in head(result.stdout).split('  ') if title.endswith('PSNR')] == [
        'bicubic PSNR', 'A PSNR', 'B PSNR', 'other PSNR'
    ]  # fmt: skip


@pytest.mark.parametrize(('kind', 'start'), [('png', b'\x89PNG'), ('pdf', b'%PDF'), ('svg', b'<?xml')])
def test_figures_are_the_same_every_time(kind: str, start: bytes, home: Path) -> None:
    contents = []
    for i in range(2):
        flags = ['--only', 'one', '--figure', f'{i}.{kind}', '--difference']
        result = call_basicsr(*typed('-m', 'a.pth', *flags), cwd=home)
        assert result.returncode == 0, result.stderr
        contents.append((home / f'{i}.{kind}').read_bytes())
    assert contents[0].startswith(start)
    assert contents[0] == contents[1]


def test_the_figure_has_the_images_that_are_asked_for(home: Path) -> None:
    flags = ['--only', 'one', '--figure', 'f.svg', '--images', '2', '0', '2', '--crops', '3,4,20,30', 'auto', '1,2,9,9']
    result = call_basicsr(*typed('-m', 'a.pth', '--names', '$a$', *flags), cwd=home)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith('Figure: f.svg\n')
    text = (home / 'f.svg').read_text()
    captions = ['one: 2<', '20x30 at 3,4', 'one: 0<', '48x40 at 0,0', '9x9 at 1,2']
    assert [text.find(caption) for caption in captions] == sorted(text.find(caption) for caption in captions)
    assert all(caption in text for caption in [*captions, '>$a$<', 'PSNR in dB and SSIM of the whole image: Y channel'])
    page = Image.open(home / 'results/tiny/comparison_one.png')
    assert (page.height - MARGIN) // CELL[1] == 3


def test_one_box_serves_all_images(home: Path) -> None:
    result = call_basicsr(*typed('-m', 'a.pth', '--only', 'one', '--crops', '3,4,20,30', '--figure', 'g.svg'), cwd=home)
    assert result.returncode == 0, result.stderr
    assert (home / 'g.svg').read_text().count('20x30 at 3,4') == 3


def test_the_sets_are_those_of_the_first_experiment(home: Path, tmp_path: Path) -> None:
    opt = tiny_options(home / 'gt', home / 'lq', 'mine')
    models = tmp_path / 'experiments' / 'mine' / 'models'
    models.mkdir(parents=True)
    write_options(models.parent / 'mine.yml', opt)
    write_network(models / 'net_g_best.pth', 0)
    result = call_basicsr('compare', '-m', 'experiments/mine', str(home / 'b.pth'), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'mine PSNR' in result.stdout
    assert (tmp_path / 'results/mine/comparison_tiny_val.txt').is_file()


def test_noise_is_the_same_for_all_and_lq_is_the_baseline(home: Path) -> None:
    section = {'name': 'n', 'type': 'GaussianDenoisingDataset', 'dataroot_gt': str(home / 'gt'), 'sigma': 25}
    opt = options_of_test(tiny_options(home / 'gt', home / 'lq'), 'x1.pth')
    opt |= {'scale': 1, 'datasets': {'test_1': section}, 'network_g': {**TINY_NETWORK, 'upscale': 1}}
    opt['val'] = {'save_img': True, 'protocol': 'CDN'}
    write_options(home / 'noise.yml', opt)
    write_network(home / 'x1.pth', 0, upscale=1)
    flags = ['-m', 'x1.pth', './x1.pth', '--names', 'a', 'b', '-o', 'noise', '--figure', 'n.svg', '--difference']
    result = call_basicsr('compare', 'noise.yml', *flags, cwd=home)
    assert result.returncode == 0, result.stderr
    titles = [title.strip() for title in head(result.stdout).split('  ') if title.endswith('PSNR')]
    assert titles == ['LQ PSNR', 'a PSNR', 'b PSNR']
    values = result.stdout.splitlines()[5].split()
    assert values[3:5] == values[5:7]
    assert 'RGB channels, no border cropped' in (home / 'noise/tiny/comparison.tex').read_text()


def test_without_matplotlib_everything_but_the_figure_is_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition('.')[0] == 'matplotlib']:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    assert call_basicsr(*typed('-m', 'a.pth', '-o', 'plain'), cwd=home).returncode == 0
    assert (home / 'plain/tiny/comparison_one.png').is_file()
    monkeypatch.setattr(cli_figures.importlib.util, 'find_spec', lambda _: None)
    result = call_basicsr(*typed('-m', 'missing.pth', '--figure', 'f.png'), cwd=home)
    assert result.stderr == 'error: --figure needs matplotlib: pip install matplotlib\n'


@pytest.mark.parametrize(('arguments', 'message'), [
    ('', 'results/none/scores/one.json: no scores yet; run `basicsr test` with this option file first, or give'),
    ('-m a.pth x3.pth', 'x3.pth: a network for scale 3, but the option file has scale 2; give a network and'),
    ('-m a.pth gray.pth', 'gray.pth: a network for gray images, but the test sets are colour; leave it out, or give'),
    ('-m gray.pth', 'gray.pth: a network for gray images, but the test sets are colour; leave it out, or give'),
    ('-m missing.pth', 'missing.pth: no such checkpoint'),
    ('-m a.pth --device abacus', 'device abacus: not available here'),
    ('-m a.pth --names a b', '--names: 2 for 1 networks; give one for each -m'),
    ('-m a.pth ./a.pth --names a a', "two networks have the name 'a'; give different ones by --names"),
    ('-m a.pth --names bicubic', 'bicubic is the name of a column that is always there; give another one by --names'),
    ('-m a.pth --order psrn', '--order psrn: give given or a metric: psnr, ssim (did you mean psnr?)'),
    ('-m a.pth --figure f.gif', '--figure f.gif: a figure is a .png, .pdf or .svg file'),
    ('-m a.pth --difference', '--difference needs --figure, in which the maps are drawn'),
    ('-m a.pth --images 0 7', '--images 7: no such image in one, two'),
    ('-m a.pth --images 0 1 --crops 1,1,8,8 auto auto', '--crops: 3 boxes for 2 images; give one for all, or one for'),
    ('-m a.pth --crops 1,1,8,8 auto', '--crops: 2 boxes for no --images; give one for all, or one for each of'),
    ('-m a.pth --images 2 0 --crops 45,1,7,8', '--crops 45,1,7,8: not inside 0, which has 48x40 pixels'),
    ('-m a.pth --crops 45,1,7,8', '--crops 45,1,7,8: not inside 0, which has 48x40 pixels; say by --images which'),
    ('-m a.pth --pictures missing', '--pictures missing: no such folder'),
    ('-m a.pth --pictures other --figure other/f.png', '--figure other/f.png: other is read; give a file elsewhere'),
    ('-m a.pth --names=', '--names: a name is empty'),
    ('-m a.pth --figure gt/0.png', '--figure gt/0.png: /'),
    ('-m a.pth -o gt/0.png', 'gt/0.png/none: cannot be written (Not a directory); give another folder by -o'),
    ('-m a.pth --pictures lq', 'lq/0.png: 24x20 pixels; 0 of one has 48x40'),
    ('-m a.pth --pictures few', '--pictures few: no picture of 0 (one), named 0.png or 0_*.png'),
    ('-m a.pth --pictures twice', '--pictures twice: twice/0_a.png and twice/0_b.png are both named after 0'),
    ('-m a.pth --pictures other other', "two methods have the name 'other'; give different ones by --names"),
    ('-m a.pth --pictures other --names a b c', '--names: 3 for 1 networks; give one for each -m, or also'),
])  # fmt: skip
def test_mistakes_are_found_before_anything_is_restored(
    arguments: str, message: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, names in [('few', ['1.png', '2.png']), ('twice', ['0_a.png', '0_b.png', '1.png', '2.png'])]:
        (home / folder).mkdir(exist_ok=True)
        for name in names:
            (home / folder / name).write_bytes((home / 'gt' / f'{name[0]}.png').read_bytes())
    monkeypatch.setattr(cli_compare, '_compare_set', lambda *_: pytest.fail('restored'))
    result = call_basicsr(*typed(*arguments.split(), '--force_yml', 'name=none'), cwd=home)
    assert result.returncode == 1
    *logged, last = result.stderr.splitlines()
    assert last.startswith(f'error: {message}')
    assert all(' INFO: Dataset ' in line for line in logged)  # the log level that an earlier test has left
    assert result.stdout == ''
    assert not (home / 'results' / 'none').exists()


@pytest.mark.parametrize('crop', ['1,2,3', '1,2,1,8', '-1,2,8,8', 'hand'])
def test_wrong_boxes_are_refused_by_the_parser(crop: str, home: Path) -> None:
    result = call_basicsr(*typed('-m', 'a.pth', f'--crops={crop}'), cwd=home)
    assert result.returncode == 2
    assert f'argument --crops: {crop}' in result.stderr


def test_results_of_another_set_are_refused(home: Path) -> None:
    flags = ['--only', 'one', '--force_yml', 'name=changed']
    assert call_basicsr('test', '-opt', 'test.yml', *flags, cwd=home).returncode == 0
    file = home / 'results/changed/scores/one.json'
    content = json.loads(file.read_text())
    Path(home / content['images'][1]['restored']).unlink()
    assert '1_changed.png: missing, or not of this test set' in call_basicsr(*typed(*flags), cwd=home).stderr
    content['images'][0]['gt'] = 'elsewhere.png'
    file.write_text(json.dumps(content))
    assert 'one: the set has changed since the test' in call_basicsr(*typed(*flags), cwd=home).stderr
    content['images'].pop()
    file.write_text(json.dumps(content))
    assert 'one: the set has changed since the test' in call_basicsr(*typed(*flags), cwd=home).stderr


def test_an_error_in_a_network_of_ones_own_names_its_line_and_the_image(home: Path) -> None:
    (home / 'breaks.py').write_text(
        'import torch\nfrom basicsr.utils.registry import ARCH_REGISTRY\n\n@ARCH_REGISTRY.register()\n'
        'class Breaks(torch.nn.Conv2d):\n    def __init__(self):\n        super().__init__(3, 3, 1)\n\n'
        "    def forward(self, x):\n        raise RuntimeError('my own bug')\n"
    )
    known = {'format': 1, 'network_g': {'type': 'Breaks'}, 'scale': 2, 'task': None, 'color': 'rgb'}
    torch.save({'params': torch.nn.Conv2d(3, 3, 1).state_dict(), 'network': known}, home / 'breaks.pth')
    result = call_basicsr(*typed('-m', 'breaks.pth', '--import', 'breaks.py'), cwd=home)
    assert re.search(r'^breaks\.pth failed on .+lq/0\.png, 24x20', result.stderr, re.MULTILINE)
    assert 'error: RuntimeError: my own bug\n' in result.stderr
    assert f'{home / "breaks.py"}:10 in forward' in result.stderr
