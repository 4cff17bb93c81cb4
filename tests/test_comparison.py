"""The table and the sheet beside the baseline."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import photograph

from ramit_arch.evaluation.comparison import CROP, THUMBNAIL, Comparison, _hardest_place, sheet, table
from ramit_arch.evaluation.scores import mean_scores


def comparison(name: str = 'a', size: tuple[int, int] = (90, 120), channels: int = 3) -> Comparison:
    target = photograph(1, *size, channels).squeeze()
    baseline = target.copy()
    baseline[-20:, :30] = 255 - baseline[-20:, :30]
    scores = {'psnr': 30.0, 'ssim': 0.9}
    return Comparison(
        name, photograph(2, *size, channels).squeeze(), baseline, target, target, scores, {'psnr': 31.5, 'ssim': 0.95}
    )


def test_table_has_a_row_an_image_and_their_mean() -> None:
    scores = [('a', {'psnr': 30.0, 'ssim': 0.9}, {'psnr': 31.0, 'ssim': 0.95}),
              ('b', {'psnr': 20.0, 'ssim': 0.5}, {'psnr': 20.5, 'ssim': 0.4})]  # fmt: skip
    lines = table(scores, 'bicubic', 'RAMiT').splitlines()
    assert lines[0].split('  ')[0] == 'image'
    assert lines[1].split() == ['a', '30.00', '0.9000', '31.00', '0.9500', '+1.00', '+0.0500']
    assert lines[3].split() == ['mean', '25.00', '0.7000', '25.75', '0.6750', '+0.75', '-0.0250']
    assert len({len(line) for line in lines}) == 1


def test_crop_lies_where_the_baseline_is_farthest_from_the_target() -> None:
    y, x = _hardest_place(comparison())
    assert y + CROP == 90
    assert x == 0


@pytest.mark.parametrize(('size', 'channels'), [((90, 120), 3), ((90, 120), 1), ((40, 30), 3)])
def test_sheet_has_five_columns_and_a_row_an_image(size: tuple[int, int], channels: int) -> None:
    page = np.asarray(sheet([comparison('a', size, channels), comparison('b', size, channels)], 'bicubic', 'RAMiT'))
    assert page.shape[1] > 5 * THUMBNAIL
    assert page.shape[0] > 2 * THUMBNAIL
    top, bottom = page[: page.shape[0] // 2], page[page.shape[0] // 2 :]
    assert (top != 255).mean() > 0.1
    assert (bottom != 255).mean() > 0.1


def test_mean_is_the_mean_of_the_rows() -> None:
    rows = [{'image': 'a', 'psnr': 30.0}, {'image': 'b', 'psnr': 33.0}]
    assert mean_scores(rows, ['psnr']) == {'psnr': 31.5}
