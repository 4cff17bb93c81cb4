"""What the verbs that draw a figure of an image share."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ramit_arch.errors import UserError
from ramit_arch.evaluation.figures import KINDS
from ramit_arch.inference.pictures import read_picture
from ramit_arch.inference.restorer import Restorer, to_tensor


def check_figure(flag: str, file: str, inputs: Iterable[str] = ()) -> Path:
    """The path of a figure that can be written.

    Args:
        flag: that names the file.
        file: to write.
        inputs: files that are read, and folders of such files.

    Raises:
        UserError: matplotlib is missing, or the file is of another kind, cannot be written, or is an input.
    """
    path = Path(file).expanduser()
    folder = path.absolute().parent
    if path.suffix.lower() not in KINDS:
        raise UserError(f'{flag} {file}: a figure is a .png, .pdf or .svg file')
    if not folder.is_dir():
        raise UserError(f'{flag} {file}: there is no folder {folder}')
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK) or not os.access(folder, os.W_OK):
        raise UserError(f'{flag} {file}: cannot be written; give another file')
    for each in inputs:
        read = Path(each).expanduser().resolve()
        if read in (path.resolve(), *path.resolve().parents):
            raise UserError(f'{flag} {file}: {each} is read; give a file elsewhere')
    if importlib.util.find_spec('matplotlib') is None:
        raise UserError(f'{flag} needs matplotlib: pip install matplotlib')
    return path


def choose_titles(models: Sequence[str], names: Sequence[str] | None, folders: Sequence[str] = ()) -> list[str]:
    """A title for every network and every folder of pictures: given, or the name of its file or folder, or else its
    path.

    Raises:
        UserError: not one for each network, or for each of both, or two are equal.
    """
    paths, names = [*models, *folders], names or []
    if names and len(names) not in (len(models), len(paths)):
        more = ', or also one for each of --pictures' if folders else ''
        raise UserError(f'--names: {len(names)} for {len(models)} networks; give one for each -m{more}')
    short = [_short(path) for path in paths]
    titles = [*names, *(short if len(set(short)) == len(short) else paths)[len(names) :]]
    for title in titles:
        if titles.count(title) > 1:
            kind = 'methods' if folders else 'networks'
            raise UserError(f'two {kind} have the name {title!r}; give different ones by --names')
        if not title.strip():
            raise UserError('--names: a name is empty')
    return titles


def _short(path: str) -> str:
    name = Path(path).absolute().name
    return name.removesuffix('.pth').removesuffix('.safetensors').removesuffix('.onnx')


def read_image(file: str) -> np.ndarray:
    """A picture without alpha: (H, W, 1) gray or (H, W, 3) RGB, float32 in [0, 1].

    Raises:
        UserError: it cannot be read.
    """
    pixels = read_picture(Path(file).expanduser()).pixels
    image = to_tensor(np.atleast_3d(pixels)).clamp(0, 1)
    return image.permute(1, 2, 0).numpy()


def drawable(image: np.ndarray) -> np.ndarray:
    """A picture of `read_image` as matplotlib takes it: (H, W) or (H, W, 3)."""
    return image[..., 0] if image.shape[2] == 1 else image


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
