"""Low-resolution images are MATLAB's, bit for bit."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import photograph
from hypothesis import given
from hypothesis import strategies as st

from ramit_arch.preparation.bicubic import downscale


def cubic(x: Fraction) -> Fraction:
    x = abs(x)
    if x <= 1:
        return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
    return -Fraction(1, 2) * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2 if x < 2 else Fraction(0)


def one_pass(image: np.ndarray, scale: int) -> np.ndarray:
    """MATLAB's recipe in fractions, one output line after the other, in its own 1-based indices."""
    length, lines = len(image), []
    for out in range(1, length // scale + 1):
        centre = out * scale + Fraction(1 - scale, 2)
        left = int(centre - 2 * scale)
        indices = range(left, left + 4 * scale + 2)
        weights = [cubic((centre - index) / scale) for index in indices]
        mirrored = [*range(1, length + 1), *range(length, 0, -1)]
        total = Fraction(0)
        for index, weight in zip(indices, weights, strict=True):
            total = total + (weight / sum(weights)) * image[mirrored[(index - 1) % (2 * length)] - 1].astype(object)
        lines.append([[min(max((2 * value + 1) // 2, 0), 255) for value in row] for row in total])
    return np.array(lines, np.uint8)


@given(
    st.sampled_from([2, 3, 4]),
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3)),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_equals_exact_arithmetic(scale: int, sides: tuple, channels: int, extreme: bool, seed: int) -> None:
    height, width = (sides[i] * scale + min(sides[i + 2], scale - 1) for i in (0, 1))
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    if extreme:
        image = (image > 127).astype(np.uint8) * 255
    cropped = image[: height // scale * scale, : width // scale * scale]
    expected = one_pass(one_pass(cropped, scale).transpose(1, 0, 2), scale).transpose(1, 0, 2)
    assert (downscale(image, scale) == expected).all()


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_set5_is_the_published_set5(scale: int, shared: Path) -> None:
    files = sorted((shared / 'data' / 'Set5' / 'HR').iterdir())
    assert len(files) == 5
    for file in files:
        published = cv2.imread(str(shared / 'data' / 'Set5' / f'LRx{scale}' / f'{file.stem}x{scale}.png'))
        assert (downscale(cv2.imread(str(file)), scale) == published).all()


@pytest.mark.parametrize(
    ('image', 'scale', 'text'),
    [
        (photograph(0, 8, 8).astype(np.float32), 2, 'float32'),
        (photograph(0, 8, 8)[..., 0], 2, r'\(8, 8\)'),
        (photograph(0, 8, 8), 5, 'scale is 5'),
        (photograph(0, 8, 3), 4, '3x8'),
    ],
)
def test_what_it_cannot_reduce_is_refused(image: np.ndarray, scale: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        downscale(image, scale)
