"""The native attention of windows: equal to PyTorch's, compiled once, and never needed."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import batch, make_model, step
from hypothesis import given
from hypothesis import strategies as st

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
def test_native_attention_equals_pytorch(
    images: int, rows: int, columns: int, heads: int, width: int, window_size: int, helped: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    attention = SpatialAttention(heads, width, window_size, 0.0, 0.0).eval()
    torch.nn.init.normal_(attention.relative_position_bias_table)
    torch.nn.init.uniform_(attention.logit_scale, -1, 6)  # beyond the largest too
    size = (images, rows * window_size, columns * window_size)
    qkv = torch.randn(*size, heads * 3 * width)
    qkv[0, 0, 0] = 0  # a vector without direction
    helper = torch.randn(*size, width) if helped else None
    with torch.no_grad():
        expected = attention.double().attend(qkv.double(), None if helper is None else helper.double())
        attention.float().native = True
        assert native.available(window_size, width) is None
        found = attention.attend(qkv, helper)
        assert (found - expected).abs().max() < 1e-4
        halved = attention.attend(qkv.bfloat16(), None if helper is None else helper.bfloat16())
    assert halved.dtype == torch.bfloat16
    assert (halved - expected).abs().max() < 0.05 * expected.abs().max() + 0.05


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


def test_native_attention_is_used_without_gradients_only(monkeypatch: pytest.MonkeyPatch) -> None:
    network = RAMiT(**NETWORK)
    network.set_compiled()
    calls = []
    call = native._call
    monkeypatch.setattr(native, '_call', lambda *arguments: calls.append(1) or call(*arguments))
    network(torch.rand(1, 3, 16, 16)).mean().backward()
    assert not calls
    with torch.no_grad():
        network(torch.rand(1, 3, 16, 16))
    assert len(calls) == 6  # blocks
    network.set_compiled(False)
    with torch.no_grad():
        network(torch.rand(1, 3, 16, 16))
    assert len(calls) == 6


def test_training_with_compile_takes_the_same_steps_and_says_that_it_is_not_faster(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger('basicsr').addHandler(caplog.handler)
    plain, compiled = make_model(tmp_path), make_model(tmp_path, compile=True, val={'compile': True})
    for model in (plain, compiled):
        for iteration in (1, 2):
            step(model, iteration)
        model.feed_data(batch())
        model.test()
    torch.testing.assert_close(compiled.output, plain.output, atol=1e-5, rtol=0)
    logging.getLogger('basicsr').removeHandler(caplog.handler)
    assert caplog.text.count('train.compile: RAMiT has native kernels on a CPU') == 1


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


def test_a_compiler_that_fails_or_computes_wrongly_is_not_used(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, 'FLAGS', ['--no-such-flag'])
    assert 'failed:' in str(native.available(4, 8))
    native._load.cache_clear()
    monkeypatch.undo()
    wrong = fresh.parent / 'wrong.cpp'
    fresh.parent.mkdir(exist_ok=True)
    wrong.write_text(native.SOURCE.read_text().replace('* 1.44269504f', '* 1.4f'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(fresh.parent))
    monkeypatch.setattr(native, 'SOURCE', wrong)
    assert 'computes wrongly' in str(native.available(4, 8))


def test_windows_that_the_kernel_does_not_take_are_left_to_pytorch() -> None:
    assert 'multiple of 4, not 6' in str(native.available(6, 16))
    network = RAMiT(dim=16, depths=[1, 1, 1, 1], window_size=2, expand_groups=1).eval()
    assert 'multiple of 4, not 2' in str(network.set_compiled())
    with torch.no_grad():
        network(torch.rand(1, 3, 8, 8))
