"""LAformer: image restoration with rank-enhanced linear attention, in a lightweight setting of our own.

Yuang Ai, Huaibo Huang, Tao Wu, Qihang Fan, Ran He: Breaking Complexity Barriers: High-Resolution Image Restoration with
Rank Enhanced Linear Attention. Paper: https://arxiv.org/abs/2505.16157.

The blocks are those that the abstract names: linear attention enriched by a light depth-wise convolution (RELA),
channel attention, and a convolutional gated feed-forward network, without softmax, windows or shifts. The paper's
layout, widths and kernel sizes were not available to us; those here are our own, so none of its scores are claimed.
Feature maps are token-major, (N, H, W, C). Time and memory grow linearly with the number of pixels. Attention and
channel gate see the whole image, so tiles change the output a little; sums over all positions leave the range of
float16.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from ramit_arch.archs.arguments import checked
from ramit_arch.archs.image_network import MEAN, STD, Channels, ImageNetwork, Mean, Std, Upscale
from ramit_arch.archs.layers import Blocks, DepthwiseConv, PixelShuffleHead, PointwiseConv, TokenStem, require
from ramit_arch.archs.row_bands import in_bands

EPS = 1e-6


def elu_plus_one(x: Tensor) -> Tensor:
    return 1 + F.elu(x)


FEATURE_MAPS: dict[str, Callable[[Tensor], Tensor]] = {'relu': F.relu, 'elu': elu_plus_one}


class RankEnhancedLinearAttention(nn.Module):
    """RELA: Proj(phi(Q) (phi(K)^T V) / (phi(Q) sum phi(K) + eps) + DWConv(V)), head by head, over all positions.

    phi(K)^T V is a D x D matrix for each head, so the attention map alone has a rank of at most D; the convolution of
    the values raises it.
    """

    def __init__(self, dim: int, heads: int, feature_map: str, kernel_size: int) -> None:
        super().__init__()
        self.dim = dim
        self.heads = heads
        self.halo = kernel_size // 2
        self.phi = FEATURE_MAPS[feature_map]
        self.qkv = PointwiseConv(dim, 3 * dim)
        self.enhance = DepthwiseConv(dim, kernel_size)
        self.proj = PointwiseConv(dim, dim)

    def summarise(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (N, H, W, C) -> phi(K)^T V (N, heads, D, D) and sum phi(K) (N, heads, D, 1)."""
        k, v = (x.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.phi(k), v))
        return k.transpose(-2, -1) @ v, k.sum(-2).unsqueeze(-1)

    def attend(self, context: Tensor, total: Tensor, x: Tensor, v: Tensor) -> Tensor:
        """A band of x and V (N, rows, W, C), with what `summarise` makes of the whole map -> (N, rows, W, C)."""
        n, h, w, c = x.shape
        q = self.phi(self.qkv(x, slice(c)))
        q = q.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N, heads, rows * W, D)
        out = (q @ context) / (q @ total + EPS)
        return self.proj(out.transpose(1, 2).reshape(n, h, w, c) + self.enhance(v))

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C)."""
        k, v = self.qkv(x, slice(self.dim, None)).split(self.dim, -1)
        attend = partial(self.attend, *self.summarise(k, v))
        return in_bands(attend, x, v, training=self.training, halo=self.halo)


class PooledChannelAttention(nn.Module):
    """Channels weighted by a gate of their means over the image (squeeze and excitation): (N, H, W, C) -> the same."""

    def __init__(self, dim: int, reduction: int) -> None:
        super().__init__()
        width = max(dim // reduction, 1)
        self.squeeze = PointwiseConv(dim, width)
        self.excite = PointwiseConv(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2), keepdim=True)  # (N, 1, 1, C)
        return x * self.excite(F.relu(self.squeeze(mean))).sigmoid()


class GatedFeedForward(nn.Module):
    """Convolutional gated feed-forward network: Out(GELU(a) * b), a and b the halves of DWConv3x3(In(x))."""

    def __init__(self, dim: int, hidden_ratio: float) -> None:
        super().__init__()
        width = int(dim * hidden_ratio)
        self.hidden = PointwiseConv(dim, 2 * width)
        self.conv = DepthwiseConv(2 * width)
        self.out = PointwiseConv(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C)."""
        gate, value = self.conv(self.hidden(x)).chunk(2, -1)
        return self.out(F.gelu(gate) * value)


class LAformerBlock(nn.Module):
    """Pre-normalised: x + RELA + channel attention, side by side, then x + the feed-forward network."""

    def __init__(
        self, dim: int, heads: int, feature_map: str, kernel_size: int, reduction: int, hidden_ratio: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = RankEnhancedLinearAttention(dim, heads, feature_map, kernel_size)
        self.channel_attn = PooledChannelAttention(dim, reduction)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = GatedFeedForward(dim, hidden_ratio)

    def feed_forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(self.norm2(x))

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C)."""
        normalised = self.norm1(x)
        x = x + self.attn(normalised) + self.channel_attn(normalised)
        return in_bands(self.feed_forward, x, training=self.training, halo=1)


@ARCH_REGISTRY.register()
class LAformer(ImageNetwork):
    """A stack of LAformer blocks between two 3x3 convolutions, with a residual connection around it.

    Layout and sizes are our own: 0.91M parameters by default.

    Args:
        upscale: factor of super-resolution; 1 keeps the size and adds the input back (denoising and the like).
        in_chans: channels of input and output, 3 for RGB and 1 for gray.
        dim: channels C of the features.
        depth: number of blocks.
        num_heads: heads of the linear attention, a divisor of `dim`.
        feature_map: phi of the linear attention, ReLU or 1 + ELU (`elu`).
        rank_kernel: side of the depth-wise convolution of the values, odd.
        channel_reduction: `dim` divided by the width of the channel attention's hidden layer.
        hidden_ratio: width of the feed-forward network in units of `dim`, for each of gate and value.
        img_mean: mean of the training images by channel, of values in [0, 1].
        img_std: their standard deviation by channel.

    Raises:
        ValueError: an option is out of its range or contradicts another; names the option and what is allowed.
    """

    reconstruction_head = 'to_target'
    channel_axis = -1

    @checked
    def __init__(
        self,
        upscale: Upscale = 2,
        in_chans: Channels = 3,
        dim: Annotated[int, Ge(1), Le(8192)] = 64,
        depth: Annotated[int, Ge(1), Le(1000)] = 18,
        num_heads: Annotated[int, Ge(1), Le(1000)] = 4,
        feature_map: Literal['relu', 'elu'] = 'elu',
        rank_kernel: Literal[1, 3, 5, 7, 9, 11] = 5,
        channel_reduction: Annotated[int, Ge(1), Le(8192)] = 4,
        hidden_ratio: Annotated[float, Gt(0), Le(1000)] = 2.0,
        img_mean: Mean = MEAN,
        img_std: Std = STD,
    ) -> None:
        super().__init__(upscale, in_chans, 1, img_mean, img_std)
        require(dim % num_heads == 0, 'num_heads', num_heads, f'a divisor of dim, which is {dim}')
        require(int(dim * hidden_ratio) > 0, 'hidden_ratio', hidden_ratio, f'at least 1 / dim, and dim is {dim}')
        options = (dim, num_heads, feature_map, rank_kernel, channel_reduction, hidden_ratio)
        self.shallow = TokenStem(in_chans, dim)
        self.blocks = Blocks(*(LAformerBlock(*options) for _ in range(depth)))
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.to_target = PixelShuffleHead(dim, in_chans, upscale)

    def feature_maps(self) -> dict[str, tuple[str, ...]]:
        """Four blocks from the first to the last, at equal distances."""
        last = len(self.blocks) - 1
        shown = dict.fromkeys(last * i // 3 for i in range(4))
        return {f'block {i + 1}': (f'blocks.{i}',) for i in shown}

    def restore(self, image: Tensor) -> Tensor:
        shallow = self.shallow(image)
        x = self.blocks(shallow)
        x = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.to_target(x + shallow)
