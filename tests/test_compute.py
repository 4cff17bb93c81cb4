"""How networks are computed: bf16, channels-last, checkpointing, `torch.compile`, and what the log says of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY_NETWORK, batch, make_model, step, weights
from torch import nn

from ramit_arch.errors import UserError
from ramit_arch.models.compute import check_checkpointing, read_compute
from ramit_arch.models.options import Validation

NETWORK = {key: value for key, value in TINY_NETWORK.items() if key != 'type'}
CPU = torch.device('cpu')


def settings(**keys: bool) -> Validation:
    return Validation(save_img=False, **keys)


def test_bf16_changes_the_numbers_a_little_and_keeps_float32_weights(tmp_path: Path) -> None:
    full, half = make_model(tmp_path), make_model(tmp_path, bf16=True, val={'bf16': True})
    for model in (full, half):
        step(model, 1)
        model.feed_data(batch())
        model.test()
    assert half.output.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in half.net_g.parameters())
    assert not torch.equal(full.output, half.output)
    torch.testing.assert_close(full.output, half.output, atol=0.02, rtol=0)


def test_channels_last_is_the_format_of_weights_and_images(tmp_path: Path) -> None:
    for model in (make_model(tmp_path, channels_last=True), make_model(tmp_path, val={'channels_last': True})):
        formats = []
        model.net_g.register_forward_pre_hook(
            lambda _, inputs, formats=formats: formats.append(
                inputs[0].is_contiguous(memory_format=torch.channels_last)
            )
        )
        step(model, 1)
        model.feed_data(batch())
        model.test()
        assert sorted(formats) == [False, True]
        assert model.net_g.to_target.conv.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('options', [{'checkpointing': True}, {'channels_last': True}, {'tf32': True}])
def test_how_it_is_computed_changes_no_step(options: dict, tmp_path: Path) -> None:
    plain, other = make_model(tmp_path), make_model(tmp_path, **options)
    for iteration in (1, 2):
        step(plain, iteration)
        step(other, iteration)
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(other)[name], value, atol=1e-6, rtol=0)


def test_checkpointing_keeps_less_for_the_backward_pass(tmp_path: Path) -> None:
    kept = {}
    for checkpointing in (False, True):
        model = make_model(tmp_path, checkpointing=checkpointing)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: (sizes.append(x.nbytes), x)[1], lambda x: x
        ):
            model.net_g(batch()['lq'])
        kept[checkpointing] = sum(sizes)
    assert kept[True] < kept[False] / 2


def test_checkpointing_of_a_network_that_cannot_is_refused() -> None:
    with pytest.raises(UserError, match=r'train\.checkpointing: Conv2d does not support'):
        check_checkpointing(torch.nn.Conv2d(3, 3, 3))


@pytest.fixture
def compiled_functions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What is given to `torch.compile`, which here traces and guards as ever but does not run a C++ compiler."""
    compile_, functions = torch.compile, []

    def without_cpp(function: Any, **options: Any) -> Any:
        functions.append(function)
        return compile_(function, backend='aot_eager', fullgraph=True, **options)

    monkeypatch.setattr(torch, 'compile', without_cpp)
    monkeypatch.setenv('CXX', sys.executable)  # tests need none
    torch._dynamo.reset()
    yield functions
    torch._dynamo.reset()


def test_a_network_of_another_kind_is_compiled_whole(compiled_functions: list[Any]) -> None:
    network, image = nn.Conv2d(3, 3, 3), torch.rand(1, 3, 9, 9)
    compiled = read_compute(settings(compile=True), 'val', CPU)[0].network(network)
    torch.testing.assert_close(compiled(image), network(image))
    assert compiled_functions == [network]


def test_the_log_says_how_it_is_computed_and_why() -> None:
    cpu, gpu = torch.device('cpu'), torch.device('cuda')
    _, line = read_compute(settings(bf16=True), 'train', cpu)
    assert not read_compute(settings(tf32=True), 'val', cpu)[0].tf32
    assert 'bf16 on (train.bf16), tf32 off (only GPUs have it), channels_last off (default: no gain on a CPU)' in line
    training, line = read_compute(settings(), 'train', gpu)
    assert (training.tf32, training.channels_last, training.bf16, training.compile) == (True, True, False, False)
    assert 'tf32 on (default: faster, and as good for training)' in line
    validation, line = read_compute(settings(channels_last=False), 'val', gpu)
    assert not validation.tf32  # scores are of float32
    assert 'channels_last off (val.channels_last)' in line


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', '')
    compute = read_compute(settings(compile=True), 'val', CPU)[0]
    with pytest.raises(UserError, match=r'compile: no C\+\+ compiler was found'):
        compute.network(nn.Conv2d(3, 3, 3))
