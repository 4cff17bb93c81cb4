"""The layout of figures of images: they fit on a page; no text is cut off, overlaps another, or is too small."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text

from ramit_arch.evaluation import attribution_figure, features
from ramit_arch.evaluation.attribution import Box
from ramit_arch.evaluation.features import BlockAttention
from ramit_arch.evaluation.figures import WIDTH, number_clips, save, wrapped

LONG = ['RAMiT-tiny_SRx2', 'RAMiT-slimSR_X2', 'experiments/RAMiT-tiny_SRx2_pure_SPSA', 'LAformer-tiny_SRx2', 'IPTV2']
SIZES = {'square': (64, 64), 'wide': (24, 80), 'tall': (80, 24)}
STAGES = ['stage 1', 'stage 2', 'stage 3', 'stage 4', 'H-RAMi', 'stage 4 x H-RAMi']


def check_page(page: Figure) -> None:
    page.draw_without_rendering()
    assert page.get_figwidth() <= WIDTH + 1e-6
    ticks = {label for axis in page.findobj(Axis) for tick in axis.get_major_ticks() for label in tick.findobj(Text)}
    texts = [text for text in page.findobj(Text) if text.get_visible() and text.get_text().strip()]
    assert all(text.get_fontsize() >= 6 for text in texts)
    extents = {text.get_text(): text.get_window_extent() for text in texts if text not in ticks}
    for text, extent in extents.items():
        assert min(extent.x0, extent.y0, page.bbox.width - extent.x1, page.bbox.height - extent.y1) > -1, text
    for (a, first), (b, second) in combinations(extents.items(), 2):
        assert not first.overlaps(second), (a, b)


def pixels(size: str, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).random((*SIZES[size], channels)).squeeze()


@pytest.mark.parametrize(('size', 'names', 'channels'), [
    ('square', LONG[:1], 3), ('square', LONG, 3), ('wide', LONG[:3], 3), ('tall', LONG[:3], 1),
])  # fmt: skip
def test_attribution_maps_fit_on_a_page(size: str, names: list[str], channels: int) -> None:
    maps = {name: pixels(size, 1) ** (i + 1) for i, name in enumerate(names)}
    check_page(attribution_figure.figure(pixels(size, channels), Box(8, 8, 8), maps))


@pytest.mark.parametrize(('size', 'titles', 'heads'), [
    ('square', STAGES, 0), ('square', ['output of the third level of the encoder', *STAGES[:3]], 6),
    ('wide', STAGES, 3), ('tall', STAGES, 3),
])  # fmt: skip
def test_feature_maps_fit_on_a_page(size: str, titles: list[str], heads: int) -> None:
    spatial = torch.full((heads, *SIZES[size]), torch.nan)
    spatial[:, 8:16, 8:16] = torch.rand(heads, 8, 8)
    maps = {'spatial': spatial, 'channel': torch.rand(1, 12, 12)}
    attention = BlockAttention('stage1.blocks.block1', (9, 10), 1, maps) if heads else None
    check_page(features.figure(pixels(size), {title: pixels(size, 1) for title in titles}, 'max', attention))


@pytest.mark.parametrize(('name', 'lines'), [
    ('SPSA', ['SPSA']),
    ('RAMiT-tiny_SRx2', ['RAMiT-tiny_SRx2']),
    ('RAMiT-slimSR_SRx2', ['RAMiT-slimSR_', 'SRx2']),
    ('experiments/mine', ['experiments/', 'mine']),
    ('an output of a level', ['an output of a', 'level']),
    ('x' * 20, ['x' * 15, 'x' * 5]),
])  # fmt: skip
def test_titles_break_where_a_name_has_parts(name: str, lines: list[str]) -> None:
    assert wrapped(name, 1.0).split('\n') == lines


def test_clip_paths_are_numbered_in_an_svg(tmp_path: Path) -> None:
    svg = b'<g clip-path="url(#p%s)"/><g clip-path="url(#p%s)"/><clipPath id="p%s"/><clipPath id="p%s"/>'
    one, other = (svg % (a * 10, b * 10, a * 10, b * 10) for a, b in [(b'8', b'a'), (b'4', b'c')])
    assert number_clips(one) == number_clips(other)
    maps = {name: pixels('square', 1) for name in LONG[:2]}
    save(lambda: attribution_figure.figure(pixels('square'), Box(8, 8, 8), maps), tmp_path / 'a.svg')
    text = (tmp_path / 'a.svg').read_text()
    used, defined = (re.findall(pattern, text) for pattern in (r'url\(#(\w+)\)', r'<clipPath id="(\w+)"'))
    assert set(used) == set(defined)
    assert defined[:2] == ['clip0', 'clip1']


def test_titles_are_not_formulas(tmp_path: Path) -> None:
    maps = {r'$\frac{$': np.eye(32), '$x$': np.eye(32)}
    save(lambda: attribution_figure.figure(np.zeros((32, 32)), Box(1, 1, 8), maps), tmp_path / 'lam.svg')
    assert all(f'>{name}</text>' in (tmp_path / 'lam.svg').read_text() for name in maps)
