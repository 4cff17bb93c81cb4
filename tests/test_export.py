"""Networks as files for other programs: ONNX, exported programs and safetensors, checked by what reads them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import TINY_NETWORK, call_basicsr, photograph
from safetensors import safe_open
from torch import nn

from ramit_arch import RAMiT, Restorer, load_network
from ramit_arch.errors import UserError
from ramit_arch.inference import export
from ramit_arch.inference.checkpoints import write_checkpoint
from ramit_arch.inference.networks import describe, load

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

SIZES = [(1, 1, 1), (1, 9, 40), (3, 16, 16)]


def write_network(file: Path, options: dict[str, Any]) -> Path:
    """A network with random weights, all of them drawn."""
    network_g = {**TINY_NETWORK, **options}
    torch.manual_seed(0)
    network = RAMiT(**{key: value for key, value in network_g.items() if key != 'type'})
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0, 0.1)
    known = describe(network_g, network_g['upscale'], None if network_g['upscale'] == 1 else 'SR')
    write_checkpoint({'params': network.state_dict(), 'network': known}, file)
    return file


@pytest.fixture(scope='module')
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.pth and what `basicsr export` makes of it."""
    folder = tmp_path_factory.mktemp('export')
    write_network(folder / 'net.pth', {})
    for name in ('net.onnx', 'net.pt2'):
        result = call_basicsr('export', '-m', 'net.pth', '--to', name, cwd=folder)
        assert result.returncode == 0, result.stderr
        *checks, last = result.stdout.splitlines()
        assert [line.split(':')[0] for line in checks] == ['1x3x17x23', '2x3x64x96', '1x3x75x131']
        assert last.startswith(f'net.pth (params) -> {name}: ')
    return folder


def images(channels: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(n, channels, h, w, generator=generator) for n, h, w in SIZES]


def test_onnx_file_is_valid_and_restores_any_size(network: Path) -> None:
    onnx.checker.check_model(str(network / 'net.onnx'), full_check=True)
    content = (network / 'net.onnx').read_bytes()
    assert str(Path(export.__file__).parents[2]).encode() not in content
    session, reference = onnxruntime.InferenceSession(content), load_network(network / 'net.pth')
    assert session.get_inputs()[0].shape == ['batch', 3, 'height', 'width']
    for image in images(3):
        [restored] = session.run(['restored'], {'lq': image.numpy()})
        with torch.no_grad():
            assert np.abs(restored - reference(image).numpy()).max() < 1e-5


def test_exported_program_restores_any_size(network: Path) -> None:
    content = (network / 'net.pt2').read_bytes()
    assert str(Path(export.__file__).parents[2]).encode() not in content
    program, reference = torch.export.load(network / 'net.pt2').module(), load_network(network / 'net.pth')
    for image in images(3):
        with torch.no_grad():
            assert (program(image) - reference(image)).abs().max() < 1e-6


def test_restore_computes_an_onnx_file_in_the_same_tiles(network: Path) -> None:
    cv2.imwrite(str(network / 'photo.png'), photograph(0, 50, 70))
    for name in ('pth', 'onnx'):
        arguments = ('photo.png', '-m', f'net.{name}', '--tile', '32', '--overlap', '8', '-o', f'{name}.png')
        result = call_basicsr('restore', *arguments, cwd=network)
        assert result.returncode == 0, result.stderr
    restored, expected = (cv2.imread(str(network / f'{name}.png')).astype(int) for name in ('onnx', 'pth'))
    assert expected.shape == (100, 140, 3)
    assert expected.std() > 10
    assert np.abs(restored - expected).max() <= 1
    restorer = Restorer(network / 'net.onnx', device='cpu')
    assert (restorer.scale, restorer.channels, restorer.task) == (2, 3, 'SR')


def in_half(file: Path) -> nn.Module:
    """The network of a checkpoint with its weights rounded to float16."""
    network = load_network(file)
    for parameter in network.parameters():
        parameter.data = parameter.data.half().float()
    return network


def test_gray_denoiser_of_the_published_kind_becomes_onnx_in_half_precision(tmp_path: Path) -> None:
    options = {
        'upscale': 1, 'in_chans': 1, 'reciprocal_helper': False, 'img_mean': [0.5], 'img_std': [0.2],
        'mobivari_version': 1, 'mobivari_act': 'gelu',
    }  # fmt: skip
    loaded = load(write_network(tmp_path / 'net.pth', options))
    (tmp_path / 'net.onnx').write_bytes(export.export(loaded, 'onnx', half=True).content)
    types = [each.data_type for each in onnx.load(tmp_path / 'net.onnx').graph.initializer]
    assert types.count(onnx.TensorProto.FLOAT16) > 20
    restorer, reference = Restorer(tmp_path / 'net.onnx', device='cpu'), in_half(tmp_path / 'net.pth')
    for image in images(1):
        with torch.no_grad():
            assert (restorer.restore_tensor(image) - reference(image)).abs().max() < 1e-5
    assert load(tmp_path / 'net.onnx').network_g == describe(loaded.network_g, 1)['network_g']


def test_safetensors_in_half_precision_have_the_same_rounded_weights(network: Path, tmp_path: Path) -> None:
    file = tmp_path / 'half.safetensors'
    file.write_bytes(export.export(load(network / 'net.pth'), 'safetensors', half=True).content)
    with safe_open(file, 'pt') as stored:
        assert stored.get_tensor('shallow.conv.weight').dtype == torch.float16
    restored, reference = load_network(file), in_half(network / 'net.pth')
    for image in images(3):
        with torch.no_grad():
            assert torch.equal(restored(image), reference(image))


def test_foreign_onnx_file_restores_too(tmp_path: Path) -> None:
    scales = onnx.helper.make_tensor('scales', onnx.TensorProto.FLOAT, [4], [1, 1, 3, 3])
    node = onnx.helper.make_node('Resize', ['x', '', 'scales'], ['y'], mode='nearest')
    shape = ['n', 3, 'h', 'w']
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in 'xy']
    graph = onnx.helper.make_graph([node], 'enlarge', ends[:1], ends[1:], [scales])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 17)])
    onnx.helper.set_model_props(model, {'network': 'of another program'})
    onnx.save(model, tmp_path / 'x3.onnx')
    restorer = Restorer(tmp_path / 'x3.onnx', device='cpu')
    assert (restorer.scale, restorer.task) == (3, None)
    for picture in (photograph(0, 12, 14), photograph(0, 260, 270)):  # of the larger one, memory is estimated
        assert np.array_equal(restorer.restore(picture), picture.repeat(3, 0).repeat(3, 1))


class Gray(nn.Module):
    """A network of one's own, which says nothing about its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image)


def test_gray_network_of_ones_own_is_exported(network: Path) -> None:
    loaded = load(network / 'net.pth')
    gray = type(loaded)(loaded.file, 'params', Gray(), loaded.network_g, 1, None, 'gray', 1)
    for kind in ('onnx', 'pt2'):
        assert (1, 1, 17, 23) in export.export(gray, kind).differences


class Differs(nn.Module):
    """A network whose graph is not what it computes."""

    size_multiple = 1

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * self.weight + (0.01 if torch.compiler.is_compiling() else 0)


def test_a_graph_that_computes_something_else_is_refused(network: Path) -> None:
    loaded = load(network / 'net.pth')
    wrong = type(loaded)(loaded.file, 'params', Differs(), loaded.network_g, 1, None, None, 1)
    for kind in ('onnx', 'pt2'):
        with pytest.raises(UserError, match=r'differs from PyTorch by 0\.01 for 23x17; nothing written'):
            export.export(wrong, kind)


@pytest.mark.parametrize(
    ('arguments', 'error'),
    [
        (('export', '-m', 'net.pth', '--to', 'net.h5'), '--to net.h5: must end in .safetensors, .onnx or .pt2'),
        (('export', '-m', 'net.pth', '--to', 'none/net.onnx'), '--to none/net.onnx: no such folder'),
        (('restore', 'photo.png', '-m', 'net.onnx', '--task', 'CDN'), 'task CDN: net.onnx is a network for SR'),
        (('export', '-m', 'net.onnx', '--to', 'b.onnx'), 'net.onnx: already ONNX; export the original'),
        (('restore', 'photo.png', '-m', 'net.pt2'), 'net.pt2: a program of torch.export, which runs by itself'),
        (('restore', 'photo.png', '-m', 'net.onnx', '--bf16'), '--bf16: net.onnx computes as it was exported'),
        (('restore', 'photo.png', '-m', 'junk.onnx'), 'junk.onnx: not an ONNX file that can be read'),
        (('restore', 'photo.png', '-m', 'fixed.onnx'), 'fixed.onnx: its inputs are [1, 3, 8, 8]; one image'),
        (('test', 'train_RAMiT-tiny_SRx2', '-m', 'net.onnx'), 'net.onnx: ONNX files restore pictures; to test, use'),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], error: str, network: Path) -> None:
    (network / 'junk.onnx').write_bytes(b'junk')
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 8, 8]) for name in 'xy']
    graph = onnx.helper.make_graph([onnx.helper.make_node('Relu', ['x'], ['y'])], 'fixed', ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 17)]), network / 'fixed.onnx')
    cv2.imwrite(str(network / 'photo.png'), photograph(0, 8, 8))
    result = call_basicsr(*arguments, cwd=network)
    assert result.returncode == 1
    assert f'error: {error}' in result.stderr
    assert not (network / 'b.onnx').exists()


def test_missing_packages_are_named(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'onnxruntime' else found(name))
    with pytest.raises(UserError, match=r'ONNX needs onnxruntime: pip install onnxruntime'):
        export.export(load(network / 'net.pth'), 'onnx')
    with pytest.raises(UserError, match=r'net\.onnx: needs onnxruntime: pip install onnxruntime'):
        load_network(network / 'net.onnx')
