"""The options of a RAMiT from the shapes of its weights, for published checkpoints, which carry no options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

# Mean and standard deviation of the training images (Appendix B), for RGB; the LR images of DIV2K by factor.
STATISTICS: dict[str, tuple[list[float], list[float]]] = {
    'SRx2': ([0.4485, 0.4375, 0.4045], [0.2397, 0.2290, 0.2389]),
    'SRx3': ([0.4485, 0.4375, 0.4045], [0.2373, 0.2265, 0.2367]),
    'SRx4': ([0.4485, 0.4375, 0.4045], [0.2352, 0.2244, 0.2349]),
    'CDN': ([0.4775, 0.4515, 0.4047], [0.2442, 0.2367, 0.2457]),
    'GDN': ([0.4539], [0.2326]),
    'LLE': ([0.1687, 0.1599, 0.1526], [0.1142, 0.1094, 0.1094]),
    'DR': ([0.5110, 0.5105, 0.4877], [0.2313, 0.2317, 0.2397]),
}
HELPED = ('SR', 'LLE')  # tasks whose networks have the reciprocal helper (Tab. B)
FACTORS = [k / 20 for k in range(1, 401)]  # expansion factors to try: 0.05 to 20


def mixed_width(dim: int) -> int:
    """Channels of the three encoder scales after pixel shuffling: C + C/4 + C/16."""
    return dim + dim // 4 + dim // 16


def tasks_of(weights: Mapping[str, Tensor]) -> list[str]:
    """The paper's tasks that a RAMiT of these shapes may have been trained for: SR, or CDN, LLE, DR, or GDN."""
    in_chans, upscale = _in_chans(weights), _upscale(weights)
    return ['SR'] if upscale > 1 else ['GDN'] if in_chans == 1 else ['CDN', 'LLE', 'DR']


def options_from(weights: Mapping[str, Tensor], task: str) -> dict[str, Any]:
    """Arguments of the RAMiT that has these weights.

    What shapes do not show are the activations, which are taken as the paper's, and what differs by task: the
    statistics of the training images and the reciprocal helper.

    Args:
        weights: a state dict.
        task: one of `tasks_of`.

    Raises:
        KeyError, ValueError: these are not the weights of a RAMiT.
    """
    dim, upscale = weights['shallow.conv.weight'].shape[0], _upscale(weights)
    block = 'stage1.blocks.block0.'
    blocks = [[f'stage{i}.blocks.block{j}.' for j in range(_count(weights, f'stage{i}.blocks.block'))]
              for i in range(1, 5)]  # fmt: skip
    heads = [(_heads(weights, f'{stage[0]}sp_attn'), _heads(weights, f'{stage[0]}ch_attn')) for stage in blocks]
    options: dict[str, Any] = {
        'upscale': upscale,
        'in_chans': _in_chans(weights),
        'dim': dim,
        'depths': [len(stage) for stage in blocks],
        'num_heads': [spatial + channel for spatial, channel in heads],
        'chsa_head_ratio': max(channel / (spatial + channel) for spatial, channel in heads),
        'hidden_ratio': weights[f'{block}ffn.hidden.weight'].shape[0] / dim,
        'qkv_bias': f'{block}qkv_proj.qkv.bias' in weights,
        'hrami': 'attn_mix.mobivari.pw_conv.weight' in weights,
        'tail_mobivari': _count(weights, 'to_target.mobivari.mobivari'),
        'reciprocal_helper': task in HELPED,
    }
    if (table := weights.get(f'{block}sp_attn.relative_position_bias_table')) is not None:
        options['window_size'] = int(table.shape[0] ** 0.5 + 1) // 2
    mean, std = STATISTICS.get(f'SRx{upscale}' if task == 'SR' else task, ([0.0], [1.0]))
    if len(mean) == options['in_chans']:
        options |= {'img_mean': mean, 'img_std': std}
    return options | _mobivari(weights, block)


def _in_chans(weights: Mapping[str, Tensor]) -> int:
    return weights['shallow.conv.weight'].shape[1]


def _upscale(weights: Mapping[str, Tensor]) -> int:
    return round((weights['to_target.conv.weight'].shape[0] / _in_chans(weights)) ** 0.5)


def _count(weights: Iterable[str], prefix: str) -> int:
    """How many modules `prefix0`, `prefix1` and so on there are."""
    return len({name[len(prefix) :].partition('.')[0] for name in weights if name.startswith(prefix)})


def _heads(weights: Mapping[str, Tensor], attention: str) -> int:
    scale = weights.get(f'{attention}.logit_scale')
    return 0 if scale is None else scale.shape[0]


def _mobivari(weights: Mapping[str, Tensor], block: str) -> dict[str, Any]:
    if f'{block}mobivari.exp_conv.weight' not in weights:
        return {'mobivari_version': 1}
    dim = weights['shallow.conv.weight'].shape[0]
    mixed = mixed_width(dim)
    factor, groups = _expansion(weights, {f'{block}mobivari': dim, 'down1.reduction': 4 * dim})
    options: dict[str, Any] = {'exp_factor': factor, 'expand_groups': groups}
    mixer = _expansion(weights, {'bottleneck.mobivari': mixed, 'attn_mix.mobivari': mixed + dim})
    return options if mixer == (factor, groups) else {
        **options, 'mixer_exp_factor': mixer[0], 'mixer_expand_groups': mixer[1]
    }  # fmt: skip


def _expansion(weights: Mapping[str, Tensor], inputs: Mapping[str, int]) -> tuple[float, int]:
    """Expansion factor and groups of MobiVari layers, given the channels they take."""
    shapes = {name: weights.get(f'{name}.exp_conv.weight') for name in inputs}
    found = [(inputs[name], shape.shape[0], inputs[name] // shape.shape[1])
             for name, shape in shapes.items() if shape is not None]  # fmt: skip
    groups = found[0][2]
    for factor in FACTORS:
        expanded = [int(channels * factor) for channels, _, _ in found]
        if [e + groups - e % groups for e in expanded] == [width for _, width, _ in found]:
            return factor, groups
    raise ValueError('no expansion factor gives these widths')
