"""Our networks in spandrel: detected, described and computed as here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import SHARED, TINY_NETWORK, call_basicsr
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from ramit_arch import RAMiT, load_network
from ramit_arch.errors import UserError
from ramit_arch.inference.checkpoints import write_checkpoint
from ramit_arch.inference.networks import describe
from ramit_arch.inference.packaged import networks

spandrel = pytest.importorskip('spandrel')

from ramit_arch.spandrel import install  # noqa: E402

install()
PUBLISHED = SHARED / 'reference' / 'checkpoints'


def make(**options: Any) -> RAMiT:
    torch.manual_seed(0)
    network = RAMiT(**{**{key: value for key, value in TINY_NETWORK.items() if key != 'type'}, **options}).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0, 0.1)
    return network


def same(descriptor: Any, network: nn.Module, channels: int = 3) -> None:
    image = torch.rand(1, channels, 19, 26)
    with torch.no_grad():
        assert torch.equal(descriptor(image), network(image).clamp(0, 1))


def test_installing_twice_does_no_harm() -> None:
    before = len(spandrel.MAIN_REGISTRY)
    install()
    assert len(spandrel.MAIN_REGISTRY) == before
    assert 'RAMiT' in spandrel.MAIN_REGISTRY


@settings(max_examples=15, deadline=None)
@given(
    upscale=st.integers(2, 4), dim=st.sampled_from([16, 32]),
    depths=st.lists(st.integers(1, 2), min_size=4, max_size=4),
    heads=st.sampled_from([2, 4]), window_size=st.sampled_from([2, 4]), hidden_ratio=st.sampled_from([1.0, 2.0]),
    hrami=st.booleans(), mobivari_version=st.sampled_from([1, 2]), tail_mobivari=st.integers(0, 2),
)  # fmt: skip
def test_arguments_are_found_from_the_weights(heads: int, **options: Any) -> None:
    """The paper's normalisation, as the shapes do not show another."""
    from ramit_arch.archs.ramit_shapes import STATISTICS

    mean, std = STATISTICS[f'SRx{options["upscale"]}']
    network = make(num_heads=[heads] * 4, img_mean=mean, img_std=std, **options)
    weights = network.state_dict()
    descriptor = spandrel.ModelLoader().load_from_state_dict(dict(weights))
    assert (descriptor.architecture.id, descriptor.purpose, descriptor.scale) == ('RAMiT', 'SR', options['upscale'])
    same(descriptor, network)


@pytest.mark.parametrize(('scale', 'task', 'channels'), [(1, 'LLE', 3), (1, 'GDN', 1), (3, 'SR', 3), (1, None, 3)])
def test_exported_file_has_its_own_normalisation(scale: int, task: str | None, channels: int, tmp_path: Path) -> None:
    options = {'upscale': scale, 'in_chans': channels, 'img_mean': [0.3] * channels, 'img_std': [0.4] * channels}
    network = make(mobivari_act='gelu', **options)
    known = describe({**TINY_NETWORK, 'mobivari_act': 'gelu', **options}, scale, task)
    write_checkpoint({'params': network.state_dict(), 'network': known}, tmp_path / 'net.pth')
    result = call_basicsr('export', '-m', 'net.pth', '--to', 'net.safetensors', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    descriptor = spandrel.ModelLoader().load_from_file(tmp_path / 'net.safetensors')
    assert descriptor.purpose == ('SR' if scale > 1 else 'Restoration')
    assert (descriptor.scale, descriptor.input_channels, descriptor.output_channels) == (scale, channels, channels)
    assert descriptor.size_requirements.none
    assert descriptor.tiling == spandrel.ModelTiling.SUPPORTED
    assert descriptor.tags[1:] == ([task] if task else [])
    same(descriptor, network, channels)
    image = torch.rand(1, channels, 19, 26)
    in_bfloat16 = descriptor.bfloat16()(image.bfloat16()).float()
    with torch.no_grad():
        assert (in_bfloat16 - network(image).clamp(0, 1)).abs().mean() < 0.05
    with pytest.raises(spandrel.UnsupportedDtypeError):
        descriptor.half()


def test_packaged_network_loads() -> None:
    descriptor = spandrel.ModelLoader().load_from_file(networks()['RAMiT-tiny_SRx2'].file)
    assert descriptor.tags == ['283K', 'SR']
    same(descriptor, load_network('RAMiT-tiny_SRx2'))


def test_weights_that_do_not_tell_their_task_are_refused(tmp_path: Path) -> None:
    weights = make(upscale=1).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / 'raw.safetensors')
    with pytest.raises(UserError, match=r'a RAMiT for CDN or LLE or DR; .*: basicsr export -m FILE --task CDN --to'):
        spandrel.ModelLoader().load_from_file(tmp_path / 'raw.safetensors')


def test_other_networks_are_left_to_spandrel() -> None:
    from basicsr.archs.edsr_arch import EDSR

    with pytest.raises(spandrel.UnsupportedModelError):
        spandrel.ModelLoader().load_from_state_dict(EDSR(3, 3, num_feat=8, num_block=1).state_dict())


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason='published checkpoints absent')
@pytest.mark.parametrize(
    'file', sorted(path for path in PUBLISHED.glob('*.pth') if '_X' in path.name or 'GDN' in path.name), ids=str
)
def test_published_checkpoints_load(file: Path) -> None:
    descriptor = spandrel.ModelLoader().load_from_file(file)
    same(descriptor, load_network(file), descriptor.input_channels)
