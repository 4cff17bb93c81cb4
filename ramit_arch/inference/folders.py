"""Restoring files and folders of pictures: what to do, and doing it."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ramit_arch.errors import UserError
from ramit_arch.files import MARGIN
from ramit_arch.inference.pictures import FORMATS, Picture, is_picture, read_picture, write_picture
from ramit_arch.inference.restorer import Restorer


@dataclass(frozen=True)
class Job:
    """A picture to restore, and the file to write."""

    source: Path
    target: Path


@dataclass
class Plan:
    """What there is to do.

    Attributes:
        jobs: pictures to restore.
        finished: pictures whose targets exist.
        others: files that are no pictures.
    """

    jobs: list[Job] = field(default_factory=list)
    finished: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: the job.
        error: why it failed, or None.
        size: (height, width) of the input.
        seconds: from the decoded picture to the restored one.
        notes: what was converted or dropped.
    """

    job: Job
    error: str | None = None
    size: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------------------- plan


def make_plan(
    sources: Sequence[Path], output: Path | None, suffix: str, extension: str | None, overwrite: bool
) -> Plan:
    """Find all pictures, in folders recursively, and name their targets.

    Args:
        sources: pictures and folders.
        output: a folder, in which the tree of every source folder is kept; for one picture also a file; None writes
            beside the sources.
        suffix: end of the targets' stems.
        extension: of the targets, such as png; None takes that of `output` if it is a file, or png.
        overwrite: restore pictures whose targets exist, too.

    Raises:
        UserError: a source is missing, a target is a source, or nothing can be restored.
    """
    file = output if output is not None and not output.is_dir() and is_picture(output) else None
    if file is not None:
        _check_file(file, sources, extension)
    plan = Plan()
    pairs: list[tuple[Path, Path]] = []
    for root in sources:
        for source in _files(root, plan, output, suffix if output is None else ''):
            folder = source.parent
            if output is not None:
                folder = output / folder.relative_to(root) if root.is_dir() else output
            pairs.append((source, folder))
    extension = extension or 'png'
    wanted = Counter((folder, source.stem.lower()) for source, folder in pairs)
    inputs = {source.resolve() for source, _ in pairs}
    for source, folder in pairs:
        stem = source.stem if wanted[folder, source.stem.lower()] == 1 else source.name  # a.jpg beside a.png
        target = file or folder / f'{stem}{suffix}.{extension}'
        if target.resolve() in inputs:
            raise UserError(f'{target}: would be overwritten, but is a picture to restore; give another -o or --suffix')
        if target.exists() and not overwrite:
            plan.finished.append(source)
        else:
            plan.jobs.append(Job(source, target))
    if not (plan.jobs or plan.finished):
        where = ', '.join(map(str, sources))
        raise UserError(f'{where}: no pictures ({", ".join(sorted(FORMATS))} and others that can be read)')
    return plan


def _check_file(output: Path, sources: Sequence[Path], extension: str | None) -> None:
    """Raises UserError if not one picture goes to this file, or not in its format."""
    if len(sources) > 1 or sources[0].is_dir():
        raise UserError(f'-o {output}: a file, but there are several pictures to restore; give a folder')
    if output.suffix.lower() not in FORMATS:
        raise UserError(f'-o {output}: cannot be written; choose one of {", ".join(FORMATS)}')
    if extension is not None and FORMATS[f'.{extension}'] != FORMATS[output.suffix.lower()]:
        raise UserError(f'-o {output}: contradicts --format {extension}; remove either')


def _files(root: Path, plan: Plan, output: Path | None, suffix: str) -> Iterator[Path]:
    """Pictures of a source; not those of the output folder in it, nor those written beside earlier."""
    if not root.is_dir():
        if not root.exists():
            raise UserError(f'{root}: no such picture or folder')
        yield root  # whatever its name
        return
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if not name.startswith('.') and here / name != output)
        originals = {stem for name in names if is_picture(Path(name)) for stem in (name, Path(name).stem)}
        for name in sorted(names):
            source = here / name
            if name.startswith('.'):
                continue
            if not is_picture(source):
                plan.others.append(source)
            elif not (suffix and source.stem.endswith(suffix) and source.stem.removesuffix(suffix) in originals):
                yield source


def prepare_targets(jobs: Sequence[Job]) -> None:
    """Make the folders of all targets.

    Raises:
        UserError: one cannot be written.
    """
    for folder in sorted({job.target.parent for job in jobs}):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / '.ramit_arch.part'
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f'{folder}: cannot be written ({error.strerror}); give another folder by -o') from error


# -------------------------------------------------------------------------------------------------------------- run


def restore_all(
    restorer: Restorer, jobs: Sequence[Job], quality: int, progress: Callable[[int], None] | None = None
) -> Iterator[Outcome]:
    """Restore pictures one after another; the next is read and the last written meanwhile.

    A picture that fails does not stop the others.

    Args:
        restorer: what restores.
        jobs: pictures; the folders of their targets exist.
        quality: of JPEG and WebP files, up to 100.
        progress: as for `Restorer.restore`.

    Raises:
        UserError: a disk is full.
    """
    with ThreadPoolExecutor(1, 'read') as reader, ThreadPoolExecutor(1, 'write') as writer:
        reading = [reader.submit(read_picture, job.source) for job in jobs[:1]]
        writing: tuple[Outcome, Picture, Future[None]] | None = None
        for i, job in enumerate(jobs):
            coming = reading.pop()
            reading += [reader.submit(read_picture, following.source) for following in jobs[i + 1 : i + 2]]
            outcome, restored = _restore(restorer, job, coming, progress)
            if writing is not None:
                yield _written(*writing)
                writing = None
            if restored is None:
                yield outcome
            else:
                writing = outcome, restored, writer.submit(write_picture, restored, job.target, quality)
        if writing is not None:
            yield _written(*writing)


def _restore(
    restorer: Restorer, job: Job, reading: Future[Picture], progress: Callable[[int], None] | None
) -> tuple[Outcome, Picture | None]:
    try:
        picture = reading.result()
    except UserError as error:
        return Outcome(job, _why(error, job.source)), None
    pixels, alpha = picture.pixels, picture.alpha
    _check_room(job.target, pixels.nbytes * restorer.scale**2)
    start = time.perf_counter()
    try:
        restored = restorer.restore(pixels if alpha is None else np.dstack([pixels, alpha]), progress)
    except (UserError, MemoryError) as error:
        return Outcome(job, _why(error, job.source)), None
    seconds = time.perf_counter() - start
    if alpha is not None:
        restored, alpha = restored[..., :-1], restored[..., -1]
        restored = restored[..., 0] if pixels.ndim == 2 else restored
    return Outcome(job, None, pixels.shape[:2], seconds), replace(picture, pixels=restored, alpha=alpha)


def _check_room(target: Path, size: int) -> None:
    """Before a picture is computed for long."""
    free = shutil.disk_usage(target.parent).free
    if free < size + MARGIN:
        text = f'{(size + MARGIN) / 2**20:,.0f} MiB may be needed, {free / 2**20:,.0f} are free'
        raise UserError(f'{target}: not enough disk space ({text}); run again to continue')


def _written(outcome: Outcome, picture: Picture, writing: Future[None]) -> Outcome:
    try:
        writing.result()
    except UserError as error:
        return replace(outcome, error=_why(error, outcome.job.target))
    return replace(outcome, notes=tuple(picture.notes))


def _why(error: Exception, file: Path) -> str:
    return str(error).removeprefix(f'{file}: ') or type(error).__name__
