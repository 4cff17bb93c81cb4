"""DaViT-core and DaViT-full: RAMiT with the blocks of DaViT, which the paper compares it with in Tab. A.

Their blocks hold spatial and channel attention in turn instead of both side by side. The options are RAMiT's, of which
`chsa_head_ratio` and `reciprocal_helper` have no effect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from ramit_arch.archs.layers import (
    DepthwiseConv,
    FeedForward,
    PointwiseConv,
    drop_path,
    layer_norm,
    window_partition,
    window_reverse,
)
from ramit_arch.archs.ramit_arch import DRAMiTBlock, Helper, MobiVari, RAMiT


class DotProductAttention(nn.Module):
    """Scaled dot-product attention among the tokens of a window, or among the channels of a head (Tab. Aa)."""

    def __init__(self, dim: int, heads: int, spatial: bool, attn_drop: float, proj_drop: float) -> None:
        super().__init__()
        self.heads = heads
        self.spatial = spatial
        self.attn_drop = attn_drop
        self.proj = PointwiseConv(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, qkv: Tensor) -> Tensor:
        """(B, H, W, 3C) -> (B, H, W, C); for spatial attention, windows."""
        b, h, w, c = qkv.shape
        q, k, v = qkv.reshape(b, h * w, self.heads, 3, -1).permute(3, 0, 2, 1, 4)  # each (B, heads, HW, D)
        scale = q.shape[-1] ** -0.5
        if not self.spatial:
            q, k, v = (x.transpose(-2, -1) for x in (q, k, v))
        attention = (q @ k.transpose(-2, -1) * scale).softmax(dim=-1)
        out = F.dropout(attention, self.attn_drop, self.training) @ v
        out = out.transpose(1, 2) if self.spatial else out.permute(0, 3, 1, 2)
        return self.proj_drop(self.proj(out.reshape(b, h, w, c // 3)))


class DaViTBlock(nn.Module):
    """The block of DaViT-full: one kind of attention, pre-normalised, positions encoded by convolutions.

    Each convolution is added to what goes into the attention and into the feed-forward network; with two of them a
    block the parameters are the published 983K at x2.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        spatial: bool,
        window_size: int,
        hidden_ratio: float,
        qkv_bias: bool,
        mobivari: Callable[[int, int], MobiVari],
        attn_drop: float,
        proj_drop: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.drop_path_rate = drop_path_rate
        self.position1, self.position2 = DepthwiseConv(dim), DepthwiseConv(dim)
        self.norm1, self.norm2 = layer_norm(dim), layer_norm(dim)
        self.qkv_proj = PointwiseConv(dim, 3 * dim, bias=qkv_bias)
        self.attn = DotProductAttention(dim, heads, spatial, attn_drop, proj_drop)
        self.mobivari = mobivari(dim, dim)
        self.ffn = FeedForward(dim, hidden_ratio)

    def attend(self, x: Tensor) -> Tensor:
        if not self.attn.spatial:
            return self.attn(self.qkv_proj(x))
        _, h, w, _ = x.shape
        return window_reverse(self.attn(self.qkv_proj(window_partition(x, self.window_size))), h, w)

    def forward(self, x: Tensor, helper: Helper | None = None) -> tuple[Tensor, Tensor, Helper | None]:
        """x (N, H, W, C) -> the block's output, its mixed attention for H-RAMi, no helper."""
        x = x + self.position1(x)
        mixed = self.mobivari(self.attend(self.norm1(x)))
        x = x + drop_path(mixed, self.drop_path_rate, self.training)
        x = x + self.position2(x)
        return x + drop_path(self.ffn(self.norm2(x)), self.drop_path_rate, self.training), mixed, None


@ARCH_REGISTRY.register()
class DaViTCore(RAMiT):
    """RAMiT with pure spatial and pure channel D-RAMiT blocks in turn; every second spatial one shifts its windows."""

    def make_block(self, index: int, heads: int, chsa_head_ratio: float, **options: Any) -> nn.Module:
        channel = 0 if index % 2 == 0 else heads
        return DRAMiTBlock(spatial_heads=heads - channel, channel_heads=channel, shifted=index % 4 == 2, **options)


@ARCH_REGISTRY.register()
class DaViTFull(RAMiT):
    """RAMiT with the blocks of DaViT in full: no shift, dot product, pre-normalised, positions by convolutions."""

    def make_block(self, index: int, heads: int, chsa_head_ratio: float, **options: Any) -> nn.Module:
        del options['reciprocal_helper']
        return DaViTBlock(heads=heads, spatial=index % 2 == 0, **options)
