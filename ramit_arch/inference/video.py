"""Restoring a video frame by frame; needs PyAV.

Frames are decoded, restored and encoded one at a time, in segments of `SEGMENT` frames. A segment is a file of encoded
packets in `.NAME.parts` beside the target, written atomically, so an interrupted run continues after the last one.
At the end the packets are muxed together with the streams that are copied, and the folder is removed.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from ramit_arch.data.pixels import MAX_PIXELS
from ramit_arch.errors import UserError, counted
from ramit_arch.inference.restorer import Restorer
from ramit_arch.inference.video_encoding import (
    ANY_BYTES,
    SELF_DESCRIBED,
    Encoding,
    address,
    choose_format,
    open_encoder,
)
from ramit_arch.inference.video_segments import Packet, Segments
from ramit_arch.inference.video_streams import join

SEGMENT = 100  # frames; what a crash costs at most, and the largest distance of key frames
MAX_THREADS = 16

# Of swscale: bicubic chroma, full chroma resolution, exact rounding. Its defaults repeat chroma samples.
SCALING = 0x4 | 0x2000 | 0x4000 | 0x40000 | 0x80000
RGB, BT709, UNSPECIFIED, BT601 = 0, 1, 2, 6  # colour matrices, as ISO/IEC 23091-2 numbers them
MATRICES = {RGB: 'RGB', BT709: 'BT.709', 4: 'FCC', 5: 'BT.601', BT601: 'BT.601', 7: 'SMPTE 240M', 9: 'BT.2020'}
LIMITED, FULL = 1, 2  # ranges


@dataclass(frozen=True)
class Clip:
    """A source, as its header and first frame describe it.

    Attributes:
        path: the file.
        width, height: of the frames as stored.
        frames: number of frames, estimated from the duration if the header does not say it; None if unknown.
        stated: whether the header says it.
        pixels: FFmpeg's name of the pixel format of the arrays: gray, rgb24, or with 16 bits gray16le, rgb48le.
        matrix, range: colour matrix and range of its frames, where these do not say it.
        display: display matrix, 9 integers, or None.
    """

    path: Path
    width: int
    height: int
    frames: int | None
    stated: bool
    pixels: str
    matrix: int
    range: int
    display: tuple[int, ...] | None


@dataclass(frozen=True)
class Job:
    """A video to restore.

    Attributes:
        clip: the source.
        target: the file to write.
        encoding: of the target.
        notes: what is converted or dropped.
    """

    clip: Clip
    target: Path
    encoding: Encoding
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """Result of a job.

    Attributes:
        frames: number of frames in the target.
        restored: number of frames that this run restored.
        streams: what was copied, such as '2 audio'.
        seconds: time that this run took.
        notes: what was converted, dropped or damaged.
    """

    frames: int
    restored: int
    streams: tuple[str, ...]
    seconds: float
    notes: tuple[str, ...]


# ------------------------------------------------------------------------------------------------------------- plan


def make_job(source: Path, target: Path, codec: str, crf: int | None, scale: int, threads: int | None) -> Job:
    """Read the header and the first frame of a video, and choose how the target is encoded.

    Args:
        source: the video.
        target: the file to write, with a suffix of `FORMATS`.
        codec, crf: as `choose_codec` returns them.
        scale: of the network.
        threads: of the encoder; by default it chooses.

    Raises:
        UserError: the video cannot be read or has no frames, or the encoder does not take its size.
    """
    notes: list[str] = []
    with open_source(source) as container:
        stream = main_stream(container, source)
        frame = _first_frame(container, stream, source)
        clip = _describe(source, stream, frame, notes)
        encoding = _encoding(clip, stream, frame, codec, crf, scale, notes)
    if threads:
        encoding = replace(encoding, threads=min(threads, MAX_THREADS))
    if encoding.aspect not in (None, 1) and target.suffix.lower() in ('.mkv', '.webm') and codec not in SELF_DESCRIBED:
        notes.append(f'pixel aspect ratio {encoding.aspect} dropped; .mp4 holds it')
    try:
        open_encoder(encoding)
    except (av.FFmpegError, ValueError) as error:
        size = f'{encoding.width}x{encoding.height}'
        raise UserError(f'{target}: {codec} cannot encode {size} in {encoding.format} ({error})') from error
    return Job(clip, target, encoding, tuple(notes))


def _encoding(
    clip: Clip, stream: Any, frame: Any, codec: str, crf: int | None, scale: int, notes: list[str]
) -> Encoding:
    """As near to the source as the codec allows."""
    width, height = clip.width * scale, clip.height * scale
    layout = choose_format(frame.format, codec, width, height, notes)
    matrix, colour_range = clip.matrix, clip.range
    if matrix == RGB and layout.startswith('yuv'):
        matrix, colour_range = BT709, LIMITED
    primaries, transfer = (
        getattr(frame, name) if getattr(frame, name) != UNSPECIFIED else getattr(stream.codec_context, name)
        for name in ('color_primaries', 'color_trc')
    )
    return Encoding(
        codec, crf, layout, width, height, _rate(stream), _fraction(stream.time_base) or Fraction(1, 90000),
        _fraction(stream.sample_aspect_ratio), matrix, colour_range, int(primaries), int(transfer),
    )  # fmt: skip


def open_source(path: Path) -> Any:
    """An av.container.InputContainer.

    Raises:
        UserError: the file cannot be read, or is no video.
    """
    try:
        with path.open('rb') as file:
            if not file.read(1):
                raise UserError(f'{path}: empty file')
        return av.open(address(path), **ANY_BYTES)
    except av.FFmpegError as error:
        raise UserError(f'{path}: damaged, truncated, or not a video ({error.strerror})') from error
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error


def main_stream(container: Any, path: Path) -> Any:
    """The first video stream that is no cover picture.

    Raises:
        UserError: there is none, or no decoder for it.
    """
    pictures = av.stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & pictures:
            if stream.codec_context is None:
                raise UserError(f'{path}: no decoder for its video stream; convert it with another program')
            return stream
    raise UserError(f'{path}: has no video stream')


def _first_frame(container: Any, stream: Any, path: Path) -> Any:
    size = stream.width * stream.height
    if size > MAX_PIXELS:
        raise UserError(f'{path}: {stream.width}x{stream.height}, but at most {MAX_PIXELS:,} pixels are restored')
    for frame in decode(container, stream, Counter()):
        return frame
    raise UserError(f'{path}: no frame of it can be decoded')


def _describe(path: Path, stream: Any, frame: Any, notes: list[str]) -> Clip:
    components = frame.format.components
    deep = max(component.bits for component in components) > 8
    colours = [component for component in components if not component.is_alpha]
    gray = len(colours) == 1 and not frame.format.has_palette
    if len(colours) < len(components):
        notes.append('alpha dropped')
    if frame.interlaced_frame:
        notes.append('interlaced; deinterlace it first for a good result')
    pixels = ('gray16le' if deep else 'gray') if gray else ('rgb48le' if deep else 'rgb24')
    if frame.side_data.get('MASTERING_DISPLAY_METADATA') or frame.side_data.get('CONTENT_LIGHT_LEVEL'):
        notes.append('HDR mastering metadata dropped')
    matrix, colour_range = _colours(path, stream, frame, notes)
    duration = stream.duration * stream.time_base if stream.duration else None
    if duration is None and stream.container.duration:
        duration = Fraction(stream.container.duration, av.time_base)
    frames = stream.frames or (round(duration * _rate(stream)) if duration else None)
    return Clip(
        path, frame.width, frame.height, frames, bool(stream.frames), pixels, matrix, colour_range,
        _display_matrix(frame),
    )  # fmt: skip


def _colours(path: Path, stream: Any, frame: Any, notes: list[str]) -> tuple[int, int]:
    """Matrix and range, where the file does not say the matrix as players guess it: by the size."""
    if frame.format.is_rgb:
        return RGB, FULL
    matrix = next((m for m in (frame.colorspace, stream.codec_context.colorspace) if m != UNSPECIFIED), UNSPECIFIED)
    if len(frame.format.components) > 2 and matrix == UNSPECIFIED:
        matrix = BT709 if frame.width >= 1280 or frame.height > 576 else BT601
        notes.append(f'colour matrix not stated; {MATRICES[matrix]} by its size, and stated in the result')
    if matrix not in (*MATRICES, UNSPECIFIED):
        raise UserError(f'{path}: colour matrix {matrix} (ISO/IEC 23091-2) is not supported; convert it to BT.709')
    full = frame.format.name.startswith('yuvj') or FULL in (frame.color_range, stream.codec_context.color_range)
    return int(matrix), FULL if full else LIMITED


def _display_matrix(frame: Any) -> tuple[int, ...] | None:
    """9 integers, or None if the frame is upright."""
    data = frame.side_data.get('DISPLAYMATRIX')
    matrix = None if data is None else tuple(int(value) for value in np.frombuffer(bytes(data), np.int32))
    return None if matrix == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30) else matrix


def _fraction(value: Any) -> Fraction | None:
    """PyAV's rational as a Fraction, None if unknown."""
    return Fraction(value.numerator, value.denominator) if value else None


def _rate(stream: Any) -> Fraction:
    return _fraction(stream.average_rate) or _fraction(stream.guessed_rate) or Fraction(25)


# ---------------------------------------------------------------------------------------------------------- restore


def restore_video(
    restorer: Restorer,
    job: Job,
    progress: Callable[[int], None] = lambda frames: None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Restore a video, or continue with one that was interrupted.

    Args:
        restorer: what restores.
        job: what to do; the folder of its target exists.
        progress: called with the number of frames that are finished, those of earlier runs included.
        say: called with a line about an earlier run, if there was one.

    Raises:
        UserError: the size changes, the target cannot be written, or another process writes it. Finished segments are
            kept.
    """
    start, notes, tally = time.perf_counter(), list(job.notes), Counter[str]()
    with Segments(job.target, _identity(restorer, job), say) as segments:
        kept = segments.frames
        progress(kept)
        with open_source(job.clip.path) as container:
            frames = _frames(container, job, tally)
            for _ in itertools.islice(frames, kept):  # decoding is fast, and exact where seeking is not
                pass
            _restore_segments(restorer, job, frames, segments, progress)
        if not segments.frames:
            raise UserError(f'{job.clip.path}: no frame of it can be decoded')
        if tally['damaged']:
            notes.append(f'{counted(tally["damaged"], "damaged frame")} concealed or skipped')
        if tally['moved']:
            notes.append(f'{counted(tally["moved"], "timestamp")} out of order moved')
        missing = _missing(job.clip, segments.frames + tally['hidden'])
        if missing:
            notes.append(f'truncated or damaged: {segments.frames:,} of {missing} decoded')
        with open_source(job.clip.path) as container:
            stream = main_stream(container, job.clip.path)
            display = scaled_matrix(job.clip.display, restorer.scale)
            copied = join(container, stream, segments, job.target, job.encoding, display, notes)
    seconds = time.perf_counter() - start
    return Outcome(segments.frames, segments.frames - kept, copied, seconds, tuple(dict.fromkeys(notes)))


def _missing(clip: Clip, frames: int) -> str | None:
    """How many frames there should be, if fewer were decoded; an estimate may be a tenth too high."""
    if clip.frames is None or frames >= clip.frames * (1 if clip.stated else 0.9):
        return None
    return f'{"" if clip.stated else "about "}{counted(clip.frames, "frame")}'


def _identity(restorer: Restorer, job: Job) -> dict[str, Any]:
    """What finished segments depend on."""

    def stamp(path: Path | None) -> list[Any]:
        return [] if path is None else [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]

    return {
        'source': stamp(job.clip.path),
        'network': [type(restorer.network).__name__, restorer.task, restorer.scale, *stamp(restorer.file)],
        'restorer': [restorer.tile, restorer.overlap, restorer.ensemble, restorer.compute.bf16],
        'encoding': repr(replace(job.encoding, threads=0)),
        'suffix': job.target.suffix.lower(),
        'segment': SEGMENT,
        'pyav': av.__version__,
    }


def _restore_segments(
    restorer: Restorer, job: Job, frames: Iterator[Any], segments: Segments, progress: Callable[[int], None]
) -> None:
    """Restore and encode the remaining frames; a segment is only kept whole."""
    to_rgb, from_rgb = VideoReformatter(), VideoReformatter()
    for first in frames:
        context = open_encoder(job.encoding)
        durations: dict[int, int] = {}
        with segments.writing() as write:
            for frame in itertools.chain([first], itertools.islice(frames, SEGMENT - 1)):
                restored = restorer.restore(_to_pixels(frame, job.clip, to_rgb))
                encoded = _to_frame(restored, job, from_rgb)
                encoded.pts, encoded.time_base = frame.pts, job.encoding.time_base
                durations[frame.pts] = frame.duration
                _write(context.encode(encoded), durations, write)
                progress(segments.frames + len(durations))
            _write(context.encode(None), durations, write)


def _write(packets: list[Any], durations: dict[int, int], write: Callable[[Packet], None]) -> None:
    for packet in packets:
        write(Packet(packet.pts, durations[packet.pts], packet.is_keyframe, bytes(packet)))


def decode(container: Any, stream: Any, tally: Counter[str]) -> Iterator[Any]:
    """Every frame that can be decoded; `tally` counts those that are damaged, and those hidden by an edit list."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            tally['hidden'] += packet.is_discard
            frames = packet.decode()
        except EOFError:
            break
        except av.FFmpegError:
            tally['damaged'] += 1
            continue
        for frame in frames:
            tally['damaged'] += frame.is_corrupt
            yield frame


def _frames(container: Any, job: Job, tally: Counter[str]) -> Iterator[Any]:
    """The frames in the order of their timestamps, which are made strictly increasing, with a duration.

    Raises:
        UserError: the size changes.
    """
    clip = job.clip
    usual = max(round(1 / (job.encoding.rate * job.encoding.time_base)), 1)
    last = None
    for frame in decode(container, main_stream(container, clip.path), tally):
        if (frame.width, frame.height) != (clip.width, clip.height):
            sizes = f'from {clip.width}x{clip.height} to {frame.width}x{frame.height}'
            raise UserError(f'{clip.path}: the size changes {sizes}; convert it to one size first')
        pts = frame.pts if frame.pts is not None else frame.dts
        if last is not None and (pts is None or pts <= last[0]):
            tally['moved'] += pts is not None
            pts = last[0] + (last[1] if pts is None else 1)
        frame.pts = 0 if pts is None else pts
        frame.duration = frame.duration if frame.duration > 0 else usual
        last = frame.pts, frame.duration
        yield frame


def _to_pixels(frame: Any, clip: Clip, reformatter: VideoReformatter) -> np.ndarray:
    """A decoded frame as (H, W) or (H, W, 3) RGB, uint8 or uint16, full range."""
    if not frame.format.is_rgb:
        if frame.colorspace not in MATRICES or frame.colorspace == RGB:
            frame.colorspace = clip.matrix
        frame.color_range = clip.range
    converted = reformatter.reformat(frame, format=clip.pixels, interpolation=SCALING, dst_color_range=FULL)
    return converted.to_ndarray()


def _to_frame(pixels: np.ndarray, job: Job, reformatter: VideoReformatter) -> Any:
    """The inverse of `_to_pixels`, in the target's pixel format, matrix and range."""
    encoding = job.encoding
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=job.clip.pixels)
    frame.colorspace = encoding.matrix
    converted = reformatter.reformat(
        frame, format=encoding.format, interpolation=SCALING, src_color_range=FULL, dst_color_range=encoding.range
    )
    converted.colorspace, converted.color_range = encoding.matrix, encoding.range
    converted.color_primaries, converted.color_trc = encoding.primaries, encoding.transfer
    return converted


def scaled_matrix(matrix: tuple[int, ...] | None, scale: int) -> tuple[int, ...] | None:
    """The display matrix of a larger frame: its translation is in pixels."""
    if matrix is None:
        return None
    return (*matrix[:6], *(value * scale for value in matrix[6:8]), matrix[8])
