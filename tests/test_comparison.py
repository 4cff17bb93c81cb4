"""The table and the sheet beside the baseline."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import photograph

from ramit_arch.evaluation.comparison import CROP, THUMBNAIL, Comparison, Restoration, _hardest_place, sheet, table
from ramit_arch.evaluation.scores import mean_scores


def comparison(name: str = 'a', size: tuple[int, int] = (90, 120), channels: int = 3, others: int = 1) -> Comparison:
    gt = photograph(1, *size, channels).squeeze()
    baseline = gt.copy()
    baseline[-20:, :30] = 255 - baseline[-20:, :30]
    methods = {'bicubic': Restoration(baseline, {'psnr': 30.0, 'ssim': 0.9})}
    methods |= {f'network {i}': Restoration(gt, {'psnr': 31.5, 'ssim': 0.95}) for i in range(others)}
    return Comparison(name, photograph(2, *size, channels).squeeze(), gt, methods)


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


def test_crop_lies_where_the_baseline_is_farthest_from_the_target() -> None:
    y, x = _hardest_place(comparison())
    assert y + CROP == 90
    assert x == 0


def test_crop_of_a_noisy_image_lies_where_the_ground_truth_has_most_detail() -> None:
    rng = np.random.default_rng(0)
    gt = np.full((128, 128, 3), 100, np.uint8)
    gt[64:, 64:] = rng.integers(60, 140, (64, 64, 3))
    noisy = rng.integers(0, 255, gt.shape).astype(np.uint8)
    y, x = _hardest_place(Comparison('a', noisy, gt, {'LQ': Restoration(noisy, {}), 'network': Restoration(gt, {})}))
    assert abs(y - 64) <= 3
    assert abs(x - 64) <= 3


@pytest.mark.parametrize(
    ('size', 'channels', 'others'), [((90, 120), 3, 1), ((90, 120), 1, 1), ((40, 30), 3, 1), ((90, 120), 3, 4)]
)
def test_sheet_has_a_column_a_method_and_a_row_an_image(size: tuple[int, int], channels: int, others: int) -> None:
    page = np.asarray(sheet([comparison(name, size, channels, others) for name in 'ab']))
    assert page.shape[1] // THUMBNAIL == 4 + others  # overview, LQ, bicubic, networks, ground truth
    assert page.shape[0] > 2 * THUMBNAIL
    top, bottom = page[: page.shape[0] // 2], page[page.shape[0] // 2 :]
    assert (top != 255).mean() > 0.1
    assert (bottom != 255).mean() > 0.1


def test_mean_is_the_mean_of_the_rows() -> None:
    rows = [{'image': 'a', 'psnr': 30.0}, {'image': 'b', 'psnr': 33.0}]
    assert mean_scores(rows, ['psnr']) == {'psnr': 31.5}
