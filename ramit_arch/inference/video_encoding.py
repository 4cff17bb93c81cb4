"""Codecs of a restored video: which there are, their pixel formats, and opening an encoder; needs PyAV."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from ramit_arch.errors import UserError, suggestion

FORMATS = {'.mp4': 'mp4', '.m4v': 'mp4', '.mov': 'mov', '.mkv': 'matroska', '.webm': 'webm'}  # FFmpeg's names

# Options of av.open: metadata need not be UTF-8. PyAV 19 has no other way.
ANY_BYTES: dict[str, Any] = {'metadata_errors': 'surrogateescape'} if int(av.__version__.split('.')[0]) < 19 else {}


def address(path: Path | str) -> str:
    """A file for av.open, which takes what stands before a colon for a protocol."""
    return f'file:{path}'


@dataclass(frozen=True)
class Codec:
    """An encoder.

    Attributes:
        best, worst: range of its constant rate factor (CRF); None if it is lossless.
        default: CRF at which the loss is hardly visible.
        options: of FFmpeg, besides the CRF.
        odd_sizes: whether 4:2:0 may have odd sides.
    """

    best: int | None = None
    worst: int | None = None
    default: int | None = None
    options: tuple[tuple[str, str], ...] = ()
    odd_sizes: bool = False


CODECS = {
    'libx264': Codec(0, 51, 16),
    'libx265': Codec(0, 51, 18, (('x265-params', 'log-level=error'),)),
    'libvpx-vp9': Codec(0, 63, 20, (('row-mt', '1'),), odd_sizes=True),
    'libsvtav1': Codec(1, 63, 20),
    'ffv1': Codec(odd_sizes=True),
}
SELF_DESCRIBED = ('libx264', 'libx265')  # their streams hold the pixel aspect, which PyAV cannot write into Matroska
ALIASES = {'h264': 'libx264', 'h265': 'libx265', 'hevc': 'libx265', 'vp9': 'libvpx-vp9', 'av1': 'libsvtav1'}


@dataclass(frozen=True)
class Encoding:
    """How frames are encoded.

    Attributes:
        codec: a key of `CODECS`.
        crf: constant rate factor, or None if the codec is lossless.
        format: FFmpeg's name of the pixel format.
        width, height: in pixels.
        rate: frames per second, on average.
        time_base: unit of the timestamps in seconds.
        aspect: of a pixel, width / height.
        matrix, range, primaries, transfer: colour tags, as ISO/IEC 23091-2 numbers them.
        threads: of the encoder; 0 lets it choose.
    """

    codec: str
    crf: int | None
    format: str
    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    aspect: Fraction | None
    matrix: int
    range: int
    primaries: int
    transfer: int
    threads: int = 0

    def configure(self, context: Any) -> None:
        """Prepare an encoder that is not yet open; two with the same encoding write the same stream header."""
        codec = CODECS[self.codec]
        context.width, context.height, context.pix_fmt = self.width, self.height, self.format
        context.time_base, context.framerate, context.bit_rate = self.time_base, self.rate, 0
        context.sample_aspect_ratio = self.aspect or Fraction(0, 1)
        context.colorspace, context.color_range = self.matrix, self.range
        context.color_primaries, context.color_trc = self.primaries, self.transfer
        context.thread_count = self.threads
        crf = {} if self.crf is None else {'crf': str(self.crf)}
        context.options = {**dict(codec.options), **crf}


def choose_codec(name: str | None, crf: int | None, suffix: str) -> tuple[str, int | None]:
    """The codec and its CRF for a target of this suffix, by default libx264, or libvpx-vp9 in WebM.

    Raises:
        UserError: the codec or the suffix is unknown, they do not go together, or the CRF is out of range.
    """
    if suffix not in FORMATS:
        raise UserError(f'{suffix}: cannot be written; choose one of {", ".join(FORMATS)}')
    available = [each for each in CODECS if each in av.codecs_available]
    chosen = ALIASES.get(name or '', name) or ('libvpx-vp9' if suffix == '.webm' else 'libx264')
    if chosen not in available:
        near = suggestion(chosen, [*available, *ALIASES])
        raise UserError(f'--codec {name or chosen}: not available{near}; choose one of {", ".join(available)}')
    codec, held = CODECS[chosen], supported_codecs(suffix)
    if chosen not in held:
        others = ', '.join(each for each in available if each in held)
        raise UserError(f'--codec {chosen}: not for {suffix} files; choose one of {others}, or another suffix')
    if codec.best is None or codec.worst is None:
        if crf is not None:
            raise UserError(f'--crf {crf}: {chosen} is lossless; remove it')
        return chosen, None
    if crf is not None and not codec.best <= crf <= codec.worst:
        raise UserError(f'--crf {crf}: {chosen} takes {codec.best} (best) to {codec.worst}')
    return chosen, codec.default if crf is None else crf


def supported_codecs(suffix: str) -> set[str]:
    """Names of the codecs that files of this suffix hold."""
    with av.open(io.BytesIO(), 'w', format=FORMATS[suffix]) as container:
        return set(container.supported_codecs)


def choose_format(source: Any, codec: str, width: int, height: int, notes: list[str]) -> str:
    """The codec's pixel format that is nearest to that of the source (an av.VideoFormat).

    Raises:
        UserError: none takes the size.
    """
    bits = max(component.bits for component in source.components)
    depths = [depth for depth in (16, 12, 10) if bits > 12 or (bits > 8 and depth <= max(bits, 10))]
    layout = _layout(source)
    preferred = {
        'gbrp': ['gbrp', 'bgr0', 'yuv444p', 'yuv420p'],
        'gray': ['gray', 'yuv420p', 'yuv444p'],
        'yuv444p': ['yuv444p', 'yuv422p', 'yuv420p'],
        'yuv422p': ['yuv422p', 'yuv444p', 'yuv420p'],
        'yuv420p': ['yuv420p', 'yuv444p', 'yuv422p'],
    }[layout]
    available = {format.name for format in av.codec.Codec(codec, 'w').video_formats or ()}
    for chosen in preferred:
        even = 1 if CODECS[codec].odd_sizes else {'yuv420p': 2, 'yuv422p': 2}.get(chosen, 1)
        if width % even or (height % even and chosen == 'yuv420p'):
            continue
        for depth in [*depths, 8]:
            name = chosen if depth == 8 else f'{chosen}{depth}le'
            if name in available:
                if chosen not in (layout, 'bgr0'):
                    notes.append(f'{source.name} encoded as {name}')
                if depth < bits:
                    notes.append(f'{bits} bits rounded to {depth}')
                return name
    raise UserError(f'--codec {codec}: cannot encode odd sizes such as {width}x{height}; use libx264')


def _layout(source: Any) -> str:
    """The 8-bit planar format with the same channels and chroma resolution, or the next finer one."""
    if source.is_rgb or source.has_palette:
        return 'gbrp'
    components = [each for each in av.VideoFormat(source.name, 16, 16).components if not each.is_alpha]
    if len(components) == 1:
        return 'gray'
    chroma = components[1]
    if chroma.width == 16:
        return 'yuv444p'
    return 'yuv422p' if chroma.height == 16 else 'yuv420p'


def open_encoder(encoding: Encoding) -> Any:
    """An open av.VideoCodecContext with a global stream header, as all of `FORMATS` have it."""
    os.environ.setdefault('SVT_LOG', '1')  # errors only
    context: Any = av.CodecContext.create(encoding.codec, 'w')
    encoding.configure(context)
    context.flags |= av.codec.context.Flags.global_header
    context.open()
    return context
