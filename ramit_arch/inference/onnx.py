"""ONNX files as networks, computed by onnxruntime."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ramit_arch.errors import UserError

PROBE = 64  # side of the image that shows the scale of a file that does not say it
ELEMENTS = {'tensor(float)': np.float32, 'tensor(float16)': np.float16}


class OnnxNetwork(nn.Module):
    """The network in an ONNX file: (N, C, H, W) in [0, 1] -> (N, C, H * upscale, W * upscale), not clipped.

    Args:
        file: written by `basicsr export`, or any other file with one image as input and output whose size is free.

    Raises:
        UserError: onnxruntime is missing, or the file is no such network.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        if importlib.util.find_spec('onnxruntime') is None:
            raise UserError(f"{file}: needs onnxruntime: pip install 'ramit-arch[onnx]'")
        try:
            self.session = open_session(str(file))
        except Exception as error:  # whatever onnxruntime raises
            raise UserError(f'{file}: not an ONNX file that can be read ({str(error).splitlines()[0]:.200})') from error
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        fixed = [side for side in inputs[0].shape[2:] if isinstance(side, int)]
        if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4 or fixed:
            shapes = ', '.join(str(each.shape) for each in inputs)
            raise UserError(f'{file}: its inputs are {shapes}; one image (N, C, H, W) of any size is needed')
        if inputs[0].type not in ELEMENTS:
            raise UserError(f'{file}: its input is a {inputs[0].type}; float or float16 is needed')
        self.input, self.element = inputs[0].name, ELEMENTS[inputs[0].type]
        self.in_chans = inputs[0].shape[1] if isinstance(inputs[0].shape[1], int) else 3
        metadata: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        self.description: dict[str, Any] | None = json.loads(metadata['network']) if 'network' in metadata else None
        self.bytes_per_pixel = float(metadata['bytes_per_pixel']) if 'bytes_per_pixel' in metadata else None
        self.size_multiple = int(metadata.get('size_multiple', 1))  # where tiles should begin; the graph pads
        self.upscale = self.description['scale'] if self.description else self._find_scale(file)

    def forward(self, image: Tensor) -> Tensor:
        [restored] = self.session.run(None, {self.input: image.float().cpu().numpy().astype(self.element)})
        return torch.from_numpy(restored).float().to(image.device)

    def _find_scale(self, file: Path) -> int:
        try:
            side = self(torch.zeros(1, self.in_chans, PROBE, PROBE)).shape[-1]
        except Exception as error:  # whatever onnxruntime raises
            text = str(error).splitlines()[0]
            raise UserError(f'{file}: fails on an image of {PROBE}x{PROBE} ({text:.200})') from error
        if side % PROBE:
            raise UserError(f'{file}: makes {side} pixels of {PROBE}, which is no whole scale')
        return side // PROBE


def open_session(file: str | bytes) -> Any:
    """An onnxruntime.InferenceSession on a GPU, if the installed onnxruntime is for one, or with PyTorch's threads."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    available = onnxruntime.get_available_providers()
    providers = [name for name in ('CUDAExecutionProvider', 'CPUExecutionProvider') if name in available]
    return onnxruntime.InferenceSession(file, options, providers=providers)
