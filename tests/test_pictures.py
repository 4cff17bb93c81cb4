"""Pictures in and out: what is kept, what is converted with a note, and what is refused."""

from __future__ import annotations

import io
import logging
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL
import pytest
import tifffile
from PIL import Image, ImageCms, ImageSequence

from ramit_arch.data.pixels import MAX_PIXELS
from ramit_arch.errors import UserError
from ramit_arch.inference.pictures import Picture, is_picture, read_picture, write_picture

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def values(dtype: str, channels: int, height: int = 5, width: int = 7) -> np.ndarray:
    """Reproducible noise: (height, width), or (height, width, channels) if there is more than one."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    rng = np.random.default_rng(channels)
    return rng.random(shape, dtype=np.float32) if dtype == 'float32' else rng.integers(
        np.iinfo(dtype).max, size=shape, dtype=dtype, endpoint=True
    )  # fmt: skip


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A minimal ICC profile, version 2."""
    table, body = struct.pack('>I', len(tags)), b''
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack('>II', start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    kind, connection = (b'prtr', b'Lab ') if space == b'CMYK' else (b'mntr', b'XYZ ')
    header = bytes(8) + struct.pack('>I', 0x02400000) + kind + space + connection + bytes(12) + b'acsp' + bytes(28)
    header += struct.pack('>iii', 0xF6D6, 0x10000, 0xD32D)  # D50
    content = header.ljust(128, b'\0') + table + body
    return struct.pack('>I', len(content)) + content[4:]


def gray_profile() -> bytes:
    """Linear gray, so that a conversion to sRGB changes the values."""
    white = b'XYZ ' + bytes(4) + struct.pack('>iii', 0xF6D6, 0x10000, 0xD32D)
    return profile(b'GRAY', {b'wtpt': white, b'kTRC': b'curv' + bytes(8)})


def cmyk_profile() -> bytes:
    """Cyan ink prints red here, unlike anywhere else; magenta and yellow do nothing."""
    white, red, black = (255, 128, 128), (136, 208, 195), (0, 128, 128)  # Lab
    corners = [black if corner % 2 else red if corner >= 8 else white for corner in range(16)]
    ramp = bytes(range(256))
    lut = b'mft1' + bytes(4) + bytes([4, 3, 2, 0]) + struct.pack('>9i', 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut += ramp * 4 + bytes(value for corner in corners for value in corner) + ramp * 3
    return profile(b'CMYK', {b'A2B0': lut})


def png(samples: np.ndarray, color_type: int, bits: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with arbitrary chunks; samples of less than 8 bits come packed, (height, bytes a row)."""
    height, width = samples.shape[:2]
    width = width * 8 // bits if bits < 8 else width
    rows = samples.astype('>u2' if bits == 16 else 'u1').reshape(height, -1).view(np.uint8)
    header = struct.pack('>IIBBBBB', width, height, bits, color_type, 0, 0, 0)
    body = zlib.compress(np.hstack([np.zeros((height, 1), np.uint8), rows]).tobytes())
    content = b''
    for name, data in [(b'IHDR', header), *chunks, (b'IDAT', body), (b'IEND', b'')]:
        content += struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
    return b'\x89PNG\r\n\x1a\n' + content


def tiff(samples: np.ndarray, photometric: str = 'minisblack', **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, photometric=photometric, metadata=None, software=False, **options)
    return buffer.getvalue()


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def read(content: bytes, folder: Path, name: str = 'picture') -> Picture:
    path = folder / name
    path.write_bytes(content)
    return read_picture(path)


def rewritten(picture: Picture, path: Path, quality: int = 95) -> Picture:
    write_picture(picture, path, quality)
    return read_picture(path)


def assert_same(actual: np.ndarray | None, expected: np.ndarray | None) -> None:
    """Equal dtype, shape and values."""
    if actual is None or expected is None:
        assert actual is expected
    else:
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected, strict=True)


# ------------------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize('has_alpha', [False, True], ids=['opaque', 'alpha'])
@pytest.mark.parametrize('channels', [1, 3], ids=['gray', 'rgb'])
@pytest.mark.parametrize(
    ('suffix', 'dtype'),
    [('.png', 'uint8'), ('.png', 'uint16'), ('.tif', 'uint8'), ('.tif', 'uint16'), ('.tiff', 'float32')],
)
def test_lossless_formats_keep_everything(
    suffix: str, dtype: str, channels: int, has_alpha: bool, tmp_path: Path
) -> None:
    icc = SRGB if channels == 3 else gray_profile()
    alpha = values(dtype, 1)[::-1].copy() if has_alpha else None
    picture = Picture(values(dtype, channels), alpha, icc, (300, 150))
    result = rewritten(picture, tmp_path / f'a{suffix}')
    assert_same(result.pixels, picture.pixels)
    assert_same(result.alpha, alpha)
    assert result.icc == icc
    assert result.dpi == pytest.approx((300, 150), abs=0.02)
    assert picture.notes == result.notes == []
    assert result.format == ('PNG' if suffix == '.png' else 'TIFF')


@pytest.mark.parametrize('suffix', ['.png', '.tif', '.jpg', '.bmp', '.webp'])
def test_files_without_profile_and_resolution_gain_none(suffix: str, tmp_path: Path) -> None:
    result = rewritten(Picture(values('uint8', 3)), tmp_path / f'a{suffix}')
    assert result.icc is None
    assert result.notes == []
    assert result.dpi is None or suffix == '.bmp'  # BMP always states one


@pytest.mark.parametrize('dtype', ['uint8', 'uint16'])
def test_a_tiff_without_resolution_has_none(dtype: str, tmp_path: Path) -> None:
    assert read(saved(Image.fromarray(values(dtype, 1)), 'TIFF'), tmp_path).dpi is None


@pytest.mark.parametrize('channels', [1, 3], ids=['gray', 'rgb'])
def test_bmp_keeps_pixels_and_resolution(channels: int, tmp_path: Path) -> None:
    picture = Picture(values('uint8', channels), dpi=(300, 150))
    result = rewritten(picture, tmp_path / 'a.bmp')
    assert_same(result.pixels, picture.pixels)
    assert result.dpi == pytest.approx((300, 150), abs=0.02)


@pytest.mark.parametrize('channels', [1, 3], ids=['gray', 'rgb'])
@pytest.mark.parametrize('suffix', ['.jpg', '.JPEG'])
def test_jpeg_keeps_colours_profile_and_resolution(suffix: str, channels: int, tmp_path: Path) -> None:
    icc = SRGB if channels == 3 else gray_profile()
    picture = Picture(np.full_like(values('uint8', channels), 77), icc=icc, dpi=(300, 150))
    result = rewritten(picture, tmp_path / f'a{suffix}')
    assert result.pixels.shape == picture.pixels.shape
    assert abs(result.pixels.astype(int) - 77).max() <= 1
    assert (result.icc, result.dpi, result.notes) == (icc, (300, 150), [])


@pytest.mark.parametrize(('quality', 'full'), [(100, True), (90, True), (89, False)])
def test_jpeg_subsamples_colour_only_below_quality_90(quality: int, full: bool, tmp_path: Path) -> None:
    write_picture(Picture(values('uint8', 3)), tmp_path / 'a.jpg', quality)
    with Image.open(tmp_path / 'a.jpg') as image:
        assert (image.layer[0][1:3] == (1, 1)) == full


@pytest.mark.parametrize('suffix', ['.jpg', '.webp'])
def test_quality_changes_lossy_formats(suffix: str, tmp_path: Path) -> None:
    picture = Picture(values('uint8', 3, 32, 32))
    for quality in (20, 90):
        write_picture(picture, tmp_path / f'{quality}{suffix}', quality)
    assert (tmp_path / f'20{suffix}').stat().st_size < (tmp_path / f'90{suffix}').stat().st_size / 2


def test_webp_is_lossless_at_quality_100_alone(tmp_path: Path) -> None:
    picture = Picture(values('uint8', 3), alpha=np.zeros((5, 7), np.uint8), icc=SRGB)
    result = rewritten(picture, tmp_path / 'a.webp', 100)
    assert_same(result.pixels, picture.pixels)  # the colour of transparent pixels too
    assert_same(result.alpha, picture.alpha)
    assert (result.icc, picture.notes) == (SRGB, [])
    assert (rewritten(picture, tmp_path / 'b.webp', 99).pixels != picture.pixels).any()


def test_gray_becomes_rgb_in_webp(tmp_path: Path) -> None:
    picture = Picture(values('uint8', 1))
    result = rewritten(picture, tmp_path / 'a.webp', 100)
    assert_same(result.pixels, np.dstack([picture.pixels] * 3))
    assert picture.notes == []


def test_a_gray_profile_is_converted_for_webp(tmp_path: Path) -> None:
    picture = Picture(np.full((5, 7), 55, np.uint8), icc=gray_profile())
    result = rewritten(picture, tmp_path / 'a.webp', 100)
    assert abs(result.pixels.astype(int) - 128).max() <= 2  # linear 0.216 is 0.5 in sRGB
    assert result.icc is None
    assert picture.notes == ['gray converted to sRGB through its colour profile']


def test_suffixes_are_recognised_in_any_case() -> None:
    assert all(is_picture(Path(name)) for name in ('a.png', 'a.JPG', 'a.Tiff', 'b.webp', 'a.b.gif', 'a.ppm'))
    assert not any(is_picture(Path(name)) for name in ('a.txt', 'png', '.png', 'a.png.part', 'a.eps', 'a'))


# ------------------------------------------------------------------------------------------------------ conversions


@pytest.mark.parametrize('suffix', ['.jpg', '.bmp'])
def test_alpha_is_composited_on_white(suffix: str, tmp_path: Path) -> None:
    pixels = np.full((8, 8, 3), 100, np.uint8)
    for opacity, expected in ((0, 255), (51, 224), (255, 100)):
        picture = Picture(pixels, np.full((8, 8), opacity, np.uint8))
        result = rewritten(picture, tmp_path / f'a{suffix}')
        assert abs(result.pixels.astype(int) - expected).max() <= (suffix == '.jpg')
        assert result.alpha is None
        assert picture.notes == [f'{"JPEG" if suffix == ".jpg" else "BMP"} has no alpha; composited on white']
        assert (picture.pixels == 100).all()
        assert picture.alpha is not None


def test_gray_alpha_is_composited_on_white(tmp_path: Path) -> None:
    picture = Picture(np.zeros((5, 7), np.uint16), np.full((5, 7), 0x8000, np.uint16))
    result = rewritten(picture, tmp_path / 'a.bmp')
    assert_same(result.pixels, np.full((5, 7), 127, np.uint8))


@pytest.mark.parametrize('suffix', ['.bmp', '.webp'])
def test_16_bits_are_rounded_to_8(suffix: str, tmp_path: Path) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    picture = Picture(np.dstack([levels] * 3), None if suffix == '.bmp' else levels)
    result = rewritten(picture, tmp_path / f'a{suffix}', 100)
    expected = np.round(levels.astype(np.float64) * 255 / 65535).astype(np.uint8)
    assert_same(result.pixels[..., 1], expected)
    assert_same(result.alpha, None if suffix == '.bmp' else expected)
    assert picture.notes == [f'{"BMP" if suffix == ".bmp" else "WebP"} has 8 bits; uint16 values rounded']


@pytest.mark.parametrize(('suffix', 'top', 'dtype'), [('.png', 65535, 'uint16'), ('.bmp', 255, 'uint8')])
def test_floats_are_clipped_and_rounded(suffix: str, top: int, dtype: str, tmp_path: Path) -> None:
    floats = np.array([[-0.2, 0, 0.3 / top, 0.7 / top, 0.5, 1 - 0.3 / top, 1, 1.3]], np.float32)
    picture = Picture(floats)
    result = rewritten(picture, tmp_path / f'a{suffix}')
    assert_same(result.pixels, np.array([[0, 0, 0, 1, round(top / 2), top, top, top]], dtype))
    assert len(picture.notes) == 1
    assert '16 bits' in picture.notes[0] if dtype == 'uint16' else '8 bits' in picture.notes[0]


@pytest.mark.parametrize(('suffix', 'icc', 'dpi'), [('.bmp', SRGB, None), ('.webp', None, (300.0, 300.0))])
def test_metadata_that_a_format_lacks_is_noted(suffix: str, icc: bytes, dpi: tuple, tmp_path: Path) -> None:
    picture = Picture(values('uint8', 3), icc=icc, dpi=dpi)
    write_picture(picture, tmp_path / f'a{suffix}')
    write_picture(picture, tmp_path / f'b{suffix}')
    assert len(picture.notes) == 1  # not again
    assert 'dropped' in picture.notes[0]


def test_a_1_bit_image_becomes_gray(tmp_path: Path) -> None:
    bits = values('uint8', 1) > 127
    for form in ('PNG', 'TIFF'):
        picture = read(saved(Image.fromarray(bits), form), tmp_path)
        assert_same(picture.pixels, bits.astype(np.uint8) * 255)
        assert picture.notes == ['1-bit converted to gray']


def palette_image(colors: list[int]) -> Image.Image:
    image = Image.fromarray((np.arange(35, dtype=np.uint8) % 3).reshape(5, 7), 'P')
    image.putpalette(colors)
    return image


@pytest.mark.parametrize('form', ['PNG', 'GIF', 'TIFF'])
def test_a_palette_becomes_rgb(form: str, tmp_path: Path) -> None:
    picture = read(saved(palette_image([255, 0, 0, 0, 200, 9, 1, 2, 3]), form), tmp_path)
    assert picture.pixels[0, :3].tolist() == [[255, 0, 0], [0, 200, 9], [1, 2, 3]]
    assert picture.alpha is None
    assert picture.notes == ['palette converted to RGB']


@pytest.mark.parametrize(('transparency', 'expected'), [(1, [255, 0, 255]), (b'\x07\x80\xff', [7, 128, 255])])
def test_transparency_of_a_palette_becomes_alpha(transparency: object, expected: list, tmp_path: Path) -> None:
    image = palette_image([255, 0, 0, 0, 200, 9, 1, 2, 3])
    picture = read(saved(image, 'PNG', transparency=transparency), tmp_path)
    assert picture.alpha is not None
    assert picture.alpha[0, :3].tolist() == expected
    assert picture.pixels[0, :3].tolist() == [[255, 0, 0], [0, 200, 9], [1, 2, 3]]
    assert picture.notes == ['palette converted to RGB with alpha']


def test_a_palette_of_grays_becomes_gray_unless_its_profile_is_for_rgb(tmp_path: Path) -> None:
    image = palette_image([9, 9, 9, 200, 200, 200, 255, 255, 255])
    for options, note in (
        ({}, 'palette converted to gray'),
        ({'transparency': 1}, 'palette converted to gray with alpha'),
    ):
        picture = read(saved(image, 'PNG', **options), tmp_path)
        assert picture.pixels[0, :3].tolist() == [9, 200, 255]
        assert picture.notes == [note]
        assert (picture.alpha is not None) == bool(options)
    tagged = read(saved(image, 'PNG', icc_profile=SRGB), tmp_path)
    assert tagged.pixels.shape == (5, 7, 3)
    assert tagged.icc == SRGB


@pytest.mark.parametrize(
    ('color_type', 'bits', 'samples', 'key'),
    [
        (0, 8, values('uint8', 1), struct.pack('>H', values('uint8', 1)[2, 3])),
        (2, 8, values('uint8', 3), struct.pack('>3H', *values('uint8', 3)[2, 3])),
        (0, 16, values('uint16', 1), struct.pack('>H', values('uint16', 1)[2, 3])),
        (2, 16, values('uint16', 3), struct.pack('>3H', *values('uint16', 3)[2, 3])),
    ],
    ids=['gray8', 'rgb8', 'gray16', 'rgb16'],
)
def test_a_transparent_colour_becomes_alpha(
    color_type: int, bits: int, samples: np.ndarray, key: bytes, tmp_path: Path
) -> None:
    picture = read(png(samples, color_type, bits, (b'tRNS', key)), tmp_path)
    expected = (samples != samples[2, 3]).reshape(5, 7, -1).any(axis=2) * np.iinfo(samples.dtype).max
    assert_same(picture.pixels, samples)
    assert_same(picture.alpha, expected.astype(samples.dtype))


@pytest.mark.parametrize('bits', [1, 2, 4])
def test_a_transparent_gray_of_few_bits_becomes_alpha(bits: int, tmp_path: Path) -> None:
    packed = np.array([[0b00011011]], np.uint8)
    levels = [(0b00011011 >> shift) % 2**bits for shift in range(8 - bits, -1, -bits)]
    picture = read(png(packed, 0, bits, (b'tRNS', struct.pack('>H', 1))), tmp_path)
    assert picture.pixels[0].tolist() == [level * 255 // (2**bits - 1) for level in levels]
    assert picture.alpha is not None
    assert picture.alpha[0].tolist() == [0 if level == 1 else 255 for level in levels]


@pytest.mark.parametrize('form', ['JPEG', 'TIFF'])
def test_cmyk_is_converted_through_its_profile(form: str, tmp_path: Path) -> None:
    cyan = Image.new('CMYK', (16, 16), (255, 0, 0, 0))
    picture = read(saved(cyan, form, icc_profile=cmyk_profile()), tmp_path)
    red, green, blue = picture.pixels.reshape(-1, 3).T.astype(int)
    assert red.min() > 220  # cyan ink is red in this profile
    assert max(green.max(), blue.max()) < 60
    assert picture.icc is None
    assert picture.notes == ['CMYK converted to sRGB through its colour profile']


@pytest.mark.parametrize('form', ['JPEG', 'TIFF'])
@pytest.mark.parametrize('icc', [None, b'no profile' * 20, SRGB], ids=['none', 'damaged', 'rgb'])
def test_cmyk_without_a_usable_profile_is_converted_approximately(form: str, icc: bytes | None, tmp_path: Path) -> None:
    yellow = Image.new('CMYK', (16, 16), (0, 0, 255, 0))
    picture = read(saved(yellow, form, icc_profile=icc), tmp_path)
    assert abs(picture.pixels.astype(int) - [255, 255, 0]).max() <= 3
    assert picture.icc is None
    assert picture.notes == ['CMYK converted to sRGB without a usable ICC profile; colours are approximate']


def test_an_inverted_cmyk_jpeg_of_photoshop_is_read_right(tmp_path: Path) -> None:
    content = saved(Image.new('CMYK', (16, 16), (0, 0, 0, 0)), 'JPEG')
    assert b'Adobe' in content
    assert read(content, tmp_path).pixels.min() >= 253  # no ink is white
    dark = saved(Image.new('CMYK', (16, 16), (0, 0, 0, 255)), 'JPEG')
    assert read(dark, tmp_path).pixels.max() <= 2


def test_16_bit_cmyk_is_reduced_with_a_note(tmp_path: Path) -> None:
    samples = np.zeros((5, 7, 4), np.uint16)
    picture = read(tiff(samples, 'separated'), tmp_path)
    assert_same(picture.pixels, np.full((5, 7, 3), 255, np.uint8))
    assert '16-bit SEPARATED reduced to 8 bits' in picture.notes


def test_lab_is_converted_to_srgb(tmp_path: Path) -> None:
    picture = read(saved(Image.new('LAB', (7, 5), (136, 208, 195)), 'TIFF'), tmp_path)
    assert abs(picture.pixels.astype(int) - [255, 0, 0]).max() <= 12
    assert picture.notes == ['LAB converted to sRGB through its colour profile']


@pytest.mark.skipif(PIL.__version__ < '13', reason='earlier releases call such a TIFF truncated')
def test_other_modes_are_converted_with_a_note(tmp_path: Path) -> None:
    samples = np.array(Image.new('RGB', (7, 5), (200, 30, 40)).convert('YCbCr'))
    picture = read(tiff(samples, 'ycbcr', subsampling=(1, 1)), tmp_path)
    assert abs(picture.pixels.astype(int) - [200, 30, 40]).max() <= 2
    assert picture.notes == ['YCbCr converted to RGB']


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'float32'])
def test_premultiplied_alpha_becomes_straight(dtype: str, tmp_path: Path) -> None:
    top = 1 if dtype == 'float32' else np.iinfo(dtype).max
    samples = np.zeros((5, 7, 4), dtype)
    samples[:, 1:] = np.array([0.1 * top, 0.2 * top, 0.3 * top, 0.4 * top]).astype(dtype)
    picture = read(tiff(samples, 'rgb', extrasamples=['assocalpha']), tmp_path)
    assert picture.pixels[0, 0].tolist() == [0, 0, 0]
    np.testing.assert_allclose(picture.pixels[0, 1] / top, [0.25, 0.5, 0.75], atol=0.02 if dtype == 'uint8' else 1e-4)
    assert_same(picture.alpha, samples[..., 3])
    assert len(picture.notes) == 1


def test_a_channel_of_unknown_meaning_is_dropped(tmp_path: Path) -> None:
    for channels, photometric in ((4, 'rgb'), (2, 'minisblack')):
        samples = values('uint16', channels)
        content = tiff(samples, photometric, extrasamples=['unspecified'], planarconfig='contig')
        picture = read(content, tmp_path)
        assert_same(picture.pixels, samples[..., :3] if channels == 4 else samples[..., 0])
        assert picture.alpha is None
        assert picture.notes == ['1 channel of unknown meaning dropped']


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'float32'])
def test_white_is_zero_is_inverted(dtype: str, tmp_path: Path) -> None:
    samples = values(dtype, 1)
    top = np.ones((), dtype) if dtype == 'float32' else np.iinfo(dtype).max
    assert_same(read(tiff(samples, 'miniswhite'), tmp_path).pixels, top - samples)


@pytest.mark.parametrize('dtype', ['float16', 'float64'])
def test_other_floats_become_float32(dtype: str, tmp_path: Path) -> None:
    samples = values('float32', 3).astype(dtype)
    picture = read(tiff(samples, 'rgb'), tmp_path)
    assert_same(picture.pixels, samples.astype(np.float32))
    assert picture.notes == [f'{dtype} samples converted to float32']


@pytest.mark.parametrize('dtype', ['uint16', 'float32'])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_layouts_of_deep_tiff(dtype: str, channels: int, tmp_path: Path) -> None:
    samples = values(dtype, channels)
    photometric = 'rgb' if channels > 1 else 'minisblack'
    stored = samples[..., [2, 1, 0, 3][:channels]] if channels > 1 else samples
    files = [
        tiff(samples, photometric, byteorder='>'),
        tiff(samples, photometric, bigtiff=True),
        tiff(samples, photometric, compression='zlib', rowsperstrip=2),
        tiff(samples, photometric, tile=(16, 16)),
        cv2.imencode('.tif', stored, [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1].tobytes(),  # LZW
    ]
    if dtype == 'float32' and hasattr(cv2, 'IMWRITE_TIFF_PREDICTOR'):
        options = [cv2.IMWRITE_TIFF_COMPRESSION, 8, cv2.IMWRITE_TIFF_PREDICTOR, 3]
        files.append(cv2.imencode('.tif', stored, options)[1].tobytes())
    if channels > 1:
        extra = ['unassalpha'] if channels == 4 else None
        files.append(tiff(np.moveaxis(samples, 2, 0), photometric, planarconfig='separate', extrasamples=extra))
    for content in files:
        picture = read(content, tmp_path)
        assert_same(picture.pixels, samples[..., :3] if channels > 1 else samples)
        assert_same(picture.alpha, samples[..., 3] if channels == 4 else None)


def test_a_16_bit_pgm_keeps_its_depth(tmp_path: Path) -> None:
    samples = values('uint16', 1)
    assert_same(read(b'P5 7 5 65535\n' + samples.astype('>u2').tobytes(), tmp_path).pixels, samples)


def test_a_16_bit_ppm_is_reduced_with_a_note(tmp_path: Path) -> None:
    picture = read(b'P6 7 5 65535\n' + values('uint16', 3).astype('>u2').tobytes(), tmp_path)
    assert picture.pixels.dtype == np.uint8
    assert picture.notes == ['PPM scaled to 8 bits']


def test_an_interlaced_16_bit_png_is_read(tmp_path: Path) -> None:
    # One pixel is the same in both layouts.
    content = bytearray(png(np.array([[[1, 500, 65535]]], np.uint16), 2, 16))
    content[28] = 1
    content[29:33] = struct.pack('>I', zlib.crc32(content[12:29]))
    assert read(bytes(content), tmp_path).pixels.tolist() == [[[1, 500, 65535]]]


# ---------------------------------------------------------------------------------------------------------- metadata


def turned(samples: np.ndarray, orientation: int) -> np.ndarray:
    """The stored samples of an upright image, by the definition: which edges row 0 and column 0 are."""
    stored = {
        1: samples, 2: samples[:, ::-1], 3: samples[::-1, ::-1], 4: samples[::-1], 5: samples.swapaxes(0, 1),
        6: np.rot90(samples), 7: samples[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(samples, -1),
    }  # fmt: skip
    return np.ascontiguousarray(stored[orientation])


def exif(orientation: int) -> bytes:
    """One tag, as in a file."""
    return b'MM\0*' + struct.pack('>IHHHIHHI', 8, 1, 274, 3, 1, orientation, 0, 0)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'float32'])
@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_orientation_of_png_and_tiff(dtype: str, channels: int, orientation: int, tmp_path: Path) -> None:
    samples = values(dtype, channels)
    stored = turned(samples, orientation)
    tag = [(274, 3, 1, orientation, True)]
    extra = ['unassalpha'] if channels in (2, 4) else None
    photometric, planar = ('rgb' if channels > 2 else 'minisblack'), ('contig' if channels > 1 else None)
    files = {'tiff': tiff(stored, photometric, extrasamples=extra, planarconfig=planar, extratags=tag)}
    if dtype != 'float32':
        files['png'] = png(
            stored, {1: 0, 2: 4, 3: 2, 4: 6}[channels], stored.itemsize * 8, (b'eXIf', exif(orientation))
        )
    for name, content in files.items():
        picture = read(content, tmp_path, name)
        assert_same(picture.pixels, {1: samples, 2: samples[..., 0]}.get(channels, samples[..., :3]))
        assert_same(picture.alpha, samples[..., -1] if channels in (2, 4) else None)
        assert picture.notes == []


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_of_a_16_bit_tiff_that_opencv_decodes(orientation: int, tmp_path: Path) -> None:
    samples = values('uint16', 1)
    image = Image.fromarray(turned(samples, orientation))
    picture = read(saved(image, 'TIFF', compression='tiff_lzw', tiffinfo={274: orientation}), tmp_path)
    assert_same(picture.pixels, samples)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('form', ['JPEG', 'WEBP'])
def test_orientation_of_jpeg_and_webp(form: str, orientation: int, tmp_path: Path) -> None:
    samples = cv2.resize(np.array([[0, 90], [170, 255]], np.uint8), (16, 24), interpolation=cv2.INTER_NEAREST)
    image = Image.fromarray(np.dstack([turned(samples, orientation)] * 3))
    options = {'quality': 100} if form == 'JPEG' else {'lossless': True}
    picture = read(saved(image, form, exif=b'Exif\0\0' + exif(orientation), **options), tmp_path)
    assert picture.pixels.shape == (24, 16, 3)
    assert abs(picture.pixels[..., 1].astype(int) - samples).max() <= 3
    assert rewritten(picture, tmp_path / 'b.jpg').pixels.shape == (24, 16, 3)


def test_other_exif_is_dropped_with_a_note(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[271] = 'Camera'
    picture = read(saved(Image.new('RGB', (7, 5)), 'JPEG', exif=tags), tmp_path)
    assert picture.notes == ['EXIF metadata dropped']
    write_picture(picture, tmp_path / 'b.jpg')
    assert b'Camera' not in (tmp_path / 'b.jpg').read_bytes()


@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'WEBP'])
def test_damaged_exif_does_not_hide_the_image(form: str, tmp_path: Path) -> None:
    content = saved(Image.new('RGB', (7, 5), (200, 200, 200)), form, exif=b'Exif\0\0MMgarbage')
    assert abs(read(content, tmp_path).pixels.astype(int) - 200).max() <= 1


@pytest.mark.skipif('.avif' not in Image.registered_extensions(), reason='needs Pillow with AVIF')
def test_avif_is_read(tmp_path: Path) -> None:
    picture = read(saved(Image.new('RGB', (16, 16), (200, 30, 40)), 'AVIF', quality=100), tmp_path)
    assert abs(picture.pixels.astype(int) - [200, 30, 40]).max() <= 4


@pytest.mark.parametrize('unit', ['CENTIMETER', 'NONE'])
def test_tiff_resolution_has_units(unit: str, tmp_path: Path) -> None:
    for dtype in ('uint8', 'uint16'):
        content = tiff(values(dtype, 3), 'rgb', resolution=(100, 50), resolutionunit=unit)
        dpi = read(content, tmp_path).dpi
        assert dpi is None if unit == 'NONE' else dpi == pytest.approx((254, 127))


@pytest.mark.parametrize('dtype', ['uint8', 'uint16'])
@pytest.mark.parametrize('form', ['.png', '.tif'])
@pytest.mark.parametrize(
    ('icc', 'note'),
    [
        (b'garbage' * 30, 'ICC profile dropped (damaged)'),
        (gray_profile(), 'ICC profile dropped (for GRAY, not RGB)'),
        (cmyk_profile(), 'ICC profile dropped (for CMYK, not RGB)'),
    ],
    ids=['damaged', 'gray', 'cmyk'],
)
def test_a_profile_that_does_not_describe_the_pixels_is_dropped(
    icc: bytes, note: str, form: str, dtype: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    picture = rewritten(Picture(values(dtype, 3), icc=icc), tmp_path / f'a{form}')
    assert picture.icc is None
    assert picture.notes == [note]
    assert_same(picture.pixels, values(dtype, 3))
    assert capfd.readouterr().err == ''


@pytest.mark.parametrize('bits', [8, 16])
def test_a_profile_that_cannot_be_decompressed_is_dropped(bits: int, tmp_path: Path) -> None:
    content = png(values(f'uint{bits}', 3), 2, bits, (b'iCCP', b'ICC\0\0no zlib stream'))
    assert read(content, tmp_path).notes == ['ICC profile dropped (damaged)']


@pytest.mark.parametrize('form', ['GIF', 'PNG', 'WEBP', 'TIFF'])
def test_only_the_first_frame_is_read(form: str, tmp_path: Path) -> None:
    frames = [Image.new('RGB', (7, 5), color) for color in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    options = {'lossless': True} if form == 'WEBP' else {}
    content = saved(frames[0], form, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(content)) as image:
        assert len(list(ImageSequence.Iterator(image))) == 3
    picture = read(content, tmp_path)
    assert picture.pixels[0, 0].tolist() == [200, 0, 0]
    assert picture.notes[-1] == 'first frame only; 2 others ignored'


def test_only_the_first_page_of_a_deep_tiff_is_read(tmp_path: Path) -> None:
    pages = np.stack([values('uint16', 3), values('uint16', 3)[::-1]])
    picture = read(tiff(pages, 'rgb'), tmp_path)
    assert_same(picture.pixels, pages[0])
    assert picture.notes == ['first frame only; 1 other ignored']


# --------------------------------------------------------------------------------------------------------- bad input


def refusal(content: bytes, folder: Path, capfd: pytest.CaptureFixture) -> str:
    """The only line that a user sees about a file."""
    with pytest.raises(UserError) as caught:
        read(content, folder, 'bad.png')
    message = str(caught.value)
    assert message.startswith(f'{folder / "bad.png"}: ')
    assert '\n' not in message
    assert capfd.readouterr() == ('', '')
    return message


def truncatable() -> dict[str, bytes]:
    deep = values('uint16', 3, 64, 64)
    image = Image.fromarray(values('uint8', 3, 64, 64))
    files = {form: saved(image, form) for form in ('PNG', 'JPEG', 'GIF', 'WEBP', 'BMP', 'PPM', 'TIFF')}
    files |= {
        'progressive': saved(image, 'JPEG', progressive=True),
        'lzw8': saved(image, 'TIFF', compression='tiff_lzw'),
    }
    files |= {'png16': png(deep, 2, 16), 'tiff16': tiff(deep, 'rgb'), 'zip16': tiff(deep, 'rgb', compression='zlib')}
    files['zip8'] = tiff(np.asarray(image), 'rgb', compression='zlib')
    files['lzw16'] = cv2.imencode('.tif', deep, [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1].tobytes()
    return files


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('name', truncatable())
def test_truncated_files_are_refused(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    content = truncatable()[name]
    read(content, tmp_path)
    for part in (20, 200, len(content) // 2, len(content) * 9 // 10):
        assert 'truncated' in refusal(content[:part], tmp_path, capfd)
    assert caplog.records == []


@pytest.mark.skipif(cv2.__version__ < '5', reason='earlier releases print in any case')
def test_a_damaged_tiff_that_opencv_decodes_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    content = bytearray(truncatable()['lzw16'])
    content[2000:2050] = b'\xff' * 50
    assert 'damaged' in refusal(bytes(content), tmp_path, capfd)


@pytest.mark.parametrize('bits', [8, 16])
def test_a_damaged_png_is_refused(bits: int, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    content = bytearray(png(values(f'uint{bits}', 3, 64, 64), 2, bits))
    content[len(content) // 2] ^= 255
    assert 'damaged' in refusal(bytes(content), tmp_path, capfd)


def test_a_16_bit_png_without_its_end_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    content = png(values('uint16', 3), 2, 16)
    for missing in (1, 12, 14):
        assert 'truncated' in refusal(content[:-missing], tmp_path, capfd)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'empty file'),
        (b'this is text, not an image\n' * 9, 'not an image of a known format'),
        (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n', 'not an image of a known format'),
        (b'II*\0\x08\0\0\0', 'not an image of a known format'),
        (saved(Image.new('RGB', (7, 5)), 'PCX'), 'not an image of a known format'),
    ],
    ids=['empty', 'text', 'eps', 'tiff header', 'pcx'],
)
def test_what_is_no_image_is_refused(
    content: bytes, message: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert message in refusal(content, tmp_path, capfd)


def declared(width: int, height: int, bits: int) -> bytes:
    """A PNG whose header declares a size that its data does not have."""
    content = bytearray(png(values(f'uint{bits}', 1), 0, bits))
    content[16:24] = struct.pack('>II', width, height)
    content[29:33] = struct.pack('>I', zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('limit', [Image.MAX_IMAGE_PIXELS, None], ids=['default', 'lifted'])
def test_too_large_images_are_refused_by_their_header(
    bits: int, limit: int | None, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', limit)
    for width, height in ((60_000, 60_000), (MAX_PIXELS + 1, 1)):
        assert f'more than {MAX_PIXELS:,} pixels' in refusal(declared(width, height, bits), tmp_path, capfd)


@pytest.mark.parametrize('bits', [8, 16])
def test_images_without_pixels_are_refused(bits: int, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    refusal(declared(0, 5, bits), tmp_path, capfd)
    refusal(declared(7, 0, bits), tmp_path, capfd)


@pytest.mark.parametrize(('width', 'message'), [(MAX_PIXELS, f'more than {MAX_PIXELS:,} pixels'), (0, 'has no pixels')])
def test_a_tiff_is_refused_by_its_header(
    width: int, message: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    path = tmp_path / 'a.tif'
    path.write_bytes(tiff(values('uint16', 1)))
    with tifffile.TiffFile(path, mode='r+') as file:
        file.pages[0].tags[256].overwrite(width)
    assert message in refusal(path.read_bytes(), tmp_path, capfd)


@pytest.mark.filterwarnings('error')
def test_large_images_below_the_limit_are_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 20)  # 35 pixels warn, 41 are an error
    read(saved(Image.new('L', (7, 5)), 'PNG'), tmp_path)
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize(
    ('bad', 'message'),
    [
        ([np.nan], '1 non-finite value '),
        ([np.nan, np.inf, -np.inf], '3 non-finite values '),
        ([255.0], 'float values from 0 to 255; scale them to [0, 1]'),
        ([-3.0], 'float values from -3 to 0; scale'),
    ],
)
def test_floats_that_are_no_pixels_are_refused(
    bad: list, message: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    samples = np.zeros((5, 7), np.float32)
    samples[2, : len(bad)] = bad
    assert message in refusal(tiff(samples), tmp_path, capfd)


def test_a_slight_overshoot_of_floats_is_kept(tmp_path: Path) -> None:
    samples = np.array([[-0.2, 0.5, 1.2]], np.float32)
    assert_same(read(tiff(samples), tmp_path).pixels, samples)


@pytest.mark.parametrize('dtype', ['int16', 'int32', 'uint32'])
def test_unsupported_samples_are_refused_by_name(dtype: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert f'{dtype} samples are not supported' in refusal(tiff(np.ones((5, 7), dtype)), tmp_path, capfd)


def test_what_is_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r'missing\.png: cannot be read \(No such file or directory\)'):
        read_picture(tmp_path / 'missing.png')
    with pytest.raises(UserError, match='not a file'):
        read_picture(tmp_path)
    if hasattr(os, 'mkfifo'):
        os.mkfifo(tmp_path / 'pipe.png')
        with pytest.raises(UserError, match='not a file'):
            read_picture(tmp_path / 'pipe.png')

    def denied(path: Path) -> bytes:
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(Path, 'read_bytes', denied)
    with pytest.raises(UserError, match=r'a\.png: cannot be read \(Permission denied\)'):
        read_picture(tmp_path / 'a.png')


@pytest.mark.parametrize(('suffix', 'side'), [('.jpg', 65_500), ('.webp', 16_383)])
def test_a_side_beyond_the_format_is_refused(
    suffix: str, side: int, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    path = tmp_path / f'a{suffix}'
    write_picture(Picture(np.zeros((1, side), np.uint8)), path, 1)
    before = path.read_bytes()
    for shape in ((1, side + 1), (side + 1, 1)):
        with pytest.raises(UserError, match=rf'allows {side} a side; use png'):
            write_picture(Picture(np.zeros(shape, np.uint8)), path)
    assert path.read_bytes() == before
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('name', ['a.gif', 'a', 'a.txt'])
def test_formats_that_cannot_be_written_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'not a suffix of a format that can be written \(\.png, '):
        write_picture(Picture(values('uint8', 3)), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'a.png'
    path.write_bytes(b'former')

    def fail(image: Image.Image, buffer: io.BytesIO, *args: object, **options: object) -> None:
        buffer.write(b'half')
        raise OSError('encoder error -2')

    monkeypatch.setattr(Image.Image, 'save', fail)
    picture = Picture(values('uint8', 3))
    with pytest.raises(UserError, match=r'a\.png: cannot be encoded as PNG \(encoder error -2\)'):
        write_picture(picture, path)
    assert path.read_bytes() == b'former'
    with pytest.raises(UserError, match='cannot be written'):
        write_picture(Picture(values('uint16', 3)), tmp_path / 'missing' / 'a.png')


def test_decoders_settings_are_restored(tmp_path: Path) -> None:
    opencv = getattr(cv2.utils, 'logging', cv2)  # in cv2 itself before OpenCV 5
    level = opencv.getLogLevel()
    read(saved(Image.new('L', (7, 5)), 'PNG'), tmp_path)
    with pytest.raises(UserError):
        read(b'text', tmp_path)
    assert opencv.getLogLevel() == level > 0
    assert logging.getLogger('tifffile').level == logging.NOTSET
