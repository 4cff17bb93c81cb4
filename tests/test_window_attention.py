"""The native attention of windows: equal to PyTorch's, compiled once, and never needed."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers import batch, make_model, step
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ramit_arch import RAMiT
from ramit_arch.archs import window_attention as native
from ramit_arch.archs.ramit_arch import SpatialAttention
from ramit_arch.inference.compute import Compute

pytestmark = pytest.mark.skipif(native.available(8, 16) is not None, reason=f'{native.available(8, 16)}')
NETWORK = {'dim': 32, 'depths': [2, 1, 1, 2], 'window_size': 4, 'expand_groups': 1}


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache, on disk and in memory."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    native._load.cache_clear()
    yield tmp_path / 'cache' / 'ramit_arch'
    native._load.cache_clear()


@given(
    images=st.integers(1, 3), rows=st.integers(1, 3), columns=st.integers(1, 3), heads=st.integers(1, 4),
    width=st.sampled_from([8, 12, 16, 32]), window_size=st.sampled_from([4, 8, 12]), helped=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_native_attention_and_its_gradients_equal_pytorch(
    images: int, rows: int, columns: int, heads: int, width: int, window_size: int, helped: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    assert native.available(window_size, width) is None
    size = (images, rows * window_size, columns * window_size)
    qkv = torch.randn(*size, heads * 3 * width).bfloat16().float()  # what bfloat16 holds exactly
    helper = torch.randn(*size, width).bfloat16().float() if helped else None
    bias = torch.randn(heads, window_size**2, window_size**2)
    inverse_tau = torch.rand(heads) * 100
    weight = torch.randn(*size, heads * width).bfloat16().float()

    def gradients(function: Callable[..., Tensor], maps: torch.dtype, others: torch.dtype) -> list[Tensor]:
        tensors = [(qkv, maps), (helper, maps), (bias, others), (inverse_tau, others)]
        inputs = [None if x is None else x.to(dtype, copy=True).requires_grad_() for x, dtype in tensors]
        out = function(*inputs, window_size)
        assert out.dtype == maps
        return [out, *torch.autograd.grad(out, [x for x in inputs if x is not None], weight.to(maps))]

    expected = gradients(native.window_attention, torch.float64, torch.float64)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.01)):
        for a, b in zip(gradients(native.native_window_attention, dtype, torch.float32), expected, strict=True):
            assert (a - b).abs().max() < tolerance * b.abs().max() + tolerance


def test_tokens_without_direction_are_attended_to_as_in_pytorch() -> None:
    torch.manual_seed(0)
    attention = SpatialAttention(2, 8, 4, 0.0, 0.0)
    qkv = torch.randn(1, 4, 4, 2 * 3 * 8)
    qkv[0, 0, 0] = 0
    expected = attention.attend(qkv, None)
    attention.native = True
    torch.testing.assert_close(attention.attend(qkv, None), expected)


def test_operators_are_well_formed() -> None:
    maps = [torch.rand(1, 4, 4, channels, requires_grad=True) for channels in (48, 8)]
    others = [torch.rand(2, 16, 16, requires_grad=True), torch.rand(2, requires_grad=True)]
    torch.library.opcheck(torch.ops.ramit_arch.window_attention, (*maps, *others, 4))


@pytest.mark.parametrize('bf16', [False, True])
def test_network_with_native_attention_equals_pytorch(bf16: bool) -> None:
    torch.manual_seed(0)
    network = RAMiT(**NETWORK).eval()
    accelerated = copy.deepcopy(network)
    assert accelerated.set_compiled() is None
    image = torch.rand(2, 3, 45, 70)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=bf16):
        difference = (accelerated(image) - network(image)).abs().max()
    assert difference < (0.02 if bf16 else 1e-5)


@pytest.mark.parametrize('checkpointing', [False, True])
def test_network_with_native_attention_has_the_gradients_of_pytorch(checkpointing: bool) -> None:
    torch.manual_seed(0)
    network = RAMiT(**NETWORK)
    accelerated = copy.deepcopy(network)
    accelerated.set_compiled()
    accelerated.set_grad_checkpointing(checkpointing)
    image = torch.rand(2, 3, 16, 32)
    for each in (network, accelerated):
        each(image).square().mean().backward()
    for a, b in zip(accelerated.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)


def test_native_attention_is_used_until_it_is_switched_off_and_not_with_dropout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    call = native._call
    monkeypatch.setattr(native, '_call', lambda *arguments: calls.append(arguments[1]) or call(*arguments))
    network = RAMiT(**NETWORK)
    network.set_compiled()
    network(torch.rand(1, 3, 16, 16)).mean().backward()
    assert calls == ['attend'] * 6 + ['differentiate'] * 6  # blocks
    network.set_compiled(False)
    network(torch.rand(1, 3, 16, 16)).mean().backward()
    assert len(calls) == 12
    dropping = RAMiT(**NETWORK, attn_drop=0.1)
    dropping.set_compiled()
    dropping(torch.rand(1, 3, 16, 16))
    assert len(calls) == 12


def test_training_with_compile_takes_the_same_steps(tmp_path: Path) -> None:
    plain, compiled = make_model(tmp_path), make_model(tmp_path, compile=True, val={'compile': True})
    for model in (plain, compiled):
        for iteration in (1, 2):
            step(model, iteration)
        model.feed_data(batch())
        model.test()
    torch.testing.assert_close(compiled.output, plain.output, atol=1e-5, rtol=0)


def test_loading_the_kernel_does_not_change_the_arithmetic_of_the_process() -> None:
    code = (
        'import torch\n'
        'from ramit_arch.archs import window_attention\n'
        'assert window_attention.available(8, 16) is None\n'
        'print(float(torch.tensor(1e-30) * torch.tensor(1e-10)) > 0)  # denormal\n'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert result.stdout == 'True\n'


def test_kernel_is_compiled_once_and_then_loaded(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.available(4, 8) is None
    [file] = fresh.iterdir()
    written = file.stat().st_mtime_ns
    native._load.cache_clear()
    monkeypatch.setattr(native, 'FLAGS', [*native.FLAGS])
    assert native.available(4, 8) is None
    assert [file.stat().st_mtime_ns for file in fresh.iterdir()] == [written]
    native._load.cache_clear()
    monkeypatch.setattr(native, 'FLAGS', [*native.FLAGS, '-O2'])
    assert native.available(4, 8) is None
    assert len(list(fresh.iterdir())) == 2


def test_without_a_compiler_pytorch_computes_and_a_line_says_so(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv('PATH', '')
    monkeypatch.setattr(logging.getLogger('basicsr'), 'propagate', True)
    network = RAMiT(**NETWORK).eval()
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        expected = network(image)
        assert torch.equal(Compute(torch.device('cpu'), compile=True).network(network)(image), expected)
    assert 'PyTorch computes instead of the native kernel: no C++ compiler was found' in caplog.text


@pytest.mark.parametrize(('right', 'false'), [('* 1.44269504f', '* 1.4f'), ('- along * q[d]', '- q[d]')])
def test_a_compiler_that_fails_or_computes_wrongly_is_not_used(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, right: str, false: str
) -> None:
    monkeypatch.setattr(native, 'FLAGS', ['--no-such-flag'])
    assert 'failed:' in str(native.available(4, 8))
    native._load.cache_clear()
    monkeypatch.undo()
    wrong = fresh.parent / 'wrong.cpp'
    fresh.parent.mkdir(exist_ok=True)
    wrong.write_text(native.SOURCE.read_text().replace(right, false))
    monkeypatch.setenv('XDG_CACHE_HOME', str(fresh.parent))
    monkeypatch.setattr(native, 'SOURCE', wrong)
    assert 'computes wrongly' in str(native.available(4, 8))


def test_windows_that_the_kernel_does_not_take_are_left_to_pytorch() -> None:
    assert 'multiple of 4, not 6' in str(native.available(6, 16))
    network = RAMiT(dim=16, depths=[1, 1, 1, 1], window_size=2, expand_groups=1).eval()
    assert 'multiple of 4, not 2' in str(network.set_compiled())
    with torch.no_grad():
        network(torch.rand(1, 3, 8, 8))
