"""The network: parity with the published one, counts, input sizes and types, and wrong options."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from helpers import assert_bfloat16_is_near
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ramit_arch import DaViTCore, DaViTFull, RAMiT
from ramit_arch.archs import row_bands
from ramit_arch.archs.layers import symmetric_pad, window_partition, window_reverse
from ramit_arch.evaluation.complexity import Measurement, cells, complexity

DATA = Path(__file__).with_name('data')
NETWORKS: dict[str, dict] = json.loads(gzip.decompress((DATA / 'networks.json.gz').read_bytes()))
GOLDEN = np.load(DATA / 'golden.npz')
GOLDEN_NETWORKS = [name for name in NETWORKS if f'{name}/loss' in GOLDEN]
TINY = {'dim': 16, 'depths': (2, 1, 1, 2), 'window_size': 4, 'expand_groups': 1}


def reproducible(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights behind the golden outputs: every tensor is drawn by the CRC-32 of its own name."""
    filled = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            filled[name] = tensor
            continue
        draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(tensor.shape))
        noise = draw.astype(np.float32)
        if name.endswith('logit_scale'):
            value = np.log(10.0) + 0.2 * noise
        elif name.endswith('relative_position_bias_table'):
            value = 0.5 * noise
        elif tensor.ndim > 1:
            value = noise / np.sqrt(noise[0].size)
        elif '.norm' in name and name.endswith('weight'):
            value = 1.0 + 0.1 * noise
        else:
            value = 0.1 * noise
        filled[name] = torch.from_numpy(np.asarray(value, dtype=np.float32)).reshape(tensor.shape)
    return filled


def image(name: str, *shape: int) -> Tensor:
    """The input behind a golden output: uniform in [0, 1], drawn by its name."""
    return torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).random(shape, dtype=np.float32))


def golden_network(name: str) -> RAMiT:
    """A variant in float64 with the golden weights."""
    options = NETWORKS[name]['options']
    network = RAMiT(**options)
    network.load_state_dict(reproducible(network.state_dict()))
    network.double()
    for buffer, key in [(network.mean, 'img_mean'), (network.std, 'img_std')]:
        buffer.copy_(torch.tensor(options[key], dtype=torch.float64).view_as(buffer))  # not rounded to float32
    return network


def reproducible_tiny(**options: object) -> RAMiT:
    """A small network whose attentions and biases differ from their initial values."""
    network = tiny(**options)
    network.load_state_dict(reproducible(network.state_dict()))
    return network


def tiny(**options: object) -> RAMiT:
    torch.manual_seed(0)
    return RAMiT(**{**TINY, **options}).eval()


# ----------------------------------------------------------------------------------------- the published network


def test_golden_data_covers_all_published_variants() -> None:
    assert len(NETWORKS) == 19
    assert len(GOLDEN_NETWORKS) == 14


@pytest.mark.parametrize('name', NETWORKS)
def test_parameters_equal_the_published_checkpoints(name: str) -> None:
    with torch.device('meta'):
        network = RAMiT(**NETWORKS[name]['options'])
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == NETWORKS[name]['state_dict']
    assert sum(p.numel() for p in network.parameters()) == NETWORKS[name]['params']


def test_without_hrami_920k_parameters_at_x2() -> None:
    with torch.device('meta'):
        parameters = sum(p.numel() for p in RAMiT(hrami=False).parameters())
    assert round(parameters / 1000) == 920  # Tab. 4a, row {iv}


@pytest.mark.parametrize('name', GOLDEN_NETWORKS)
def test_outputs_loss_and_gradients_equal_the_golden_run(name: str) -> None:
    expected = NETWORKS[name]
    channels, scale = expected['options']['in_chans'], expected['options']['upscale']
    network = golden_network(name)

    network.eval()
    with torch.no_grad():
        odd = network(image(f'{name}/odd', 1, channels, 40, 56).double())[:, :, ::3, ::3]
    difference = np.abs(odd.numpy() - GOLDEN[f'{name}/odd']).max()
    assert difference <= 1e-6 * expected['odd_absmax']

    network.train()
    out = network(image(f'{name}/train', 2, channels, 64, 64).double())
    golden = GOLDEN[f'{name}/train']
    assert np.abs(out[:, :, ::8, ::8].detach().numpy() - golden).max() <= 1e-6 * np.abs(golden).max()

    loss = nn.functional.l1_loss(out, image(f'{name}/target', 2, channels, 64 * scale, 64 * scale).double())
    assert loss.item() == pytest.approx(GOLDEN[f'{name}/loss'].item(), rel=1e-6)
    loss.backward()
    norms = {key: p.grad.norm().item() for key, p in network.named_parameters() if p.grad is not None}
    assert norms == pytest.approx(expected['grad_norms'], rel=1e-6, abs=1e-6 * max(expected['grad_norms'].values()))
    total = sum(norm**2 for norm in norms.values()) ** 0.5
    assert total == pytest.approx(expected['grad_norm'], rel=1e-6)


def test_float32_stays_within_its_tolerance() -> None:
    name = 'RAMiT_SRx2'
    network = golden_network(name).float().eval()
    with torch.no_grad():
        odd = network(image(f'{name}/odd', 1, 3, 40, 56))[:, :, ::3, ::3].numpy()
    assert np.abs(odd - GOLDEN[f'{name}/odd']).max() <= 1e-4 * NETWORKS[name]['odd_absmax']


@pytest.mark.parametrize('name', NETWORKS)
def test_mult_adds_are_within_half_a_percent_of_the_published_count(name: str) -> None:
    options = NETWORKS[name]['options']
    with torch.device('meta'):
        network = RAMiT(**options)
    cost = complexity(network, options['in_chans'], options['upscale'])
    assert cost.mult_adds == pytest.approx(NETWORKS[name]['mult_adds_720p'], rel=0.005)


def test_activations_are_what_convolutions_put_out() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 12, 1), nn.PixelShuffle(2))
    assert complexity(network, 3, 2).activations == 360 * 640 * (5 + 12)


@pytest.mark.parametrize(('milliseconds', 'shown'), [(1234.5, '1.23 s'), (123.45, '123 ms'), (1.2345, '1.23 ms')])
def test_complexity_row_reads_as_in_table_2(milliseconds: float, shown: str) -> None:
    with torch.device('meta'):
        cost = complexity(RAMiT(), 3, 2)
    row = cells('RAMiT', 2, cost, Measurement(milliseconds / 1e3, 2**29, 'CPU'))
    assert row == ['RAMiT', 'x2', '940K', '163.1G', '2,543M', shown, '0.50 GiB']


# ------------------------------------------------------------------------------------------------- DaViT (Tab. A)


@pytest.mark.parametrize(('kind', 'upscale', 'parameters', 'mult_adds'), [
    (DaViTCore, 2, 966, 163.2), (DaViTCore, 4, 987, 42.08), (DaViTCore, 1, 961, 620.8),
    (DaViTFull, 2, 983, 167.0), (DaViTFull, 4, 1003, 43.0), (DaViTFull, 1, 977, 635.2),
])  # fmt: skip
def test_davit_costs_what_table_a_prints(kind: type[RAMiT], upscale: int, parameters: int, mult_adds: float) -> None:
    with torch.device('meta'):
        cost = complexity(kind(upscale=upscale), 3, upscale)
    assert round(cost.parameters / 1e3) == parameters
    assert cost.mult_adds / 1e9 == pytest.approx(mult_adds, rel=0.003)


def davit(kind: type[RAMiT], depth: int = 4) -> RAMiT:
    torch.manual_seed(0)
    return kind(upscale=1, dim=16, depths=[depth] * 4, window_size=4, expand_groups=1).eval()


def test_davit_core_alternates_pure_blocks_and_shifts_every_second_spatial_one() -> None:
    for stage in (davit(DaViTCore).stage1, davit(DaViTCore).stage4):
        blocks = list(stage.blocks.values())
        assert [(block.sp_attn is not None, block.ch_attn is not None) for block in blocks] == [
            (True, False), (False, True), (True, False), (False, True),
        ]  # fmt: skip
        assert [block.shift for block in blocks[::2]] == [0, 2]
        assert [attention.heads for block in blocks for attention in (block.sp_attn or block.ch_attn,)] == [4] * 4
        assert not any(block.helps for block in blocks)


def test_davit_full_has_the_elements_of_table_a() -> None:
    names = {name for name, _ in davit(DaViTFull).named_parameters()}
    assert not any('logit_scale' in name or 'bias_table' in name for name in names)  # dot product, no relative bias
    block = davit(DaViTFull).stage1.blocks['block0']
    x = torch.randn(1, 8, 8, 16)
    with torch.no_grad():
        for convolution in (block.position1, block.position2):
            convolution.weight.zero_()
            convolution.bias.zero_()
        block.ffn.out.weight.zero_()
        block.ffn.out.bias.zero_()
        out, mixed, helper = block(x)
        assert torch.allclose(out, x + mixed)  # pre-normalised: what is added is not
        assert helper is None
        # windows do not shift: a window's output depends on that window alone, whose positions are all alike
        attended = block.attend(x)
        changed = x.clone()
        changed[:, 4:] += 1
        assert torch.allclose(block.attend(changed)[:, :4], attended[:, :4])
        assert torch.allclose(block.attend(x.flip(1)).flip(1), attended, atol=1e-6)


@pytest.mark.parametrize('kind', [DaViTCore, DaViTFull])
def test_davit_restores_any_size_and_trains_every_parameter(kind: type[RAMiT]) -> None:
    network = davit(kind, depth=2)
    with torch.no_grad():
        assert network(torch.rand(2, 3, 13, 7)).shape == (2, 3, 13, 7)
    network(torch.rand(1, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    copy = davit(kind, depth=2)
    copy.load_state_dict(network.state_dict())


# --------------------------------------------------------------------------------------------------- the oracle


@st.composite
def configurations(draw: st.DrawFn) -> dict:
    dim = draw(st.sampled_from([16, 32]))
    heads = st.sampled_from([1, 2, 4])
    return {
        'upscale': draw(st.integers(1, 4)),
        'in_chans': (chans := draw(st.sampled_from([1, 3]))),
        'img_mean': (0.4, 0.5, 0.6)[:chans],
        'img_std': (0.2, 0.25, 0.3)[:chans],
        'dim': dim,
        'depths': [draw(st.integers(1, 2)) for _ in range(4)],
        'num_heads': [draw(heads) for _ in range(4)],
        'chsa_head_ratio': draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])),
        'window_size': draw(st.sampled_from([2, 4])),
        'hidden_ratio': draw(st.sampled_from([1.0, 1.5, 2.0])),
        'qkv_bias': draw(st.booleans()),
        'mobivari_version': draw(st.integers(1, 2)),
        'mobivari_act': draw(st.sampled_from(['leaky_relu', 'relu6', 'relu', 'gelu', 'silu'])),
        'exp_factor': draw(st.sampled_from([1.0, 1.2, 2.0])),
        'expand_groups': draw(st.sampled_from([1, 2, 4] if dim == 16 else [1, 2])),
        'mixer_exp_factor': draw(st.sampled_from([None, 1.5])),
        'mixer_expand_groups': 1,
        'reciprocal_helper': draw(st.booleans()),
        'hrami': draw(st.booleans()),
        'tail_mobivari': draw(st.integers(0, 3)),
    }


@given(configurations(), st.integers(1, 20), st.integers(1, 20))
def test_network_equals_the_literal_transcription(options: dict, height: int, width: int) -> None:
    network = RAMiT(**options).double().eval()
    weights = {name: value.double() for name, value in reproducible(network.state_dict()).items()}
    network.load_state_dict(weights)
    for buffer, key in [(network.mean, 'img_mean'), (network.std, 'img_std')]:
        buffer.copy_(torch.tensor(options[key], dtype=torch.float64).view_as(buffer))
    batch = image('oracle', 2, options['in_chans'], height, width).double()
    with torch.no_grad():
        ours = network(batch)
        literal = oracle.ramit(weights, batch, **options)
    torch.testing.assert_close(ours, literal, rtol=1e-8, atol=1e-8)


# ------------------------------------------------------------------------------------------------ sizes and types


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 2), st.sampled_from([1, 2, 3]))
def test_any_size_from_one_pixel_up(height: int, width: int, batch: int, upscale: int) -> None:
    network = tiny(upscale=upscale)
    with torch.no_grad():
        out = network(torch.rand(batch, 3, height, width))
    assert out.shape == (batch, 3, height * upscale, width * upscale)
    assert out.isfinite().all()


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 2),
    st.sampled_from([64, 300, 1000, 2500]),
    st.sampled_from([{}, {'mobivari_version': 1}, {'chsa_head_ratio': 0}, {'hrami': False}]),
)
def test_bands_of_rows_give_what_whole_maps_give(height: int, width: int, batch: int, band: int, options: dict) -> None:
    network, x = reproducible_tiny(**options).double(), torch.rand(batch, 3, height, width, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        whole = network(x)
        patch.setattr(row_bands, 'BAND', band)
        torch.testing.assert_close(network(x), whole, atol=1e-10, rtol=0)


def test_images_are_computed_in_bands_where_no_gradient_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_bands, 'BAND', 512)
    network, heights = tiny(drop_path=0.5), []
    attention = network.stage1.blocks['block1'].sp_attn
    attention.register_forward_pre_hook(lambda _, inputs: heights.append(inputs[0].shape[1]))
    with torch.no_grad():
        network(torch.rand(1, 3, 48, 64))
    assert heights == [8] * 6  # bands of 512 pixels: 8 of 48 rows
    heights.clear()
    network(torch.rand(1, 3, 48, 64))
    network.train()
    with torch.no_grad():  # what is dropped is drawn for whole maps
        network(torch.rand(1, 3, 48, 64))
    assert heights == [48] * 2


@pytest.mark.parametrize(('n', 'rows', 'columns'), [(1, 1, 3), (1, 3, 1), (2, 1, 3), (1, 1, 1)])
def test_windows_are_contiguous_whatever_their_number(n: int, rows: int, columns: int) -> None:
    x = torch.rand(n, 4 * rows, 4 * columns, 3)
    windows = window_partition(x, 4)
    assert windows.is_contiguous()
    assert windows.permute(0, 3, 1, 2).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(windows[-1], x[-1, -4:, -4:], atol=0, rtol=0)
    merged = window_reverse(windows, *x.shape[1:3])
    assert merged.is_contiguous()
    torch.testing.assert_close(merged, x, atol=0, rtol=0)


@given(st.integers(1, 9), st.integers(1, 9))
def test_padding_is_symmetric(height: int, width: int) -> None:
    x = torch.rand(1, 2, height, width)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (0, -height % 8), (0, -width % 8)), mode='symmetric')
    np.testing.assert_array_equal(symmetric_pad(x, 8).numpy(), expected)


def test_images_of_a_batch_do_not_see_each_other() -> None:
    network, batch = tiny().double(), torch.rand(3, 3, 20, 28, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(batch), torch.cat([network(x[None]) for x in batch]))


def test_memory_format_of_the_input_does_not_matter() -> None:
    network, batch = tiny().double(), torch.rand(2, 3, 16, 24, dtype=torch.float64)
    with torch.no_grad():
        expected = network(batch)
        torch.testing.assert_close(network(batch.to(memory_format=torch.channels_last)), expected)
        strided = torch.rand(2, 3, 32, 48, dtype=torch.float64)[:, :, ::2, ::2]
        torch.testing.assert_close(network(strided), network(strided.contiguous()))


def test_bfloat16_weights_and_autocast_stay_near_float32() -> None:
    assert_bfloat16_is_near(tiny())


def test_upscale_1_starts_near_the_identity_of_normalisation() -> None:
    network = tiny(upscale=1)
    nn.init.zeros_(network.to_target.final_conv.weight)
    nn.init.zeros_(network.to_target.final_conv.bias)
    batch = torch.rand(1, 3, 13, 9)
    with torch.no_grad():
        torch.testing.assert_close(network(batch), batch, atol=1e-6, rtol=0)  # I_res = 0 gives back I_LQ


def test_compile_traces_without_a_graph_break() -> None:
    network, batch = tiny(), torch.rand(1, 3, 16, 24)
    compiled = torch.compile(network, backend='aot_eager', fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(batch), network(batch))


def test_export_gives_the_same_output() -> None:
    network, batch = tiny(), torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        exported = torch.export.export(network, (batch,)).module()
        torch.testing.assert_close(exported(batch), network(batch))


def test_drop_path_drops_whole_residual_branches_in_training_only() -> None:
    network, batch = tiny(drop_path=0.9), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(batch), tiny()(batch))
        network.train()
        outputs = {float(network(batch).sum()) for _ in range(8)}
    assert len(outputs) > 1


@pytest.mark.parametrize('key', ['attn_drop', 'proj_drop'])
def test_dropout_acts_in_training_only(key: str) -> None:
    network, batch = tiny(**{key: 0.5}), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(batch), tiny()(batch))
        network.train()
        assert not torch.equal(network(batch), network(batch))


# --------------------------------------------------------------------------------------------------- wrong options


def test_an_image_with_other_channels_is_refused_rather_than_broadcast() -> None:
    with pytest.raises(ValueError, match='the image has 1 channels; in_chans is 3'):
        tiny()(torch.rand(1, 1, 8, 8))


WRONG = [
    ({'upscale': 0}, 'upscale is 0'),
    ({'upscale': 2.0}, 'upscale is 2.0'),
    ({'in_chans': 4}, 'in_chans is 4'),
    ({'dim': 60}, 'dim is 60'),
    ({'depths': [6, 4, 4]}, 'depths is [6, 4, 4]'),
    ({'depths': [6, 4, 0, 6]}, 'depths is [6, 4, 0, 6]'),
    ({'num_heads': [4, 4, 4]}, 'num_heads is [4, 4, 4]'),
    ({'num_heads': [4, 4, 4, 5]}, 'divisors of dim, which is 64'),
    ({'chsa_head_ratio': 1.5}, 'a number from 0 to 1'),
    ({'chsa_head_ratio': 'half'}, "chsa_head_ratio is 'half'"),
    ({'window_size': 7}, 'a multiple of 2'),
    ({'hidden_ratio': 0}, 'hidden_ratio is 0'),
    ({'qkv_bias': 'yes'}, 'true or false'),
    ({'mobivari_version': 3}, '1 or 2'),
    ({'mobivari_act': 'swish'}, "'leaky_relu', 'relu6', 'relu', 'gelu' or 'silu'"),
    ({'exp_factor': -1}, 'exp_factor is -1'),
    ({'expand_groups': 3}, 'expand_groups is 3'),
    ({'dim': 48, 'num_heads': [4] * 4}, 'mixer_expand_groups is 4; it must be a divisor of 48 and 63'),
    ({'tail_mobivari': -1}, 'tail_mobivari is -1'),
    ({'attn_drop': 1.0}, 'a number from 0 to below 1'),
    ({'drop_path': float('nan')}, 'drop_path is nan'),
    ({'img_mean': [0.5]}, 'a list of 3, one number a channel'),
    ({'in_chans': 1}, 'a list of 1, one number a channel'),
    ({'img_std': [0.2, 0.0, 0.2]}, 'img_std'),
]


@pytest.mark.parametrize(('options', 'message'), WRONG, ids=[str(options) for options, _ in WRONG])
def test_a_wrong_option_is_named_with_its_value_and_what_is_allowed(options: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:
        RAMiT(**options)
    assert message in str(error.value)
    assert 'it must be' in str(error.value)
