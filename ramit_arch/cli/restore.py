"""`basicsr restore`"""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from ramit_arch.errors import UserError, counted
from ramit_arch.inference import packaged
from ramit_arch.inference.folders import Job, Outcome, Plan, make_plan, prepare_targets, restore_all, result_suffix
from ramit_arch.inference.restorer import Restorer

NAMED, LISTED = 5, 50  # skipped files and failures in the summary


def run(args: argparse.Namespace) -> None:
    """Restore pictures, with a line for each and a summary.

    Raises:
        UserError: nothing could be started, or some pictures failed.
    """
    if not all(args.pictures) or args.output == '':
        raise UserError('a path is empty')
    if args.suffix is not None and re.search(r'[/\\\0]', args.suffix):
        raise UserError(f'--suffix {args.suffix!r}: must not contain slashes')
    if args.threads:
        torch.set_num_threads(args.threads)
    rank, processes = _join()
    tile = {'auto': 'auto', 'off': None}.get(args.tile, args.tile)
    if isinstance(tile, int) and tile <= args.overlap:
        raise UserError(f'--tile {tile}: must be above the overlap, which is {args.overlap}')
    model = args.model or packaged.choose(args.task, args.scale)
    restorer = Restorer(
        model, task=args.task, device=_device(args.device, processes), tile=tile, overlap=args.overlap,
        precision='bfloat16' if args.bf16 else 'float32', ensemble=args.ensemble,
    )  # fmt: skip
    if args.scale not in (None, restorer.scale):
        raise UserError(f'--scale {args.scale}: {restorer.file} is a network for scale {restorer.scale}; leave it out')
    output = None if args.output is None else Path(args.output)
    suffix = args.suffix
    if suffix is None:
        suffix = '' if output else result_suffix(restorer)
    plan = _shared_plan(args, output, suffix, rank, processes)
    if rank == 0:
        name = f'{type(restorer.network).__name__} x{restorer.scale}'
        source = restorer.file if args.model else f'{model}, a small packaged network (use -m for a better one)'
        print(f'{name}{f" for {restorer.task}" if restorer.task else ""} from {source}, on {restorer.device}')
    outcomes = _restore(restorer, plan.jobs[rank::processes], args.quality, rank)
    if processes > 1:
        shares: list[list[Outcome]] = [[]] * processes
        torch.distributed.all_gather_object(shares, outcomes)
        outcomes = [outcome for share in shares for outcome in share]
        torch.distributed.destroy_process_group()
    if rank == 0:
        _report(outcomes, plan)


def _shared_plan(args: argparse.Namespace, output: Path | None, suffix: str, rank: int, processes: int) -> Plan:
    """The plan of the first process, for all: what one writes would change the plan of another."""
    made: list[Plan | UserError | None] = [None]
    if rank == 0:
        try:
            plan = make_plan([Path(path) for path in args.pictures], output, suffix, args.format, args.overwrite)
            prepare_targets(plan.jobs)
            made = [plan]
        except UserError as error:
            made = [error]
    if processes > 1:
        torch.distributed.broadcast_object_list(made)
    if isinstance(made[0], UserError):
        if rank:
            raise SystemExit(1)  # the first process says why
        raise made[0]
    assert made[0] is not None
    return made[0]


def _join() -> tuple[int, int]:
    """Rank and number of the processes that torchrun has started, which share the pictures."""
    if int(os.environ.get('WORLD_SIZE', '1')) == 1 or 'RANK' not in os.environ:
        return 0, 1
    torch.distributed.init_process_group('gloo', timeout=timedelta(days=30))  # pictures may take long
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _device(asked: str | None, processes: int) -> str | None:
    """A GPU for each process, if there are several."""
    if asked is None and processes > 1 and torch.cuda.is_available():
        return f'cuda:{int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()}'
    return asked


def _restore(restorer: Restorer, jobs: Sequence[Job], quality: int, rank: int) -> list[Outcome]:
    outcomes = []
    shown = rank == 0 and sys.stderr.isatty()
    sizes = [_megapixels(job) for job in jobs] if shown else [0.0] * len(jobs)
    with tqdm(
        total=sum(sizes), desc=counted(len(jobs), 'picture'), disable=not shown,
        bar_format='{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} MP [{elapsed}<{remaining}, {rate_noinv_fmt}]',
        unit='MP',
    ) as bar:  # fmt: skip
        for outcome in restore_all(restorer, jobs, quality, lambda pixels: bar.update(pixels / 1e6)):
            outcomes.append(outcome)
            bar.n = max(bar.n, sum(sizes[: len(outcomes)]))
            bar.write(_line(outcome))
            sys.stdout.flush()
    return outcomes


def _megapixels(job: Job) -> float:
    """From the header, for the progress bar."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # Pillow's about large pictures
            with Image.open(job.source) as image:
                return image.width * image.height / 1e6
    except Exception:  # it is reported when it is read
        return 0.0


def _line(outcome: Outcome) -> str:
    job = outcome.job
    if outcome.error is not None:
        return f'failed: {job.source}: {outcome.error}'
    height, width = outcome.size
    pixels = height * width / 1e6
    rate = f'{pixels / outcome.seconds:.3f} MP/s' if outcome.seconds else ''
    notes = f'; {"; ".join(outcome.notes)}' if outcome.notes else ''
    return f'{job.source} -> {job.target}: {width}x{height}, {outcome.seconds:.1f} s, {rate}{notes}'


def _report(outcomes: Iterable[Outcome], plan: Plan) -> None:
    """Print a summary.

    Raises:
        UserError: some pictures failed.
    """
    outcomes = [*outcomes, *plan.failed]
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    parts = [f'restored {len(outcomes) - len(failed):,}']
    skipped = []
    if plan.finished:
        skipped.append(f'{len(plan.finished):,} with a result already; --overwrite replaces it')
    if plan.others:
        skipped.append(f'{counted(len(plan.others), "file")} of another kind: {_named(plan.others)}')
    if skipped:
        parts.append(f'skipped {len(plan.finished) + len(plan.others):,} ({"; ".join(skipped)})')
    if failed:
        parts.append(f'failed {len(failed):,}')
    print(', '.join(parts))
    if failed:
        lines = [f'{outcome.job.source}: {outcome.error}' for outcome in failed[:LISTED]]
        lines += ['...'] if len(failed) > LISTED else []
        raise UserError('\n'.join([f'{len(failed):,} of {counted(len(outcomes), "picture")} failed', *lines]))


def _named(files: Sequence[Path]) -> str:
    names = [file.name for file in files[:NAMED]]
    return ', '.join(names) + (', ...' if len(files) > NAMED else '')
