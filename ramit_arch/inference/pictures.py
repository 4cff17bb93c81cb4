"""Reading and writing a person's pictures: bit depth, alpha, ICC profile and resolution are kept."""

from __future__ import annotations

import io
import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms

from ramit_arch.data.pixels import MAX_PIXELS
from ramit_arch.errors import UserError, counted
from ramit_arch.files import atomic_write

SUFFIXES = frozenset('.png .jpg .jpeg .jfif .webp .tif .tiff .bmp .gif .ppm .pgm .pbm .pnm .avif'.split())
# Pillow opens more, but some of it (EPS) with other programs.
READABLE = frozenset('PNG JPEG WEBP TIFF BMP GIF PPM AVIF'.split())
FORMATS = {'.png': 'PNG', '.webp': 'WebP', '.bmp': 'BMP'}
FORMATS |= dict.fromkeys(['.jpg', '.jpeg'], 'JPEG') | dict.fromkeys(['.tif', '.tiff'], 'TIFF')
MAX_SIDE = {'JPEG': 65_500, 'WebP': 16_383}  # libjpeg's and libwebp's limits
PNG_LEVEL = 3  # three times as fast as zlib's default of 6, for a tenth more bytes
FLOAT_RANGE = (-0.5, 1.5)  # accepted around [0, 1], for the overshoot of resampling and sharpening

_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_TIFF_SIGNATURES = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
ORIENTATION, _ICC, _EXIF = 274, 34675, {271, 34665, 34853}  # tags; the last ones: camera, EXIF, GPS
_UNKNOWN, _PREMULTIPLIED, _STRAIGHT = 0, 1, 2  # TIFF's ExtraSamples
_MODES = {'1': '1-bit', 'P': 'palette', 'L': 'gray', 'LA': 'gray with alpha', 'RGBA': 'RGB with alpha'}
_TOO_LARGE = f'refused, its header declares more than {MAX_PIXELS:,} pixels; cut it into parts'
_UNREADABLE = f'damaged, truncated, or not an image of a known format ({", ".join(sorted(READABLE))})'
_QUIET = threading.Lock()  # warning filters and log levels are global


@dataclass
class Picture:
    """A decoded picture, upright.

    Args:
        pixels: (H, W) gray or (H, W, 3) RGB; uint8, uint16, or float32 of nominal range [0, 1].
        alpha: (H, W), of the dtype of `pixels`, not premultiplied; None if opaque.
        icc: ICC profile that describes `pixels`, in their colour space (gray or RGB).
        dpi: horizontal and vertical resolution in pixels per inch.
        notes: one sentence for everything that was converted or dropped; `write_picture` appends to it.
        format: format of the file that was read, such as 'PNG'.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: list[str] = field(default_factory=list)
    format: str = ''


def is_picture(path: Path) -> bool:
    """Whether the suffix is one of a picture that can be read."""
    return path.suffix.lower() in SUFFIXES


# ---------------------------------------------------------------------------------------------------------- reading


def read_picture(path: Path) -> Picture:
    """Read the first frame of a picture and apply its EXIF orientation.

    Raises:
        UserError: the file cannot be read, is damaged or truncated, is not an image of a known format, declares more
            than `MAX_PIXELS` (seen before memory is taken), or has float samples that are not finite or not in [0, 1].
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f'{path}: not a file')
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    if not data:
        raise UserError(f'{path}: empty file')
    try:
        return decode_picture(data)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error


def decode_picture(data: bytes) -> Picture:
    """Decode the content of a file, as `read_picture`.

    Raises:
        UserError: as `read_picture`, without a path.
    """
    with _decoding():
        return _decode_tiff(data) if data.startswith(_TIFF_SIGNATURES) else _decode(data)


def header_size(data: bytes) -> tuple[int, int]:
    """Height and width that the header of a file declares, as stored: an EXIF orientation is not applied.

    Raises:
        UserError: not an image of a known format, or more than `MAX_PIXELS`.
    """
    with _decoding():
        if data.startswith(_TIFF_SIGNATURES):
            with tifffile.TiffFile(io.BytesIO(data)) as file:
                page: Any = file.pages[0]
                width, height = page.imagewidth, page.imagelength
        else:
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                width, height = image.size
        _check_size(width, height)
        return height, width


@contextmanager
def _decoding() -> Iterator[None]:
    """Silence the decoders, and turn whatever they raise into a UserError."""
    try:
        with _quiet():
            yield
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(_TOO_LARGE) from error
    except MemoryError as error:
        raise UserError('not enough memory to decode it') from error
    except Exception as error:  # unknown or damaged, whatever the decoder raises
        raise UserError(_UNREADABLE) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the decoders, which print about files that a `UserError` or a note is about."""
    logger, opencv = logging.getLogger('tifffile'), getattr(cv2.utils, 'logging', cv2)  # in cv2 itself before OpenCV 5
    with _QUIET, warnings.catch_warnings():
        levels = logger.level, opencv.getLogLevel()
        warnings.simplefilter('ignore')
        logger.setLevel(logging.CRITICAL)
        opencv.setLogLevel(0)
        try:
            yield
        finally:
            logger.setLevel(levels[0])
            opencv.setLogLevel(levels[1])


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(_TOO_LARGE)
    if width * height == 0:
        raise UserError('has no pixels')


def _decode(data: bytes) -> Picture:
    """Decode with Pillow; only the samples of a 16-bit PNG, which Pillow reduces to 8 bits, with OpenCV."""
    notes: list[str] = []
    with Image.open(io.BytesIO(data), formats=_formats()) as image:
        _check_size(*image.size)
        if image.format == 'PPM' and image.mode == 'RGB' and image.tile[0][0] == 'ppm':
            notes.append('PPM scaled to 8 bits')
        frames = getattr(image, 'n_frames', 1)
        image.load()
        icc = (image.info['icc_profile'] or b'') if 'icc_profile' in image.info else None
        if image.format == 'PNG' and data[24] == 16:
            samples = _png_samples(data, image.info.get('transparency'))
        else:
            if image.format == 'PNG' and image.mode in ('1', 'L') and 'transparency' in image.info:
                # Pillow scales samples of less than 8 bits, but not always the transparent one.
                image.info['transparency'] = min(255, image.info['transparency'] * (255 // (2 ** data[24] - 1)))
            samples = _pillow_samples(image, icc, notes)
            icc = None if image.mode in ('CMYK', 'LAB') else icc
        tags = exif_tags(image)
        _note_dropped(notes, frames, tags)
        # Pillow has turned a TIFF already, and removed the tag.
        samples = orient(samples, tags.get(ORIENTATION, 1))
        return _picture(samples, icc, image.info.get('dpi'), notes, image.format or '')


def _formats() -> list[str]:
    return sorted(READABLE.intersection(Image.registered_extensions().values()))  # AVIF needs Pillow 11.3


def exif_tags(image: Image.Image) -> dict[int, Any]:
    """The EXIF tags by number; none if they are damaged."""
    try:
        return dict(image.getexif())
    except Exception:  # damaged; whatever the parser raises
        return {}


def _note_dropped(notes: list[str], frames: int, tags: Iterable[int]) -> None:
    if frames > 1:
        notes.append(f'first frame only; {counted(frames - 1, "other")} ignored')
    if not _EXIF.isdisjoint(tags):
        notes.append('EXIF metadata dropped')


def _pillow_samples(image: Image.Image, icc: bytes | None, notes: list[str]) -> np.ndarray:
    """(H, W) or (H, W, 2 to 4): uint8, but uint16 for a 16-bit PGM and float32 for a PFM."""
    mode = image.mode
    if mode == 'F':
        return np.array(image)
    if mode.startswith('I'):
        return np.asarray(image).astype(np.uint16)
    if mode in ('CMYK', 'LAB'):
        return np.array(_to_srgb(image, icc, notes))
    target = 'L' if mode in ('1', 'L', 'LA', 'La') else 'RGB'
    target += 'A' if image.has_transparency_data else ''
    samples = np.array(image.convert(target))
    if mode in ('P', 'PA') and icc is None and (samples[..., :1] == samples[..., 1:3]).all():
        target = target.replace('RGB', 'L')
        samples = samples[..., [0, 3]] if target == 'LA' else samples[..., 0]
    if mode != target:
        notes.append(f'{_MODES.get(mode, mode)} converted to {_MODES.get(target, target)}')
    return samples


def _to_srgb(image: Image.Image, icc: bytes | None, notes: list[str]) -> Image.Image:
    """CMYK, LAB or gray -> RGB in sRGB, through the ICC profile if there is one."""
    name = {'L': 'gray'}.get(image.mode, image.mode)
    try:
        source: Any = ImageCms.createProfile('LAB') if image.mode == 'LAB' else io.BytesIO(icc or b'')
        transform = ImageCms.buildTransform(source, ImageCms.createProfile('sRGB'), image.mode, 'RGB')
        notes.append(f'{name} converted to sRGB through its colour profile')
        return transform.apply(image)
    except (ImageCms.PyCMSError, OSError):
        notes.append(f'{name} converted to sRGB without a usable ICC profile; colours are approximate')
        return image.convert('RGB')


def _png_samples(data: bytes, transparent: int | tuple[int, int, int] | None) -> np.ndarray:
    """A 16-bit PNG and its transparent gray level or colour -> (H, W) or (H, W, 2 to 4), uint16."""
    chunks = list(_png_chunks(data))
    header, body = chunks[0][1], b''.join(content for kind, content in chunks if kind == b'IDAT')
    # Without metadata, which libpng warns about on stderr and OpenCV partly applies.
    samples = _opencv_samples(_png([(b'IHDR', header), (b'IDAT', body)]))
    if header[9] == 4:
        return samples[..., [0, 3]]  # OpenCV repeats the gray of gray+alpha
    if transparent is None:
        return samples
    alpha = np.atleast_3d(samples != np.asarray(transparent)).any(axis=2)
    return np.dstack([samples, alpha.astype(np.uint16) * 65535])


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position, kind = len(_PNG_SIGNATURE), b''
    while kind != b'IEND':
        length, kind = struct.unpack_from('>I4s', data, position)
        content = data[position + 8 : position + 8 + length]
        if data[position : position + length + 12] != _png_chunk(kind, content):
            raise UserError('damaged or truncated')
        yield kind, content
        position += length + 12


def _opencv_samples(data: bytes) -> np.ndarray:
    """(H, W), (H, W, 3) RGB or (H, W, 4) RGBA of the file's depth."""
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None:
        raise UserError(_UNREADABLE)
    return samples if samples.ndim == 2 else samples[..., [2, 1, 0, 3][: samples.shape[2]]]


def _decode_tiff(data: bytes) -> Picture:
    """Decode with tifffile what has more than 8 bits, with Pillow the rest."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        _check_size(page.imagewidth, page.imagelength)
        if any(start + size > len(data) for start, size in zip(page.dataoffsets, page.databytecounts, strict=True)):
            raise UserError('truncated TIFF')
        if page.bitspersample > 8 and page.photometric in (0, 1, 2):
            picture = _decode_deep_tiff(data, page, len(file.pages))
        else:
            picture = _decode(data)
            if page.bitspersample > 8:
                picture.notes.append(f'{page.bitspersample}-bit {page.photometric.name} reduced to 8 bits')
        if _PREMULTIPLIED in page.extrasamples:
            picture.notes.append('premultiplied alpha converted to straight alpha')
        inches = {2: 1.0, 3: 2.54}.get(page.tags.valueof(296, 2), 0.0)  # of the unit, which may be none
        across, down = (page.tags.valueof(tag, (0, 1)) for tag in (282, 283))
        picture.dpi = _known_dpi([inches * value[0] / max(value[1], 1) for value in (across, down)])
        return picture


def _decode_deep_tiff(data: bytes, page: Any, frames: int) -> Picture:
    notes: list[str] = []
    samples, orientation = _tiff_samples(data, page)
    samples = _known_channels(_known_dtype(samples, page, notes), page, notes)
    _note_dropped(notes, frames, page.tags.keys())
    return _picture(orient(samples, orientation), page.tags.valueof(_ICC), None, notes, 'TIFF')


def _tiff_samples(data: bytes, page: Any) -> tuple[np.ndarray, int]:
    """The samples as stored, and the orientation that is still to be applied."""
    channels = page.samplesperpixel
    planar = channels > 1 and page.planarconfig == 2
    if page.compression in (1, 8, 32946) and page.predictor != 3:  # none and deflate, no float predictor
        samples, orientation = page.asarray(), page.tags.valueof(ORIENTATION, 1)
        samples = np.moveaxis(samples, 0, -1) if planar else samples
    elif planar or channels == 2:
        raise UserError(f'{page.compression.name} compression is not supported for these TIFF channels; use deflate')
    else:
        samples, orientation = _opencv_samples(data), 1  # OpenCV has applied it
    if samples.shape[2:] != ((channels,) if channels > 1 else ()):
        raise UserError(f'TIFF of shape {samples.shape} is not supported')
    return samples, orientation


def _known_dtype(samples: np.ndarray, page: Any, notes: list[str]) -> np.ndarray:
    """uint16 or float32, black is zero."""
    if samples.dtype.kind == 'f' and samples.dtype != np.float32:
        notes.append(f'{samples.dtype} samples converted to float32')
        samples = samples.astype(np.float32)
    if samples.dtype not in (np.uint16, np.float32) or page.bitspersample < 16:
        kind = f'{page.bitspersample}-bit {samples.dtype}'
        raise UserError(f'{kind} samples are not supported; use uint8, uint16 or float32')
    return _top(samples).astype(samples.dtype) - samples if page.photometric == 0 else samples


def _known_channels(samples: np.ndarray, page: Any, notes: list[str]) -> np.ndarray:
    """Gray or RGB and at most straight alpha."""
    colors = 3 if page.photometric == 2 else 1
    extra = page.extrasamples[0] if page.extrasamples else _STRAIGHT
    keep = colors + (extra != _UNKNOWN)
    if samples.ndim == 3 and samples.shape[2] > keep:
        notes.append(f'{counted(samples.shape[2] - keep, "channel")} of unknown meaning dropped')
        samples = samples[..., 0] if keep == 1 else samples[..., :keep]
    if extra == _PREMULTIPLIED:
        color, alpha = samples[..., :-1], samples[..., -1:]
        straight = np.divide(color, alpha, out=np.zeros(color.shape, np.float32), where=alpha > 0)
        samples = np.dstack([_convert(straight, samples.dtype), alpha])
    return samples


def orient(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels upright by an EXIF orientation of 1 to 8; other values are ignored."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


def _picture(samples: np.ndarray, icc: bytes | None, dpi: Any, notes: list[str], form: str) -> Picture:
    """Check samples and metadata, and separate the alpha channel."""
    if samples.dtype == np.float32:
        broken = samples.size - int(np.isfinite(samples).sum())
        if broken:
            raise UserError(f'contains {counted(broken, "non-finite value")} (NaN or inf)')
        low, high = float(samples.min()), float(samples.max())
        if low < FLOAT_RANGE[0] or high > FLOAT_RANGE[1]:
            raise UserError(f'float values from {low:g} to {high:g}; scale them to [0, 1]')
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    alpha = np.ascontiguousarray(samples[..., -1]) if channels in (2, 4) else None
    pixels = np.ascontiguousarray({1: samples, 2: samples[..., 0]}.get(channels, samples[..., :3]))
    if icc is not None:
        space, needed = _color_space(icc), 'GRAY' if pixels.ndim == 2 else 'RGB'
        if space != needed:
            notes.append(f'ICC profile dropped ({f"for {space}, not {needed}" if space else "damaged"})')
            icc = None
    return Picture(pixels, alpha, icc, _known_dpi(dpi or ()), notes, form)


def _known_dpi(dpi: Iterable[float]) -> tuple[float, float] | None:
    values = [float(value) for value in dpi if 1e-3 < value < 1e6]
    return (values[0], values[1]) if len(values) == 2 else None


def _color_space(icc: bytes) -> str:
    """'RGB', 'GRAY', 'CMYK', ..., or '' for a damaged profile."""
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(icc)).profile.xcolor_space.strip()
    except (OSError, ImageCms.PyCMSError):
        return ''


# ---------------------------------------------------------------------------------------------------------- writing


def write_picture(picture: Picture, path: Path, quality: int = 95) -> None:
    """Write a picture atomically, in the format of the suffix (`FORMATS`).

    What the format cannot hold is converted or dropped, and noted in `picture.notes`; `picture` is otherwise unchanged.

    Args:
        picture: `pixels` and `alpha` in the ranges that `Picture` states.
        path: the file to write; an existing one is replaced.
        quality: 1 to 100, of JPEG and WebP; WebP is lossless at 100.

    Raises:
        UserError: unknown suffix, a side longer than the format allows, or the file cannot be written.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise UserError(f'{path}: not a suffix of a format that can be written ({", ".join(FORMATS)})')
    try:
        content, notes = encode_picture(picture, form, quality)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    atomic_write(path, content)
    picture.notes += [note for note in notes if note not in picture.notes]


def encode_picture(picture: Picture, form: str = 'PNG', quality: int = 95) -> tuple[bytes | memoryview, list[str]]:
    """The content that `write_picture` writes for one of the formats of `FORMATS`, and its notes.

    Raises:
        UserError: a side longer than the format allows, or the encoder fails.
    """
    height, width = picture.pixels.shape[:2]
    if max(height, width) > MAX_SIDE.get(form, max(height, width)):
        raise UserError(f'{width}x{height} pixels, but {form} allows {MAX_SIDE[form]} a side; use png')
    pixels, alpha, notes = _fit(picture, form)
    icc = picture.icc
    if icc and form == 'WebP' and pixels.ndim == 2:  # WebP has no gray, so a gray profile would not fit
        pixels, icc = np.array(_to_srgb(Image.fromarray(pixels), icc, notes)), None
    if icc and form == 'BMP':
        notes.append('BMP has no ICC profile; dropped')
        icc = None
    if picture.dpi and form == 'WebP':
        notes.append('WebP has no resolution; dropped')
    samples = np.ascontiguousarray(pixels if alpha is None else np.dstack([pixels, alpha]))
    try:
        return _encode(samples, form, icc, picture.dpi, quality), notes
    except (OSError, ValueError, OverflowError, struct.error) as error:
        raise UserError(f'cannot be encoded as {form} ({error})') from error


def _fit(picture: Picture, form: str) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Pixels and alpha as the format can hold them, and notes of what was converted."""
    notes = []
    pixels, alpha, dtype = picture.pixels, picture.alpha, picture.pixels.dtype
    if alpha is not None and form in ('JPEG', 'BMP'):
        notes.append(f'{form} has no alpha; composited on white')
        opacity = (alpha if pixels.ndim == 2 else alpha[..., None]) / _top(alpha)
        pixels = (pixels / _top(pixels) * opacity + (1 - opacity)).astype(np.float32)
        alpha = None
    if form in ('JPEG', 'WebP', 'BMP') and dtype != np.uint8:
        notes.append(f'{form} has 8 bits; {dtype} values rounded')
        dtype = np.dtype(np.uint8)
    elif form == 'PNG' and dtype == np.float32:
        notes.append('PNG has no float values; rounded to 16 bits')
        dtype = np.dtype(np.uint16)
    return _convert(pixels, dtype), None if alpha is None else _convert(alpha, dtype), notes


def _top(samples: np.ndarray) -> np.float32:
    """The value of white."""
    return np.float32(1 if samples.dtype.kind == 'f' else np.iinfo(samples.dtype).max)


def _convert(samples: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Scale to another depth; integers are rounded, floats clipped to [0, 1] before."""
    if samples.dtype == dtype:
        return samples
    if dtype.kind == 'f':
        return samples.astype(dtype)
    return np.rint(np.clip(samples / _top(samples), 0, 1) * np.iinfo(dtype).max).astype(dtype)


def _encode(
    samples: np.ndarray, form: str, icc: bytes | None, dpi: tuple[float, float] | None, quality: int
) -> bytes | memoryview:
    """The bytes of a file; `samples` is (H, W) or (H, W, 2 to 4), of a dtype that the format holds."""
    if form == 'TIFF':
        return _encode_tiff(samples, icc, dpi)
    if samples.dtype == np.uint16:
        return _encode_png16(samples, icc, dpi)
    options: dict[str, Any] = {
        'PNG': {'compress_level': PNG_LEVEL},
        'JPEG': {'quality': quality, 'subsampling': 0 if quality >= 90 else 2},
        # exact keeps the colour of transparent pixels
        'WebP': {'lossless': quality == 100, 'quality': quality, 'exact': True},
    }.get(form, {})
    buffer = io.BytesIO()
    kept = {name: value for name, value in (('icc_profile', icc), ('dpi', dpi)) if value}
    Image.fromarray(samples).save(buffer, form.upper(), **options, **kept)
    return buffer.getbuffer()


def _encode_tiff(samples: np.ndarray, icc: bytes | None, dpi: tuple[float, float] | None) -> memoryview:
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, samples, metadata=None, software=False, compression='zlib', predictor=samples.dtype.kind == 'u',
        photometric='rgb' if channels >= 3 else 'minisblack', planarconfig='contig' if channels > 1 else None,
        extrasamples=['unassalpha'] if channels in (2, 4) else None,
        extratags=[(_ICC, 7, len(icc), icc, True)] if icc else [],
        resolution=dpi, resolutionunit='INCH' if dpi else None,
    )  # fmt: skip
    return buffer.getbuffer()


def _encode_png16(samples: np.ndarray, icc: bytes | None, dpi: tuple[float, float] | None) -> bytes:
    """A PNG of 16 bits with its metadata; neither Pillow nor OpenCV writes all four colour types."""
    height, width = samples.shape[:2]
    rows = samples.astype('>u2').reshape(height, -1).view(np.uint8)
    pixel = rows.shape[1] // width  # bytes
    lines = np.empty((height, rows.shape[1] + 1), np.uint8)
    lines[:, 0] = 1  # filter Sub: each byte minus that of the pixel before
    lines[:, 1:] = rows
    lines[:, 1 + pixel :] -= rows[:, :-pixel]
    color_type = {2: 0, 4: 4, 6: 2, 8: 6}[pixel]
    chunks = [(b'IHDR', struct.pack('>IIBBBBB', width, height, 16, color_type, 0, 0, 0))]
    if icc:
        chunks.append((b'iCCP', b'ICC profile\0\0' + zlib.compress(icc)))
    if dpi:
        chunks.append((b'pHYs', struct.pack('>IIB', *(round(value / 0.0254) for value in dpi), 1)))
    return _png([*chunks, (b'IDAT', zlib.compress(lines.data, PNG_LEVEL))])


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return _PNG_SIGNATURE + b''.join(_png_chunk(*chunk) for chunk in [*chunks, (b'IEND', b'')])


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
