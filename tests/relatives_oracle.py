"""LAformer's and IPT-V2's blocks written out literally, to test the fast networks against; see `oracle` for RAMiT.

Attention is one weighted sum for each pair of positions or channels, of one image, head, window and lattice after the
other; a convolution is a sum over the taps of its kernel. Only elementary tensor operations. Any floating-point type,
differentiable. Maps are (N, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from oracle import State, conv1x1, gelu, l2_normalise, part, pixel_shuffle, softmax, symmetric_pad
from torch import Tensor

MEAN, STD = (0.4485, 0.4375, 0.4045), (0.2397, 0.2290, 0.2389)


@dataclass(frozen=True)
class LAformerOptions:
    """Of the whole network; shapes that the weights show are not repeated."""

    upscale: int = 2
    depth: int = 18
    num_heads: int = 4
    feature_map: str = 'elu'
    img_mean: Sequence[float] = MEAN
    img_std: Sequence[float] = STD


@dataclass(frozen=True)
class IPTV2Options:
    """Of the whole network; shapes that the weights show are not repeated."""

    upscale: int = 2
    depths: Sequence[int] = (2, 3, 1)
    num_heads: Sequence[int] = (1, 2, 4)
    window_size: int = 8
    grid_size: Sequence[int] = (16, 8, 4)
    img_mean: Sequence[float] = MEAN
    img_std: Sequence[float] = STD


# ---- elementary operations -----------------------------------------------------------------------


def moved(x: Tensor, dy: int, dx: int) -> Tensor:
    """Pixel (y, x) receives pixel (y + dy, x + dx); zero outside."""
    h, w = x.shape[2:]
    rows = [y for y in range(h) if 0 <= y + dy < h]
    columns = [c for c in range(w) if 0 <= c + dx < w]
    y = torch.zeros_like(x)
    if rows and columns:
        inner = x[:, :, rows[0] + dy : rows[-1] + dy + 1, columns[0] + dx : columns[-1] + dx + 1]
        y[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = inner
    return y


def taps(weight: Tensor) -> Sequence[tuple[int, int, Tensor]]:
    """(dy, dx, values of that tap) of an odd, centred kernel."""
    r = weight.shape[-1] // 2
    return [(i - r, j - r, weight[..., i, j]) for i in range(2 * r + 1) for j in range(2 * r + 1)]


def conv(state: State, x: Tensor) -> Tensor:
    """Zero-padded convolution over all channels."""
    terms = [torch.einsum('oi,nihw->nohw', tap, moved(x, dy, dx)) for dy, dx, tap in taps(state['weight'])]
    return sum(terms) + state['bias'][:, None, None]


def depth_wise(state: State, x: Tensor) -> Tensor:
    """Zero-padded convolution of every channel by itself."""
    terms = [tap[:, 0, None, None] * moved(x, dy, dx) for dy, dx, tap in taps(state['weight'])]
    return sum(terms) + state['bias'][:, None, None]


def layer_norm(state: State, x: Tensor, eps: float) -> Tensor:
    """LN over the channels of each pixel."""
    centred = x - x.mean(dim=1, keepdim=True)
    variance = (centred**2).mean(dim=1, keepdim=True)
    return centred / torch.sqrt(variance + eps) * state['weight'][:, None, None] + state['bias'][:, None, None]


def pixel_unshuffle(x: Tensor, r: int) -> Tensor:
    """(N, C, rH, rW) to (N, C r^2, H, W): pixel (i, j) of a square becomes channel c r^2 + i r + j."""
    parts = [x[:, c, i::r, j::r] for c in range(x.shape[1]) for i in range(r) for j in range(r)]
    return torch.stack(parts, dim=1)


def head_by_head(attend: Callable[[int, Tensor, Tensor, Tensor], Tensor], qkv: Tensor, heads: int) -> Tensor:
    """(N, 3C, H, W) to (N, C, H, W): `attend(head, q, k, v)`, each (D, H, W), for every image and head."""
    images = []
    for image in qkv:
        q, k, v = (x.chunk(heads) for x in image.chunk(3))
        images.append(torch.cat([attend(i, q[i], k[i], v[i]) for i in range(heads)]))
    return torch.stack(images)


def whole_network(image: Tensor, multiple: int, upscale: int, restored: Callable, *statistics: Sequence) -> Tensor:
    """Normalise, pad by a symmetric mirror, restore, add the input at scale 1, undo the normalisation, crop."""
    mean, std = (image.new_tensor(values)[:, None, None] for values in statistics)
    padded = symmetric_pad((image - mean) / std, multiple)
    output = restored(padded) + (padded if upscale == 1 else 0)
    return (output * std + mean)[:, :, : image.shape[2] * upscale, : image.shape[3] * upscale]


# ---- LAformer ------------------------------------------------------------------------------------


FEATURE_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    'relu': lambda x: x.clamp(min=0),
    'elu': lambda x: torch.where(x > 0, x + 1, torch.exp(x.clamp(max=0))),  # 1 + ELU
}


def rela(state: State, x: Tensor, heads: int, feature_map: str) -> Tensor:
    """Proj( phi(Q) (phi(K)^T V) / (phi(Q) . sum phi(K) + eps) + DWConv(V) ), as weights of all pairs of positions."""
    phi = FEATURE_MAPS[feature_map]

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = phi(q.flatten(1)).T @ phi(k.flatten(1))  # (HW, HW)
        rows = [(row @ v.flatten(1).T) / (row.sum() + 1e-6) for row in weights]
        return torch.stack(rows, dim=1).unflatten(1, v.shape[1:])

    qkv = conv1x1(part(state, 'qkv'), x)
    v = qkv.chunk(3, dim=1)[2]
    return conv1x1(part(state, 'proj'), head_by_head(attend, qkv, heads) + depth_wise(part(state, 'enhance'), v))


def channel_attention(state: State, x: Tensor) -> Tensor:
    """Every channel times a gate of the means of all channels."""
    pooled = x.flatten(2).sum(dim=2)[:, :, None, None] / (x.shape[2] * x.shape[3])
    hidden = conv1x1(part(state, 'squeeze'), pooled).clamp(min=0)
    return x / (1 + torch.exp(-conv1x1(part(state, 'excite'), hidden)))


def gated_feed_forward(state: State, x: Tensor) -> Tensor:
    """Out(GELU(a) b), a and b the halves of DWConv3x3(In(x))."""
    a, b = depth_wise(part(state, 'conv'), conv1x1(part(state, 'hidden'), x)).chunk(2, dim=1)
    return conv1x1(part(state, 'out'), gelu(a) * b)


def laformer_block(state: State, x: Tensor, heads: int, feature_map: str) -> Tensor:
    """x + RELA(LN x) + CA(LN x), then x + FFN(LN x)."""
    y = layer_norm(part(state, 'norm1'), x, 1e-5)
    x = x + rela(part(state, 'attn'), y, heads, feature_map) + channel_attention(part(state, 'channel_attn'), y)
    return x + gated_feed_forward(part(state, 'ffn'), layer_norm(part(state, 'norm2'), x, 1e-5))


def laformer(state: State, image: Tensor, **options: Any) -> Tensor:
    """Restored (N, C, rH, rW) of (N, C, H, W); the options are those of `LAformerOptions`."""
    o = LAformerOptions(**options)

    def restored(padded: Tensor) -> Tensor:
        shallow = x = conv(part(state, 'shallow.conv'), padded)
        for n in range(o.depth):
            x = laformer_block(part(state, f'blocks.{n}'), x, o.num_heads, o.feature_map)
        x = conv(part(state, 'conv'), x) + shallow
        return pixel_shuffle(conv(part(state, 'to_target.conv'), x), o.upscale)

    return whole_network(image, 1, o.upscale, restored, o.img_mean, o.img_std)


# ---- IPT-V2 --------------------------------------------------------------------------------------


def fcsa(state: State, x: Tensor, heads: int, m: int) -> Tensor:
    """Channel attention in m x m windows of the map and of the map without m/2 on each side, blended by masks."""
    masks = torch.exp(state['log_mask'])

    def attend(head: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        h, w = q.shape[1:]
        blended, total = torch.zeros_like(v), v.new_zeros(h, w)
        for mask, crop in zip(masks, (0, m // 2), strict=True):
            for top in range(crop, h - crop, m):
                for left in range(crop, w - crop, m):
                    window = (slice(top, top + m), slice(left, left + m))
                    rows = [t[:, window[0], window[1]].flatten(1) for t in (q, k, v)]  # each (D, m^2)
                    position = state['position_weight'][head]
                    scores = l2_normalise(rows[0] * position) @ l2_normalise(rows[1] * position).T  # (D, D)
                    output = softmax(scores * state['temperature'][head]) @ rows[2]
                    blended[:, window[0], window[1]] += output.unflatten(1, (m, m)) * mask
                    total[window] += mask
        return blended / total

    qkv = depth_wise(part(state, 'local'), conv1x1(part(state, 'qkv'), x))
    return conv1x1(part(state, 'proj'), head_by_head(attend, qkv, heads))


def ggsa(state: State, x: Tensor, heads: int, p: int) -> Tensor:
    """Softmax attention among the positions (i + a p, j + b p) of every offset (i, j)."""

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        output = torch.zeros_like(v)
        for i in range(p):
            for j in range(p):
                tokens = [t[:, i::p, j::p].flatten(1).T for t in (q, k, v)]  # each (HW / p^2, D)
                mixed = softmax(tokens[0] @ tokens[1].T / math.sqrt(len(v))) @ tokens[2]
                output[:, i::p, j::p] = mixed.T.unflatten(1, (v.shape[1] // p, v.shape[2] // p))
        return output

    return conv1x1(part(state, 'proj'), head_by_head(attend, conv1x1(part(state, 'qkv'), x), heads))


def rep_conv(state: State, x: Tensor) -> Tensor:
    """x + DW5x5(x) + DW3x3(x) + DW1x1(x); the sides follow from the weights."""
    branches = {name: depth_wise(part(state, name), x) for name in ('conv5', 'conv3', 'conv1')}
    assert [state[f'{name}.weight'].shape[-1] for name in branches] == [5, 3, 1]
    return x + sum(branches.values())


def rep_leffn(state: State, x: Tensor) -> Tensor:
    """d to rd/2 to rd, GELU, the branches, rd to rd/2 to d."""
    hidden = gelu(conv1x1(part(state, 'hidden.1'), conv1x1(part(state, 'hidden.0'), x)))
    return conv1x1(part(state, 'out.1'), conv1x1(part(state, 'out.0'), rep_conv(part(state, 'conv'), hidden)))


def fg_block(state: State, x: Tensor, heads: int, m: int, p: int) -> Tensor:
    """FCSA, Rep-LeFFN, GGSA, Rep-LeFFN, each x + F(LN x), eps 1e-6."""
    x = x + fcsa(part(state, 'focal'), layer_norm(part(state, 'norm1'), x, 1e-6), heads, m)
    x = x + rep_leffn(part(state, 'ffn1'), layer_norm(part(state, 'norm2'), x, 1e-6))
    x = x + ggsa(part(state, 'grid'), layer_norm(part(state, 'norm3'), x, 1e-6), heads, p)
    return x + rep_leffn(part(state, 'ffn2'), layer_norm(part(state, 'norm4'), x, 1e-6))


def iptv2(state: State, image: Tensor, **options: Any) -> Tensor:
    """Restored (N, C, rH, rW) of (N, C, H, W); the options are those of `IPTV2Options`."""
    o = IPTV2Options(**options)

    def level(name: str, x: Tensor, n: int) -> Tensor:
        for i in range(o.depths[n]):
            x = fg_block(part(state, f'{name}.{i}'), x, o.num_heads[n], o.window_size, o.grid_size[n])
        return x

    def down(name: str, x: Tensor) -> Tensor:
        return pixel_unshuffle(conv(part(state, f'{name}.conv'), x), 2)

    def up(name: str, x: Tensor, skip: Tensor) -> Tensor:
        x = pixel_shuffle(conv(part(state, f'up{name}.conv'), x), 2)
        return conv1x1(part(state, f'reduce{name}'), torch.cat([x, skip], dim=1))

    def restored(padded: Tensor) -> Tensor:
        x1 = level('encoder1', conv(part(state, 'shallow.conv'), padded), 0)
        x2 = level('encoder2', down('down1', x1), 1)
        x3 = level('bottleneck', down('down2', x2), 2)
        y2 = level('decoder2', up('2', x3, x2), 1)
        y1 = level('decoder1', up('1', y2, x1), 0)
        assert [x.shape[1] // x1.shape[1] for x in (x1, x2, x3, y2, y1)] == [1, 2, 4, 2, 2]
        return pixel_shuffle(conv(part(state, 'to_target.conv'), y1), o.upscale)

    def fits(side: int) -> bool:
        """Whether every level has whole windows and cells."""
        sides = [(side // 2**n, side % 2**n, p) for n, p in enumerate(o.grid_size)]
        return all(not rest and s % o.window_size == 0 and s % p == 0 for s, rest, p in sides)

    multiple = next(side for side in count(1) if fits(side))
    return whole_network(image, multiple, o.upscale, restored, o.img_mean, o.img_std)
