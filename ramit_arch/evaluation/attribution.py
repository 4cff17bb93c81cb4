"""Local attribution maps (LAM): the input pixels that a network uses for a detail of its output.

Jinjin Gu, Chao Dong: Interpreting Super-Resolution Networks with Local Attribution Maps, CVPR 2021.
Paper: https://arxiv.org/abs/2011.11036. The method behind Figs. 3a and D of the RAMiT paper.

For an image I, a network F and a box of its output:

    gamma(a) = I blurred by a Gaussian of standard deviation (1 - a) sigma, a from 0 to 1           the path
    D(Y)     = sum over channels and box of |(dY/dx, dY/dy)|, forward differences                   the detector
    A(c, p)  = integral of dD(F(gamma(a)))/dgamma(a)(c, p) * dgamma(a)(c, p)/da over a              path integral
    L(p)     = |sum of A(c, p) over the channels c|                                                 attribution map

The sum of A is D(F(I)) - D(F(gamma(0))), up to the error of the numerical integration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve
from torch import Tensor

from ramit_arch.errors import UserError


class Box(NamedTuple):
    """A square: left column, top row, side."""

    x: int
    y: int
    size: int

    def scaled(self, factor: int) -> Box:
        """The same square in an image enlarged by `factor`."""
        return Box(self.x * factor, self.y * factor, self.size * factor)

    def inside(self, height: int, width: int) -> bool:
        return min(self.x, self.y) >= 0 and self.x + self.size <= width and self.y + self.size <= height


class Attribution(NamedTuple):
    """A path integral.

    Attributes:
        integral: A, (C, H, W) in float64, signed.
        blurred: D(F(gamma(0))).
        sharp: D(F(I)).
    """

    integral: np.ndarray
    blurred: float
    sharp: float

    @property
    def map(self) -> np.ndarray:
        """L, (H, W), from 0 up."""
        return np.abs(self.integral.sum(0))

    @property
    def error(self) -> float:
        """Of the numerical integration: |sum of A - (D(F(I)) - D(F(gamma(0))))| / |D(F(I)) - D(F(gamma(0)))|."""
        change = self.sharp - self.blurred
        return abs(self.integral.sum() - change) / max(abs(change), 1e-12)


def blur_path(image: np.ndarray, sigma: float, steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The path from the blurred image to the image, for the midpoint rule.

    Args:
        image: (C, H, W).
        sigma: standard deviation of the blur at the start, in pixels; it falls linearly to 0. Borders are mirrored.
        steps: number of pieces.

    Yields:
        gamma at the middle of each piece, and gamma at its end minus gamma at its start.
    """

    def blurred(position: float) -> np.ndarray:
        deviation = sigma * (1 - position / steps)
        return gaussian_filter(image.astype(np.float64), (0, deviation, deviation))

    start = blurred(0)
    for step in range(steps):
        end = blurred(step + 1)
        yield blurred(step + 0.5), end - start
        start = end


def detect_gradient(output: Tensor, box: Box) -> Tensor:
    """D, the sum of the gradient magnitudes of an output (1, C, H, W) in a box.

    The gradient of a pixel is its differences to its right and to its lower neighbour, so that of the pixels outside
    the box those right of it and below it count. The last column and row of the output have no gradient. Where the
    output is constant the magnitude has the derivative 0.
    """
    crop = output[..., box.y : box.y + box.size + 1, box.x : box.x + box.size + 1]
    corner = crop[..., :-1, :-1]
    differences = torch.stack([crop[..., :-1, 1:] - corner, crop[..., 1:, :-1] - corner])
    return torch.linalg.vector_norm(differences, dim=0).sum()


def attribute(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    box: Box,
    steps: int,
    sigma: float,
    progress: Callable[[], object] | None = None,
) -> Attribution:
    """The path integral of a network's gradients. One image of the path is in memory at a time.

    Args:
        network: (1, C, H, W) -> (1, C, H * scale, W * scale), with gradients, without random numbers.
        image: (1, C, H, W) in [0, 1].
        box: in pixels of the output.
        steps: of the path.
        sigma: standard deviation of the Gaussian blur where the path begins, in pixels.
        progress: called after every step.

    Raises:
        UserError: the network has no gradients, or they are not finite.
    """
    pixels = image[0].cpu().numpy()
    integral = np.zeros(pixels.shape)
    for middle, difference in blur_path(pixels, sigma, steps):
        point = torch.from_numpy(middle[None]).to(image).requires_grad_()
        with torch.enable_grad():
            detected = detect_gradient(network(point), box)
            if not detected.requires_grad:
                raise UserError('no gradients reach the image; give a network that PyTorch computes')
            [gradient] = torch.autograd.grad(detected, point)
        integral += gradient[0].double().cpu().numpy() * difference
        if progress is not None:
            progress()
    if not np.isfinite(integral).all():
        raise UserError('the gradients are not finite')
    start = gaussian_filter(pixels.astype(np.float64), (0, sigma, sigma))
    with torch.no_grad():
        ends = [detect_gradient(network(end), box).item() for end in (torch.from_numpy(start[None]).to(image), image)]
    return Attribution(integral, *ends)


def contribution_area(attribution_map: np.ndarray) -> np.ndarray:
    """Gaussian kernel density estimate of an attribution map (H, W), its maximum scaled to 1.

    The kernel has the covariance of the map times n^(-1/3) (Scott's rule), n = (sum L)^2 / sum L^2 being the effective
    number of pixels, plus 1/12, the variance of the position within a pixel.
    """
    height, width = attribution_map.shape
    weights = attribution_map / attribution_map.sum()
    squares = np.square(weights).sum()
    rows, columns = np.mgrid[:height, :width]
    covariance = np.eye(2) / 12
    if squares < 1:
        positions = np.stack([rows.ravel(), columns.ravel()])
        covariance += np.cov(positions, aweights=weights.ravel()) * squares ** (1 / 3)
    offsets = np.array(np.mgrid[1 - height : height, 1 - width : width])  # all that occur in the map
    kernel = np.exp(-np.einsum('iyx,ij,jyx->yx', offsets, np.linalg.inv(covariance), offsets) / 2)
    density = fftconvolve(weights, kernel, mode='same')
    return np.clip(density, 0, None) / density.max()


def gini(values: np.ndarray) -> float:
    """Gini coefficient of numbers from 0 up: sum of (2i - n - 1) x_i / (n sum of x_i) over the sorted x_1 to x_n.

    0 if all are equal, 1 - 1/n if all but one are 0.

    Raises:
        ValueError: all are 0.
    """
    total = values.sum()
    if not total > 0:
        raise ValueError('the Gini coefficient of zeros is not defined')
    n = values.size
    return float((2 * np.arange(1, n + 1) - n - 1) @ np.sort(values.ravel()) / (n * total))


def diffusion_index(attribution_map: np.ndarray) -> float:
    """DI = (1 - Gini) * 100 of an attribution map: 100 if all pixels contribute alike, 100 / (H W) for one pixel."""
    return (1 - gini(attribution_map)) * 100


def share_beyond(attribution_map: np.ndarray, box: Box, distance: int) -> float:
    """Share of an attribution map (H, W) in pixels more than `distance` rows or columns away from a box."""
    near = np.zeros(attribution_map.shape, bool)
    reach = distance + box.size
    near[max(box.y - distance, 0) : box.y + reach, max(box.x - distance, 0) : box.x + reach] = True
    return float(attribution_map[~near].sum() / attribution_map.sum())
