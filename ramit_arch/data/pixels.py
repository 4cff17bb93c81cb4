"""From bytes to patches: decoding, colour, cropping and augmentation of (H, W, C) arrays in BGR or gray."""

from __future__ import annotations

import io

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ramit_arch.errors import UserError

# Gray stays one channel, alpha is dropped, a palette becomes colour, 16 bits stay 16, and no EXIF rotation is applied,
# which could turn one image of a pair and not the other.
_FLAGS = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION

FORMATS = '8- or 16-bit PNG, JPEG, BMP, TIFF, WebP'
MAX_PIXELS = 178_956_970  # as Pillow refuses them: 13,377x13,377


def decode(data: bytes, where: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode an image file.

    Args:
        data: the file's bytes.
        where: the file's name for the message.
        size: (height, width) that the image is said to have, if anything says so.

    Returns:
        (H, W, 3) in BGR order or (H, W, 1), uint8 or uint16.

    Raises:
        UserError: the bytes are not an image that OpenCV reads, or not one of 8 or 16 bits; or their header tells
            another size, or more than `MAX_PIXELS`, which is seen before memory is taken.
    """
    _check_header(data, where, size)
    buffer = np.frombuffer(data, np.uint8)
    image = cv2.imdecode(buffer, _FLAGS) if buffer.size else None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise UserError(f'{where}: not an image that can be read ({FORMATS})')
    return image if image.ndim == 3 else image[..., None]


def _check_header(data: bytes, where: str, size: tuple[int, int] | None) -> None:
    if data.startswith(b'\x89PNG') and len(data) >= 24:
        found = (int.from_bytes(data[20:24], 'big'), int.from_bytes(data[16:20], 'big'))
    else:
        try:
            with Image.open(io.BytesIO(data)) as image:
                found = (image.height, image.width)
        except Image.DecompressionBombError as error:
            raise UserError(f'{where}: refused, too large to be an image of this kind ({error})') from error
        except Exception as error:  # unknown or damaged, whatever the decoder raises
            raise UserError(f'{where}: not an image that can be read ({FORMATS})') from error
    if found[0] * found[1] > MAX_PIXELS:
        raise UserError(f'{where}: refused, its header declares {found[1]:,}x{found[0]:,} pixels; cut it into parts')
    if size is not None and found != size:
        raise UserError(f'{where}: is {found[1]}x{found[0]} pixels, but meta_info.txt lists {size[1]}x{size[0]}')


def convert_color(image: np.ndarray, color: str) -> np.ndarray:
    """(H, W, 1 or 3) -> for rgb (H, W, 3) in BGR order, for gray (H, W, 1) by OpenCV's weights."""
    if image.shape[2] == (1 if color == 'gray' else 3):
        return image
    if color == 'gray':
        return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)


def crop(image: np.ndarray, patch: int, rng: np.random.Generator) -> np.ndarray:
    """Random crop: (patch, patch, C)."""
    top, left = (int(rng.integers(side - patch + 1)) for side in image.shape[:2])
    return image[top : top + patch, left : left + patch]


def crop_pair(
    lq: np.ndarray, gt: np.ndarray, patch: int, scale: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The same random crop of both: (patch, patch, C) and (patch * scale, patch * scale, C)."""
    top = int(rng.integers(lq.shape[0] - patch + 1))
    left = int(rng.integers(lq.shape[1] - patch + 1))
    y, x, size = top * scale, left * scale, patch * scale
    return lq[top : top + patch, left : left + patch], gt[y : y + size, x : x + size]


def augment(images: list[np.ndarray], flip: bool, rotate: bool, rng: np.random.Generator) -> list[np.ndarray]:
    """Flip horizontally with probability 1/2 and rotate by 0, 90, 180 or 270 degrees, all images alike (Sec. 4.1)."""
    if flip and rng.random() < 0.5:
        images = [image[:, ::-1] for image in images]
    if rotate:
        turns = int(rng.integers(4))
        images = [np.rot90(image, turns) for image in images]
    return images


def to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, C) uint8 or uint16 in BGR or gray -> (C, H, W) float32 in RGB or gray, values in [0, 1]."""
    planes = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))
    return torch.from_numpy(np.divide(planes, np.float32(np.iinfo(image.dtype).max), dtype=np.float32))
