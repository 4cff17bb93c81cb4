"""`basicsr restore` of videos: clips made by PyAV, enlarged by a network that repeats pixels."""

from __future__ import annotations

import importlib.util
import io
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import call_basicsr, photograph
from PIL import Image
from torch import Tensor, nn

from ramit_arch import Restorer, files
from ramit_arch.errors import UserError

av = pytest.importorskip('av')
from ramit_arch.cli import video as command  # noqa: E402
from ramit_arch.inference import video, video_segments, video_streams  # noqa: E402

TIMES = Fraction(1, 12800)
STEP = 512  # of TIMES: 25 frames per second
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # of red and blue in luma


class Nearest(nn.Module):
    upscale = 2

    def forward(self, image: Tensor) -> Tensor:
        return image.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the command restores by `Nearest`."""
    network = tmp_path / 'net.pth'
    network.touch()

    def open_restorer(args: Any) -> tuple[Restorer, str]:
        restorer = Restorer(Nearest())
        restorer.file = network
        return restorer, 'net.pth'

    monkeypatch.setattr(command, 'open_restorer', open_restorer)
    return tmp_path


def restore(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return call_basicsr('restore', *arguments, '--threads', '1', cwd=home)


# ------------------------------------------------------------------------------------------------------------- clips


def write_clip(
    file: Path, *, frames: int = 5, size: tuple[int, int] = (24, 32), pixel_format: str = 'yuv420p', matrix: int = 1,
    full: bool = False, pts: list[int] | None = None, picture: np.ndarray | None = None, codec: str = 'libx264',
    options: dict[str, str] | None = None, last: int = 0, before: Any = None, extra: Any = None,
) -> None:  # fmt: skip
    """A clip of gray frames that grow lighter, or of copies of `picture` (planes, H, W), as stored.

    The last frame lasts `last`, or as long as the muxer guesses.
    `before` is called with the container and the video stream before the header is written; `extra` afterwards.
    """
    with av.open(str(file), 'w') as container:
        quality = {} if codec == 'ffv1' else {'crf': '1'}
        stream = container.add_stream(codec, rate=25, options={**quality, **(options or {})})
        stream.height, stream.width = size
        stream.pix_fmt, stream.time_base, stream.codec_context.time_base = pixel_format, TIMES, TIMES
        context = stream.codec_context
        context.thread_count = 1
        context.colorspace, context.color_range = matrix, 2 if full else 1
        context.color_primaries = context.color_trc = 1 if matrix != 2 else 2
        added = before(container, stream) if before else None
        for i in range(frames):
            frame = fill(av.VideoFrame(size[1], size[0], pixel_format), picture, i)
            frame.pts, frame.time_base = (pts or range(0, frames * STEP, STEP))[i], TIMES
            frame.colorspace, frame.color_range = matrix, 2 if full else 1
            container.mux(stream.encode(frame))
        for packet in stream.encode(None):
            packet.duration = last if packet.pts == frame.pts else 0
            container.mux(packet)
        if extra:
            extra(container, added)


def fill(frame: Any, picture: np.ndarray | None, i: int) -> Any:
    """Write planes; without `picture`, gray of level 30 + 15 i with a slope."""
    for number, plane in enumerate(frame.planes):
        deep = frame.format.components[number].bits > 8
        dtype = np.dtype(np.uint16 if deep else np.uint8)
        rows = np.zeros((plane.height, plane.line_size // dtype.itemsize), dtype)
        if picture is not None:
            rows[:, : plane.width] = picture[number]
        else:
            level = (30 + 15 * (i % 10) + np.arange(plane.width) % 64 // 2) if number == 0 else 128
            rows[:, : plane.width] = level * (4 if deep else 1)
        plane.update(rows.tobytes())
    return frame


def planes(file: Path) -> Iterator[tuple[Any, list[np.ndarray]]]:
    """Every frame with its planes as stored."""
    with av.open(str(file)) as container:
        for frame in container.decode(video=0):
            deep = frame.format.components[0].bits > 8
            dtype = np.uint16 if deep else np.uint8
            yield frame, [np.frombuffer(p, dtype).reshape(p.height, -1)[:, : p.width] for p in frame.planes]


def times(file: Path) -> list[Fraction]:
    """Presentation times of the frames in seconds."""
    return [Fraction(frame.pts) * Fraction(*fraction(frame.time_base)) for frame, _ in planes(file)]


def fraction(value: Any) -> tuple[int, int]:
    return value.numerator, value.denominator


def packets(file: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    """Times in seconds and content of the packets of the first stream of a kind."""
    with av.open(str(file)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [
            (packet.pts * Fraction(*fraction(packet.time_base)), bytes(packet))
            for packet in container.demux(stream)
            if packet.size
        ]


def brightness(file: Path) -> list[float]:
    return [float(stored[0].mean()) for _, stored in planes(file)]


# --------------------------------------------------------------------------------------------------------- the frames


def test_a_clip_becomes_a_larger_clip_with_the_same_frames_and_times(home: Path) -> None:
    write_clip(home / 'clip.mp4', frames=7)
    result = restore('clip.mp4', home=home)
    assert result.returncode == 0, result.stderr
    line = result.stdout.splitlines()[-1]
    assert line.startswith('clip.mp4 -> clip_x2.mp4: 32x24 to 64x48, 7 frames, 25 fps, libx264 CRF 16; ')
    target = home / 'clip_x2.mp4'
    assert times(target) == times(home / 'clip.mp4')
    for (_, stored), (_, restored) in zip(planes(home / 'clip.mp4'), planes(target), strict=True):
        assert restored[0].shape == (48, 64)
        assert np.abs(restored[0][::2, ::2].astype(int) - stored[0]).max() <= 4
    with av.open(str(target)) as container:
        assert container.streams.video[0].average_rate == 25
        assert container.streams.video[0].duration * container.streams.video[0].time_base == Fraction(7, 25)
    assert sorted(file.name for file in home.iterdir()) == ['clip.mp4', 'clip_x2.mp4', 'net.pth']


def test_variable_frame_rate_is_kept(home: Path) -> None:
    pts = [0, 100, 700, 701, 5000, 5600]
    write_clip(home / 'clip.mp4', frames=6, pts=pts, last=1400)
    for target in ('a.mp4', 'b.mov'):
        assert restore('clip.mp4', '-o', target, home=home).returncode == 0
        assert times(home / target) == [each * TIMES for each in pts]
        with av.open(str(home / target)) as container:
            assert container.duration / 1e6 == pytest.approx(float(7000 * TIMES), abs=0.001)
    assert restore('clip.mp4', '-o', 'c.mkv', home=home).returncode == 0  # which has milliseconds
    assert times(home / 'c.mkv') == [Fraction(round(1000 * each * TIMES), 1000) for each in pts]


@pytest.mark.parametrize(('pts', 'expected'), [
    ([0, 4, 2, 1, 3], [-2, -1, 0, 1, 2]),
    ([0, 900, 2, 1, 901], [-2, -1, 0, 1, 2]),
    ([5, 6, 9], [5, 6, 9]),
    ([7], [7]),
])  # fmt: skip
def test_decoding_times_increase_and_are_not_after_presentation(pts: list[int], expected: list[int]) -> None:
    assert list(video_streams.decoding_times(np.array(pts), Fraction(1, 100))) == expected


@pytest.mark.parametrize(('codec', 'name', 'suffix'), [
    ('libx264', 'h264', '.mp4'), ('h265', 'hevc', '.mp4'), ('vp9', 'vp9', '.webm'), ('av1', 'av1', '.mkv'),
    ('ffv1', 'ffv1', '.mkv'),
])  # fmt: skip
def test_segments_join_without_a_seam(
    codec: str, name: str, suffix: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, 'SEGMENT', 4)
    write_clip(home / 'clip.mp4', frames=10, size=(32, 64))
    result = restore('clip.mp4', '-o', f'out{suffix}', '--codec', codec, home=home)
    assert result.returncode == 0, result.stderr
    target = home / f'out{suffix}'
    assert times(target) == times(home / 'clip.mp4')
    assert np.allclose(brightness(target), brightness(home / 'clip.mp4'), atol=1)
    with av.open(str(target)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name.removeprefix('lib').removesuffix('-vp9') in (name, 'dav1d', 'aom-av1', 'vpx')
        decoding = [packet.dts for packet in container.demux(stream) if packet.size]
        assert decoding == sorted(set(decoding))


# ------------------------------------------------------------------------------------------------------------ colours


def swatches(bits: int, matrix: int, full: bool) -> tuple[np.ndarray, np.ndarray]:
    """Primaries and a gray ramp in blocks of 4x4: RGB (24, 32, 3) in [0, 1], and Y'CbCr (3, 24, 32) as stored."""
    primaries = [[r, g, b] for r in (0, 1) for g in (0, 1) for b in (0, 1)]
    colours = np.concatenate([primaries, np.repeat(np.linspace(0, 1, 40)[:, None], 3, 1)])
    rgb = colours.reshape(6, 8, 3).repeat(4, 0).repeat(4, 1)
    red, blue = WEIGHTS[matrix]
    luma = rgb @ [red, 1 - red - blue, blue]
    chroma = [(rgb[..., 2] - luma) / (2 - 2 * blue), (rgb[..., 0] - luma) / (2 - 2 * red)]
    unit, top = 2 ** (bits - 8), 2**bits - 1
    if full:
        stored = np.stack([top * luma, *(top * each + 128 * unit for each in chroma)])
    else:
        stored = np.stack([(16 + 219 * luma) * unit, *((128 + 224 * each) * unit for each in chroma)])
    return rgb, np.rint(stored).clip(0, top)


@pytest.mark.parametrize('full', [False, True])
@pytest.mark.parametrize(('bits', 'matrix'), [(8, 1), (8, 5), (8, 6), (8, 9), (10, 1), (10, 9)])
def test_colours_and_their_tags_are_kept(
    bits: int, matrix: int, full: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb, stored = swatches(bits, matrix, full)
    form = 'yuv444p' if bits == 8 else 'yuv444p10le'
    write_clip(home / 'clip.mp4', frames=2, pixel_format=form, matrix=matrix, full=full, picture=stored)
    seen = []
    forward = Nearest.forward
    monkeypatch.setattr(Nearest, 'forward', lambda self, image: (seen.append(image), forward(self, image))[1])
    result = restore('clip.mp4', '--crf', '1', home=home)
    assert result.returncode == 0, result.stderr
    assert 'rounded' not in result.stdout
    assert np.abs(seen[0][0].permute(1, 2, 0).cpu().numpy() - rgb).max() < 3 / 255  # what the network gets
    for frame, restored in planes(home / 'clip_x2.mp4'):
        assert (frame.colorspace, frame.color_range) == (matrix, 2 if full else 1)
        assert (frame.color_primaries, frame.color_trc) == (1, 1)
        assert frame.format.name.replace('j', '') == form
        assert np.abs(np.stack(restored)[:, ::2, ::2] - stored).max() <= 3 * 2 ** (bits - 8)


@pytest.mark.parametrize(('size', 'matrix'), [((24, 32), 6), ((16, 1280), 1)])
def test_an_unstated_matrix_is_that_of_its_size_and_then_stated(size: tuple[int, int], matrix: int, home: Path) -> None:
    write_clip(home / 'clip.mp4', frames=1, size=size, matrix=2)
    result = restore('clip.mp4', home=home)
    assert f'colour matrix not stated; BT.{601 if matrix == 6 else 709} by its size' in result.stdout
    [(frame, _)] = planes(home / 'clip_x2.mp4')
    assert frame.colorspace == matrix


def test_ten_bits_survive(home: Path) -> None:
    ramp = np.stack([np.tile(400 + np.arange(32), (24, 1))])  # steps of a quarter of an 8-bit level
    write_clip(home / 'clip.mkv', frames=1, pixel_format='gray10le', picture=ramp, matrix=2, codec='ffv1')
    result = restore('clip.mkv', '--codec', 'ffv1', home=home)
    assert result.returncode == 0, result.stderr
    [(frame, [restored])] = planes(home / 'clip_x2.mkv')
    assert frame.format.name == 'gray10le'
    assert np.abs(restored[::2, ::2].astype(int) - ramp).max() <= 1
    result = restore('clip.mkv', '-o', 'out.webm', home=home)
    assert '10 bits rounded to 8' in result.stdout


def test_rgb_and_alpha_and_odd_sizes(home: Path) -> None:
    write_clip(home / 'rgb.mkv', frames=1, pixel_format='bgr0', matrix=0, full=True, codec='ffv1', size=(25, 33))
    result = restore('rgb.mkv', '--codec', 'ffv1', home=home)
    [(stored, _)], [(restored, _)] = planes(home / 'rgb.mkv'), planes(home / 'rgb_x2.mkv')
    assert restored.format.is_rgb
    assert np.array_equal(stored.to_ndarray(format='rgb24'), restored.to_ndarray(format='rgb24')[::2, ::2])
    write_clip(home / 'alpha.mkv', frames=1, pixel_format='yuva420p', codec='ffv1')
    result = restore('alpha.mkv', home=home)
    assert 'alpha dropped' in result.stdout
    write_clip(home / 'odd.mkv', frames=1, codec='ffv1', size=(25, 33))
    result = restore('odd.mkv', home=home)
    assert '33x25 to 66x50' in result.stdout
    notes: list[str] = []
    assert video.choose_format(av.VideoFormat('yuv420p'), 'libx264', 33, 25, notes) == 'yuv444p'
    assert notes == ['yuv420p encoded as yuv444p']
    with pytest.raises(UserError, match='libsvtav1: cannot encode odd sizes such as 33x25'):
        video.choose_format(av.VideoFormat('yuv420p'), 'libsvtav1', 33, 25, notes)


# ------------------------------------------------------------------------------------------------ what is copied


def add_others(container: Any, stream: Any) -> tuple[Any, Any]:
    """Rotation, pixel aspect, metadata, a chapter, AAC and subtitles."""
    stream.set_display_rotation(90)
    stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
    container.metadata.update({'title': 'A clip', 'artist': 'Nobody'})
    chapter = {'id': 1, 'start': 0, 'end': 100, 'time_base': Fraction(1, 1000), 'metadata': {'title': 'All'}}
    container.set_chapters([chapter])
    sound = container.add_stream('aac', rate=8000)
    sound.layout = 'mono'
    sound.metadata['language'] = 'deu'
    words = container.add_stream('mov_text' if container.format.name == 'mp4' else 'srt')
    words.time_base = Fraction(1, 1000)
    words.metadata['language'] = 'eng'
    words.codec_context.subtitle_header = b'[Script Info]\n[Events]\nFormat: Layer, Start, End, Text\n'
    return sound, words


def write_others(container: Any, streams: tuple[Any, Any]) -> None:
    sound, words = streams
    samples = (10000 * np.sin(np.arange(3000) / 5)).astype(np.float32)[None] / 32768
    frame = av.AudioFrame.from_ndarray(samples, 'fltp', 'mono')
    frame.sample_rate, frame.pts = 8000, 0
    container.mux(sound.encode(frame))
    container.mux(sound.encode(None))
    for i, text in enumerate((b'Good day', b'Good bye')):
        content = text if words.name != 'mov_text' else len(text).to_bytes(2, 'big') + text
        packet = av.Packet(content)
        packet.pts = packet.dts = 100 * i
        packet.duration, packet.time_base, packet.stream = 80, Fraction(1, 1000), words
        container.mux(packet)


def test_sound_subtitles_rotation_aspect_chapters_and_metadata_are_copied(home: Path) -> None:
    write_clip(home / 'clip.mp4', before=add_others, extra=write_others)
    result = restore('clip.mp4', home=home)
    assert result.returncode == 0, result.stderr
    assert ', 1 audio, 1 subtitle, ' in result.stdout
    source, target = home / 'clip.mp4', home / 'clip_x2.mp4'
    for kind in ('audio', 'subtitle'):
        assert packets(target, kind) == packets(source, kind)
        assert len(packets(target, kind)) > 1
    assert times(target) == times(source)
    with av.open(str(target)) as container:
        assert container.metadata['title'] == 'A clip'
        assert [each['metadata']['title'] for each in container.chapters()] == ['All']
        assert [stream.metadata.get('language') for stream in container.streams][1:3] == ['deu', 'eng']
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        assert next(container.decode(video=0)).rotation == 90
    result = restore('clip.mp4', '-o', 'out.mkv', home=home)
    assert 'stream 2, subtitle (mov_text), left out: matroska cannot hold it' in result.stdout
    assert [content for _, content in packets(home / 'out.mkv', 'audio')] == [
        content for _, content in packets(source, 'audio')
    ]
    with av.open(str(home / 'out.mkv')) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        assert next(container.decode(video=0)).rotation == 90
    assert 'pixel aspect ratio 4/3 dropped' in restore('clip.mp4', '-o', 'out.webm', home=home).stdout


def test_matroska_with_an_attachment(home: Path) -> None:
    def add(container: Any, stream: Any) -> tuple[Any, Any]:
        streams = add_others(container, stream)
        container.add_attachment('font.ttf', 'font/ttf', b'a font')
        return streams

    write_clip(home / 'clip.mkv', before=add, extra=write_others)
    result = restore('clip.mkv', home=home)
    assert ', 1 audio, 1 subtitle, 1 attachment, ' in result.stdout, result.stderr
    with av.open(str(home / 'clip_x2.mkv')) as container:
        [attachment] = [stream for stream in container.streams if stream.type == 'attachment']
        assert (attachment.name, attachment.data) == ('font.ttf', b'a font')
    assert packets(home / 'clip_x2.mkv', 'subtitle') == packets(home / 'clip.mkv', 'subtitle')


def test_a_cover_picture_is_copied_and_not_restored(home: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photograph(0, 8, 8)).save(buffer, 'png')

    def add(container: Any, stream: Any) -> Any:
        cover = container.add_stream('png')
        cover.width, cover.height, cover.pix_fmt = 8, 8, 'rgb24'
        cover.disposition = av.stream.Disposition.attached_pic
        return cover

    def write(container: Any, cover: Any) -> None:
        packet = av.Packet(buffer.getvalue())
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream = TIMES, cover
        container.mux(packet)

    write_clip(home / 'clip.mp4', before=add, extra=write)
    for source, target in (('clip.mp4', 'a.mp4'), ('clip.mp4', 'b.mkv'), ('b.mkv', 'c.mkv')):
        result = restore(source, '-o', target, home=home)
        assert ', 1 cover, libx264' in result.stdout, result.stderr
        assert len(times(home / target)) == 5
        with av.open(str(home / target)) as container:
            cover = container.streams.video[1]
            assert cover.disposition & av.stream.Disposition.attached_pic
            assert next(bytes(packet) for packet in container.demux(cover)) == buffer.getvalue()


# ------------------------------------------------------------------------------------------------------------ restart


class Interrupted(Restorer):
    """Is interrupted at a frame; counts the frames."""

    frames = 0
    at = -1

    def restore(self, *arguments: Any) -> np.ndarray:
        if self.frames == self.at:
            raise KeyboardInterrupt
        self.frames += 1
        return super().restore(*arguments)


def test_an_interrupted_video_continues_after_the_last_segment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, 'SEGMENT', 3)
    write_clip(home / 'clip.mkv', frames=8, before=add_others, extra=write_others)
    restorers = []

    def open_restorer(args: Any) -> tuple[Restorer, str]:
        restorers.append(Interrupted(Nearest()))
        restorers[-1].file, restorers[-1].at = home / 'net.pth', 5 if len(restorers) == 1 else -1
        return restorers[-1], 'net.pth'

    monkeypatch.setattr(command, 'open_restorer', open_restorer)
    lossless = ('--codec', 'ffv1')  # x264 is not reproducible at sizes as small as this
    result = restore('clip.mkv', *lossless, home=home)
    assert result.returncode == 130
    assert '3 frames kept in .clip_x2.mkv.parts; repeat the command to continue' in result.stdout
    assert not (home / 'clip_x2.mkv').exists()
    result = restore('clip.mkv', *lossless, home=home)
    assert result.returncode == 0, result.stderr
    assert 'continuing after 3 frames of an earlier run' in result.stdout
    assert restorers[1].frames == 5
    assert not (home / '.clip_x2.mkv.parts').exists()
    restore('clip.mkv', '-o', 'whole.mkv', *lossless, home=home)
    assert packets(home / 'clip_x2.mkv', 'video') == packets(home / 'whole.mkv', 'video')
    assert packets(home / 'clip_x2.mkv', 'audio') == packets(home / 'clip.mkv', 'audio')


def test_an_interrupt_just_after_a_segment_keeps_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(home / 'clip.mp4', frames=2)

    def interrupt(path: Path) -> None:
        if list(path.glob('*.segment')):
            raise KeyboardInterrupt

    monkeypatch.setattr(files, 'sync', interrupt)
    assert '2 frames kept' in restore('clip.mp4', home=home).stdout
    assert len(list((home / '.clip_x2.mp4.parts').glob('*.segment'))) == 1


def test_other_options_start_from_the_beginning(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(home / 'clip.mp4', frames=2)
    monkeypatch.setattr(video, 'join', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert '2 frames kept' in restore('clip.mp4', home=home).stdout
    assert 'continuing after 2 frames' in restore('clip.mp4', home=home).stdout
    result = restore('clip.mp4', '--crf', '20', home=home)
    assert 'clip_x2.mp4: the video, the network or the options have changed; starting' in result.stdout
    (home / 'net.pth').write_bytes(b'trained further')
    assert 'starting from the beginning' in restore('clip.mp4', '--crf', '20', home=home).stdout


def test_a_second_process_is_refused_and_a_result_is_not_replaced(home: Path) -> None:
    write_clip(home / 'clip.mp4', frames=1)
    with video_segments.Segments(home / 'clip_x2.mp4', {}, print):
        assert 'clip_x2.mp4: another process is writing it' in restore('clip.mp4', home=home).stderr
    restore('clip.mp4', home=home)
    before = (home / 'clip_x2.mp4').stat().st_mtime_ns
    result = restore('clip.mp4', home=home)
    assert result.stdout == 'skipped clip.mp4: clip_x2.mp4 exists; --overwrite replaces it\n'
    assert restore('clip.mp4', '--overwrite', home=home).returncode == 0
    assert (home / 'clip_x2.mp4').stat().st_mtime_ns > before


def test_a_full_disk_keeps_the_segments(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(home / 'clip.mp4', frames=1)
    free = iter([2**40, 2**40, 1000])
    usage = type('Usage', (), {'free': property(lambda _: next(free))})
    monkeypatch.setattr(video_segments.shutil, 'disk_usage', lambda path: usage())
    result = restore('clip.mp4', home=home)
    assert re.search(r'clip_x2\.mp4: not enough disk space \(\d+ MiB needed, 0 free\)', result.stderr)
    assert '1 frame kept' in result.stdout
    assert not (home / 'clip_x2.mp4').exists()


# ----------------------------------------------------------------------------------------------------- damaged videos


def test_a_colon_in_a_name_is_no_protocol(home: Path) -> None:
    write_clip(home / 'clip.mp4', frames=3)
    (home / 'clip.mp4').rename(home / '10:30.mp4')
    result = restore('10:30.mp4', '-o', 'to:10.mp4', home=home)
    assert result.returncode == 0, result.stderr
    assert len(times(home / 'to:10.mp4')) == 3


def test_frames_hidden_by_an_edit_list_are_not_missing(home: Path) -> None:
    """As in a clip that was cut without re-encoding: it begins at a key frame before the cut."""
    write_clip(home / 'clip.mp4', frames=8, pts=[STEP * i for i in range(-3, 5)], options={'bf': '0'})
    with av.open(str(home / 'clip.mp4')) as container:
        assert container.streams.video[0].frames == 8
    shown = len(times(home / 'clip.mp4'))
    assert shown == 5
    result = restore('clip.mp4', home=home)
    assert result.returncode == 0, result.stderr
    assert 'truncated' not in result.stdout
    assert len(times(home / 'clip_x2.mp4')) == shown


def test_a_truncated_video_is_restored_as_far_as_it_goes(home: Path) -> None:
    write_clip(home / 'clip.mp4', frames=60, size=(48, 64), options={'g': '5'})
    content = (home / 'clip.mp4').read_bytes()
    start = content.index(b'mdat') + 4
    size = int.from_bytes(content[start - 8 : start - 4], 'big') - 8
    damaged = content[: start + size // 2] + bytes(size - size // 2) + content[start + size :]
    (home / 'clip.mp4').write_bytes(damaged)
    result = restore('clip.mp4', home=home)
    assert result.returncode == 0, result.stderr
    found = re.search(r'truncated or damaged: (\d+) of 60 frames decoded', result.stdout)
    assert found
    assert len(times(home / 'clip_x2.mp4')) == int(found[1])
    assert 10 <= int(found[1]) < 50


def test_a_truncated_matroska_file_says_about_how_much_is_missing(home: Path) -> None:
    write_clip(home / 'clip.mkv', frames=60, size=(48, 64))
    content = (home / 'clip.mkv').read_bytes()
    (home / 'clip.mkv').write_bytes(content[: len(content) * 6 // 10])
    result = restore('clip.mkv', home=home)
    assert re.search(r'truncated or damaged: \d+ of about 60 frames decoded', result.stdout), result.stderr


def test_a_change_of_size_is_an_error(home: Path) -> None:
    for name, size in (('a.mkv', (24, 32)), ('b.mkv', (32, 48))):
        write_clip(home / name, frames=2, size=size, options={'bf': '0', 'x264-params': 'repeat-headers=1'})
    with (
        av.open(str(home / 'a.mkv')) as first, av.open(str(home / 'b.mkv')) as second,
        av.open(str(home / 'clip.mkv'), 'w') as output,
    ):  # fmt: skip
        stream = output.add_stream_from_template(first.streams.video[0], opaque=True)
        for number, source in enumerate((first, second)):
            for packet in source.demux(video=0):
                if packet.size:
                    packet.dts = packet.pts = packet.pts + 80 * number
                    packet.stream = stream
                    output.mux(packet)
    result = restore('clip.mkv', home=home)
    assert 'error: clip.mkv: the size changes from 32x24 to 48x32; convert it to one size first' in result.stderr
    assert not (home / 'clip_x2.mkv').exists()


def test_files_that_are_no_video(home: Path) -> None:
    (home / 'empty.mp4').touch()
    (home / 'text.mp4').write_text('not a video' * 50)
    with av.open(str(home / 'song.mp4'), 'w') as container:
        sound = container.add_stream('aac', rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2000), np.float32), 'fltp', 'mono')
        sound.layout, frame.sample_rate = 'mono', 8000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    for name, text in (
        ('empty', 'empty file'), ('text', 'damaged, truncated, or not a video'), ('song', 'has no video stream'),
        ('none', 'no such video'),
    ):  # fmt: skip
        result = restore(f'{name}.mp4', home=home)
        assert result.returncode == 1
        assert result.stderr.startswith(f'error: {name}.mp4: {text}')
        assert result.stderr.count('\n') == 1


# ------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(('arguments', 'text'), [
    (['clip.mp4', '-o', 'clip.mp4'], 'clip.mp4: would be overwritten'),
    (['clip.mp4', '-o', 'out.png'], '-o out.png: cannot be written; choose one of .mp4, .m4v, .mov, .mkv, .webm'),
    (['clip.mp4', '--codec', 'lib264'], '--codec lib264: not available (did you mean libx264?); choose one of'),
    (['clip.mp4', '-o', 'out.webm', '--codec', 'h264'], '--codec libx264: not for .webm files; choose one of libvpx-'),
    (['clip.mp4', '--crf', '52'], '--crf 52: libx264 takes 0 (best) to 51'),
    (['clip.mp4', '-o', 'out.mkv', '--codec', 'ffv1', '--crf', '1'], '--crf 1: ffv1 is lossless; remove it'),
    (['clip.mp4', 'photo.png'], 'clip.mp4: one video at a time, and without pictures; 2 paths are given'),
    (['photo.png', 'clip.mp4'], 'clip.mp4: one video at a time'),
    (['clip.mp4', '--quality', '90'], '--quality 90: for pictures; a video has --codec, --crf'),
    (['clip.mp4', '--format', 'png'], '--format png: for pictures'),
    (['photo.png', '--codec', 'h264'], '--codec: for videos; remove it'),
    (['photo.png', '--crf', '20'], '--crf: for videos; remove it'),
    (['clip.mp4', '-o', 'photo.png/out.mp4'], 'photo.png: cannot be written'),
])  # fmt: skip
def test_mistakes_are_one_line_before_anything_is_computed(arguments: list[str], text: str, home: Path) -> None:
    write_clip(home / 'clip.mp4', frames=1)
    (home / 'photo.png').touch()
    before = sorted(home.rglob('*'))
    result = restore(*arguments, home=home)
    assert result.returncode == 1
    assert result.stderr.startswith('error: ')
    assert text in result.stderr
    assert result.stderr.count('\n') == 1
    assert sorted(home.rglob('*')) == before


def test_without_pyav(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / 'clip.mp4').touch()
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    result = restore('clip.mp4', home=home)
    assert result.stderr == 'error: clip.mp4: video needs PyAV: pip install av\n'


def test_a_folder_gets_the_clip_under_its_name_and_avi_becomes_matroska(home: Path) -> None:
    write_clip(home / 'clip.avi', frames=2, codec='ffv1')
    assert restore('clip.avi', '-o', 'large', home=home).returncode == 0
    assert brightness(home / 'large' / 'clip.mkv') == pytest.approx(brightness(home / 'clip.avi'), abs=1)


def test_progress_without_a_terminal_is_a_line_now_and_then(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, 'INTERVAL', 0)
    write_clip(home / 'clip.mp4', frames=3)
    lines = restore('clip.mp4', home=home).stdout.splitlines()
    assert re.fullmatch(r'frame 2 of 3, [\d.]+ frames/s, 00:00 left', lines[2])


def test_a_real_network_and_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged network in a process of its own, interrupted by a signal after a segment, and continued."""
    picture = np.stack([photograph(0, 64, 96)[..., 0], *np.full((2, 64, 96), 128)])
    write_clip(tmp_path / 'clip.mp4', frames=24, size=(64, 96), picture=picture, pixel_format='yuv444p')
    script = 'import sys, basicsr_command; from ramit_arch.inference import video; video.SEGMENT = 4; '
    process = subprocess.Popen(
        [sys.executable, '-c', f'{script} sys.exit(basicsr_command.main(["restore", "clip.mp4", "--threads", "1"]))'],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while not (tmp_path / '.clip_x2.mp4.parts' / '000000.segment').exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith('interrupted\n')
    assert re.search(r'\b(4|8|12|16|20) frames kept in \.clip_x2\.mp4\.parts', output)
    monkeypatch.setattr(video, 'SEGMENT', 4)
    result = call_basicsr('restore', 'clip.mp4', '--threads', '1', cwd=tmp_path)
    assert re.search(r'continuing after (4|8|12|16|20) frames', result.stdout), result.stderr
    assert '96x64 to 192x128, 24 frames, 25 fps' in result.stdout
    expected = Restorer('RAMiT-tiny_SRx2').restore(next(planes(tmp_path / 'clip.mp4'))[0].to_ndarray(format='rgb24'))
    for frame, _ in planes(tmp_path / 'clip_x2.mp4'):
        assert np.abs(frame.to_ndarray(format='rgb24').astype(int) - expected).mean() < 2
