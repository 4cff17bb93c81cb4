"""Files of LAformer and IPT-V2: weights with and without merged branches, exported networks, and spandrel."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest
import torch
from test_relatives import TINY, both, tiny, traceable
from torch import nn

from ramit_arch import IPTV2, LAformer
from ramit_arch.archs import iptv2_arch
from ramit_arch.archs.image_network import ImageNetwork
from ramit_arch.errors import UserError
from ramit_arch.inference.checkpoints import fitting_weights, load_weights, write_checkpoint
from ramit_arch.inference.export import export
from ramit_arch.inference.networks import Loaded, describe, load

# --------------------------------------------------------------------------------------------------- merged branches


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_merged_copy_computes_the_same_and_leaves_the_original(dtype: torch.dtype, tolerance: float) -> None:
    network, image = tiny(IPTV2).to(dtype).train(), torch.rand(1, 3, 17, 20, dtype=dtype)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    merged = network.merge()
    expected = network(image)
    torch.testing.assert_close(merged(image), expected, atol=tolerance, rtol=0)
    assert all(module.training for module in merged.modules())
    assert not any(module.training for module in network.eval().merge().modules())
    names = {name for name, _ in merged.named_parameters() if '.ffn' in name}
    assert {name.split('.', 3)[3] for name in names} == iptv2_arch.MERGED
    assert len(names) == 6 * 2 * 5  # weights and biases of three layers, of two networks in each of five blocks
    assert {parameter.dtype for parameter in merged.parameters()} == {dtype}
    nn.init.zeros_(merged.shallow.conv.weight)  # shares no memory
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    expected.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    torch.testing.assert_close(merged.merge().state_dict(), merged.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize('target', [False, True])
@pytest.mark.parametrize('source', [False, True])
def test_weights_of_either_form_load_into_either_form(source: bool, target: bool, tmp_path: Path) -> None:
    trained, image = tiny(IPTV2).double(), torch.rand(1, 3, 9, 12, dtype=torch.float64)
    trained = trained.merge() if source else trained
    weights = trained.state_dict()
    names = list(weights)
    networks = [IPTV2(**TINY[IPTV2], merged=target).double().eval() for _ in range(2)]
    networks[0].load_state_dict(weights)
    load_weights(networks[1], weights, 'net.pth')
    assert list(weights) == names  # not changed
    with torch.device('meta'):
        unloaded = IPTV2(**TINY[IPTV2], merged=target)
    fitting_weights(unloaded, weights, 'net.pth')
    unloaded.load_state_dict(weights, assign=True)
    networks.append(unloaded)
    description = describe({'type': 'IPTV2', **TINY[IPTV2], 'merged': target}, 2, 'SR')
    for suffix in ('pth', 'safetensors'):
        write_checkpoint({'params': weights, 'network': description}, tmp_path / f'net.{suffix}')
        networks.append(load(tmp_path / f'net.{suffix}').network.double())
    for network, tolerance in zip(networks, [1e-12] * 3 + [1e-5] * 2, strict=True):
        assert any('conv5' in name for name, _ in network.named_parameters()) != target
        network.mean, network.std = trained.mean, trained.std
        with torch.no_grad():
            torch.testing.assert_close(network.eval()(image), trained(image), atol=tolerance, rtol=0)


def test_merged_weights_do_not_fit_through_narrow_layers() -> None:
    options = {**TINY[IPTV2], 'hidden_ratio': 1.5}
    merged = IPTV2(**options).merge()
    assert load_weights(IPTV2(**options, merged=True), merged.state_dict(), 'net.pth') is None
    with pytest.raises(UserError, match=r'net\.pth does not fit IPTV2'):
        load_weights(IPTV2(**options), merged.state_dict(), 'net.pth')


@both
def test_network_and_its_replicas_on_several_gpus_compute_the_same(kind: type[ImageNetwork]) -> None:
    """Pickled, and as DataParallel makes replicas: parameters are then plain attributes."""
    network, image = tiny(kind), torch.rand(1, 3, 9, 12)
    copied = pickle.loads(pickle.dumps(network))
    replicas = {name: module._replicate_for_data_parallel() for name, module in network.named_modules()}
    for name, replica in replicas.items():
        original = network.get_submodule(name)
        for child, _ in original.named_children():
            setattr(replica, child, replicas[f'{name}.{child}' if name else child])
        for key, parameter in original.named_parameters(recurse=False):
            replica._parameters.pop(key, None)
            setattr(replica, key, parameter.detach().clone())
    with torch.no_grad():
        expected = network(image)
        for other in (copied, replicas['']):
            torch.testing.assert_close(other(image), expected, atol=0, rtol=0)


@pytest.mark.parametrize('lost', ['conv.conv3.weight', 'out.0.bias', 'conv.bias'])
@pytest.mark.parametrize('target', [False, True])
def test_incomplete_weights_of_either_form_are_refused(lost: str, target: bool) -> None:
    trained = tiny(IPTV2)
    weights = (trained.merge() if lost == 'conv.bias' else trained).state_dict()
    del weights[f'bottleneck.0.ffn2.{lost}']
    network = IPTV2(**TINY[IPTV2], merged=target)
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "bottleneck\.0\.ffn2\.'):
        network.load_state_dict(weights)
    with pytest.raises(UserError, match=r'net\.pth does not fit IPTV2: parameters \d+ missing \(first bottleneck\.0'):
        load_weights(network, weights, 'net.pth')


# ---------------------------------------------------------------------------------------------------------- export


def loaded(network: nn.Module, scale: int, **options: int) -> Loaded:
    network_g = {'type': type(network).__name__, **TINY[type(network)], 'upscale': scale, **options}
    return Loaded(Path('net.pth'), 'params', network, network_g, scale, 'SR' if scale > 1 else None, None, 1)


@pytest.mark.parametrize(('kind', 'file_kind', 'scale'), [
    (LAformer, 'onnx', 2), (LAformer, 'pt2', 1), (IPTV2, 'onnx', 1),
])  # fmt: skip
def test_exported_network_restores_any_size(kind: type[ImageNetwork], file_kind: str, scale: int) -> None:
    """`export` compares three sizes. IPT-V2 is exported with its branches merged, and keeps them."""
    if file_kind == 'onnx':
        onnx = pytest.importorskip('onnx')
        pytest.importorskip('onnxruntime')
        pytest.importorskip('onnxscript')
    options = {'window_size': 8} if kind is IPTV2 else {}  # 17x23 then has a single window
    network = traceable(kind, upscale=scale, **options)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    exported = export(loaded(network, scale, **options), file_kind)
    assert list(exported.differences) == [(1, 3, 17, 23), (2, 3, 64, 96), (1, 3, 75, 131)]
    assert max(exported.differences.values()) < 1e-5
    torch.testing.assert_close(network.state_dict(), before, atol=0, rtol=0)
    if file_kind == 'onnx':
        names = {each.name for each in onnx.load_from_string(exported.content).graph.initializer}
    else:
        names = set(torch.export.load(io.BytesIO(exported.content)).state_dict)
    if kind is IPTV2:
        assert {'network.bottleneck.0.ffn1.conv.weight', 'network.bottleneck.0.ffn2.conv.bias'} <= names
        assert not any('conv3' in name or 'conv1' in name for name in names)


@both
def test_safetensors_load_into_spandrel(kind: type[ImageNetwork], tmp_path: Path) -> None:
    spandrel = pytest.importorskip('spandrel')
    from ramit_arch.spandrel import install

    install()
    network = tiny(kind)
    (tmp_path / 'net.safetensors').write_bytes(export(loaded(network, 2), 'safetensors').content)
    descriptor = spandrel.ModelLoader().load_from_file(tmp_path / 'net.safetensors')
    assert (descriptor.architecture.id, descriptor.purpose, descriptor.scale) == (kind.__name__, 'SR', 2)
    image = torch.rand(1, 3, 19, 26)
    with torch.no_grad():
        torch.testing.assert_close(descriptor(image), network(image).clamp(0, 1), atol=0, rtol=0)
