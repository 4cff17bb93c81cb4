"""What the benchmarks share: rivals in turn in one process, medians with spread, tables and JSON.

Not a benchmark itself. The others are run as `python benchmarks/NAME.py`, or all of them by `make bench`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import basicsr_command
import ramit_arch  # noqa: F401  (makes BasicSR importable)
from ramit_arch.evaluation.complexity import memory
from ramit_arch.evaluation.text import aligned

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tests'))
import oracle  # noqa: F401  (the literal transcription, for the others)

warnings.filterwarnings('ignore', 'torch.meshgrid')  # of BasicSR's SwinIR
DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')


class Timing(NamedTuple):
    """Seconds of a contestant's rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        unit, factor = ('s', 1.0) if self.median >= 1 else ('ms', 1e3)
        low, middle, high = (f'{value * factor:.3g}' for value in (min(self.seconds), self.median, max(self.seconds)))
        return f'{middle} {unit} ({low} to {high})'


def interleaved(rounds: int, contestants: Mapping[str, Callable[[], object]]) -> dict[str, Timing]:
    """Time contestants in turn, round after round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for counted in [False] + [True] * rounds:
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            if DEVICE.type == 'cuda':
                torch.cuda.synchronize()
            if counted:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(several)) for name, several in seconds.items()}


def peak_memory(contestant: Callable[..., None], *arguments: Any) -> int:
    """Bytes that a call takes at its peak beyond what its process held before, in a process of its own that keeps freed
    memory.

    The contestant, a function of a module, is given the arguments and a function `begin` that it calls when all that
    does not count is there.
    """
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(_peak, contestant, arguments).result()


def _peak(contestant: Callable[..., None], arguments: tuple) -> int:
    basicsr_command.keep_freed_memory()
    before: list[int | None] = []
    contestant(*arguments, lambda: before.append(memory(DEVICE, 'VmRSS')))
    peak = memory(DEVICE, 'VmHWM')
    if peak is None or before[0] is None:
        raise SystemExit('peak memory is read from /proc, which this system does not have')
    return peak - before[0]


def machine() -> str:
    """`AMD EPYC, 2 threads, torch 2.13.0, 2026-11-22`."""
    name = platform.processor() or platform.machine()
    cpus = Path('/proc/cpuinfo')
    if cpus.exists():
        models = [line.partition(':')[2].strip() for line in cpus.read_text().splitlines() if 'model name' in line]
        name = models[0] if models else name
    gpu = f', {torch.cuda.get_device_name()}' if DEVICE.type == 'cuda' else ''
    version = torch.__version__.partition('+')[0]
    return f'{name}, {torch.get_num_threads()} threads{gpu}, torch {version}, {datetime.date.today()}'


class Report:
    """Tables for the terminal, and the same as JSON on request. Sets the heap that `arguments` asks for."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.json_file: Path | None = args.json
        if not args.default_heap:
            basicsr_command.keep_freed_memory()
        heap = "glibc's default heap" if args.default_heap else 'freed memory kept'
        self.content: dict[str, Any] = {'machine': f'{machine()}, {heap}', 'tables': {}}
        print(self.content['machine'], end='\n\n')

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Any = None) -> None:
        """Print a table; `numbers`, if given, stand for its rows in the JSON file."""
        print(aligned([[title, *header], *rows]), end='\n\n', flush=True)
        self.content['tables'][title] = numbers or [dict(zip(['name', *header], row, strict=True)) for row in rows]
        if self.json_file:  # after every table: what is measured is not lost
            temporary = self.json_file.with_name(f'.{self.json_file.name}.tmp')
            temporary.write_text(json.dumps(self.content, indent=1), encoding='utf-8')
            temporary.replace(self.json_file)

    def timings(
        self, title: str, timings: Mapping[str, Timing], baseline: str, rate: tuple[str, float] | None = None
    ) -> None:
        """Contestants with their times and how many times faster than `baseline` they are; `rate` is what a second
        is counted in, and how much of it a round is."""
        rows = []
        for name, timing in timings.items():
            per_second = rate[1] / timing.median if rate else 0.0
            counted = [f'{per_second:,.1f}' if per_second >= 1 else f'{per_second:.3f}'] if rate else []
            rows.append([name, str(timing), *counted, f'{timings[baseline].median / timing.median:.2f}x'])
        header = ['median (least to most)', *([rate[0]] if rate else []), f'speed, {baseline} = 1']
        self.table(title, header, rows, {name: timing.seconds for name, timing in timings.items()})


def arguments(doc: str, rounds: int) -> argparse.ArgumentParser:
    """What every benchmark takes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--rounds',
        type=int,
        choices=range(1, 100),
        metavar='N',
        default=rounds,
        help=f'timed rounds (default: {rounds})',
    )
    parser.add_argument('--json', type=_new_file, metavar='FILE', help='also write what was measured to this file')
    text = 'let glibc return freed memory to the system after every operator; the basicsr command does not'
    parser.add_argument('--default-heap', action='store_true', help=text)
    return parser


def network_arguments(doc: str, rounds: int) -> argparse.ArgumentParser:
    """What the benchmarks of the network take."""
    parser = arguments(doc, rounds)
    text = "a clone of the authors' repository, to be measured too; needs timm 0.6 and einops"
    parser.add_argument('--published', type=Path, metavar='DIR', help=text)
    return parser


def _new_file(text: str) -> Path:
    if not Path(text).absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f'{text}: no such folder')
    return Path(text)


def work_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix='ramit_benchmark_')


def swinir_light(upscale: int) -> nn.Module:
    """SwinIR-light as its authors configure it (878K parameters at x2), BasicSR's implementation."""
    from basicsr.archs.swinir_arch import SwinIR

    return SwinIR(
        upscale=upscale, in_chans=3, img_size=64, window_size=8, img_range=1.0, depths=[6] * 4, embed_dim=60,
        num_heads=[6] * 4, mlp_ratio=2, upsampler='pixelshuffledirect', resi_connection='1conv',
    ).to(DEVICE)  # fmt: skip


def published(folder: Path) -> nn.Module:
    """RAMiT x2 of the authors' code, in a clone of their repository."""
    sys.path.insert(0, str(folder))
    from my_model import ramit  # type: ignore[import-not-found]

    network = ramit.RAMiT(
        target_mode='light_x2', mv_ver=2, mv_act=nn.LeakyReLU, act_layer=nn.GELU, norm_layer=ramit.ReshapeLayerNorm
    )
    return network.to(DEVICE)
