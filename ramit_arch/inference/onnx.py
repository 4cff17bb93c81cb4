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
        UserError: onnxruntime is missing, or the file does not fit.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        if importlib.util.find_spec('onnxruntime') is None:
            raise UserError(f'{file}: needs onnxruntime: pip install onnxruntime')
        try:
            self.session = open_session(str(file))
        except Exception as error:  # whatever onnxruntime raises
            raise UserError(f'{file}: not an ONNX file that can be read ({str(error).splitlines()[0]:.200})') from error
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        shape = inputs[0].shape if len(inputs) == len(outputs) == 1 else []
        if len(shape) != 4 or shape[1] in (2, 4) or any(isinstance(side, int) for side in shape[2:]):
            shapes = ', '.join(str(each.shape) for each in inputs)
            raise UserError(f'{file}: its inputs are {shapes}; one image (N, 1 or 3, H, W) of any size is needed')
        if inputs[0].type not in ELEMENTS:
            raise UserError(f'{file}: its input is a {inputs[0].type}; float or float16 is needed')
        self.input, self.element = inputs[0].name, ELEMENTS[inputs[0].type]
        self.in_chans = shape[1] if isinstance(shape[1], int) else 3
        metadata: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        self.description = _description(metadata.get('network'))
        self.bytes_per_pixel = float(metadata['bytes_per_pixel']) if 'bytes_per_pixel' in metadata else None
        self.size_multiple = int(metadata.get('size_multiple', 1))  # where tiles should begin; the graph pads
        self.upscale: int = self.description['scale'] if self.description else self._find_scale(file)

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
            raise UserError(f'{file}: returns {side} pixels for {PROBE}; the scale must be an integer')
        return side // PROBE


def _description(text: str | None) -> dict[str, Any] | None:
    """The description that `basicsr export` wrote, or None: the key may be another program's."""
    try:
        known = json.loads(text or 'null')
    except ValueError:
        return None
    return known if isinstance(known, dict) and isinstance(known.get('scale'), int) and 'format' in known else None


def open_session(file: str | bytes) -> Any:
    """An onnxruntime.InferenceSession: on a GPU if the installed onnxruntime is for one and PyTorch sees it."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    gpu = 'CUDAExecutionProvider' in onnxruntime.get_available_providers() and torch.cuda.is_available()
    providers = [*(['CUDAExecutionProvider'] if gpu else []), 'CPUExecutionProvider']
    return onnxruntime.InferenceSession(file, options, providers=providers)
