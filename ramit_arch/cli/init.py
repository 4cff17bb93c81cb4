"""`basicsr init`"""

from __future__ import annotations

import argparse
import inspect
import shlex
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import torch
import torch.nn.functional as F
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY

from ramit_arch import options
from ramit_arch.cli import checks
from ramit_arch.errors import UserError, counted, suggestion
from ramit_arch.files import atomic_write
from ramit_arch.inference.compute import Compute
from ramit_arch.options import packaged
from ramit_arch.preparation.image_statistics import statistics as image_statistics
from ramit_arch.preparation.plan import Entry, Options, Plan, plan_own, report
from ramit_arch.preparation.prepare import build
from ramit_arch.preparation.workers import cores

HELD_OUT = 0.1  # of the images
MOST_HELD_OUT = 20
MIDDLE = 512  # ground truth pixels a side that are kept of a held-out image: validation is not tiled
NETWORKS = {'tiny': 'train_RAMiT-tiny_SRx2', 'slim': 'train_RAMiT-slimSR_SRx2', 'full': 'train_RAMiT_SRx2'}
DENOISER = 'train_RAMiT_CDN'  # its differences from the full network apply at scale 1
SIZES = {'cpu': (16, 32), 'cuda': (32, 64)}  # batch and LQ patch
EPOCH = 1000  # iterations, about
WARM_UP, MEASURED = 3, 7  # steps
FEWEST = 100  # iterations
FEW = 3  # images held out
VALIDATING = 0.1  # the largest share of the time
MOST_VALIDATIONS = 20


@dataclass(frozen=True)
class Task:
    """What is to be trained.

    Attributes:
        title: in words.
        scale: factor of super-resolution, or 1.
        color: rgb or gray.
        protocol: by which it is scored.
        sigma: levels of the noise that is added, or none.
    """

    title: str
    scale: int
    color: str
    protocol: str
    sigma: float | list[float] | None = None

    @property
    def channels(self) -> int:
        return 1 if self.color == 'gray' else 3


@dataclass(frozen=True)
class Length:
    """How a training fills its time.

    Attributes:
        batch: images of an iteration.
        patch: side of their LQ patches.
        iterations: in total.
        seconds: of one.
        validations: in total.
        hours: of all that.
        compile: whether native kernels compute.
    """

    batch: int
    patch: int
    iterations: int
    seconds: float
    validations: int
    hours: float
    compile: bool

    def __str__(self) -> str:
        return f'{self.hours:.2g} hours at {self.seconds:.2f} s'


def run(args: argparse.Namespace) -> None:
    """Look at pictures, hold some out, prepare stores, choose and time a network, and write an option file.

    Raises:
        UserError: the pictures cannot be used, or something is where it would write.
    """
    file, target = Path(f'{args.name}.yml'), Path(args.store or Path('datasets', args.name))
    _check_arguments(args, file)
    cv2.setNumThreads(1)  # the workers are threads
    found = look(args, target)
    task = _task(args, found.entries)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    batch, patch = SIZES[device.type]
    entries, patch = _large_enough(found.entries, patch, task.scale)
    training, held_out = split(entries)
    plans = _plans(found, training, held_out, target)
    network = args.network or ('tiny' if device.type == 'cpu' else 'slim')
    network_g = _network(network, task)
    report(plans, target)
    for plan in plans:
        build(plan, cores())
    _set_if_accepted(network_g, _normalisation(task, plans[0]))
    length = fill_hours(args.hours, network_g, (batch, patch), task, len(held_out), device)
    opt = make_options(args.name, target.name, task, plans, network_g, length)
    comments = {
        'num_gpu': 'every GPU there is; 0 is the CPU',
        'val': f'{counted(len(held_out), "image")} that training does not see, the middle {MIDDLE}x{MIDDLE} of each',
        'total_iter': f'about {length}; warm-up and milestones are fractions of it',
    }
    imports = f' --import {shlex.join(args.imports)}' if args.imports else ''
    head = (
        f'{task.title}, on {args.data}\n'
        f'  basicsr check {file}{imports}\n'
        f'  basicsr train {file}{imports}  # --auto_resume continues\n'
        f'  basicsr test -m experiments/{args.name}{imports}  # scores what was held out'
    )
    _write_and_check(file, opt, commented(opt, head, comments))
    fewest = ' (the fewest)' if length.iterations == FEWEST else ''
    print(f'{network}: {length.iterations:,} iterations{fewest}, about {length} on this machine')
    if len(held_out) < FEW:
        print(f'{counted(len(held_out), "image")} held out: scores say little; give more pictures')
    print(f'wrote {file} and {target}\nnext: basicsr train {file}{imports}')


def _write_and_check(file: Path, opt: dict[str, Any], text: str) -> None:
    """Raises UserError if `check` finds something; nothing is left then."""
    atomic_write(file, text.encode())
    options.fill_in(opt)
    as_checked = argparse.Namespace(opt=str(file), force_yml=[], launcher='none', auto_resume=False, debug=False)
    try:
        checks.check(opt, as_checked, training=True)
    except UserError:
        file.unlink()
        raise


def _check_arguments(args: argparse.Namespace, file: Path) -> None:
    if file.exists():
        raise UserError(f'{file} exists; remove it, or choose another --name')
    if args.network not in (None, *NETWORKS) and checks.registered(args.network, 'arch') is None:
        near = suggestion(args.network, [*NETWORKS, *ARCH_REGISTRY.keys()])
        raise UserError(f'--network {args.network}: neither {", ".join(NETWORKS)} nor a registered network{near}')
    if args.kind == 'pairs' and args.lq is None:
        raise UserError('--lq DIR is missing: the LQ images')
    if args.kind != 'pairs' and args.lq is not None:
        raise UserError('--lq is for init pairs')
    if args.sigma and args.kind != 'denoise':
        raise UserError('--sigma is for init denoise')
    if args.scale and args.kind == 'denoise':
        raise UserError('--scale is for init sr and init pairs')
    if args.sigma and (len(args.sigma) > 2 or args.sigma != sorted(set(args.sigma))):
        raise UserError(f'--sigma {" ".join(f"{s:g}" for s in args.sigma)}: give one level, or two from low to high')


def _large_enough(entries: Sequence[Entry], patch: int, scale: int) -> tuple[list[Entry], int]:
    """The images that hold a patch; if these are fewer than two, all images and the largest patch that all hold."""
    sides = {entry.key: min(entry.hq.header.height, entry.hq.header.width) // scale for entry in entries}
    large = [entry for entry in entries if sides[entry.key] >= patch]
    if len(large) < 2:
        smallest = min(sides.values())
        print(f'the images are small: LQ patches of {smallest} instead of {patch}')
        return list(entries), smallest
    for entry in entries:
        if sides[entry.key] < patch:
            print(f'skipping {entry.hq.file}: smaller than a patch of {patch * scale}x{patch * scale}')
    return large, patch


def look(args: argparse.Namespace, target: Path) -> Plan:
    """Every picture that can be used, and what they are.

    Raises:
        UserError: there are fewer than two.
    """
    lq = Path(args.lq).expanduser() if args.lq else None
    scale = args.scale or (2 if args.kind == 'sr' else 1)
    scales = (scale,) if scale > 1 else None
    chosen = Options(scales, ('png',), convert=True, any_count=True, skip=True, workers=cores())
    [found] = plan_own(Path(args.data).expanduser(), lq, target, chosen)
    if len(found.entries) < 2:
        raise UserError(f'{args.data}: {counted(len(found.entries), "image")} can be used, but 2 are needed')
    headers = [entry.hq.header for entry in found.entries]
    areas = sorted(headers, key=lambda header: header.height * header.width)
    least, most = areas[0], areas[-1]
    megapixels = sum(header.height * header.width for header in headers) / 1e6
    gray = sum(header.channels == 1 for header in headers)
    print(
        f'{args.data}: {counted(len(headers), "image")}, {megapixels:.1f} megapixels, {least.width}x{least.height} to '
        f'{most.width}x{most.height}' + (f', {gray} gray' if gray else '')
    )
    return found


def _task(args: argparse.Namespace, entries: Sequence[Entry]) -> Task:
    gray = args.gray or all(entry.hq.header.channels == 1 for entry in entries)
    color = 'gray' if gray else 'rgb'
    if args.kind == 'sr':
        scale = args.scale or 2
        return Task(f'super-resolution x{scale}', scale, color, 'RGB' if gray else 'SR')
    if args.kind == 'pairs':
        scale = args.scale or 1
        return Task(f'pairs at x{scale}' if scale > 1 else 'pairs', scale, color, 'RGB')
    sigma = args.sigma or [0.0, 50.0]
    level = sigma[0] if len(sigma) == 1 else sigma
    title = 'denoising at sigma ' + ' to '.join(f'{value:g}' for value in sigma)
    return Task(title, 1, color, 'GDN' if gray else 'CDN', level)


def split(entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Images to train on, and a tenth of them, spread evenly over the names, to hold out."""
    count = min(max(round(len(entries) * HELD_OUT), 1), MOST_HELD_OUT)
    chosen = {round((i + 0.5) * len(entries) / count - 0.5) for i in range(count)}
    parts: tuple[list[Entry], list[Entry]] = ([], [])
    for i, entry in enumerate(entries):
        parts[i in chosen].append(entry)
    return parts


def _plans(found: Plan, training: list[Entry], held_out: list[Entry], target: Path) -> list[Plan]:
    """A raw store to train on, and files of what is held out."""
    raw = [replace(store, target=target / 'train' / f'{store.target.name}.raw', format='raw') for store in found.stores]
    png = [replace(store, target=target / 'test' / store.target.name) for store in found.stores]
    held = replace(found, entries=held_out, stores=png, middle=MIDDLE)
    return [replace(found, entries=training, stores=raw), held]


def _network(name: str, task: Task) -> dict[str, Any]:
    """The network of a packaged option file, or a registered one, for a task.

    Raises:
        UserError: such a network cannot be built.
    """
    network: dict[str, Any] = {'type': name}
    if name in NETWORKS:
        network = _packaged(NETWORKS[name])
        if task.scale == 1:
            full = _packaged(NETWORKS['full'])
            network |= {key: value for key, value in _packaged(DENOISER).items() if full.get(key) != value}
    channels = task.channels
    sizes = {'upscale': task.scale, 'in_chans': channels}
    basicsr = {'scale': task.scale, 'num_in_ch': channels, 'num_out_ch': channels}  # what BasicSR's networks call them
    unknown = {'img_mean': [0.5] * channels, 'img_std': [0.25] * channels}  # until the images are prepared
    _set_if_accepted(network, sizes | basicsr | unknown)
    problems = checks.network_problems({'network_g': network, 'scale': task.scale})
    if problems:
        raise UserError('\n'.join([f'{name} cannot be built:', *(problem.text for problem in problems)]))
    return network


def _packaged(name: str) -> dict[str, Any]:
    """The network of a packaged option file."""
    return dict(options.load(packaged.find(name))['network_g'])


def _set_if_accepted(network: dict[str, Any], values: dict[str, Any]) -> None:
    """Set those of the values that the network has a parameter for, unless they are its defaults."""
    parameters = inspect.signature(ARCH_REGISTRY.get(network['type'])).parameters
    for key, value in values.items():
        if key in parameters and network.get(key, parameters[key].default) != value:
            network[key] = value


def _normalisation(task: Task, training: Plan) -> dict[str, Any]:
    """The statistics of the training images, of the LQ images where there are such."""
    found = image_statistics([training.stores[-1].target], task.color, cores())
    mean, std = ([round(float(value), 4) for value in values] for values in (found.pixel_mean, found.pixel_std))
    return {'img_mean': mean, 'img_std': [max(value, 0.01) for value in std]}


def fill_hours(
    hours: float, network_g: dict[str, Any], sizes: tuple[int, int], task: Task, held_out: int, device: torch.device
) -> Length:
    """The training that fills the hours, of which validations take a tenth at most."""
    native = device.type == 'cpu' and hasattr(ARCH_REGISTRY.get(network_g['type']), 'set_compiled')
    step, image = seconds_of(network_g, sizes, task, device, native)
    seconds, validation = hours * 3600, image * held_out
    validations = min(max(int(VALIDATING * seconds / validation), 1), MOST_VALIDATIONS)
    iterations = max(int(float(f'{(seconds - validations * validation) / step:.2g}')), FEWEST)
    hours = (iterations * step + validations * validation) / 3600
    return Length(*sizes, iterations, step, validations, hours, native)


def seconds_of(
    network_g: dict[str, Any], sizes: tuple[int, int], task: Task, device: torch.device, native: bool
) -> tuple[float, float]:
    """Seconds of a training step with batch and patch `sizes`, and of restoring a held-out image."""
    network = build_network(dict(network_g)).to(device)
    call = Compute(device, bf16=True, compile=native).network(network)
    (batch, patch), scale, channels = sizes, task.scale, task.channels
    lq = torch.rand(batch, channels, patch, patch, device=device)
    gt = torch.rand(batch, channels, patch * scale, patch * scale, device=device)
    image = torch.rand(1, channels, MIDDLE // scale, MIDDLE // scale, device=device)
    optimiser = torch.optim.Adam(network.parameters())

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            output = call(lq)
        F.l1_loss(output.float(), gt).backward()
        optimiser.step()

    @torch.no_grad()
    def restore() -> None:
        call(image)

    return _median(step, device), _median(restore, device)


def _median(run: Callable[[], None], device: torch.device) -> float:
    seconds = []
    for _ in range(WARM_UP + MEASURED):
        start = time.perf_counter()
        run()
        if device.type == 'cuda':
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UP:])


def make_options(
    name: str, dataset: str, task: Task, plans: Sequence[Plan], network_g: dict[str, Any], length: Length
) -> dict[str, Any]:
    """The training, as an option file holds it."""
    training, held_out = (_roots(plan, task) for plan in plans)
    kind = 'PairedRestorationDataset' if task.sigma is None else 'GaussianDenoisingDataset'
    color = {'color': 'gray'} if task.color == 'gray' else {}
    noise = {} if task.sigma is None else {'sigma': task.sigma}
    level = _level(task.sigma)
    train = {
        'name': dataset, 'type': kind, **training, **noise, **color, 'io_backend': {'type': 'raw'},
        'repeat': max(round(EPOCH * length.batch / len(plans[0].entries)), 1), 'lq_patch_size': length.patch,
        'batch_size_per_gpu': length.batch, 'use_hflip': True, 'use_rot': True,
        'num_worker_per_gpu': min(max(cores() // 2, 1), 8), 'persistent_workers': True,
    }  # fmt: skip
    val = {
        'name': f'{dataset}_held_out' + ('' if level is None else f'_sigma{level:g}'), 'type': kind, **held_out,
        **color,
        **({} if level is None else {'sigma': level}), 'io_backend': {'type': 'disk'},
        **({'filename_tmpl': f'{{}}x{task.scale}'} if task.scale > 1 else {}),
    }  # fmt: skip
    compiled = {'compile': True} if length.compile else {}
    rarely = -(-length.iterations // length.validations)
    return {
        'name': name, 'model_type': 'RAMiTModel', 'scale': task.scale, 'num_gpu': 'auto', 'manual_seed': 0,
        'datasets': {'train': train, 'val': val},
        'network_g': network_g,
        'path': {},
        'train': {
            'total_iter': length.iterations, 'warmup_iter': 0.01, 'bf16': True, **compiled,
            'optim_g': {'type': 'Adam', 'lr': 1e-3, 'betas': [0.9, 0.99]}, 'grad_clip_norm': 1.0,
            'scheduler': {'type': 'MultiStepLR', 'milestones': [0.4, 0.6, 0.75, 0.875, 0.95], 'gamma': 0.5},
            'pixel_opt': {'type': 'L1Loss'},
        },
        'val': {'val_freq': rarely, **compiled, 'protocol': task.protocol, 'strips': 3},
        'logger': {
            'print_freq': max(min(length.iterations // 200, 100), 1), 'save_checkpoint_freq': rarely,
            'keep_checkpoints': 3,
        },
    }  # fmt: skip


def _level(sigma: float | list[float] | None) -> float | None:
    """The noise to score at: of a range 25, if that is in it, or else the middle."""
    if isinstance(sigma, list):
        return 25.0 if sigma[0] <= 25 <= sigma[1] else sum(sigma) / 2
    return sigma


def _roots(plan: Plan, task: Task) -> dict[str, str]:
    stores = {'dataroot_gt' if store.kind == 'hq' else 'dataroot_lq': str(store.target) for store in plan.stores}
    return stores if task.sigma is None else {'dataroot_gt': stores['dataroot_gt']}


def commented(opt: dict[str, Any], head: str, comments: dict[str, str]) -> str:
    """YAML with comments: at the head, and behind the first line of each key."""
    lines = [f'# {line}' for line in head.splitlines()]
    for line in options.dump(opt).splitlines():
        key = line.strip().partition(':')[0]
        lines += [''] if key in ('datasets', 'network_g', 'path', 'train', 'val', 'logger') and line[0] != ' ' else []
        lines.append(f'{line}  # {comments.pop(key)}' if key in comments else line)
    return '\n'.join(lines) + '\n'
