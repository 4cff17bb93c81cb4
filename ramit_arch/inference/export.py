"""A trained network as one file for other programs: safetensors, ONNX, or a program of `torch.export`.

ONNX files and exported programs take images of any number, height and width: their graph pads the image to what the
network needs, and crops its output.
"""

from __future__ import annotations

import importlib.util
import inspect
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental import _config as symbolic_shapes

from ramit_arch.errors import UserError
from ramit_arch.inference import memory
from ramit_arch.inference.checkpoints import DESCRIPTION, pack_description
from ramit_arch.inference.networks import Loaded, describe

INPUT, OUTPUT = 'lq', 'restored'
OPSET = 20
TOLERANCE = 1e-4  # for values in [0, 1]
EXAMPLE = (2, 72, 40)  # number, height and width with which a graph is traced
CHECKED = [(1, 17, 23), (2, 64, 96), (1, 75, 131)]
SMALL = 64  # smaller tensors stay in float32
DEBUGGING = ('stack_trace', 'nn_module_stack', 'source_fn_stack', 'torch_fn')  # lines of code and paths


class Exported(NamedTuple):
    """The content of a file, and how it was checked.

    Attributes:
        content: bytes.
        differences: the largest difference to PyTorch, by the shape of the image; none where nothing is computed.
    """

    content: bytes
    differences: dict[tuple[int, ...], float]


class AnySize(nn.Module):
    """A network with its padding and cropping in operators that do not depend on the size of the image.

    Args:
        network: maps (N, C, H, W), H and W multiples of `multiple`, to (N, C, H * scale, W * scale).
        multiple: to which sides are padded by mirroring, as `symmetric_pad` does.
        scale: factor of super-resolution, or 1.
    """

    def __init__(self, network: nn.Module, multiple: int, scale: int) -> None:
        super().__init__()
        self.network, self.multiple, self.scale = network, multiple, scale

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1], any H and W from 1 up -> (N, C, H * scale, W * scale), not clipped."""
        size = image.shape[-2:]
        for axis in (2, 3):
            padded = (image.shape[axis] + self.multiple - 1) // self.multiple * self.multiple
            period = torch.scalar_tensor(2 * image.shape[axis], dtype=torch.int64)
            index = torch.remainder(torch.arange(padded), period)
            image = image.index_select(axis, torch.minimum(index, period - 1 - index))
        weights = {name: tensor.float() for name, tensor in self.network.named_parameters()}  # may be stored in half
        image = functional_call(self.network, weights, (image,))
        for axis in (2, 3):
            image = image.index_select(axis, torch.arange(size[axis - 2] * self.scale))
        return image


def export(loaded: Loaded, kind: str, half: bool = False) -> Exported:
    """The file of a network.

    Args:
        loaded: the network.
        kind: safetensors, onnx or pt2.
        half: store the weights in float16; what computes in float32 still does.

    Raises:
        UserError: a package is missing, the network cannot be exported, or its graph computes something else.
    """
    if loaded.file.suffix == '.onnx':
        raise UserError(f'{loaded.file}: already ONNX; export the original checkpoint instead')
    set_compiled = getattr(loaded.network, 'set_compiled', None)
    if set_compiled is not None:
        set_compiled(False)  # native kernels are no operators of another program
    merge = getattr(loaded.network, 'merge', None)
    if kind != 'safetensors' and inspect.ismethod(merge):
        loaded = replace(loaded, network=merge())
    _cast(loaded.network, torch.float16 if half else torch.float32)
    if kind == 'onnx':
        return _onnx(loaded, half)
    return {'safetensors': _safetensors, 'pt2': _program}[kind](loaded)


def _description(loaded: Loaded) -> dict[str, Any]:
    return describe(loaded.network_g, loaded.scale, loaded.task, loaded.color, loaded.size_multiple)


def _safetensors(loaded: Loaded) -> Exported:
    # Clones: safetensors refuses tensors that share memory.
    weights = {name: _compact(tensor).contiguous().clone() for name, tensor in loaded.network.state_dict().items()}
    description = _description(loaded)
    weights[DESCRIPTION] = pack_description(description)
    return Exported(save(weights, {'format': 'pt', 'network': json.dumps(description)}), {})


def _compact(tensor: Tensor) -> Tensor:
    """Indices in one byte each, where they fit; loading a state dict casts them back."""
    if tensor.dtype == torch.int64 and tensor.numel() and int(tensor.min()) >= 0 and int(tensor.max()) < 256:
        return tensor.to(torch.uint8)
    return tensor


def _onnx(loaded: Loaded, half: bool) -> Exported:
    missing = [name for name in ('onnx', 'onnxscript', 'onnxruntime') if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'ONNX needs {", ".join(missing)}: pip install {" ".join(missing)}')
    from ramit_arch.inference.onnx import open_session

    _cast(loaded.network, torch.float32)
    network, image = _prepare(loaded)
    axes = {0: 'batch', 2: 'height', 3: 'width'}
    with _tracing(loaded):
        program = torch.onnx.export(
            network, (image,), dynamo=True, dynamic_shapes=(axes,), input_names=[INPUT], output_names=[OUTPUT],
            opset_version=OPSET, verbose=False,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    _strip(model.graph)
    if half:
        _store_in_half(model.graph)
    need = memory.bytes_per_pixel(loaded.network, image.shape[1])
    description = json.dumps(_description(loaded))
    facts = {'network': description, 'bytes_per_pixel': f'{need:.0f}', 'size_multiple': str(network.multiple)}
    for key, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    content = model.SerializeToString()
    session = open_session(content)
    differences = _differences(
        network, lambda x: torch.from_numpy(session.run(None, {INPUT: x.numpy()})[0]), loaded.channels
    )
    return Exported(content, differences)


def _strip(graph: Any) -> None:
    """Drop what only debugging needs, such as the lines of code and paths behind every operator; in place."""
    del graph.value_info[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ''


def _store_in_half(graph: Any) -> None:
    """Store weights in float16, where they are such numbers, with a cast to float32 that runtimes do once; in place."""
    import onnx

    casts = []
    for stored in graph.initializer:
        values = onnx.numpy_helper.to_array(stored)
        if values.dtype == np.float32 and values.size >= SMALL and (values == values.astype(np.float16)).all():
            name = stored.name
            stored.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f'{name}_half'))
            casts.append(onnx.helper.make_node('Cast', [stored.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _program(loaded: Loaded) -> Exported:
    network, image = _prepare(loaded)
    axes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with _tracing(loaded), symbolic_shapes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(
            network, (image,), dynamic_shapes=(axes,), strict=False, prefer_deferred_runtime_asserts_over_guards=True
        )
        # Looking at strides left assertions that no size is 1; the check below has such sizes.
        for node in program.graph.find_nodes(op='call_function', target=torch.ops.aten._assert_scalar.default):
            program.graph.erase_node(node)
        program.graph.eliminate_dead_code()
        for node in program.graph.nodes:
            for key in DEBUGGING:
                node.meta.pop(key, None)
        program.graph_module.recompile()
        stream = io.BytesIO()
        torch.export.save(program, stream, extra_files={'network': json.dumps(_description(loaded))})
        stream.seek(0)
        reloaded = torch.export.load(stream).module()
    return Exported(stream.getvalue(), _differences(network, reloaded, loaded.channels))


def _prepare(loaded: Loaded) -> tuple[AnySize, Tensor]:
    """What is traced, and an image for it."""
    multiple = getattr(loaded.network, 'size_multiple', loaded.size_multiple)
    number, height, width = EXAMPLE
    return AnySize(loaded.network, multiple, loaded.scale).eval(), torch.rand(number, loaded.channels, height, width)


def _cast(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast the parameters; buffers, such as mean and indices, stay as they are."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)


@contextmanager
def _tracing(loaded: Loaded) -> Iterator[None]:
    """Trace without gradients and warnings.

    Raises:
        UserError: whatever the network raises.
    """
    loggers = [logging.getLogger(name) for name in ('torch.onnx', 'torch.export', 'onnxscript')]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    except Exception as error:
        name = type(loaded.network).__name__
        raise UserError(f'{name} cannot be exported for images of every size ({_last_line(error)})') from error
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f'{lines[-1] if lines else type(error).__name__:.300}'


def _differences(network: AnySize, exported: Callable[[Tensor], Any], channels: int) -> dict[tuple[int, ...], float]:
    """The largest difference for each size of `CHECKED`.

    Raises:
        UserError: one is beyond `TOLERANCE`.
    """
    generator = torch.Generator().manual_seed(0)
    found: dict[tuple[int, ...], float] = {}
    for number, height, width in CHECKED:
        image = torch.rand(number, channels, height, width, generator=generator)
        try:
            with torch.no_grad():
                difference = (network(image) - exported(image)).abs().max().item()
        except Exception as error:  # whatever a graph raises that is not for this size
            raise UserError(f'the exported network fails for {width}x{height} ({_last_line(error)})') from error
        found[(number, channels, height, width)] = difference
        if not difference <= TOLERANCE:
            raise UserError(
                f'the exported network differs from PyTorch by {difference:.2g} for {width}x{height}; nothing written'
            )
    return found
