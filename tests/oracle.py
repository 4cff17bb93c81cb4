"""RAMiT written out literally: a slow transcription of the paper, to test a fast network against.

"Reciprocal Attention Mixing Transformer for Lightweight Image Restoration" (Choi et al.), Section 3,
Appendix A.1 and Table H. Every image, window and head is computed on its own, as in the equations. Besides
`conv2d` for 3x3 convolutions and `max_pool2d` there are only elementary tensor operations, so that no library
shortcut hides a mistake which the fast network shares. Any floating-point type, differentiable.

Usage:  output = ramit(state, image, upscale=2)      # image (N, C, H, W) in [0, 1], any H and W >= 1
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

State = dict[str, Tensor]
Attentions = tuple[Tensor | None, Tensor | None]  # SPSA and CHSA; None without such heads


@dataclass(frozen=True)
class Options:
    """Table H, and what distinguishes the tasks and the ablations; None means 'as everywhere else'."""

    upscale: int = 2
    in_chans: int = 3
    dim: int = 64
    depths: Sequence[int] = (6, 4, 4, 6)
    num_heads: Sequence[int] = (4, 4, 4, 4)
    chsa_head_ratio: float = 0.25
    window_size: int = 8
    hidden_ratio: float = 2.0
    qkv_bias: bool = True
    mobivari_version: int = 2
    mobivari_act: str = 'leaky_relu'
    exp_factor: float = 1.2
    expand_groups: int = 4
    mixer_exp_factor: float | None = None
    mixer_expand_groups: int | None = None
    reciprocal_helper: bool = True
    hrami: bool = True
    tail_mobivari: int = 2
    img_mean: Sequence[float] = (0.4485, 0.4375, 0.4045)
    img_std: Sequence[float] = (0.2397, 0.2290, 0.2389)


def part(state: State, name: str) -> State:
    """The parameters of one component, without its name in front."""
    return {key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(name + '.')}


# ---- elementary operations -----------------------------------------------------------------------


def gelu(x: Tensor) -> Tensor:
    """GELU (Table H): x times the normal distribution function, by erf rather than a tanh fit."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


ACTIVATIONS = {  # Table 4c
    'leaky_relu': lambda x: torch.where(x >= 0, x, 0.01 * x),
    'relu6': lambda x: x.clamp(0, 6),
    'relu': lambda x: x.clamp(min=0),
    'gelu': gelu,
    'silu': lambda x: x * torch.sigmoid(x),
}


def conv1x1(state: State, x: Tensor, groups: int = 1) -> Tensor:
    """Point-wise convolution: one matrix product per group of channels, at every pixel."""
    weight, bias = state['weight'][:, :, 0, 0], state.get('bias')
    inputs, outputs = x.chunk(groups, dim=1), weight.chunk(groups, dim=0)
    y = torch.cat([torch.einsum('oi,nihw->nohw', w, g) for g, w in zip(inputs, outputs, strict=True)], dim=1)
    return y if bias is None else y + bias[:, None, None]


def conv3x3(state: State, x: Tensor, groups: int = 1) -> Tensor:
    """3x3 convolution, zero-padded; depth-wise where there are as many groups as channels."""
    return conv2d(x, state['weight'], state['bias'], padding=1, groups=groups)


def layer_norm(state: State, x: Tensor) -> Tensor:
    """LN over the channels of each pixel, eps 1e-5."""
    centred = x - x.mean(dim=1, keepdim=True)
    variance = (centred**2).mean(dim=1, keepdim=True)
    weight, bias = state['norm.weight'][:, None, None], state['norm.bias'][:, None, None]
    return centred / torch.sqrt(variance + 1e-5) * weight + bias


def pixel_shuffle(x: Tensor, r: int) -> Tensor:
    """(N, C r^2, H, W) to (N, C, rH, rW): channel c r^2 + i r + j becomes pixel (i, j) of a square."""
    n, c, h, w = x.shape
    y = x.new_zeros(n, c // r**2, r * h, r * w)
    for i in range(r):
        for j in range(r):
            y[:, :, i::r, j::r] = x[:, i * r + j :: r**2]
    return y


def symmetric_pad(x: Tensor, multiple: int) -> Tensor:
    """Mirror at the bottom and right, border pixel repeated (0 ... n-1, n-1 ... 0, 0 ...), to a multiple."""

    def mirrored(n: int) -> Sequence[int]:
        positions = [p % (2 * n) for p in range(math.ceil(n / multiple) * multiple)]
        return [p if p < n else 2 * n - 1 - p for p in positions]

    return x[:, :, mirrored(x.shape[2])][:, :, :, mirrored(x.shape[3])]


def cyclic_shift(x: Tensor, by: int) -> Tensor:
    """Pixel (y, x) receives pixel (y + by, x + by), wrapping around the borders of (C, H, W)."""
    rows = [(y + by) % x.shape[1] for y in range(x.shape[1])]
    columns = [(c + by) % x.shape[2] for c in range(x.shape[2])]
    return x[:, rows][:, :, columns]


# ---- MobiVari (Appendix A.1) ---------------------------------------------------------------------


def mobivari(state: State, x: Tensor, o: Options, mixer: bool = False) -> Tensor:
    """MobileNet variant, Fig. A and Appendix A.1; bottleneck and H-RAMi (`mixer`) may expand differently."""
    act = ACTIVATIONS[o.mobivari_act]
    depth_wise, point_wise = part(state, 'dw_conv'), part(state, 'pw_conv')
    if o.mobivari_version == 1:
        hidden = act(conv3x3(depth_wise, x, groups=x.shape[1])) + x
        y = act(conv1x1(point_wise, hidden))
    else:
        exp_factor = o.mixer_exp_factor if mixer and o.mixer_exp_factor is not None else o.exp_factor
        groups = o.mixer_expand_groups if mixer and o.mixer_expand_groups is not None else o.expand_groups
        e = int(x.shape[1] * exp_factor)
        expanded = act(conv1x1(part(state, 'exp_conv'), x, groups))
        assert expanded.shape[1] == e + groups - e % groups  # a full group more even where e divides evenly
        hidden = act(conv3x3(depth_wise, expanded, groups=expanded.shape[1]) + expanded)
        y = conv1x1(point_wise, hidden)
    return y + x if y.shape == x.shape else y


# ---- bi-dimensional self-attention (Section 3.2) -------------------------------------------------


def l2_normalise(x: Tensor) -> Tensor:
    """x / max(|x|, 1e-12) along the last axis; the maximum under the root keeps its gradient finite."""
    return x / torch.sqrt((x**2).sum(dim=-1, keepdim=True).clamp(min=1e-24))


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis."""
    powers = torch.exp(x - x.amax(dim=-1, keepdim=True))
    return powers / powers.sum(dim=-1, keepdim=True)


def attention_head(q: Tensor, k: Tensor, v: Tensor, logit_scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Eq. 3: Softmax(cos(Q, K^T) / tau + B) V with 1 / tau = exp(logit_scale), tau >= 0.01."""
    scores = l2_normalise(q) @ l2_normalise(k).T * torch.exp(logit_scale.clamp(max=math.log(100)))
    return softmax(scores if bias is None else scores + bias) @ v


@cache
def relative_position(m: int) -> Sequence[Sequence[int]]:
    """Which row of the table each (query, key) pair of an M x M window reads: (dy + M-1)(2M-1) + dx + M-1."""
    pixels = [(y, x) for y in range(m) for x in range(m)]
    return [[(qy - ky + m - 1) * (2 * m - 1) + (qx - kx + m - 1) for ky, kx in pixels] for qy, qx in pixels]


def spsa(state: State, heads: Sequence[Tensor], helper: Tensor | None, m: int, shift: int) -> Tensor:
    """Eq. 2 before P_sp: heads (3c, H, W) of one image; the helper (c, H, W) multiplies value."""
    bias = state['relative_position_bias_table'][torch.tensor(relative_position(m))]  # (M^2, M^2, L_sp)
    outputs = []
    for i, head in enumerate(heads):
        q, k, v = cyclic_shift(head, shift).chunk(3)
        if helper is not None:
            v = v * cyclic_shift(helper, shift)
        bands = []
        for top in range(0, q.shape[1], m):
            windows = []
            for left in range(0, q.shape[2], m):
                tokens = [t[:, top : top + m, left : left + m].flatten(1).T for t in (q, k, v)]  # each (M^2, c)
                window = attention_head(*tokens, state['logit_scale'][i], bias[:, :, i])
                windows.append(window.T.unflatten(1, (m, m)))
            bands.append(torch.cat(windows, dim=2))
        outputs.append(cyclic_shift(torch.cat(bands, dim=1), -shift))
    return torch.cat(outputs)


def chsa(state: State, heads: Sequence[Tensor], helper: Tensor | None) -> Tensor:
    """Eq. 2 before P_ch: heads (3c, H, W) of one image; the helper (1, H, W) multiplies value."""
    outputs = []
    for i, head in enumerate(heads):
        q, k, v = head.chunk(3)
        if helper is not None:
            v = v * helper
        output = attention_head(q.flatten(1), k.flatten(1), v.flatten(1), state['logit_scale'][i])  # (c, H W)
        outputs.append(output.unflatten(1, head.shape[1:]))
    return torch.cat(outputs)


def reciprocal_helpers(previous: Attentions, l_ch: int) -> tuple[Tensor, Tensor]:
    """Section 3.2, to multiply values: for SPSA the head mean of CHSA, for CHSA the channel mean of SPSA."""
    previous_sp, previous_ch = previous
    return previous_ch.unflatten(1, (l_ch, -1)).mean(dim=1), previous_sp.mean(dim=1, keepdim=True)


def reciprocal_attention(
    state: State, x: Tensor, previous: Attentions, heads: int, shift: int, o: Options
) -> Attentions:
    """Eq. 2: project query, key and value, give each head its 3c channels, attend image by image, project."""
    qkv = conv1x1(part(state, 'qkv_proj.qkv'), x)
    l_ch = int(heads * o.chsa_head_ratio)
    l_sp = heads - l_ch
    help_sp = help_ch = [None] * len(x)
    if o.reciprocal_helper and all(p is not None for p in previous):
        help_sp, help_ch = reciprocal_helpers(previous, l_ch)
    sp, ch = [], []
    for image, helper_sp, helper_ch in zip(qkv, help_sp, help_ch, strict=True):
        head = image.chunk(heads)
        if l_sp:
            sp.append(spsa(part(state, 'sp_attn'), head[:l_sp], helper_sp, o.window_size, shift))
        if l_ch:
            ch.append(chsa(part(state, 'ch_attn'), head[l_sp:], helper_ch))
    return (
        conv1x1(part(state, 'sp_attn.proj'), torch.stack(sp)) if l_sp else None,
        conv1x1(part(state, 'ch_attn.proj'), torch.stack(ch)) if l_ch else None,
    )


def d_ramit_block(
    state: State, x: Tensor, previous: Attentions, heads: int, shift: int, o: Options
) -> tuple[Tensor, Tensor, Attentions]:
    """Fig. 2b, post-normalised: the block's output, its mixed attention (Eq. 1), its SPSA and CHSA."""
    attentions = reciprocal_attention(state, x, previous, heads, shift, o)
    mixed = mobivari(part(state, 'mobivari'), torch.cat([a for a in attentions if a is not None], dim=1), o)
    x = layer_norm(part(state, 'norm1'), mixed) + x
    hidden = gelu(conv1x1(part(state, 'ffn.hidden'), x))
    assert hidden.shape[1] == int(o.dim * o.hidden_ratio)
    return layer_norm(part(state, 'norm2'), conv1x1(part(state, 'ffn.out'), hidden)) + x, mixed, attentions


# ---- the network (Section 3.1) -------------------------------------------------------------------


def stage(state: State, x: Tensor, number: int, o: Options) -> tuple[Tensor, Tensor]:
    """K_a D-RAMiT blocks, every second one shifted by M/2; the output and the last mixed attention."""
    state, attentions = part(state, f'stage{number}'), (None, None)
    for n in range(o.depths[number - 1]):
        shift = o.window_size // 2 if n % 2 else 0
        block = part(state, f'blocks.block{n}')
        x, mixed, attentions = d_ramit_block(block, x, attentions, o.num_heads[number - 1], shift, o)
    return x, mixed


def downsizing(state: State, x: Tensor, o: Options) -> Tensor:
    """Patch merging, 2x2 pixels to 4C channels, LN, then MobiVari back to C (Section 3.1)."""
    patches = [x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return mobivari(part(state, 'reduction'), layer_norm(part(state, 'norm'), torch.cat(patches, dim=1)), o)


def bottleneck(state: State, shallow: Tensor, outputs: Sequence[Tensor], o: Options) -> Tensor:
    """SCDP bottleneck with MobiVari, Fig. 2d: the shallow feature and stages 1, 2, 3, all at H x W."""
    scales, pooled = [], shallow
    for i, output in enumerate(outputs):
        scales.append(pixel_shuffle(output + ACTIVATIONS['leaky_relu'](pooled), 2**i))
        pooled = max_pool2d(pooled, 2)
    mixed = mobivari(part(state, 'mobivari'), torch.cat(scales, dim=1), o, mixer=True)
    return layer_norm(part(state, 'norm'), mixed)


def h_rami(state: State, attentions: Sequence[Tensor], o: Options) -> Tensor:
    """Fig. 2c: the mixed attentions of stages 1, 2, 3, shuffled to H x W, and of stage 4, by MobiVari."""
    scales = [pixel_shuffle(attention, r) for attention, r in zip(attentions, (1, 2, 4, 1), strict=True)]
    return mobivari(part(state, 'mobivari'), torch.cat(scales, dim=1), o, mixer=True)


def reconstruction(state: State, x: Tensor, o: Options) -> Tensor:
    """Fig. Ba: MobiVari layers, 3x3 convolution, pixel shuffle by r, 3x3 convolution; I_res."""
    for n in range(o.tail_mobivari):
        x = mobivari(part(state, f'mobivari.mobivari{n}'), x, o)
    return conv3x3(part(state, 'final_conv'), pixel_shuffle(conv3x3(part(state, 'conv'), x), o.upscale))


def residual_image(state: State, image: Tensor, o: Options) -> Tensor:
    """Fig. 2a: from the normalised and padded I_LQ to I_res."""
    shallow = conv3x3(part(state, 'shallow.conv'), image)
    assert shallow.shape[1] == o.dim
    stage1, attention1 = stage(state, shallow, 1, o)
    stage2, attention2 = stage(state, downsizing(part(state, 'down1'), stage1, o), 2, o)
    stage3, attention3 = stage(state, downsizing(part(state, 'down2'), stage2, o), 3, o)
    neck = bottleneck(part(state, 'bottleneck'), shallow, [stage1, stage2, stage3], o)
    feature, attention4 = stage(state, neck, 4, o)
    if o.hrami:
        attentions = [attention1, attention2, attention3, attention4]
        feature = feature * h_rami(part(state, 'attn_mix'), attentions, o)
    return reconstruction(part(state, 'to_target'), feature + shallow, o)


def ramit(state: State, image: Tensor, **options) -> Tensor:
    """I_RC (N, C, rH, rW) of I_LQ (N, C, H, W), both in about [0, 1]; the options are those of `Options`."""
    o = Options(**options)
    assert image.shape[1] == o.in_chans == len(o.img_mean) == len(o.img_std)
    assert o.qkv_bias == any(key.endswith('qkv.bias') for key in state)
    mean, std = image.new_tensor(o.img_mean)[:, None, None], image.new_tensor(o.img_std)[:, None, None]
    padded = symmetric_pad((image - mean) / std, o.window_size * 4)  # two downsizings, then whole windows
    output = residual_image(state, padded, o)
    if o.upscale == 1:
        output = output + padded
    return (output * std + mean)[:, :, : image.shape[2] * o.upscale, : image.shape[3] * o.upscale]
