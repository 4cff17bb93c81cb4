"""RAMiT: Reciprocal Attention Mixing Transformer for Lightweight Image Restoration.

Haram Choi, Cheolwoong Na, Jihyeon Oh, Seungjae Lee, Jinseo Jeongmin Lee, Taehoon Kim, Jihoon Yang, Jinseop Kim,
Subeen Choe. The parts follow the paper's Fig. 2 from left to right; section and table numbers below are the paper's.

Between the shallow module and the reconstruction module every feature map is token-major, (N, H, W, C): 1x1
convolutions and layer norms then act on the last, contiguous axis, and a 3x3 convolution sees the same memory as a
channels-last image. What needs no more than a few rows of a map is computed band by band (`in_bands`) where no gradient
is wanted. Parameter names and shapes are those of the published checkpoints.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {  # Tab. 4c; the paper's choice first
    'leaky_relu': partial(nn.LeakyReLU, inplace=True),
    'relu6': partial(nn.ReLU6, inplace=True),
    'relu': partial(nn.ReLU, inplace=True),
    'gelu': nn.GELU,
    'silu': nn.SiLU,
}
BLOCKS = ('d_ramit', 'davit_core', 'davit_full')  # the paper's, and those it is compared with in Tab. A
MAX_LOGIT_SCALE = math.log(1 / 0.01)  # tau stays above 0.01 (Sec. 3.2)
DOWNSIZINGS = 2  # stages 2 and 3 work at 1/2 and 1/4 of the resolution
BAND = 8192  # pixels that `in_bands` takes at once: maps of C to 3C channels then fit into a processor's cache


# ------------------------------------------------------------------------------------------------ common parts


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
    """3x3 depth-wise convolution of a token-major map: (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def layer_norm(dim: int) -> nn.Sequential:
    """LayerNorm over the last axis, under the name the checkpoints give it (`norm1.norm.weight`)."""
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


def in_bands(
    function: Callable[..., Tensor],
    *maps: Tensor,
    training: bool,
    multiple: int = 1,
    halo: int = 0,
    shift: int = 0,
) -> Tensor:
    """`function(*maps)` of token-major maps, computed from bands of rows.

    What the function holds in between then stays in the processor's cache and never needs memory for a whole map. In
    training, with gradients, in a graph that is compiled, and on a GPU, all rows are one band.

    Args:
        function: makes (N, H, W, any) of maps (N, H, W, any), for any H that is a multiple of what it asks for.
        training: whether the function may draw random numbers, which are for whole maps.
        multiple: rows of which bands are made.
        halo: rows above and below that the function looks at for a pixel; it may pad with zeros at the maps' borders.
        shift: the function sees the maps rolled up and left by this, and its result is rolled back; without halo.
    """
    n, h, w, _ = maps[0].shape
    rows = max(BAND // (n * w * multiple), 1) * multiple
    eager = not (training or torch.is_grad_enabled() or torch.compiler.is_compiling())
    if rows >= h or not eager or maps[0].device.type != 'cpu':
        if not shift:
            return function(*maps)
        rolled = function(*(x.roll((-shift, -shift), (1, 2)) for x in maps))
        return rolled.roll((shift, shift), (1, 2))
    whole: Tensor | None = None
    for top in range(shift, h + shift, rows):
        bottom, above = min(top + rows, h + shift), max(top - halo, 0)
        bands = [x[:, above : bottom + halo] for x in maps]
        if shift:
            if bottom > h:  # around the border
                bands = [torch.cat([band, x[:, : bottom - h]], 1) for band, x in zip(bands, maps, strict=True)]
            part = function(*(band.roll(-shift, 2) for band in bands)).roll(shift, 2)
        else:
            part = function(*bands)[:, top - above : bottom - above]
        if whole is None:
            whole = part.new_empty(n, h, w, part.shape[-1])
        whole[:, top:bottom] = part[:, : h - top]
        if bottom > h:
            whole[:, : bottom - h] = part[:, h - top :]
    assert whole is not None
    return whole


class MobiVari(nn.Module):
    """MobileNet variant (Appendix A.1, Fig. A): (N, H, W, in_dim) -> (N, H, W, out_dim).

    Version 2 expands the channels by a group convolution first. Version 1, of the published RAMiT-1 checkpoints, does
    not, and activates after the point-wise convolution instead of before it.
    """

    def __init__(
        self, in_dim: int, out_dim: int, version: int, activation: str, exp_factor: float, groups: int
    ) -> None:
        super().__init__()
        self.version = version
        self.skip = in_dim == out_dim
        width = in_dim
        if version == 2:
            width = int(in_dim * exp_factor)
            width += groups - width % groups  # a full group is added even when it divides: 64 * 1.2 -> 76 -> 80
            self.exp_conv = nn.Conv2d(in_dim, width, 1, groups=groups)
        self.dw_conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.pw_conv = nn.Conv2d(width, out_dim, 1)
        self.act = ACTIVATIONS[activation]()

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps whose channels follow each other, `in_dim` of them in total."""
        # Of fewer rows the two of the halo, computed twice, would be too large a share.
        return in_bands(self.mix, *maps, training=self.training, multiple=16, halo=1)

    def mix(self, *maps: Tensor) -> Tensor:
        x = (torch.cat(maps, -1) if len(maps) > 1 else maps[0]).permute(0, 3, 1, 2)
        if self.version == 2:
            wide = self.act(self.exp_conv(x))
            out = self.pw_conv(self.act(self.dw_conv(wide) + wide))
        else:
            out = self.act(self.pw_conv(self.act(self.dw_conv(x)) + x))
        return (out + x if self.skip else out).permute(0, 2, 3, 1)


# ------------------------------------------------------------------------------- D-RAMiT block (Sec. 3.2, Fig. 2b, 3b)


def relative_position_index(window_size: int) -> Tensor:
    """For every pair of tokens of a window the row of the bias table that holds their offset: (M^2, M^2) int64."""
    axis = torch.arange(window_size)
    offset = axis[:, None] - axis[None, :] + window_size - 1  # (M, M), 0 .. 2M-2
    rows = offset[:, None, :, None] * (2 * window_size - 1) + offset[None, :, None, :]
    return rows.reshape(window_size**2, window_size**2)


def partition(x: Tensor, window_size: int) -> Tensor:
    """Cut (N, H, W, C) into windows: (N * H/M * W/M, M, M, C).

    Contiguous: of a single row of windows, reshape alone makes a view that is slow to work on.
    """
    n, h, w, c = x.shape
    x = x.view(n, h // window_size, window_size, w // window_size, window_size, c)
    return x.transpose(2, 3).reshape(-1, window_size, window_size, c).contiguous()


def merge(windows: Tensor, h: int, w: int) -> Tensor:
    """Inverse of `partition`: (N * H/M * W/M, M, M, C) -> (N, H, W, C)."""
    _, window_size, _, c = windows.shape
    x = windows.view(-1, h // window_size, w // window_size, window_size, window_size, c)
    return x.transpose(2, 3).reshape(-1, h, w, c).contiguous()


def length(x: Tensor, axis: int) -> Tensor:
    """Euclidean norm along an axis, which stays as one of size 1; not zero, to divide by."""
    return torch.linalg.vector_norm(x, dim=axis, keepdim=True).clamp(min=1e-12)


class MultiHeadAttention(nn.Module, ABC):
    """What both attentions share: a learnable 1/tau a head and the projection (Eqs. 2 and 3).

    With `cosine` off it is the scaled dot product of DaViT (Tab. Aa).
    """

    def __init__(self, heads: int, head_dim: int, attn_drop: float, proj_drop: float, cosine: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.cosine = cosine
        if cosine:
            self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.attn_drop = attn_drop
        self.proj = PointwiseConv(heads * head_dim, heads * head_dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def scale(self) -> Tensor:
        """1/tau, (heads, 1, 1)."""
        return self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()

    @abstractmethod
    def attend(self, qkv: Tensor, helper: Tensor | None) -> Tensor:
        """All heads side by side, before the projection."""

    def forward(self, qkv: Tensor, helper: Tensor | None) -> Tensor:
        """The shapes of `attend`."""
        return self.proj_drop(self.proj(self.attend(qkv, helper)))


class SpatialAttention(MultiHeadAttention):
    """SPSA: window attention with scaled cosine and relative position bias, without attention mask (Eq. 3)."""

    def __init__(
        self, heads: int, head_dim: int, window_size: int, attn_drop: float, proj_drop: float, cosine: bool = True
    ) -> None:
        super().__init__(heads, head_dim, attn_drop, proj_drop, cosine)
        self.window_size = window_size
        if cosine:
            self.relative_position_index: Tensor
            self.register_buffer('relative_position_index', relative_position_index(window_size))
            self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, heads))

    def bias(self) -> Tensor:
        """(1, heads, M^2, M^2); contiguous and with four axes, as the fused kernel for CPUs wants it."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1).contiguous()[None]

    def attend(self, qkv: Tensor, helper: Tensor | None) -> Tensor:
        """Windows qkv (B, M, M, heads * 3 * D), helper (B, M, M, D) or none -> (B, M, M, heads * D)."""
        m = self.window_size
        qkv = qkv.reshape(-1, m * m, self.heads, 3, self.head_dim)
        qk, v = qkv[..., :2, :], qkv[..., 2, :]  # (B, M^2, heads, 2, D) and (B, M^2, heads, D)
        if helper is not None:
            v = v * helper.reshape(-1, m * m, 1, self.head_dim)
        bias, scale = None, self.head_dim**-0.5
        if self.cosine:  # unit vectors, those of q times 1/tau
            tau = 1 / self.scale()
            qk = (qk / (length(qk, -1) * torch.cat([tau, torch.ones_like(tau)], 1))).to(qk.dtype)
            bias, scale = self.bias().to(qk.dtype), 1.0
        q, k = qk.transpose(1, 2).unbind(3)  # each (B, heads, M^2, D)
        v = v.transpose(1, 2)
        dropout = self.attn_drop if self.training else 0.0
        # On a CPU the fused kernel has no gradient of the bias, and in bfloat16 it is the slower one.
        if q.is_cuda or (q.dtype != torch.bfloat16 and not torch.is_grad_enabled()):
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)
        else:
            scores = q @ k.transpose(-2, -1)
            scores = scores * scale if bias is None else scores.add_(bias)
            out = F.dropout(scores.softmax(-1), dropout) @ v
        return out.transpose(1, 2).reshape(-1, m, m, self.heads * self.head_dim)


class ChannelAttention(MultiHeadAttention):
    """CHSA: transposed attention, every channel of a head attends to the others over the whole image (Eq. 3)."""

    def attend(self, qkv: Tensor, helper: Tensor | None) -> Tensor:
        """qkv (N, H, W, heads * 3 * D), helper (N, H, W, 1) or none -> (N, H, W, heads * D)."""
        n, h, w, _ = qkv.shape
        q, k, v = qkv.reshape(n, h * w, self.heads, 3, self.head_dim).permute(3, 0, 2, 1, 4)  # each (N, heads, HW, D)
        if helper is not None:
            v = v * helper.reshape(n, 1, h * w, 1)
        scale: Tensor | float = self.head_dim**-0.5
        if self.cosine:
            scale = self.scale() / (length(q, -2).transpose(-2, -1) * length(k, -2))
        attention = (q.transpose(-2, -1) @ k * scale).softmax(dim=-1)  # (N, heads, D, D)
        out = v @ F.dropout(attention, self.attn_drop, self.training).to(v.dtype).transpose(-2, -1)
        return out.transpose(1, 2).reshape(n, h, w, -1)


class FeedForward(nn.Module):
    """Two point-wise layers with GELU between them (Tab. H)."""

    def __init__(self, dim: int, hidden_ratio: float) -> None:
        super().__init__()
        width = int(dim * hidden_ratio)
        self.hidden = PointwiseConv(dim, width)
        self.out = PointwiseConv(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.hidden(x)))


Helper = tuple[Tensor, Tensor]  # of the previous block: CHSA averaged over its heads, SPSA averaged over its channels


class DRAMiTBlock(nn.Module):
    """Dimensional reciprocal attention mixing Transformer block (Fig. 2b), post-normalised."""

    def __init__(
        self,
        dim: int,
        spatial_heads: int,
        channel_heads: int,
        window_size: int,
        shifted: bool,
        hidden_ratio: float,
        qkv_bias: bool,
        mobivari: Callable[[int, int], MobiVari],
        reciprocal_helper: bool,
        attn_drop: float,
        proj_drop: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim = dim // (spatial_heads + channel_heads)
        self.spatial, self.channel = slice(3 * spatial_heads * head_dim), slice(3 * spatial_heads * head_dim, None)
        self.window_size = window_size
        self.shift = window_size // 2 if shifted else 0
        self.drop_path_rate = drop_path_rate
        self.helps = reciprocal_helper and spatial_heads > 0 and channel_heads > 0

        self.qkv_proj = nn.Sequential(OrderedDict(qkv=PointwiseConv(dim, 3 * dim, bias=qkv_bias)))
        self.sp_attn = self.ch_attn = None
        if spatial_heads:
            self.sp_attn = SpatialAttention(spatial_heads, head_dim, window_size, attn_drop, proj_drop)
        if channel_heads:
            self.ch_attn = ChannelAttention(channel_heads, head_dim, attn_drop, proj_drop)
        self.mobivari = mobivari(dim, dim)
        self.norm1 = layer_norm(dim)
        self.ffn = FeedForward(dim, hidden_ratio)
        self.norm2 = layer_norm(dim)

    def attend(self, x: Tensor, helper: Helper | None) -> tuple[list[Tensor], Helper | None]:
        """Both attentions (Eq. 2) of (N, H, W, C), C channels together, and what they tell the next block."""
        to_spatial, to_channel = helper if helper and self.helps else (None, None)
        attentions = []
        if self.sp_attn is not None:
            maps = [x] if to_spatial is None else [x, to_spatial]
            windows = {'multiple': self.window_size, 'shift': self.shift}
            attentions.append(in_bands(self.attend_windows, *maps, training=self.training, **windows))
        if self.ch_attn is not None:
            attentions.append(self.ch_attn(self.qkv_proj[0](x, self.channel), to_channel))
        if not self.helps:
            return attentions, None
        spatial, channel = attentions
        over_heads = channel.unflatten(-1, (-1, self.head_dim)).mean(-2)  # (N, H, W, D)
        return attentions, (over_heads, spatial.mean(-1, keepdim=True))

    def attend_windows(self, x: Tensor, helper: Tensor | None = None) -> Tensor:
        """SPSA of x (N, H, W, C), helper (N, H, W, D) or none -> (N, H, W, spatial heads * D)."""
        assert self.sp_attn is not None
        _, h, w, _ = x.shape
        qkv = self.qkv_proj[0](partition(x, self.window_size), self.spatial)
        return merge(self.sp_attn(qkv, None if helper is None else partition(helper, self.window_size)), h, w)

    def feed_forward(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Both residual additions: x and its mixed attention (N, H, W, C) -> the block's output."""
        x = x + drop_path(self.norm1(mixed), self.drop_path_rate, self.training)
        return x + drop_path(self.norm2(self.ffn(x)), self.drop_path_rate, self.training)

    def forward(self, x: Tensor, helper: Helper | None = None) -> tuple[Tensor, Tensor, Helper | None]:
        """x (N, H, W, C) -> the block's output, its mixed attention for H-RAMi, the helper of the next block."""
        attentions, helper = self.attend(x, helper)
        mixed = self.mobivari(*attentions)  # Eq. 1
        return in_bands(self.feed_forward, x, mixed, training=self.training), mixed, helper


class DaViTBlock(nn.Module):
    """The block of DaViT-full (Tab. A): one kind of attention, pre-normalised, positions encoded by convolutions.

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
        self.attn: MultiHeadAttention
        if spatial:
            self.attn = SpatialAttention(heads, dim // heads, window_size, attn_drop, proj_drop, cosine=False)
        else:
            self.attn = ChannelAttention(heads, dim // heads, attn_drop, proj_drop, cosine=False)
        self.mobivari = mobivari(dim, dim)
        self.ffn = FeedForward(dim, hidden_ratio)

    def attend(self, x: Tensor) -> Tensor:
        if isinstance(self.attn, ChannelAttention):
            return self.attn(self.qkv_proj(x), None)
        _, h, w, _ = x.shape
        return merge(self.attn(self.qkv_proj(partition(x, self.window_size)), None), h, w)

    def forward(self, x: Tensor, helper: Helper | None = None) -> tuple[Tensor, Tensor, Helper | None]:
        """x (N, H, W, C) -> the block's output, its mixed attention for H-RAMi, no helper."""
        x = x + self.position1(x)
        mixed = self.mobivari(self.attend(self.norm1(x)))
        x = x + drop_path(mixed, self.drop_path_rate, self.training)
        x = x + self.position2(x)
        return x + drop_path(self.ffn(self.norm2(x)), self.drop_path_rate, self.training), mixed, None


class Stage(nn.Module):
    """Blocks in a row. With `checkpointing` set, a backward pass computes what is inside them again."""

    def __init__(self, blocks: Sequence[DRAMiTBlock | DaViTBlock]) -> None:
        super().__init__()
        self.checkpointing = False
        self.blocks = nn.ModuleDict({f'block{i}': block for i, block in enumerate(blocks)})

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, H, W, C) -> the stage's output and the mixed attention of its last block."""
        helper: Helper | None = None
        mixed = x
        for block in self.blocks.values():
            if self.checkpointing and torch.is_grad_enabled():
                x, mixed, helper = checkpoint(block, x, helper, use_reentrant=False)
            else:
                x, mixed, helper = block(x, helper)
        return x, mixed


# --------------------------------------------------------------------------- around the stages (Fig. 2a, 2c, 2d)


class ShallowModule(nn.Module):
    """3x3 convolution into the token-major features: (N, in_chans, H, W) -> (N, H, W, C)."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, dim, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1).contiguous()


class Downsizing(nn.Module):
    """Patch merging with MobiVari instead of a linear layer (Sec. 3.1): (N, H, W, C) -> (N, H/2, W/2, C)."""

    def __init__(self, dim: int, mobivari: Callable[[int, int], MobiVari]) -> None:
        super().__init__()
        self.norm = layer_norm(4 * dim)
        self.reduction = mobivari(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        patches = x.view(n, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(n, h // 2, w // 2, 4 * c)
        return self.reduction(self.norm(patches))


class Bottleneck(nn.Module):
    """The SCDP bottleneck of NGswin with MobiVari (Fig. 2d): all encoder outputs, at full size -> (N, H, W, C)."""

    def __init__(self, dim: int, mobivari: Callable[[int, int], MobiVari]) -> None:
        super().__init__()
        self.mobivari = mobivari(mixed_width(dim), dim)
        self.norm = layer_norm(dim)

    def forward(self, shallow: Tensor, encoded: Sequence[Tensor]) -> Tensor:
        scales = []
        pooled = shallow.permute(0, 3, 1, 2)
        for i, x in enumerate(encoded):
            if i > 0:
                pooled = F.max_pool2d(pooled, 2)
            scales.append(pixel_shuffle(x + F.leaky_relu(pooled).permute(0, 2, 3, 1), 2**i))
        return self.norm(self.mobivari(*scales))


class HRAMi(nn.Module):
    """Hierarchical reciprocal attention mixer (Sec. 3.3, Fig. 2c): the four stages' attentions -> (N, H, W, C)."""

    def __init__(self, dim: int, mobivari: Callable[[int, int], MobiVari]) -> None:
        super().__init__()
        self.mobivari = mobivari(mixed_width(dim) + dim, dim)

    def forward(self, encoder_attentions: Sequence[Tensor], last_attention: Tensor) -> Tensor:
        upsampled = [pixel_shuffle(x, 2**i) for i, x in enumerate(encoder_attentions)]
        return self.mobivari(*upsampled, last_attention)


class Reconstruction(nn.Module):
    """Reconstruction module (Appendix A.1, Fig. Ba): (N, H, W, C) -> (N, out_chans, H * upscale, W * upscale)."""

    def __init__(
        self, dim: int, out_chans: int, upscale: int, depth: int, mobivari: Callable[[int, int], MobiVari]
    ) -> None:
        super().__init__()
        self.upscale = upscale
        self.mobivari = nn.Sequential(OrderedDict((f'mobivari{i}', mobivari(dim, dim)) for i in range(depth)))
        self.conv = nn.Conv2d(dim, out_chans * upscale**2, 3, padding=1)
        self.final_conv = nn.Conv2d(out_chans, out_chans, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.mobivari(x).permute(0, 3, 1, 2))
        return self.final_conv(F.pixel_shuffle(x, self.upscale))


def mixed_width(dim: int) -> int:
    """Channels of the three encoder scales after pixel shuffling: C + C/4 + C/16."""
    return sum(dim // 4**i for i in range(DOWNSIZINGS + 1))


# ---------------------------------------------------------------------------------------------------- the network


@ARCH_REGISTRY.register()
class RAMiT(nn.Module):
    """Reciprocal Attention Mixing Transformer (Fig. 2a, Tab. H).

    Args:
        upscale: factor r of super-resolution; 1 keeps the size and adds the input back (denoising and the like).
        in_chans: channels of input and output, 3 for RGB and 1 for gray.
        dim: channels C of the features, a multiple of 16.
        depths: D-RAMiT blocks in stages 1 to 4.
        num_heads: heads L in stages 1 to 4; each divides `dim`.
        block: d_ramit, both attentions side by side in every block; or the two of Tab. A, whose blocks hold spatial and
            channel attention in turn: davit_core, else as d_ramit, and davit_full, see `DaViTBlock`. With these two
            `chsa_head_ratio` and `reciprocal_helper` have no effect.
        chsa_head_ratio: share of channel heads, int(L * ratio) of L; 0 is spatial attention only, 1 channel only.
        window_size: side M of the attention windows, even.
        hidden_ratio: width of the feed-forward network in units of `dim`.
        qkv_bias: whether query, key and value have a bias.
        mobivari_version: 2, or 1 for the published RAMiT-1 checkpoints.
        mobivari_act: leaky_relu, relu6, relu, gelu or silu (Tab. 4c).
        exp_factor: expansion of a MobiVari (version 2).
        expand_groups: groups of its expanding convolution (version 2).
        mixer_exp_factor: the same in bottleneck and H-RAMi; None takes `exp_factor` (Appendix A.6).
        mixer_expand_groups: the same in bottleneck and H-RAMi; None takes `expand_groups`.
        reciprocal_helper: whether the attentions of a block weight the values of the next one (Tabs. 4b and B).
        hrami: whether H-RAMi weights the output of stage 4 (Tab. 4a).
        tail_mobivari: MobiVari layers in the reconstruction module (Fig. Ba).
        attn_drop: dropout rate of the attention maps.
        proj_drop: dropout rate after the projection of the attentions.
        drop_path: stochastic depth rate of the last block; it grows linearly from 0 in the first.
        img_mean, img_std: statistics of the training images by channel, of values in [0, 1] (Appendix B).

    Raises:
        ValueError: an option is out of its range or contradicts another; names the option and what is allowed.
    """

    def __init__(
        self,
        upscale: int = 2,
        in_chans: int = 3,
        dim: int = 64,
        depths: Sequence[int] = (6, 4, 4, 6),
        num_heads: Sequence[int] = (4, 4, 4, 4),
        block: str = 'd_ramit',
        chsa_head_ratio: float = 0.25,
        window_size: int = 8,
        hidden_ratio: float = 2.0,
        qkv_bias: bool = True,
        mobivari_version: int = 2,
        mobivari_act: str = 'leaky_relu',
        exp_factor: float = 1.2,
        expand_groups: int = 4,
        mixer_exp_factor: float | None = None,
        mixer_expand_groups: int | None = None,
        reciprocal_helper: bool = True,
        hrami: bool = True,
        tail_mobivari: int = 2,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        drop_path: float = 0.0,
        img_mean: Sequence[float] = (0.4485, 0.4375, 0.4045),
        img_std: Sequence[float] = (0.2397, 0.2290, 0.2389),
    ) -> None:
        options = {k: v for k, v in locals().items() if k not in ('self', '__class__')}
        check_options(options)
        super().__init__()
        self.upscale = upscale
        self.in_chans = in_chans
        self.multiple = window_size * 2**DOWNSIZINGS
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer('mean', torch.tensor(img_mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(img_std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

        make = partial(MobiVari, version=mobivari_version, activation=mobivari_act)
        mobivari = partial(make, exp_factor=exp_factor, groups=expand_groups)
        mixer = partial(
            make,
            exp_factor=exp_factor if mixer_exp_factor is None else mixer_exp_factor,
            groups=expand_groups if mixer_expand_groups is None else mixer_expand_groups,
        )
        rates = iter([drop_path * i / max(1, sum(depths) - 1) for i in range(sum(depths))])
        common: dict[str, Any] = {
            'dim': dim, 'window_size': window_size, 'hidden_ratio': hidden_ratio, 'qkv_bias': qkv_bias,
            'mobivari': mobivari, 'attn_drop': attn_drop, 'proj_drop': proj_drop,
        }  # fmt: skip
        d_ramit = partial(DRAMiTBlock, **common, reciprocal_helper=reciprocal_helper)

        def make_block(i: int, heads: int) -> DRAMiTBlock | DaViTBlock:
            rate, spatial = next(rates), i % 2 == 0
            if block == 'davit_full':
                return DaViTBlock(heads=heads, spatial=spatial, drop_path_rate=rate, **common)
            if block == 'davit_core':  # every second spatial block shifts its windows
                channel, shifted = 0 if spatial else heads, i % 4 == 2
            else:
                channel, shifted = int(heads * chsa_head_ratio), i % 2 == 1
            return d_ramit(spatial_heads=heads - channel, channel_heads=channel, shifted=shifted, drop_path_rate=rate)

        stages = [
            Stage([make_block(i, heads) for i in range(depth)]) for depth, heads in zip(depths, num_heads, strict=True)
        ]

        self.shallow = ShallowModule(in_chans, dim)
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.down1, self.down2 = Downsizing(dim, mobivari), Downsizing(dim, mobivari)
        self.bottleneck = Bottleneck(dim, mixer)
        self.attn_mix = HRAMi(dim, mixer) if hrami else None
        self.to_target = Reconstruction(dim, in_chans, upscale, tail_mobivari, mobivari)

    def forward_features(self, image: Tensor) -> Tensor:
        """Normalised image (N, C, H, W), H and W multiples of `self.multiple` -> features (N, H, W, dim)."""
        shallow = self.shallow(image)
        x1, attention1 = self.stage1(shallow)
        x2, attention2 = self.stage2(self.down1(x1))  # (N, H/2, W/2, dim)
        x3, attention3 = self.stage3(self.down2(x2))  # (N, H/4, W/4, dim)
        x4, attention4 = self.stage4(self.bottleneck(shallow, (x1, x2, x3)))  # (N, H, W, dim)
        if self.attn_mix is not None:
            x4 = x4 * self.attn_mix((attention1, attention2, attention3), attention4)
        return x4 + shallow

    def forward(self, image: Tensor) -> Tensor:
        """Restore images.

        Args:
            image: (N, in_chans, H, W), RGB or gray, values in [0, 1], any H and W from 1 up.

        Returns:
            (N, in_chans, H * upscale, W * upscale), about [0, 1], not clipped.

        Raises:
            ValueError: the image has another number of channels.
        """
        if image.shape[1] != self.in_chans:
            raise ValueError(f'the image has {image.shape[1]} channels; in_chans is {self.in_chans}')
        h, w = image.shape[-2:]
        padded = symmetric_pad((image - self.mean) / self.std, self.multiple)
        out = self.to_target(self.forward_features(padded))
        if self.upscale == 1:
            out = out + padded
        return (out * self.std + self.mean)[..., : h * self.upscale, : w * self.upscale]


def check_options(o: dict) -> None:
    """Check the options of `RAMiT`.

    Raises:
        ValueError: names the first wrong option, its value and what is allowed.
    """

    def require(ok: bool, key: str, allowed: str) -> None:
        if not ok:
            raise ValueError(f'{key} is {o[key]!r}; it must be {allowed}')

    def integer(value: object, least: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    def number(value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

    for key, least in [('upscale', 1), ('dim', 16), ('window_size', 2), ('tail_mobivari', 0), ('expand_groups', 1)]:
        require(integer(o[key], least), key, f'an integer from {least} up')
    require(integer(o['in_chans'], 1) and o['in_chans'] in (1, 3), 'in_chans', '3 (RGB) or 1 (gray)')
    require(o['dim'] % 16 == 0, 'dim', 'a multiple of 16 (bottleneck and H-RAMi use dim/4 and dim/16 channels)')
    require(o['window_size'] % 2 == 0, 'window_size', 'even (windows are shifted by half their side)')
    for key in ('depths', 'num_heads'):
        ok = isinstance(o[key], (list, tuple)) and len(o[key]) == 4 and all(integer(v, 1) for v in o[key])
        require(ok, key, 'four integers from 1 up, one a stage')
    require(number(o['chsa_head_ratio']) and 0 <= o['chsa_head_ratio'] <= 1, 'chsa_head_ratio', 'within [0, 1]')
    require(number(o['hidden_ratio']) and o['hidden_ratio'] > 0, 'hidden_ratio', 'positive')
    for key in ('qkv_bias', 'reciprocal_helper', 'hrami'):
        require(isinstance(o[key], bool), key, 'true or false')
    require(o['block'] in BLOCKS, 'block', f'one of {", ".join(BLOCKS)}')
    require(integer(o['mobivari_version'], 1) and o['mobivari_version'] in (1, 2), 'mobivari_version', '1 or 2')
    require(o['mobivari_act'] in ACTIVATIONS, 'mobivari_act', f'one of {", ".join(ACTIVATIONS)}')
    require(number(o['exp_factor']) and o['exp_factor'] > 0, 'exp_factor', 'a positive number')
    factor, groups = o['mixer_exp_factor'], o['mixer_expand_groups']
    require(factor is None or (number(factor) and factor > 0), 'mixer_exp_factor', 'a positive number')
    require(groups is None or integer(groups, 1), 'mixer_expand_groups', 'an integer from 1 up')
    for key in ('attn_drop', 'proj_drop', 'drop_path'):
        require(number(o[key]) and 0 <= o[key] < 1, key, 'within [0, 1)')
    for key in ('img_mean', 'img_std'):
        require(isinstance(o[key], (list, tuple)) and all(map(number, o[key])), key, 'numbers, one a channel')
    require(all(v > 0 for v in o['img_std']), 'img_std', 'positive')
    for key, allowed, _ in contradictions(o):
        require(False, key, allowed)


def contradictions(o: dict) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """What does not go together in options of `RAMiT` that are right each by itself.

    Yields:
        The option, what it must be, and the other options on which that depends.
    """
    if any(o['dim'] % heads for heads in o['num_heads']):
        yield 'num_heads', f'four divisors of dim, which is {o["dim"]}', ('dim',)
    if int(o['dim'] * o['hidden_ratio']) < 1:
        yield 'hidden_ratio', f'at least 1/dim, and dim is {o["dim"]}', ('dim',)
    for key, width in [('expand_groups', o['dim']), ('mixer_expand_groups', mixed_width(o['dim']))]:
        groups = o['expand_groups'] if o[key] is None else o[key]
        told = o[key] is None and o['dim'] % groups  # of expand_groups
        if o['mobivari_version'] == 2 and (width % groups or o['dim'] % groups) and not told:
            widths = f'dim, {o["dim"]}' if width == o['dim'] else f'both dim, {o["dim"]}, and {width}'
            default = f' (unset, it is expand_groups, {groups})' if o[key] is None else ''
            yield key, f'a divisor of {widths}, the widths it splits{default}', ('dim', 'expand_groups')
    for key in ('img_mean', 'img_std'):
        if len(o[key]) != o['in_chans']:
            yield key, f'a list of {o["in_chans"]}, one number a channel (in_chans)', ('in_chans',)
