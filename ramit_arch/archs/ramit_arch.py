"""RAMiT: Reciprocal Attention Mixing Transformer for Lightweight Image Restoration.

Haram Choi, Cheolwoong Na, Jihyeon Oh, Seungjae Lee, Jinseop Kim, Subeen Choe, Jeongmin Lee, Taehoon Kim, Jihoon Yang.
Paper: https://arxiv.org/abs/2305.11474. Official code: https://github.com/rami0205/RAMiT.

@article{choi2023ramit,
  title   = {Reciprocal Attention Mixing Transformer for Lightweight Image Restoration},
  author  = {Choi, Haram and Na, Cheolwoong and Oh, Jihyeon and Lee, Seungjae and Kim, Jinseop and Choe, Subeen and
             Lee, Jeongmin and Kim, Taehoon and Yang, Jihoon},
  journal = {arXiv preprint arXiv:2305.11474},
  year    = {2023}
}

The parts follow Fig. 2 from left to right; sections, equations and tables are the paper's. Between the shallow module
and the reconstruction module every feature map is token-major, (N, H, W, C): 1x1 convolutions and layer norms act on
the contiguous axis, and a 3x3 convolution sees a channels-last image. Parameter names are those of the published
checkpoints.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Len, Lt, MultipleOf
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ramit_arch.archs.arguments import checked
from ramit_arch.archs.image_network import MEAN, STD, Channels, ImageNetwork, Mean, Std, Upscale
from ramit_arch.archs.layers import (
    FeedForward,
    PointwiseConv,
    TokenStem,
    drop_path,
    l2_norm,
    layer_norm,
    pixel_shuffle,
    relative_position_index,
    require,
    window_partition,
)
from ramit_arch.archs.ramit_shapes import mixed_width, options_from, tasks_of
from ramit_arch.archs.row_bands import in_bands
from ramit_arch.archs.window_attention import available, native_window_attention, takes, window_attention

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {  # Tab. 4c; the paper's choice first
    'leaky_relu': partial(nn.LeakyReLU, inplace=True),
    'relu6': partial(nn.ReLU6, inplace=True),
    'relu': partial(nn.ReLU, inplace=True),
    'gelu': nn.GELU,
    'silu': nn.SiLU,
}
MAX_LOGIT_SCALE = math.log(1 / 0.01)  # tau stays above 0.01 (Sec. 3.2)
DOWNSIZINGS = 2  # stages 2 and 3 work at 1/2 and 1/4 of the resolution

Count = Annotated[int, Ge(1), Le(1000)]
PerStage = Annotated[Sequence[Count], Len(4, 4)]
Rate = Annotated[float, Ge(0), Lt(1)]
Factor = Annotated[float, Gt(0), Le(1000)]


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


class MultiHeadAttention(nn.Module, ABC):
    """What both attentions share: a learnable temperature tau for each head, and the projection (Eqs. 2 and 3)."""

    def __init__(self, heads: int, head_dim: int, attn_drop: float, proj_drop: float) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.attn_drop = attn_drop
        self.proj = PointwiseConv(heads * head_dim, heads * head_dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def inverse_tau(self) -> Tensor:
        """1/tau, (heads, 1, 1)."""
        return self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()

    @abstractmethod
    def attend(self, qkv: Tensor, helper: Tensor | None) -> Tensor:
        """All heads side by side, before the projection."""

    def forward(self, qkv: Tensor, helper: Tensor | None) -> Tensor:
        """Shapes as in `attend`."""
        return self.proj_drop(self.proj(self.attend(qkv, helper)))


class SpatialAttention(MultiHeadAttention):
    """SPSA: softmax(cos(Q, K) / tau + B) V in windows, without attention mask (Eq. 3)."""

    def __init__(self, heads: int, head_dim: int, window_size: int, attn_drop: float, proj_drop: float) -> None:
        super().__init__(heads, head_dim, attn_drop, proj_drop)
        self.window_size = window_size
        self.native = False
        self.relative_position_index: Tensor
        self.register_buffer('relative_position_index', relative_position_index(window_size))
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, heads))

    def bias(self) -> Tensor:
        """(heads, M^2, M^2)"""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1).contiguous()

    def attention_map(self, qkv: Tensor) -> Tensor:
        """softmax(cos(Q, K) / tau + B): qkv as in `attend` -> (N * H/M * W/M, heads, M^2, M^2), to look at."""
        q, k, _ = window_partition(qkv, self.window_size).flatten(1, 2).unflatten(-1, (self.heads, 3, -1)).unbind(-2)
        q, k = (F.normalize(x, dim=-1).transpose(1, 2) for x in (q, k))  # each (windows, heads, M^2, D)
        return (q @ k.mT * self.inverse_tau() + self.bias()).softmax(-1)

    def attend(self, qkv: Tensor, helper: Tensor | None) -> Tensor:
        """qkv (N, H, W, heads * 3 * D), helper (N, H, W, D) or none -> (N, H, W, heads * D)."""
        dropout = self.attn_drop if self.training else 0.0
        arguments = (qkv, helper, self.bias(), self.inverse_tau().flatten(), self.window_size)
        if self.native and not dropout and takes(qkv):
            return native_window_attention(*arguments)
        return window_attention(*arguments, dropout)


class ChannelAttention(MultiHeadAttention):
    """CHSA: softmax(cos(Q^T, K^T) / tau) V^T of the channels of a head, over the whole image (Eq. 3)."""

    def split(self, qkv: Tensor) -> Sequence[Tensor]:
        """Q, K and V, each (N, heads, HW, D)."""
        n, h, w, _ = qkv.shape
        return qkv.reshape(n, h * w, self.heads, 3, self.head_dim).permute(3, 0, 2, 1, 4).unbind()

    def weigh(self, q: Tensor, k: Tensor) -> Tensor:
        """softmax(cos(Q^T, K^T) / tau), (N, heads, D, D)."""
        cosine = q.transpose(-2, -1) @ k * (self.inverse_tau() / (l2_norm(q, -2).transpose(-2, -1) * l2_norm(k, -2)))
        return cosine.softmax(dim=-1)

    def attention_map(self, qkv: Tensor) -> Tensor:
        """qkv as in `attend` -> (N, heads, D, D), to look at."""
        return self.weigh(*self.split(qkv)[:2])

    def attend(self, qkv: Tensor, helper: Tensor | None) -> Tensor:
        """qkv (N, H, W, heads * 3 * D), helper (N, H, W, 1) or none -> (N, H, W, heads * D)."""
        n, h, w, _ = qkv.shape
        q, k, v = self.split(qkv)
        if helper is not None:
            v = v * helper.reshape(n, 1, h * w, 1)
        attention = self.weigh(q, k)
        out = v @ F.dropout(attention, self.attn_drop, self.training).to(v.dtype).transpose(-2, -1)
        return out.transpose(1, 2).reshape(n, h, w, -1)


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
        return self.sp_attn(self.qkv_proj[0](x, self.spatial), helper)

    def attention_maps(self, x: Tensor, row: int, column: int) -> dict[str, Tensor]:
        """What the block attends to, to look at.

        Args:
            x: its input, (1, H, W, C).
            row, column: of a position in x.

        Returns:
            `spatial`: of every head the weights with which SPSA takes the values of all positions at this one,
            (heads, H, W), NaN outside of its window. `channel`: CHSA's matrices, (heads, D, D). Rows sum to 1.
        """
        maps = {}
        if self.sp_attn is not None:
            m, (_, h, w, _) = self.window_size, x.shape
            row, column = (row - self.shift) % h, (column - self.shift) % w  # in the map rolled up and left
            rows, columns = (slice(at - at % m, at - at % m + m) for at in (row, column))
            rolled = x.roll((-self.shift, -self.shift), (1, 2))
            attention = self.sp_attn.attention_map(self.qkv_proj[0](rolled[:, rows, columns], self.spatial))
            weights = x.new_full((self.sp_attn.heads, h, w), math.nan)
            weights[:, rows, columns] = attention[0, :, row % m * m + column % m].unflatten(-1, (m, m))
            maps['spatial'] = weights.roll((self.shift, self.shift), (1, 2))
        if self.ch_attn is not None:
            maps['channel'] = self.ch_attn.attention_map(self.qkv_proj[0](x, self.channel))[0]
        return maps

    def feed_forward(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Both residual additions: x and its mixed attention (N, H, W, C) -> the block's output."""
        x = x + drop_path(self.norm1(mixed), self.drop_path_rate, self.training)
        return x + drop_path(self.norm2(self.ffn(x)), self.drop_path_rate, self.training)

    def forward(self, x: Tensor, helper: Helper | None = None) -> tuple[Tensor, Tensor, Helper | None]:
        """x (N, H, W, C) -> the block's output, its mixed attention for H-RAMi, the helper of the next block."""
        attentions, helper = self.attend(x, helper)
        mixed = self.mobivari(*attentions)  # Eq. 1
        return in_bands(self.feed_forward, x, mixed, training=self.training), mixed, helper


class Stage(nn.Module):
    """Blocks in a row. With `checkpointing`, the backward pass recomputes the activations inside them."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
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


@ARCH_REGISTRY.register()
class RAMiT(ImageNetwork):
    """Reciprocal Attention Mixing Transformer (Fig. 2a, Tab. H).

    Args:
        upscale: factor r of super-resolution; 1 keeps the size and adds the input back (denoising and the like).
        in_chans: channels of input and output, 3 for RGB and 1 for gray.
        dim: channels C of the features, a multiple of 16.
        depths: D-RAMiT blocks in stages 1 to 4.
        num_heads: heads L in stages 1 to 4; each divides `dim`.
        chsa_head_ratio: share of channel heads, int(L * ratio) of L; 0 is spatial attention only, 1 channel only.
        window_size: side M of the attention windows, even.
        hidden_ratio: width of the feed-forward network in units of `dim`.
        qkv_bias: whether query, key and value have a bias.
        mobivari_version: 1 is for the published RAMiT-1 checkpoints.
        mobivari_act: activation of a MobiVari (Tab. 4c).
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
        img_mean: mean of the training images by channel, of values in [0, 1] (Appendix B).
        img_std: their standard deviation by channel.

    Raises:
        ValueError: an option is out of its range or contradicts another; names the option and what is allowed.
    """

    reconstruction_head = 'to_target'
    channel_axis = -1
    tasks_of, options_from = staticmethod(tasks_of), staticmethod(options_from)

    @checked
    def __init__(
        self,
        upscale: Upscale = 2,
        in_chans: Channels = 3,
        dim: Annotated[int, Ge(16), Le(8192), MultipleOf(16)] = 64,
        depths: PerStage = (6, 4, 4, 6),
        num_heads: PerStage = (4, 4, 4, 4),
        chsa_head_ratio: Annotated[float, Ge(0), Le(1)] = 0.25,
        window_size: Annotated[int, Ge(2), Le(1024), MultipleOf(2)] = 8,
        hidden_ratio: Factor = 2.0,
        qkv_bias: bool = True,
        mobivari_version: Literal[1, 2] = 2,
        mobivari_act: Literal['leaky_relu', 'relu6', 'relu', 'gelu', 'silu'] = 'leaky_relu',
        exp_factor: Factor = 1.2,
        expand_groups: Count = 4,
        mixer_exp_factor: Factor | None = None,
        mixer_expand_groups: Count | None = None,
        reciprocal_helper: bool = True,
        hrami: bool = True,
        tail_mobivari: Annotated[int, Ge(0), Le(1000)] = 2,
        attn_drop: Rate = 0.0,
        proj_drop: Rate = 0.0,
        drop_path: Rate = 0.0,
        img_mean: Mean = MEAN,
        img_std: Std = STD,
    ) -> None:
        super().__init__(upscale, in_chans, window_size * 2**DOWNSIZINGS, img_mean, img_std)
        mixer_exp_factor = exp_factor if mixer_exp_factor is None else mixer_exp_factor
        mixer_expand_groups = expand_groups if mixer_expand_groups is None else mixer_expand_groups
        # Violated, these would fail inside PyTorch, far from the option's name.
        require(
            all(dim % heads == 0 for heads in num_heads),
            'num_heads',
            num_heads,
            f'four divisors of dim, which is {dim}',
        )
        require(int(dim * hidden_ratio) > 0, 'hidden_ratio', hidden_ratio, f'at least 1 / dim, and dim is {dim}')
        if mobivari_version == 2:
            require(dim % expand_groups == 0, 'expand_groups', expand_groups, f'a divisor of dim, which is {dim}')
            divides = dim % mixer_expand_groups == 0 == mixed_width(dim) % mixer_expand_groups
            allowed = f'a divisor of {dim} and {mixed_width(dim)}, the channels it splits (default: expand_groups)'
            require(divides, 'mixer_expand_groups', mixer_expand_groups, allowed)

        make = partial(MobiVari, version=mobivari_version, activation=mobivari_act)
        mobivari = partial(make, exp_factor=exp_factor, groups=expand_groups)
        mixer = partial(make, exp_factor=mixer_exp_factor, groups=mixer_expand_groups)
        options: dict[str, Any] = {
            'dim': dim, 'chsa_head_ratio': chsa_head_ratio, 'window_size': window_size, 'hidden_ratio': hidden_ratio,
            'qkv_bias': qkv_bias, 'mobivari': mobivari, 'reciprocal_helper': reciprocal_helper,
            'attn_drop': attn_drop, 'proj_drop': proj_drop,
        }  # fmt: skip
        rates = iter([drop_path * i / max(1, sum(depths) - 1) for i in range(sum(depths))])
        stages = [
            Stage([self.make_block(i, heads, drop_path_rate=next(rates), **options) for i in range(depth)])
            for depth, heads in zip(depths, num_heads, strict=True)
        ]

        self.shallow = TokenStem(in_chans, dim)  # shallow module
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.down1, self.down2 = Downsizing(dim, mobivari), Downsizing(dim, mobivari)
        self.bottleneck = Bottleneck(dim, mixer)
        self.attn_mix = HRAMi(dim, mixer) if hrami else None
        self.to_target = Reconstruction(dim, in_chans, upscale, tail_mobivari, mobivari)

    def make_block(self, index: int, heads: int, chsa_head_ratio: float, **options: Any) -> nn.Module:
        """Block `index` of a stage: (x, helper) -> (x, mixed attention, helper)."""
        channel = int(heads * chsa_head_ratio)
        return DRAMiTBlock(spatial_heads=heads - channel, channel_heads=channel, shifted=index % 2 == 1, **options)

    def feature_maps(self) -> dict[str, tuple[str, ...]]:
        """Fig. 4: the stages, H-RAMi, and the output of stage 4 that it weights."""
        maps: dict[str, tuple[str, ...]] = {f'stage {i}': (f'stage{i}',) for i in (1, 2, 3, 4)}
        if self.attn_mix is not None:
            maps |= {'H-RAMi': ('attn_mix',), 'stage 4 x H-RAMi': ('stage4', 'attn_mix')}
        return maps

    def set_compiled(self, enable: bool = True) -> str | None:
        """Let SPSA use its native kernel. Why it cannot, or None."""
        attentions = [module for module in self.modules() if isinstance(module, SpatialAttention)]
        reasons = [available(each.window_size, each.head_dim) for each in attentions] if enable else []
        for attention in attentions:
            attention.native = enable and not any(reasons)
        return next(filter(None, reasons), None)

    def forward_features(self, image: Tensor) -> Tensor:
        """Normalised image (N, C, H, W), H and W multiples of `size_multiple` -> features (N, H, W, dim)."""
        shallow = self.shallow(image)
        x1, attention1 = self.stage1(shallow)
        x2, attention2 = self.stage2(self.down1(x1))  # (N, H/2, W/2, dim)
        x3, attention3 = self.stage3(self.down2(x2))  # (N, H/4, W/4, dim)
        x4, attention4 = self.stage4(self.bottleneck(shallow, (x1, x2, x3)))  # (N, H, W, dim)
        if self.attn_mix is not None:
            x4 = x4 * self.attn_mix((attention1, attention2, attention3), attention4)
        return x4 + shallow

    def restore(self, image: Tensor) -> Tensor:
        return self.to_target(self.forward_features(image))
