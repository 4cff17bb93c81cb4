"""What the verbs that draw a figure of an image share."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ramit_arch.errors import UserError
from ramit_arch.evaluation.figures import KINDS
from ramit_arch.inference.pictures import read_picture
from ramit_arch.inference.restorer import Restorer, to_tensor


def check_figure(flag: str, file: str) -> Path:
    """The path of a figure that can be written.

    Raises:
        UserError: matplotlib is missing, or the file is of another kind or in no folder.
    """
    path = Path(file).expanduser()
    if path.suffix.lower() not in KINDS or not path.absolute().parent.is_dir():
        raise UserError(f'{flag} {file}: give a .png, .pdf or .svg file in a folder that exists')
    if importlib.util.find_spec('matplotlib') is None:
        raise UserError(f'{flag} needs matplotlib: pip install matplotlib')
    return path


def read_image(file: str) -> np.ndarray:
    """A picture without alpha: (H, W, 1) gray or (H, W, 3) RGB, float32 in [0, 1].

    Raises:
        UserError: it cannot be read.
    """
    pixels = read_picture(Path(file).expanduser()).pixels
    image = to_tensor(np.atleast_3d(pixels)).clamp(0, 1)
    return image.permute(1, 2, 0).numpy()


def open_differentiable(path: str, task: str | None, device: str | None) -> Restorer:
    """A network that PyTorch computes, its parameters without gradients, with activation checkpointing if it can.

    Raises:
        UserError: as `Restorer`, or it is an ONNX file.
    """
    restorer = Restorer(path, task=task, device=device)
    if restorer.file is not None and restorer.file.suffix == '.onnx':
        raise UserError(f'{path}: an ONNX file has no gradients and no parts to look into; give the checkpoint')
    restorer.network.requires_grad_(False)
    if hasattr(restorer.network, 'set_grad_checkpointing'):
        restorer.network.set_grad_checkpointing(True)  # type: ignore[operator]
    return restorer


def image_for(restorer: Restorer, image: np.ndarray) -> Tensor:
    """A picture of `read_image` as a network takes it: (1, C, H, W), gray or three channels, on its device."""
    if restorer.channels == 1 and image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).expand(restorer.channels, -1, -1)
    return tensor[None].contiguous().to(restorer.device)
