"""Image files as they are found: what their headers say, whether they are whole, and their pixels."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ramit_arch.data.pixels import decode
from ramit_arch.errors import UserError
from ramit_arch.inference.pictures import ORIENTATION, exif_tags, orient
from ramit_arch.preparation.blocks import block_shape, is_block

PNG, JPEG = b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff'
_KINDS = {0: 'gray', 2: 'colour', 3: 'palette', 4: 'gray with alpha', 6: 'colour with alpha'}  # PNG's colour types
_BANDS = {'L': 1, 'RGB': 3}  # the Pillow modes that need no conversion


class Header(NamedTuple):
    """What the first bytes of a file tell."""

    height: int
    width: int
    channels: int
    fits: bool  # an 8-bit gray or RGB PNG: its bytes can be stored as they are
    unusual: str | None  # what keeps it from becoming one without loss or choice: 16 bits, a palette, alpha, CMYK

    @property
    def values(self) -> int:
        return self.height * self.width * self.channels


def read_header(path: Path) -> Header:
    """Read an image's size and kind without its pixels.

    Raises:
        UserError: no image, or a file that cannot be read.
    """
    if is_block(path):
        return Header(*block_shape(path), False, None)
    try:
        with path.open('rb') as file:
            start = file.read(33)
            if not start:
                raise UserError(f'{path}: is empty; unpack or copy it again')
            if start.startswith(PNG) and len(start) == 33:
                header = png_header(start)
                if start[12:16] != b'IHDR' or not header.values:
                    raise UserError(f'{path}: not a PNG that can be read; unpack or copy it again')
                return header
            file.seek(0)
            with Image.open(file) as image:
                mode = image.mode
                if mode in ('I', 'F'):
                    raise UserError(f'{path}: 32 bits a value; make it 8-bit gray or RGB')
                channels = _BANDS.get(mode, 3)
                unusual = None if mode in _BANDS else f'{image.format} of Pillow mode {mode}'
                height, width = image.height, image.width
                if _orientation(image) in (5, 6, 7, 8):
                    height, width = width, height
                return Header(height, width, channels, False, unusual)
    except UnidentifiedImageError as error:
        raise UserError(f'{path}: not an image that can be read; unpack or copy it again') from error
    except Image.DecompressionBombError as error:
        raise UserError(f'{path}: larger than Pillow allows; cut it ({error})') from error
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error


def png_header(data: bytes) -> Header:
    """The header of a PNG from its first 33 bytes or more."""
    width, height = int.from_bytes(data[16:20], 'big'), int.from_bytes(data[20:24], 'big')
    depth, kind = data[24], data[25]
    fits = depth == 8 and kind in (0, 2)
    unusual = None if fits else f'{depth}-bit {_KINDS.get(kind, "unknown")} PNG'
    return Header(height, width, 1 if kind in (0, 4) else 3, fits, unusual)


def check_whole(data: bytes, where: str) -> None:
    """See that an image file is neither cut short nor damaged, without decoding a PNG or JPEG.

    A PNG's chunks carry checksums; a JPEG must have its end marker; others are read by Pillow, which counts.

    Raises:
        UserError: names the file and what is wrong.
    """
    if not data:
        raise UserError(f'{where}: is empty; unpack or copy it again')
    if data.startswith(PNG):
        problem = _png_problem(data)
    elif data.startswith(JPEG):
        whole = data.rfind(b'\xff\xd9') > data.rfind(b'\xff\xda')  # end of image after the last start of scan
        problem = None if whole else 'is cut short'
    else:
        problem = _pillow_problem(data)
    if problem:
        raise UserError(f'{where}: {problem}; unpack or copy it again')


def _png_problem(data: bytes) -> str | None:
    view, at = memoryview(data), len(PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(view[at : at + 4], 'big')
        kind = bytes(view[at + 4 : at + 8])
        if end > len(data):
            break
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], 'big'):
            return f'is damaged (checksum of its {kind.decode("latin-1")} chunk at byte {at})'
        if kind == b'IEND':
            return None
        at = end
    return f'is cut short at byte {len(data)}'


def _pillow_problem(data: bytes) -> str | None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except UnidentifiedImageError:
        return 'is not an image that can be read'
    except (OSError, SyntaxError, ValueError) as error:
        return f'is damaged ({error})'
    return None


def read_pixels(data: bytes, where: str) -> np.ndarray:
    """Decode to (H, W, 1 or 3) uint8 in BGR order or gray, upright as EXIF says; 16 bits are rounded to 8, and alpha is
    dropped."""
    image = decode(data, where)
    if not data.startswith(PNG):
        with Image.open(io.BytesIO(data)) as opened:
            image = np.ascontiguousarray(orient(image, _orientation(opened)))
    if image.dtype == np.uint16:
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation that is still to be applied: Pillow and OpenCV apply a TIFF's."""
    return 1 if image.format == 'TIFF' else exif_tags(image).get(ORIENTATION, 1)


def encode(image: np.ndarray) -> bytes:
    """(H, W, 1 or 3) uint8 in BGR order or gray -> PNG."""
    done, data = cv2.imencode('.png', image)
    if not done:
        raise ValueError(f'an image of shape {image.shape} and {image.dtype} does not encode')
    return data.tobytes()
