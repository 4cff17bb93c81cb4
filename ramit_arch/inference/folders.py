"""Restoring files and folders of pictures: what to do, and doing it."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ramit_arch.errors import UserError
from ramit_arch.files import MARGIN
from ramit_arch.inference.pictures import FORMATS, SUFFIXES, Picture, is_picture, read_picture, write_picture
from ramit_arch.inference.restorer import Restorer


@dataclass(frozen=True)
class Job:
    """A picture to restore, and the file to write."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """Result of a job.

    Attributes:
        job: the job.
        error: why it failed, or None.
        size: (height, width) of the input.
        seconds: time to restore it, without reading and writing.
        notes: what was converted or dropped.
    """

    job: Job
    error: str | None = None
    size: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass
class Plan:
    """What there is to do.

    Attributes:
        jobs: pictures to restore.
        finished: pictures whose targets exist.
        others: files that are not pictures.
        failed: pictures that cannot be restored, and folders that cannot be read.
    """

    jobs: list[Job] = field(default_factory=list)
    finished: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    failed: list[Outcome] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------------------- plan


def make_plan(
    sources: Sequence[Path], output: Path | None, suffix: str, extension: str | None, overwrite: bool
) -> Plan:
    """Find all pictures, in folders recursively, and name their targets.

    Earlier results among the pictures, which are the targets of others, are left out.

    Args:
        sources: pictures and folders.
        output: a folder, in which the tree of a source folder is kept, of several sources each in a folder of its own;
            for one picture also a file; None writes beside the sources.
        suffix: appended to the targets' stems.
        extension: of the targets, such as png; None takes that of `output` if it is a file, or png.
        overwrite: restore pictures whose targets exist, too.

    Raises:
        UserError: a source is missing, results would overwrite pictures, or there are no pictures.
    """
    plan = Plan()
    file = _output_file(output, sources, extension) if output is not None else None
    jobs: dict[Path, Job] = {}  # by resolved source
    for root in sources:
        if not root.exists():
            raise UserError(f'{root}: no such picture or folder')
        for source in _files(root, plan, output) if root.is_dir() else [root]:
            folder = source.parent if output is None else output
            if output is not None and root.is_dir():
                folder = output / (root.name if len(sources) > 1 else '') / source.parent.relative_to(root)
            if not suffix and not file and folder.resolve() == source.parent.resolve():
                raise UserError(
                    f'{folder}: results would be among the sources; give another folder by -o, or a --suffix'
                )
            target = file or folder / f'{source.stem}{suffix}.{extension or "png"}'
            jobs.setdefault(source.resolve(), Job(source, target))
    targets = {job.target.resolve() for job in jobs.values()}
    written: dict[str, Job] = {}  # by target, on file systems without case too
    for resolved, job in jobs.items():
        if job.target.resolve() == resolved:
            raise UserError(f'{job.target}: would be overwritten, but is the picture to restore')
        if resolved in targets:  # an earlier result
            continue
        first = written.setdefault(str(job.target.resolve()).casefold(), job)
        if first is not job:
            plan.failed.append(Outcome(job, f'{job.target} is the result of {first.source} already; rename either'))
        elif job.target.exists() and not job.target.is_file():
            plan.failed.append(Outcome(job, f'{job.target} exists and is not a file'))
        elif job.target.exists() and not overwrite:
            plan.finished.append(job.source)
        else:
            plan.jobs.append(job)
    if not (jobs or plan.failed):
        raise UserError(f'{", ".join(map(str, sources))}: no pictures ({", ".join(sorted(SUFFIXES))})')
    return plan


def _output_file(output: Path, sources: Sequence[Path], extension: str | None) -> Path | None:
    """`output` if it is the file of one picture, None if it is a folder.

    Raises:
        UserError: it is the file of several, or cannot be written in its format or that of `--format`.
    """
    if output.is_dir() or not re.fullmatch(r'\.[A-Za-z]\w{1,4}', output.suffix):
        return None
    if len(sources) > 1 or sources[0].is_dir():
        if output.suffix.lower() in FORMATS:
            raise UserError(f'-o {output}: a file, but there are several pictures to restore; give a folder')
        return None
    if output.suffix.lower() not in FORMATS:
        raise UserError(f'-o {output}: cannot be written; choose one of {", ".join(FORMATS)}')
    if extension is not None and FORMATS[f'.{extension}'] != FORMATS[output.suffix.lower()]:
        raise UserError(f'-o {output}: contradicts --format {extension}; remove either')
    return output


def _files(root: Path, plan: Plan, output: Path | None) -> Iterator[Path]:
    """Pictures of a folder and of those in it, without hidden ones and the output folder."""

    def unreadable(error: OSError) -> None:
        plan.failed.append(Outcome(Job(Path(error.filename), root), f'cannot be read ({error.strerror})'))

    away = output.resolve() if output is not None else None
    seen = set()  # links may lead back
    for name, folders, names in os.walk(root, onerror=unreadable, followlinks=True):
        folder = Path(name)
        if folder.resolve() in seen:
            folders.clear()
            continue
        seen.add(folder.resolve())
        folders[:] = sorted(each for each in folders if each[0] != '.' and (folder / each).resolve() != away)
        for file in (folder / each for each in sorted(names) if each[0] != '.'):
            if is_picture(file) and file.is_file():
                yield file
            else:
                plan.others.append(file)


def prepare_targets(jobs: Sequence[Job]) -> None:
    """Make the folders of all targets.

    Raises:
        UserError: one cannot be written.
    """
    for folder in sorted({job.target.parent for job in jobs}):
        make_output_folder(folder)


def make_output_folder(folder: Path) -> None:
    """Make the folder that `-o` names.

    Raises:
        UserError: it cannot be written.
    """
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
        _check_room(job.target, picture.pixels.nbytes * restorer.scale**2)
        start = time.perf_counter()
        restored = restore_picture(restorer, picture, progress)
        seconds = time.perf_counter() - start
    except Exception as error:  # whatever a decoder or a network raises
        return Outcome(job, _why(error, job.source)), None
    return Outcome(job, None, picture.pixels.shape[:2], seconds), restored


def restore_picture(restorer: Restorer, picture: Picture, progress: Callable[[int], None] | None = None) -> Picture:
    """Restore pixels and alpha; profile, resolution and notes are kept.

    Args:
        restorer: what restores.
        picture: as read.
        progress: as for `Restorer.restore`.
    """
    pixels, alpha = picture.pixels, picture.alpha
    restored = restorer.restore(pixels if alpha is None else np.dstack([pixels, alpha]), progress)
    if alpha is not None:
        restored, alpha = restored[..., :-1], restored[..., -1]
        restored = restored[..., 0] if pixels.ndim == 2 else restored
    return replace(picture, pixels=restored, alpha=alpha)


def result_suffix(restorer: Restorer) -> str:
    """Appended to the names of results: `_x2`, `_CDN`."""
    return f'_x{restorer.scale}' if restorer.scale > 1 else f'_{restorer.task or "restored"}'


def _check_room(target: Path, size: int) -> None:
    """Raises UserError if a disk has no room for an uncompressed result."""
    free = shutil.disk_usage(target.parent).free
    if free < size + MARGIN:
        text = f'{(size + MARGIN) / 2**20:,.0f} MiB may be needed, {free / 2**20:,.0f} are free'
        raise UserError(f'{target}: not enough disk space ({text})')


def _written(outcome: Outcome, picture: Picture, writing: Future[None]) -> Outcome:
    try:
        writing.result()
    except Exception as error:  # whatever an encoder raises
        return replace(outcome, error=_why(error, outcome.job.source))
    return replace(outcome, notes=tuple(picture.notes))


def _why(error: Exception, source: Path) -> str:
    if isinstance(error, UserError):
        return str(error).removeprefix(f'{source}: ')
    text = str(error).strip().partition('\n')[0]
    return f'{type(error).__name__}: {text}' if text else type(error).__name__
