"""MATLAB's imresize by an integer factor, bit for bit: the low-resolution images of super-resolution."""

from __future__ import annotations

import functools

import numpy as np
from scipy.sparse import csr_array


def downscale(image: np.ndarray, scale: int) -> np.ndarray:
    """Reduce an image as MATLAB's `imresize(image, 1 / scale)` does: bicubic, antialiased, symmetric border.

    Rows are reduced first, then columns, rounded to uint8 between the passes as MATLAB does. All is exact in float32:
    the weights are multiples of 1/256 (x2), 1/81 (x3) and 1/4096 (x4), which for values up to 255 leaves neither
    rounding errors nor, at x3, ties.

    Args:
        image: (H, W, C) uint8. What exceeds a multiple of `scale` at the right and bottom is cut off first.
        scale: 2, 3 or 4.

    Returns:
        (H // scale, W // scale, C) uint8.

    Raises:
        ValueError: another dtype, number of dimensions or scale, or an image without a pixel left.
    """
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(f'image is {image.dtype} of shape {image.shape}; it must be uint8 (H, W, C)')
    if scale not in (2, 3, 4):
        raise ValueError(f'scale is {scale}; it must be 2, 3 or 4')
    height, width = (side // scale for side in image.shape[:2])
    if not height or not width:
        raise ValueError(f'image is {image.shape[1]}x{image.shape[0]}, smaller than scale {scale}')
    rows = _reduce(image[: height * scale, : width * scale], scale)
    return _reduce(rows.transpose(1, 0, 2), scale).transpose(1, 0, 2)


def _reduce(image: np.ndarray, scale: int) -> np.ndarray:
    """One pass, over the first axis."""
    reduced = _weights(len(image), scale) @ image.reshape(len(image), -1).astype(np.float32)
    rounded = (reduced.clip(0, 255) + np.float32(0.5)).astype(np.uint8)  # halves go up
    return rounded.reshape(-1, *image.shape[1:])


@functools.lru_cache(maxsize=64)
def _weights(size: int, scale: int) -> csr_array:
    """(size // scale, size) matrix: Keys' cubic with a = -1/2, `scale` times as wide, mirrored at the border."""
    taps = np.arange(-2 * scale, 3 * scale)
    distance = np.abs(taps - (scale - 1) / 2) / scale  # of every tap from the centre of its output pixel
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    kernel = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
    taps, kernel = taps[kernel != 0], kernel[kernel != 0]
    count = size // scale
    columns = np.arange(count)[:, None] * scale + taps
    columns = np.mod(columns, 2 * size)  # the mirrored signal has this period
    columns = np.minimum(columns, 2 * size - 1 - columns)
    values = np.tile(np.float32(kernel / kernel.sum()), count)
    return csr_array((values, columns.ravel(), np.arange(count + 1) * len(kernel)), (count, size))
