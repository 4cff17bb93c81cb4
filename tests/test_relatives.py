"""LAformer and IPT-V2: blocks and networks as their formulas, gradients, sizes and types, cost, and wrong options."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import relatives_oracle as oracle
import torch
from helpers import assert_bfloat16_is_near
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from ramit_arch import IPTV2, LAformer, RAMiT
from ramit_arch.archs import iptv2_arch, laformer_arch, row_bands
from ramit_arch.archs.image_network import ImageNetwork
from ramit_arch.archs.layers import Blocks
from ramit_arch.evaluation.complexity import complexity

NETWORKS: list[type[ImageNetwork]] = [LAformer, IPTV2]
TINY: dict[type, dict[str, Any]] = {
    LAformer: {'dim': 8, 'depth': 1, 'num_heads': 2},
    IPTV2: {'dim': 4, 'depths': [1, 1, 1], 'num_heads': [1, 2, 2], 'window_size': 4, 'grid_size': [4, 2, 2]},
}
SETTINGS: dict[type, dict[str, Any]] = {  # of the size of RAMiT-tiny
    LAformer: {'dim': 48, 'depth': 9},
    IPTV2: {'dim': 16, 'depths': [1, 1, 1], 'num_heads': [1, 2, 4]},
    RAMiT: {'dim': 48, 'depths': [2, 2, 2, 2], 'num_heads': [4] * 4, 'mixer_expand_groups': 1},
}
GRAY = {'in_chans': 1, 'img_mean': [0.4], 'img_std': [0.3]}
both = pytest.mark.parametrize('kind', NETWORKS)


def randomised(module: nn.Module, seed: int = 0) -> Any:
    """The module with all its parameters moved away from their initial values, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 4:  # of a convolution
            parameter.data = noise / parameter[0].numel() ** 0.5
        else:
            parameter.data = parameter.data + 0.3 * noise
    return module.eval()


def tiny(kind: type, **options: Any) -> Any:
    torch.manual_seed(0)
    return randomised(kind(**{**TINY[kind], **options}))


def equal_to(module: nn.Module, x: Tensor, formula: Callable[..., Tensor], *options: Any) -> None:
    """Output, and gradients of all parameters, of a token-major module equal those of its formula; float64."""
    torch.manual_seed(0)
    module, x = randomised(module).double(), x.double()
    state = {name: value.detach().clone().requires_grad_() for name, value in module.state_dict().items()}
    expected = formula(state, x.permute(0, 3, 1, 2), *options).permute(0, 2, 3, 1)
    found = module(x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    towards = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * towards).sum(), list(state.values()))
    ours = torch.autograd.grad((found * towards).sum(), list(module.parameters()))
    torch.testing.assert_close(ours, gradients, rtol=1e-8, atol=1e-8)


# --------------------------------------------------------------------------------------------------- the formulas

few = settings(max_examples=8)
phis = st.sampled_from(['relu', 'elu'])
numbers = st.integers(1, 3)


@few
@given(numbers, numbers, phis, st.sampled_from([1, 3, 5, 7]), st.integers(1, 6), st.integers(1, 6))
def test_rank_enhanced_linear_attention(heads: int, d: int, phi: str, side: int, h: int, w: int) -> None:
    module = laformer_arch.RankEnhancedLinearAttention(heads * d, heads, phi, side)
    equal_to(module, torch.randn(2, h, w, heads * d), oracle.rela, heads, phi)


@few
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 6), st.integers(1, 6))
def test_channel_attention_and_gated_feed_forward(dim: int, ratio: int, h: int, w: int) -> None:
    x = torch.randn(2, h, w, dim)
    equal_to(laformer_arch.PooledChannelAttention(dim, ratio), x, oracle.channel_attention)
    equal_to(laformer_arch.GatedFeedForward(dim, ratio / 2 + 0.5), x, oracle.gated_feed_forward)


@few
@given(numbers, numbers, st.sampled_from([2, 4, 6]), numbers, numbers)
def test_focal_context_attention(heads: int, d: int, m: int, rows: int, columns: int) -> None:
    module = iptv2_arch.FocalContextAttention(heads * d, heads, m)
    equal_to(module, torch.randn(2, rows * m, columns * m, heads * d), oracle.fcsa, heads, m)


@few
@given(numbers, numbers, numbers, numbers, numbers)
def test_global_grid_attention(heads: int, d: int, p: int, rows: int, columns: int) -> None:
    module = iptv2_arch.GlobalGridAttention(heads * d, heads, p)
    equal_to(module, torch.randn(2, rows * p, columns * p, heads * d), oracle.ggsa, heads, p)


@few
@given(st.integers(2, 7), st.sampled_from([1.0, 1.5, 2.0]), st.integers(1, 7), st.integers(1, 7))
def test_feed_forward_with_branches(dim: int, ratio: float, h: int, w: int) -> None:
    """Gradients as well: those of each branch through the one convolution."""
    x = torch.randn(2, h, w, dim)
    equal_to(iptv2_arch.BranchedConv(dim), x, oracle.rep_conv)
    equal_to(iptv2_arch.RepLeFFN(dim, ratio, merged=False), x, oracle.rep_leffn)


@pytest.mark.parametrize('phi', ['relu', 'elu'])
def test_blocks(phi: str) -> None:
    block = laformer_arch.LAformerBlock(8, 2, phi, 5, 4, 1.5)
    equal_to(block, torch.randn(2, 5, 7, 8), oracle.laformer_block, 2, phi)
    focal_global = iptv2_arch.FocalGlobalBlock(8, 2, 4, 2, 1.5, merged=False)
    equal_to(focal_global, torch.randn(2, 8, 12, 8), oracle.fg_block, 2, 4, 2)


normalisations = st.sampled_from([{}, GRAY])


@st.composite
def laformers(draw: st.DrawFn) -> tuple[dict, dict]:
    """Arguments of a network, and those of its transcription."""
    heads = draw(st.integers(1, 3))
    known = {'depth': draw(st.integers(1, 2)), 'num_heads': heads, 'feature_map': draw(phis)}
    shapes = {
        'dim': heads * draw(st.integers(1, 3)),
        'rank_kernel': draw(st.sampled_from([1, 3, 5])),
        'channel_reduction': draw(st.integers(1, 8)),
        'hidden_ratio': draw(st.sampled_from([1.0, 2.5])),
    }
    return {**known, **shapes}, known


@st.composite
def iptv2s(draw: st.DrawFn) -> tuple[dict, dict]:
    """The same; windows and cells that do and do not divide one another."""
    sides = draw(st.sampled_from([(4, (4, 2, 1)), (2, (1, 2, 3)), (4, (1, 1, 2)), (2, (8, 1, 1))]))
    known = {
        'depths': [draw(st.integers(1, 2)), 1, 1],
        'num_heads': draw(st.sampled_from([[1, 2, 4], [2, 1, 8]])),
        'window_size': sides[0],
        'grid_size': sides[1],
    }
    return {**known, 'dim': draw(st.sampled_from([2, 4])), 'hidden_ratio': draw(st.sampled_from([1.0, 2.5]))}, known


@pytest.mark.parametrize(('kind', 'formula', 'configurations'), [
    (LAformer, oracle.laformer, laformers()), (IPTV2, oracle.iptv2, iptv2s()),
])  # fmt: skip
def test_network_equals_the_literal_transcription(
    kind: type[ImageNetwork], formula: Callable[..., Tensor], configurations: st.SearchStrategy
) -> None:
    @settings(max_examples=6)
    @given(configurations, st.integers(1, 4), normalisations, st.integers(1, 13), st.integers(1, 13))
    def equal(options: tuple[dict, dict], upscale: int, normalisation: dict, h: int, w: int) -> None:
        arguments, known = options
        network = randomised(kind(upscale=upscale, **arguments, **normalisation)).double()
        statistics = {'img_mean': oracle.MEAN, 'img_std': oracle.STD, **normalisation}
        statistics.pop('in_chans', None)
        for buffer, key in [(network.mean, 'img_mean'), (network.std, 'img_std')]:  # not rounded to float32
            buffer.copy_(torch.tensor(statistics[key], dtype=torch.float64).view_as(buffer))
        image = torch.rand(2, network.in_chans, h, w, dtype=torch.float64)
        with torch.no_grad():
            literal = formula(network.state_dict(), image, upscale=upscale, **known, **statistics)
            torch.testing.assert_close(network(image), literal, rtol=1e-9, atol=1e-9)

    equal()


# ------------------------------------------------------------------------------------------------------ gradients

BLOCKS = [
    (laformer_arch.RankEnhancedLinearAttention(4, 2, 'elu', 3), 2, 3),
    (laformer_arch.RankEnhancedLinearAttention(4, 2, 'relu', 3), 2, 3),
    (laformer_arch.PooledChannelAttention(4, 2), 2, 3),
    (laformer_arch.GatedFeedForward(4, 1.5), 2, 3),
    (laformer_arch.LAformerBlock(4, 2, 'elu', 5, 2, 1.5), 2, 3),
    (iptv2_arch.FocalContextAttention(4, 2, 2), 4, 4),
    (iptv2_arch.GlobalGridAttention(4, 2, 2), 4, 2),
    (iptv2_arch.RepLeFFN(4, 1.5, merged=False), 3, 2),
    (iptv2_arch.RepLeFFN(4, 1.5, merged=True), 3, 2),
    (iptv2_arch.FocalGlobalBlock(4, 2, 2, 2, 1.0, merged=False), 4, 4),
]


@pytest.mark.parametrize(('block', 'h', 'w'), BLOCKS, ids=[type(block).__name__ for block, _, _ in BLOCKS])
def test_gradients_are_those_of_finite_differences(block: nn.Module, h: int, w: int) -> None:
    block = randomised(copy.deepcopy(block), 1).double()
    names = [name for name, _ in block.named_parameters()]
    x = torch.randn(1, h, w, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def function(x: Tensor, *values: Tensor) -> Tensor:
        return functional_call(block, dict(zip(names, values, strict=True)), (x,))

    inputs = [x, *(value.detach().clone().requires_grad_() for value in block.parameters())]
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


@both
def test_checkpointing_keeps_the_gradients_which_every_parameter_has(kind: type[ImageNetwork]) -> None:
    networks, image = [tiny(kind).double().train() for _ in range(2)], torch.rand(2, 3, 13, 10, dtype=torch.float64)
    networks[1].set_grad_checkpointing(True)
    calls: list[int] = []
    feed_forward = next(module for name, module in networks[1].named_modules() if 'ffn' in name)
    feed_forward.register_forward_pre_hook(lambda *_: calls.append(1))
    for network in networks:
        network(image).square().sum().backward()
    assert len(calls) == 2  # recomputed
    for first, second in zip(*(network.parameters() for network in networks), strict=True):
        assert first.grad is not None
        assert first.grad.isfinite().all()
        assert first.grad.abs().sum() > 0
        torch.testing.assert_close(second.grad, first.grad, atol=0, rtol=1e-12)


# ------------------------------------------------------------------------------------------------ sizes and types


@both
def test_any_size_from_one_pixel_up(kind: type[ImageNetwork]) -> None:
    scales = range(1, 5)
    networks = {(scale, 3): tiny(kind, upscale=scale) for scale in scales}
    networks |= {(scale, 1): tiny(kind, upscale=scale, **GRAY) for scale in scales}

    @given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 2), st.sampled_from(list(networks)))
    @example(1, 1, 1, (1, 3))
    def restored(height: int, width: int, batch: int, key: tuple[int, int]) -> None:
        scale, channels = key
        with torch.no_grad():
            out = networks[key](torch.rand(batch, channels, height, width))
        assert out.shape == (batch, channels, height * scale, width * scale)
        assert out.isfinite().all()

    restored()


@both
def test_bands_of_rows_give_what_whole_maps_give(kind: type[ImageNetwork], monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny(kind).double()
    heights: list[int] = []
    feed_forward = next(module for name, module in network.named_modules() if 'ffn' in name)
    feed_forward.register_forward_pre_hook(lambda _, inputs: heights.append(inputs[0].shape[1]))

    @few
    @given(st.integers(1, 40), st.integers(1, 24), st.integers(1, 2), st.sampled_from([16, 64, 300]))
    @example(32, 16, 1, 64)
    def equal(height: int, width: int, batch: int, band: int) -> None:
        image = torch.rand(batch, 3, height, width, dtype=torch.float64)
        with monkeypatch.context() as patch, torch.no_grad():
            whole = network(image)
            heights.clear()
            patch.setattr(row_bands, 'BAND', band)
            torch.testing.assert_close(network(image), whole, atol=1e-10, rtol=0)
        if (height, width, batch, band) == (32, 16, 1, 64):
            assert len(heights) == 8  # of 4 rows each, and the halo

    equal()


@both
def test_images_of_a_batch_and_their_memory_format_do_not_matter(kind: type[ImageNetwork]) -> None:
    network, batch = tiny(kind).double(), torch.rand(3, 3, 18, 11, dtype=torch.float64)
    with torch.no_grad():
        expected = network(batch)
        torch.testing.assert_close(torch.cat([network(x[None]) for x in batch]), expected)
        torch.testing.assert_close(network(batch.to(memory_format=torch.channels_last)), expected)
        strided = torch.rand(2, 3, 36, 22, dtype=torch.float64)[:, :, ::2, ::2]
        torch.testing.assert_close(network(strided), network(strided.contiguous()))


@pytest.mark.parametrize(('kind', 'options'), [
    (LAformer, {'feature_map': 'relu'}), (LAformer, {'feature_map': 'elu'}), (IPTV2, {}),
])  # fmt: skip
def test_bfloat16_weights_and_autocast_stay_near_float32(kind: type[ImageNetwork], options: dict) -> None:
    torch.manual_seed(0)
    assert_bfloat16_is_near(kind(**TINY[kind], **options).eval())


def traceable(kind: type, **options: Any) -> Any:
    """A tiny network with one block, of which graphs are made in seconds."""
    network = tiny(kind, **options)
    if kind is IPTV2:
        network.encoder1 = network.encoder2 = network.decoder2 = network.decoder1 = Blocks()
    return network


@both
def test_network_is_a_single_graph(kind: type[ImageNetwork]) -> None:
    network, batch = traceable(kind), torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        expected = network(batch)
        torch.testing.assert_close(torch.export.export(network, (batch,)).module()(batch), expected)
        torch.compiler.reset()
        compiled = torch.compile(network, backend='aot_eager', fullgraph=True)
        torch.testing.assert_close(compiled(batch), expected)


# ----------------------------------------------------------------------------------------------------------- cost


def mult_adds(module: nn.Module, *shape: int) -> int:
    with torch.device('meta'), FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(module).to('meta')(torch.empty(shape))
    return counter.get_total_flops() // 2


@both
def test_parameters_are_as_many_as_those_of_ramit(kind: type[ImageNetwork]) -> None:
    with torch.device('meta'):
        networks = [kind(), kind(**SETTINGS[kind]), RAMiT(**SETTINGS[RAMiT])]
    default, small, ramit = (sum(parameter.numel() for parameter in network.parameters()) for network in networks)
    assert 900_000 <= default <= 1_000_000
    assert small == pytest.approx(ramit, rel=0.05)


def test_mult_adds_of_laformer_follow_from_its_formula() -> None:
    c, d, width = 12, 4, 18  # channels, of a head, of the feed-forward network
    network = LAformer(dim=c, depth=2, num_heads=3, hidden_ratio=1.5, rank_kernel=3)
    attention = 3 * c * c + 2 * c * d + c + 9 * c + c * c  # projections, K^T V, Q (K^T V), Q sum K, DWConv
    block = attention + c + c * 2 * width + 9 * 2 * width + width + width * c  # gates of channels and of values
    pixel = 9 * 3 * c + 2 * block + 9 * c * c + 9 * c * 12 + 12  # and of the result, times the standard deviation
    cost = complexity(network, 3, 2)
    assert cost.mult_adds == pytest.approx(360 * 640 * pixel, rel=1e-4)
    assert cost.parameters == sum(parameter.numel() for parameter in network.parameters())


def test_mult_adds_of_iptv2_follow_from_its_formula() -> None:
    network = IPTV2(dim=8, depths=(1, 1, 1), num_heads=(1, 2, 4), window_size=8, grid_size=(16, 8, 4))
    h, w = 384, 640  # 360x640, padded to multiples of 32

    def block(c: int, level: int) -> float:
        heads, p, pixels = 2**level, (16, 8, 4)[level], h * w / 4**level
        shifted = (h / 2**level - 8) * (w / 2**level - 8)
        d, tokens = c / heads, pixels / p**2
        focal = pixels * (3 * c * c + 9 * 3 * c + c * c)
        focal += (pixels + shifted) * (2 * c + 2 * c * d + c * d / 64 + c)  # position weight, attention, t and mask
        grid = pixels * (4 * c * c + 2 * c * tokens)
        return focal + grid + 2 * pixels * (2 * (c * c + 2 * c * c) + 25 * 2 * c)

    levels = block(8, 0) + 2 * block(16, 1) + block(32, 2) + block(16, 0)
    between = h * w * 9 * (8 * 4 + 16 * 8 / 4 + 32 * 64 / 16 + 16 * 32 / 4) + h * w * (32 * 16 / 4 + 16 * 16)
    ends = h * w * (9 * 3 * 8 + 9 * 16 * 12 + 12)
    assert complexity(network, 3, 2).mult_adds == pytest.approx(levels + between + ends, rel=0.01)


def test_mult_adds_grow_linearly_but_those_of_global_grid_attention() -> None:
    for network in (LAformer(**TINY[LAformer]), RAMiT(dim=16, depths=[1] * 4, window_size=4, expand_groups=1)):
        small, large = (mult_adds(network, 1, 3, side, side) for side in (64, 128))
        assert large == pytest.approx(4 * small, rel=1e-3)
    grid = iptv2_arch.GlobalGridAttention(8, 2, 4)
    attention = [mult_adds(grid, 1, side, side, 8) - 4 * 8 * 8 * side**2 for side in (64, 128)]
    assert attention == [2 * 8 * side**4 / 16 for side in (64, 128)]


# ---------------------------------------------------------------------------------------------------- wrong options


@both
def test_an_image_with_other_channels_is_refused_rather_than_broadcast(kind: type[ImageNetwork]) -> None:
    with pytest.raises(ValueError, match='the image has 1 channels; in_chans is 3'):
        tiny(kind)(torch.rand(1, 1, 8, 8))


WRONG: list[tuple[type, dict[str, Any], str]] = [
    (LAformer, {'upscale': 0}, 'upscale is 0'),
    (LAformer, {'in_chans': 4}, 'in_chans is 4'),
    (LAformer, {'num_heads': 5}, 'num_heads is 5; it must be a divisor of dim, which is 64'),
    (LAformer, {'feature_map': 'softmax'}, "'relu' or 'elu'"),
    (LAformer, {'rank_kernel': 4}, 'rank_kernel is 4'),
    (LAformer, {'channel_reduction': 0}, 'channel_reduction is 0'),
    (LAformer, {'hidden_ratio': 0.01}, 'hidden_ratio is 0.01; it must be at least 1 / dim, and dim is 64'),
    (IPTV2, {'dim': 15}, 'dim is 15; it must be a multiple of 2'),
    (IPTV2, {'depths': [1, 0, 1]}, 'depths is [1, 0, 1]'),
    (IPTV2, {'num_heads': [1, 2, 5]}, 'num_heads is [1, 2, 5]; it must be three divisors of 24, 48, 96'),
    (IPTV2, {'window_size': 7}, 'window_size is 7; it must be a multiple of 2'),
    (IPTV2, {'grid_size': [8, 8]}, 'grid_size is [8, 8]'),
    (IPTV2, {'hidden_ratio': 0.05}, 'hidden_ratio is 0.05; it must be at least 2 / dim, and dim is 24'),
    (IPTV2, {'merged': 'yes'}, 'merged is'),
    (IPTV2, {'img_std': [0.2, 0.0, 0.2]}, 'img_std'),
]


@pytest.mark.parametrize(('kind', 'options', 'message'), WRONG, ids=[f'{k.__name__}{o}' for k, o, _ in WRONG])
def test_a_wrong_option_is_named_with_its_value_and_what_is_allowed(kind: type, options: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:
        kind(**options)
    assert message in str(error.value)
    assert 'it must be' in str(error.value)
