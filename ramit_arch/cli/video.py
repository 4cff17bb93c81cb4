"""`basicsr restore` of a video."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ramit_arch.cli.restorer import describe, name_suffix, open_restorer
from ramit_arch.errors import UserError, counted
from ramit_arch.inference import folders

if TYPE_CHECKING:  # they need PyAV
    from ramit_arch.inference.video import Job, Outcome

SUFFIXES = frozenset('.mp4 .m4v .mov .mkv .webm .avi'.split())
INTERVAL = 10.0  # seconds between lines of progress without a terminal


def is_video(path: Path) -> bool:
    """Whether the suffix is one of a video, and it is no folder."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def run(args: argparse.Namespace) -> None:
    """Restore a video, with progress and a line at the end.

    Raises:
        UserError: PyAV is missing, an option does not suit, or the video cannot be read or written.
    """
    source = next(path for path in map(Path, args.pictures) if is_video(path))
    _check(args, source)
    from ramit_arch.inference import video, video_encoding

    output = None if args.output is None else Path(args.output)
    extension = _extension(output, source, video_encoding.FORMATS)
    codec, crf = video_encoding.choose_codec(args.codec, args.crf, extension)
    restorer, model = open_restorer(args)
    target = _target(source, output, name_suffix(args, restorer), extension)
    if target.exists() and not args.overwrite:
        if not target.is_file():
            raise UserError(f'{target}: exists and is not a file')
        print(f'skipped {source}: {target} exists; --overwrite replaces it')
        return
    job = video.make_job(source, target, codec, crf, restorer.scale, args.threads)
    folders.prepare_targets([folders.Job(source, target)])
    print(describe(restorer, model, args), flush=True)
    progress = _Progress(job.clip.frames, source.name)
    try:
        outcome = video.restore_video(restorer, job, progress.update, progress.write)
    finally:
        progress.close()
    print(_line(job, outcome))


def _check(args: argparse.Namespace, source: Path) -> None:
    """Raises UserError if something is wrong that shows without reading the video."""
    if len(args.pictures) > 1:
        raise UserError(f'{source}: one video at a time, and without pictures; {len(args.pictures)} paths are given')
    for name, value in (('--format', args.format), ('--quality', args.quality)):
        if value is not None:
            raise UserError(f'{name} {value}: for pictures; a video has --codec, --crf and the suffix of -o')
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:
        raise UserError(f'{source}: a video is restored by one process; run the command without torchrun')
    if not source.exists():
        raise UserError(f'{source}: no such video')
    if importlib.util.find_spec('av') is None:
        raise UserError(f'{source}: video needs PyAV: pip install av')


def _extension(output: Path | None, source: Path, formats: dict[str, str]) -> str:
    """Suffix of the target: that of `-o` if it is a file, or that of the source, or .mkv."""
    if output is not None and _is_file(output):
        if output.suffix.lower() not in formats:
            raise UserError(f'-o {output}: cannot be written; choose one of {", ".join(formats)}')
        return output.suffix.lower()
    return source.suffix.lower() if source.suffix.lower() in formats else '.mkv'


def _is_file(output: Path) -> bool:
    return not output.is_dir() and re.fullmatch(r'\.[A-Za-z]\w{1,4}', output.suffix) is not None


def _target(source: Path, output: Path | None, suffix: str, extension: str) -> Path:
    if output is not None and _is_file(output):
        target = output
    else:
        target = (source.parent if output is None else output) / f'{source.stem}{suffix}{extension}'
    if target.resolve() == source.resolve():
        raise UserError(f'{target}: would be overwritten, but is the video to restore')
    return target


class _Progress:
    """A bar of frames on a terminal, or else a line now and then.

    Args:
        frames: number of frames, None if unknown.
        name: of the video.
    """

    def __init__(self, frames: int | None, name: str) -> None:
        self.frames = frames
        self.bar = tqdm(
            total=frames, desc=name, unit='frame', dynamic_ncols=True, smoothing=0.05, disable=not sys.stderr.isatty()
        )
        self.first: tuple[int, float] | None = None  # frames of earlier runs, and when this one began
        self.written = time.perf_counter()

    def update(self, done: int) -> None:
        """So many frames are finished."""
        now = time.perf_counter()
        if self.first is None:
            self.first = done, now
            self.bar.initial = self.bar.n = done
        self.bar.update(done - self.bar.n)
        if self.bar.disable and now - self.written >= INTERVAL and done > self.first[0]:
            self.written = now
            rate = (done - self.first[0]) / (now - self.first[1])
            left = f', {_duration((self.frames - done) / rate)} left' if self.frames else ''
            total = f' of {self.frames:,}' if self.frames else ''
            self.write(f'frame {done:,}{total}, {rate:.2f} frames/s{left}')

    def write(self, line: str) -> None:
        self.bar.write(line)
        sys.stdout.flush()

    def close(self) -> None:
        self.bar.close()


def _duration(seconds: float) -> str:
    """'2:05:09' or '5:09'."""
    return tqdm.format_interval(max(seconds, 0))


def _line(job: Job, outcome: Outcome) -> str:
    clip, encoding = job.clip, job.encoding
    size = f'{clip.width}x{clip.height}'
    if encoding.width != clip.width:
        size += f' to {encoding.width}x{encoding.height}'
    quality = '' if encoding.crf is None else f' CRF {encoding.crf}'
    parts = [
        size, counted(outcome.frames, 'frame'), f'{float(encoding.rate):.6g} fps', *outcome.streams,
        f'{encoding.codec}{quality}',
    ]  # fmt: skip
    rate = f', {outcome.restored / outcome.seconds:.2f} frames/s' if outcome.restored else ''
    notes = f'; {"; ".join(outcome.notes)}' if outcome.notes else ''
    return f'{clip.path} -> {job.target}: {", ".join(parts)}; {outcome.seconds:.1f} s{rate}{notes}'
