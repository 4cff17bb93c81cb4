"""IPT-V2: image processing Transformer with hierarchical attentions, in a lightweight setting of our own.

IPT-V2: Efficient Image Processing Transformer using Hierarchical Attentions. Paper: https://arxiv.org/abs/2404.00633.

The blocks follow the published design: focal context self-attention (FCSA) and global grid self-attention (GGSA), each
followed by a re-parameterised locally enhanced feed-forward network (Rep-LeFFN), in a U-shaped network. The paper's
widths, depths and heads were not available to us; those here are our own, so none of its scores are claimed. Feature
maps are token-major, (N, H, W, C). GGSA sees the whole map and grows quadratically with the number of pixels: large
images are restored in tiles, which changes the output a little.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Len, MultipleOf
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from ramit_arch.archs.arguments import checked
from ramit_arch.archs.image_network import MEAN, STD, Channels, ImageNetwork, Mean, Std, Upscale
from ramit_arch.archs.layers import Blocks, DepthwiseConv, PixelShuffleHead, PointwiseConv, TokenStem, require
from ramit_arch.archs.row_bands import in_bands

LEVELS = 3
Count = Annotated[int, Ge(1), Le(1000)]
PerLevel = Annotated[Sequence[Count], Len(LEVELS, LEVELS)]


# ------------------------------------------------------------------------------------------------------- attentions


class FocalContextAttention(nn.Module):
    """FCSA: channel self-attention inside windows, of a base set and a set shifted by half a window.

    In a window of M x M positions, Q, K and V are (D, M^2) for each head, and the attention is
    softmax(norm(Q s) norm(K s)^T t) V, with a learnable weight s of every position, the L2 norm over positions, and a
    learnable temperature t of every head. Both sets share all weights. The shifted set lacks the outer half windows.
    Where both exist, they are blended as (m1 base + m2 shifted) / (m1 + m2), with learnable m1, m2 > 0 for every
    position of a window.
    """

    def __init__(self, dim: int, heads: int, window_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.window_size = window_size
        self.qkv = PointwiseConv(dim, 3 * dim)
        self.local = DepthwiseConv(3 * dim)
        self.position_weight = nn.Parameter(torch.ones(heads, 1, window_size**2))
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.log_mask = nn.Parameter(torch.zeros(2, window_size, window_size))  # of m1 and m2, which stay positive
        self.proj = PointwiseConv(dim, dim)

    def attend(self, qkv: Tensor, mask: Tensor) -> Tensor:
        """qkv (N, H, W, 3C), H and W multiples of M -> the attention of every window times mask, (N, H, W, C)."""
        n, h, w, c = qkv.shape
        m, d = self.window_size, c // (3 * self.heads)
        x = qkv.reshape(n, h // m, m, w // m, m, 3, self.heads, d).permute(5, 0, 1, 3, 6, 7, 2, 4)
        # (3, N, H/M, W/M, heads, D, M, M)
        q, k, v = x.reshape(3, n * (h // m) * (w // m), self.heads, d, m * m)
        q, k = (F.normalize(part * self.position_weight, dim=-1) for part in (q, k))
        attention = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1).to(v.dtype)
        out = (attention @ v) * mask.flatten()
        out = out.reshape(n, h // m, w // m, self.heads, d, m, m).permute(0, 1, 5, 2, 6, 3, 4)
        return out.reshape(n, h, w, c // 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C)."""
        qkv = self.local(self.qkv(x))
        half = self.window_size // 2
        base, shifted = self.log_mask.exp()
        rows, columns = x.shape[1] // self.window_size, x.shape[2] // self.window_size
        border = (0, 0, half, half, half, half)
        inner = F.pad(self.attend(qkv[:, half:-half, half:-half], shifted), border)
        total = base.tile(rows, columns) + F.pad(shifted.tile(rows - 1, columns - 1), border[2:])
        return self.proj((self.attend(qkv, base) + inner) / total.unsqueeze(-1))


class GlobalGridAttention(nn.Module):
    """GGSA: softmax attention among the positions of equal offset in all cells of P x P, lattices over the map."""

    def __init__(self, dim: int, heads: int, grid_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.grid_size = grid_size
        self.qkv = PointwiseConv(dim, 3 * dim)
        self.proj = PointwiseConv(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C), H and W multiples of P -> (N, H, W, C)."""
        n, h, w, c = x.shape
        p = self.grid_size
        cells = self.qkv(x).reshape(n, h // p, p, w // p, p, 3, self.heads, c // self.heads)
        lattices = cells.permute(5, 0, 2, 4, 6, 1, 3, 7)  # (3, N, P, P, heads, H/P, W/P, D)
        q, k, v = lattices.reshape(3, n * p * p, self.heads, (h // p) * (w // p), -1)
        out = F.scaled_dot_product_attention(q, k, v)
        out = out.reshape(n, p, p, self.heads, h // p, w // p, -1).permute(0, 4, 1, 5, 2, 3, 6)
        return self.proj(out.reshape(n, h, w, c))


# ------------------------------------------------------------------------------------------------ feed-forward network


class BranchedConv(nn.Module):
    """x + DWConv5x5(x) + DWConv3x3(x) + DWConv1x1(x): (N, H, W, C) -> (N, H, W, C).

    The branches are linear, so they are computed as one convolution by the sum of their kernels, in training too; the
    gradients of all branches are exact.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.conv5, self.conv3, self.conv1 = (
            nn.Conv2d(dim, dim, side, padding=side // 2, groups=dim) for side in (5, 3, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        convs = (self.conv5, self.conv3, self.conv1)
        weight, bias = sum_branches([conv.weight for conv in convs], [conv.bias for conv in convs])
        x = x.permute(0, 3, 1, 2)
        # x is added apart from the kernel: in bfloat16 small weights would be lost beside a 1.
        return (F.conv2d(x, weight, bias, padding=2, groups=self.dim) + x).permute(0, 2, 3, 1)


def sum_branches(weights: Sequence[Tensor], biases: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Weight (C, 1, 5, 5) and bias (C,) of the one convolution that those of side 5, 3 and 1 add up to."""
    return weights[0] + F.pad(weights[1], [1] * 4) + F.pad(weights[2], [2] * 4), biases[0] + biases[1] + biases[2]


def identity_kernel(like: Tensor) -> Tensor:
    """The 5x5 depth-wise kernel that leaves a map as it is: 1 at the centre."""
    return F.pad(like.new_ones(1, 1, 1, 1), [2] * 4)


PARTS = ('weight', 'bias')
MERGED = {f'{layer}.{part}' for layer in ('hidden', 'conv', 'out') for part in PARTS}
BRANCHED = {
    f'{layer}.{part}'
    for layer in ('hidden.0', 'hidden.1', 'conv.conv5', 'conv.conv3', 'conv.conv1', 'out.0', 'out.1')
    for part in PARTS
}


class RepLeFFN(nn.Module):
    """1x1 (C to rC/2), 1x1 (to rC), GELU, `BranchedConv`, 1x1 (to rC/2), 1x1 (to C): (N, H, W, C) -> (N, H, W, C).

    Merged, it is 1x1 (C to rC), GELU, DWConv5x5, 1x1 (to C), with the same output. Weights of either form load into the
    other; those of a merged network into one with branches if r is at least 2.
    """

    def __init__(self, dim: int, hidden_ratio: float, merged: bool) -> None:
        super().__init__()
        half = int(dim * hidden_ratio / 2)
        self.dim = dim
        self.hidden_ratio = hidden_ratio
        self.merged = merged
        self.hidden: nn.Module = PointwiseConv(dim, 2 * half)
        self.conv: nn.Module = DepthwiseConv(2 * half, 5)
        self.out: nn.Module = PointwiseConv(2 * half, dim)
        if not merged:
            self.hidden = nn.Sequential(PointwiseConv(dim, half), PointwiseConv(half, 2 * half))
            self.conv = BranchedConv(2 * half)
            self.out = nn.Sequential(PointwiseConv(2 * half, half), PointwiseConv(half, dim))
        self.register_load_state_dict_pre_hook(RepLeFFN.adapt)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(F.gelu(self.hidden(x))))

    def merge(self) -> RepLeFFN:
        """A merged copy with the same device, dtype and mode."""
        if self.merged:
            return copy.deepcopy(self)
        merged = RepLeFFN(self.dim, self.hidden_ratio, merged=True).to(next(self.parameters()))
        merged.load_state_dict(self.state_dict())
        return merged.train(self.training)

    def adapt(self, weights: dict[str, Tensor], prefix: str, *_: Any) -> None:
        """Convert a complete set of weights of the other form, in place; anything else is left to the usual error."""
        given = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
        if given.keys() != (BRANCHED if self.merged else MERGED):
            return
        adapted = merge_weights(given) if self.merged else branch_weights(given)
        if adapted is not None:
            for name in given:
                del weights[prefix + name]
            weights |= {prefix + name: value for name, value in adapted.items()}


def merge_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a merged `RepLeFFN` from those of one with branches."""
    merged = {}
    for layer in ('hidden', 'out'):  # W2 (W1 x + b1) + b2
        (w1, w2), (b1, b2) = ([weights[f'{layer}.{i}.{part}'] for i in range(2)] for part in PARTS)
        merged[f'{layer}.weight'] = (w2.flatten(1) @ w1.flatten(1))[..., None, None]
        merged[f'{layer}.bias'] = w2.flatten(1) @ b1 + b2
    branches = ([weights[f'conv.conv{side}.{part}'] for side in (5, 3, 1)] for part in PARTS)
    weight, merged['conv.bias'] = sum_branches(*branches)
    return {**merged, 'conv.weight': weight + identity_kernel(weight)}


def branch_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The inverse of `merge_weights`: one layer of each pair is the identity, and only the 5x5 branch is not zero.

    None if the layers of a pair meet in fewer channels than the network has: the product would lose rank.
    """
    wide, dim = weights['hidden.weight'].shape[:2]
    if wide // 2 < dim:
        return None
    half, weight = wide // 2, weights['conv.weight']
    narrow = torch.eye(half, dim).to(weight)
    pairs = {
        'hidden.0': (narrow, weight.new_zeros(half)),
        'hidden.1': (weights['hidden.weight'].flatten(1) @ narrow.T, weights['hidden.bias']),
        'out.0': (narrow @ weights['out.weight'].flatten(1), weight.new_zeros(half)),
        'out.1': (narrow.T, weights['out.bias']),
    }
    branched = {f'{name}.weight': matrix[..., None, None] for name, (matrix, _) in pairs.items()}
    branched |= {f'{name}.bias': bias for name, (_, bias) in pairs.items()}
    branched |= {'conv.conv5.weight': weight - identity_kernel(weight), 'conv.conv5.bias': weights['conv.bias']}
    for side in (3, 1):
        branched[f'conv.conv{side}.weight'] = weight.new_zeros(wide, 1, side, side)
        branched[f'conv.conv{side}.bias'] = weight.new_zeros(wide)
    return branched


# ---------------------------------------------------------------------------------------------------------- U shape


class FocalGlobalBlock(nn.Module):
    """Four pre-normalised residual layers: FCSA, Rep-LeFFN, GGSA, Rep-LeFFN."""

    def __init__(
        self, dim: int, heads: int, window_size: int, grid_size: int, hidden_ratio: float, merged: bool
    ) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(4))
        self.focal = FocalContextAttention(dim, heads, window_size)
        self.ffn1 = RepLeFFN(dim, hidden_ratio, merged)
        self.grid = GlobalGridAttention(dim, heads, grid_size)
        self.ffn2 = RepLeFFN(dim, hidden_ratio, merged)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C)."""
        x = x + self.focal(self.norm1(x))
        x = in_bands(lambda band: band + self.ffn1(self.norm2(band)), x, training=self.training, halo=2)
        x = x + self.grid(self.norm3(x))
        return in_bands(lambda band: band + self.ffn2(self.norm4(band)), x, training=self.training, halo=2)


class Down(nn.Module):
    """3x3 convolution to half the channels and pixel unshuffling: (N, H, W, C) -> (N, H/2, W/2, 2C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(self.conv(x.permute(0, 3, 1, 2)), 2).permute(0, 2, 3, 1).contiguous()


class Up(nn.Module):
    """3x3 convolution to twice the channels and pixel shuffling: (N, H, W, C) -> (N, 2H, 2W, C/2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, 2 * dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x.permute(0, 3, 1, 2)), 2).permute(0, 2, 3, 1)


@ARCH_REGISTRY.register()
class IPTV2(ImageNetwork):
    """Focal-global blocks at three resolutions, C, 2C and 4C channels wide; the decoder's last level keeps 2C.

    The sizes are our own: 0.92M parameters by default.

    Args:
        upscale: factor of super-resolution; 1 keeps the size and adds the input back (denoising and the like).
        in_chans: channels of input and output, 3 for RGB and 1 for gray.
        dim: channels C of the first level, even.
        depths: blocks of each level from the first to the bottleneck; the decoder has as many as the encoder.
        num_heads: heads of both attentions at each level; each divides the channels.
        window_size: side M of FCSA's windows, even.
        grid_size: side P of GGSA's cells at each level; halving it with the feature map keeps the number of
            positions that attend to each other.
        hidden_ratio: width r of the feed-forward network in units of its channels.
        merged: build with merged feed-forward networks, the form that `merge` returns.
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
        dim: Annotated[int, Ge(2), Le(8192), MultipleOf(2)] = 24,
        depths: PerLevel = (2, 3, 1),
        num_heads: PerLevel = (1, 2, 4),
        window_size: Annotated[int, Ge(2), Le(1024), MultipleOf(2)] = 8,
        grid_size: PerLevel = (16, 8, 4),
        hidden_ratio: Annotated[float, Gt(0), Le(1000)] = 2.0,
        merged: bool = False,
        img_mean: Mean = MEAN,
        img_std: Std = STD,
    ) -> None:
        sides = [math.lcm(window_size, grid) * 2**level for level, grid in enumerate(grid_size)]
        super().__init__(upscale, in_chans, math.lcm(*sides), img_mean, img_std)
        widths = [dim * 2**level for level in range(LEVELS)]
        divides = all(width % heads == 0 for width, heads in zip(widths, num_heads, strict=True))
        require(divides, 'num_heads', num_heads, f'three divisors of {", ".join(map(str, widths))}')
        require(int(dim * hidden_ratio / 2) > 0, 'hidden_ratio', hidden_ratio, f'at least 2 / dim, and dim is {dim}')

        def blocks(width: int, level: int) -> Blocks:
            options = (width, num_heads[level], window_size, grid_size[level], hidden_ratio, merged)
            return Blocks(*(FocalGlobalBlock(*options) for _ in range(depths[level])))

        self.shallow = TokenStem(in_chans, dim)
        self.encoder1, self.encoder2, self.bottleneck = (blocks(width, level) for level, width in enumerate(widths))
        self.down1, self.down2 = Down(widths[0]), Down(widths[1])
        self.up2, self.up1 = Up(widths[2]), Up(widths[1])
        self.reduce2 = PointwiseConv(2 * widths[1], widths[1])
        self.reduce1 = PointwiseConv(2 * widths[0], widths[1])
        self.decoder2, self.decoder1 = blocks(widths[1], 1), blocks(widths[1], 0)
        self.to_target = PixelShuffleHead(widths[1], in_chans, upscale)

    def feature_maps(self) -> dict[str, tuple[str, ...]]:
        """The levels from the first to the bottleneck and back."""
        return {name: (name,) for name in ('encoder1', 'encoder2', 'bottleneck', 'decoder2', 'decoder1')}

    def restore(self, image: Tensor) -> Tensor:
        x1 = self.encoder1(self.shallow(image))
        x2 = self.encoder2(self.down1(x1))  # (N, H/2, W/2, 2C)
        x3 = self.bottleneck(self.down2(x2))  # (N, H/4, W/4, 4C)
        y2 = self.decoder2(self.reduce2(torch.cat([self.up2(x3), x2], -1)))
        y1 = self.decoder1(self.reduce1(torch.cat([self.up1(y2), x1], -1)))  # (N, H, W, 2C)
        return self.to_target(y1)

    def merge(self) -> IPTV2:
        """A copy with merged feed-forward networks and the same output, for inference; self is not changed."""
        merged = copy.deepcopy(self)
        for module in merged.modules():
            for name, ffn in module.named_children():
                if isinstance(ffn, RepLeFFN):
                    setattr(module, name, ffn.merge())
        return merged

    def adapt_state_dict(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Weights of a network with or without merged feed-forward networks, in the form of this one."""
        adapted = dict(weights)
        for name, module in self.named_modules():
            if isinstance(module, RepLeFFN):
                module.adapt(adapted, f'{name}.')
        return adapted
