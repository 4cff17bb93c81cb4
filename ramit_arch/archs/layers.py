"""Layers that several networks share, most of them for token-major maps (N, H, W, C)."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class PointwiseConv(nn.Conv2d):
    """1x1 convolution of a token-major map: (N, H, W, in) -> (N, H, W, out), a matrix product over the last axis."""

    def __init__(self, in_dim: int, out_dim: int, bias: bool = True) -> None:
        super().__init__(in_dim, out_dim, 1, bias=bias)

    def forward(self, x: Tensor, part: slice = slice(None)) -> Tensor:
        """`part`: the output channels to compute."""
        weight, bias = self.weight[part], None if self.bias is None else self.bias[part]
        if x.is_cuda:
            return F.linear(x, weight.flatten(1), bias)
        # On a CPU oneDNN's convolution, up to twice as fast as the product of the BLAS library.
        return F.conv2d(x.permute(0, 3, 1, 2), weight, bias).permute(0, 2, 3, 1)


class DepthwiseConv(nn.Conv2d):
    """Depth-wise convolution of a token-major map with an odd kernel: (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, dim: int, kernel_size: int = 3) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class FeedForward(nn.Module):
    """Two point-wise layers with GELU between them: (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, dim: int, hidden_ratio: float) -> None:
        super().__init__()
        width = int(dim * hidden_ratio)
        self.hidden = PointwiseConv(dim, width)
        self.out = PointwiseConv(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.hidden(x)))


class TokenStem(nn.Module):
    """3x3 convolution into token-major features: (N, in_chans, H, W) -> (N, H, W, C)."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, dim, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1).contiguous()


class PixelShuffleHead(nn.Module):
    """3x3 convolution and pixel shuffle: (N, H, W, C) -> (N, out_chans, H * upscale, W * upscale)."""

    def __init__(self, dim: int, out_chans: int, upscale: int) -> None:
        super().__init__()
        self.upscale = upscale
        self.conv = nn.Conv2d(dim, out_chans * upscale**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x.permute(0, 3, 1, 2)), self.upscale)


class Blocks(nn.Sequential):
    """Blocks in a row. With `checkpointing`, the backward pass recomputes the activations inside them."""

    checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            recomputed = self.checkpointing and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if recomputed else block(x)
        return x


def layer_norm(dim: int) -> nn.Sequential:
    """LayerNorm over the last axis, under the name the published checkpoints give it (`norm1.norm.weight`)."""
    return nn.Sequential(OrderedDict(norm=nn.LayerNorm(dim)))


def pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """(N, H, W, C * factor^2) -> (N, H * factor, W * factor, C)."""
    return F.pixel_shuffle(x.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1) if factor > 1 else x


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth: drop a residual branch for whole samples, with the expectation kept."""
    if rate == 0.0 or not training:
        return x
    keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= rate
    return x * keep.to(x.dtype) / (1 - rate)


def symmetric_pad(image: Tensor, multiple: int) -> Tensor:
    """Extend (N, C, H, W) at the right and bottom to multiples of `multiple`, mirroring with the edge pixel repeated.

    An image smaller than its padding is mirrored back and forth, so that every size from 1x1 up works.
    """
    for axis in (2, 3):
        size = image.shape[axis]
        padding = -size % multiple
        if padding:
            index = torch.arange(size + padding, device=image.device) % (2 * size)
            image = image.index_select(axis, torch.minimum(index, 2 * size - 1 - index))
    return image


def window_partition(x: Tensor, window_size: int) -> Tensor:
    """Cut (N, H, W, C) into windows: (N * H/M * W/M, M, M, C).

    Contiguous: of a single row of windows, reshape alone makes a view that is slow to work on.
    """
    n, h, w, c = x.shape
    x = x.view(n, h // window_size, window_size, w // window_size, window_size, c)
    return x.transpose(2, 3).reshape(-1, window_size, window_size, c).contiguous()


def window_reverse(windows: Tensor, h: int, w: int) -> Tensor:
    """Inverse of `window_partition`: (N * H/M * W/M, M, M, C) -> (N, H, W, C)."""
    _, window_size, _, c = windows.shape
    x = windows.view(-1, h // window_size, w // window_size, window_size, window_size, c)
    return x.transpose(2, 3).reshape(-1, h, w, c).contiguous()


def relative_position_index(window_size: int) -> Tensor:
    """For every pair of tokens of a window the row of the bias table that holds their offset: (M^2, M^2) int64."""
    axis = torch.arange(window_size)
    offset = axis[:, None] - axis[None, :] + window_size - 1  # (M, M), 0 .. 2M-2
    rows = offset[:, None, :, None] * (2 * window_size - 1) + offset[None, :, None, :]
    return rows.reshape(window_size**2, window_size**2)


def l2_norm(x: Tensor, axis: int) -> Tensor:
    """L2 norm along an axis, kept as size 1; at least 1e-12, to divide by."""
    return torch.linalg.vector_norm(x, dim=axis, keepdim=True).clamp(min=1e-12)


def require(ok: bool, option: str, value: object, allowed: str) -> None:
    """Raise a ValueError that names an option of a network and what is allowed, unless it is right."""
    if not ok:
        raise ValueError(f'{option} is {value}; it must be {allowed}')
