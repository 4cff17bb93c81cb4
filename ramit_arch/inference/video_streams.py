"""Writing a video file: encoded frames, and the streams, chapters and metadata that are copied from the source."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from ramit_arch.errors import UserError, counted
from ramit_arch.files import sync
from ramit_arch.inference.video_encoding import ANY_BYTES, FORMATS, Encoding, address
from ramit_arch.inference.video_segments import Segments

LATEST = 1  # seconds by which a frame may be decoded before it is shown

# Written by the muxer, or about the former encoding.
_CONTAINER_TAGS = {'major_brand', 'minor_version', 'compatible_brands', 'encoder'}
_STREAM_TAGS = {'encoder', 'DURATION', 'vendor_id'}
_STATISTICS = {'BPS', 'NUMBER_OF_BYTES', 'NUMBER_OF_FRAMES'} | {
    f'_STATISTICS_{name}' for name in ('WRITING_APP', 'WRITING_DATE_UTC', 'TAGS')
}


def join(
    source: Any,
    main: Any,
    segments: Segments,
    target: Path,
    encoding: Encoding,
    display: tuple[int, ...] | None,
    notes: list[str],
) -> tuple[str, ...]:
    """Write the target atomically.

    Args:
        source: open container, from which all but the stream `main` is copied.
        main: the video stream that was restored.
        segments: what takes its place.
        target: the file to write.
        encoding: that of the segments.
        display: display matrix, or None.
        notes: gets a line for each stream that the target cannot hold.

    Returns:
        What was copied, such as ('2 audio', '1 subtitle').

    Raises:
        UserError: the target cannot be written; the segments are kept.
    """
    segments.check_room(source.size)
    part = segments.folder / f'joined{target.suffix}'
    form = FORMATS[target.suffix.lower()]
    try:
        with av.open(address(part), 'w', format=form, **ANY_BYTES) as output:
            video = _add_video(output, main, encoding, display, form)
            streams = {stream.index: _copy(output, stream) for stream in _held(source, main, form, notes)}
            tags = {key: value for key, value in source.metadata.items() if key not in _CONTAINER_TAGS}
            output.metadata.update(tags)
            output.set_chapters(source.chapters())
            _mux(output, source, streams, _video_packets(segments, video, encoding.time_base), notes)
        sync(part)
        part.replace(target)
        sync(target.parent)
    except (av.FFmpegError, OSError) as error:
        raise UserError(f'{target}: cannot be written ({error.strerror})') from error
    copied = [source.streams[index] for index in streams]
    kinds = ['cover' if _is_cover(stream) else stream.type for stream in copied]
    return tuple(f'{kinds.count(kind)} {kind}' for kind in dict.fromkeys(kinds))


def _add_video(output: Any, main: Any, encoding: Encoding, display: tuple[int, ...] | None, form: str) -> Any:
    """The stream of the segments; its encoder writes the stream header and encodes nothing."""
    video = output.add_stream(encoding.codec, rate=encoding.rate)
    encoding.configure(video.codec_context)
    if encoding.codec == 'libx265' and form in ('mp4', 'mov'):
        video.codec_context.codec_tag = 'hvc1'  # Apple's players need it
    video.time_base = encoding.time_base
    video.disposition = main.disposition
    video.metadata.update(_stream_tags(main, statistics=False))
    video.set_display_matrix(display)
    return video


def _stream_tags(stream: Any, statistics: bool) -> dict[str, str]:
    """Metadata of a stream, without Matroska's statistics (BPS, BPS-eng, ...) if they are no longer true."""
    dropped = _STREAM_TAGS if statistics else _STREAM_TAGS | _STATISTICS
    return {key: value for key, value in stream.metadata.items() if key.partition('-')[0] not in dropped}


def _copy(output: Any, stream: Any) -> Any:
    if _is_cover(stream) and output.format.name == 'matroska':  # where they are attachments
        suffix, kind = ('jpg', 'image/jpeg') if stream.name == 'mjpeg' else (stream.name, f'image/{stream.name}')
        named = stream.metadata.get('filename', f'cover.{suffix}'), stream.metadata.get('mimetype', kind)
        return output.add_attachment(*named, _first_packet(stream))
    copied = output.add_stream_from_template(stream, opaque=True)
    copied.disposition = stream.disposition
    copied.metadata.update(_stream_tags(stream, statistics=True))
    return copied


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _first_packet(stream: Any) -> bytes:
    with av.open(stream.container.name, **ANY_BYTES) as container:
        return next(bytes(packet) for packet in container.demux(container.streams[stream.index]) if packet.size)


def _held(source: Any, main: Any, form: str, notes: list[str]) -> list[Any]:
    """The streams that the format can hold, which only writing a header shows for certain."""
    held = []
    for stream in source.streams:
        chapters = stream.type == 'data' and stream.name == 'bin_data' and source.chapters()  # the muxer writes them
        if stream.index == main.index or chapters:
            continue
        try:
            if stream.type == 'data':  # time codes and sensor data; FFmpeg writes time codes from the metadata
                raise ValueError
            with av.open(io.BytesIO(), 'w', format=form, **ANY_BYTES) as trial:
                _copy(trial, stream)
                trial.start_encoding()
            held.append(stream)
        except (av.FFmpegError, ValueError, RuntimeError, StopIteration):
            name = f' ({stream.name})' if stream.name else ''
            notes.append(f'stream {stream.index}, {stream.type}{name}, left out: {form} cannot hold it')
    others = sum(stream.type == 'video' and not _is_cover(stream) for stream in held)
    if others:
        notes.append(f'{counted(others, "other video stream")} copied as they are')
    return held


def _mux(output: Any, source: Any, streams: dict[int, Any], video: Iterator[Any], notes: list[str]) -> None:
    """Write the packets of all streams in the order of their decoding times."""
    coming = next(video, None)
    last: dict[int, int] = {}
    for packet in _copied_packets(source, streams, notes):
        seconds = None if packet.dts is None else packet.dts * packet.time_base
        while coming is not None and seconds is not None and coming.dts * coming.time_base <= seconds:
            output.mux(coming)
            coming = next(video, None)
        index = packet.stream_index
        if packet.dts is not None:
            if index in last and packet.dts <= last[index]:  # damaged; muxers refuse it
                packet.dts = last[index] + 1
                packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
            last[index] = packet.dts
        packet.stream = streams[index]
        output.mux(packet)
    while coming is not None:
        output.mux(coming)
        coming = next(video, None)


def _copied_packets(source: Any, streams: dict[int, Any], notes: list[str]) -> Iterator[Any]:
    chosen = [source.streams[index] for index in streams if streams[index].type != 'attachment']
    if not chosen:
        return
    try:
        for packet in source.demux(chosen):
            ends = packet.dts is None and not packet.size  # tells a decoder that the stream ends
            pause = packet.stream.name == 'mov_text' and bytes(packet) == b'\0\0'  # the muxer writes its own
            if not (ends or pause):
                yield packet
    except av.FFmpegError as error:
        notes.append(f'the copied streams end early ({error.strerror})')


def _video_packets(segments: Segments, video: Any, time_base: Fraction) -> Iterator[Any]:
    """The segments' packets with decoding times."""
    pts, durations = segments.times()
    dts = decoding_times(pts, time_base)
    # In MP4 the last packet ends the track on the scale of decoding times.
    durations[-1] = durations[pts.argmax()]
    for i, stored in enumerate(segments.packets()):
        packet = av.Packet(stored.data)
        packet.pts, packet.dts, packet.duration = stored.pts, int(dts[i]), int(durations[i])
        packet.is_keyframe, packet.time_base, packet.stream = stored.key, time_base, video
        yield packet


def decoding_times(pts: np.ndarray, time_base: Fraction) -> np.ndarray:
    """Increasing times at or before the presentation times `pts`, (frames,) in the order in which they are decoded.

    They are the presentation times in order, earlier by a constant time. Long pauses would make that long and the
    interleaving of the streams bad; then they are earlier by a constant number of frames, as encoders have it.
    """
    order = np.sort(pts)
    late = int((order - pts).max())
    if late * time_base <= LATEST:
        return order - late
    delay = int((np.arange(len(pts)) - np.searchsorted(order, pts)).max())
    before = order[0] - (order[1] - order[0]) * np.arange(delay, 0, -1)
    return np.concatenate([before, order[: len(pts) - delay]])
