"""RAMiT beside its relatives: small networks of equal size, trained alike, at equal images and at equal time.

    python benchmarks/relatives.py --work /tmp/relatives
    python benchmarks/relatives.py --work /tmp/smoke --iterations 20 --networks RAMiT EDSR --tasks SRx2 --seeds 1

Networks of 283K parameters at x2 (within 5%) are trained by `basicsr train` with the same data, batches, loss,
optimiser and constant learning rate, and scored by their moving average. Tasks: SRx2; CDN25, colour denoising at
sigma 25; DR, deraining, of Rain100H's pairs with the last 30% by name held out; blur, removal of synthetic motion
blur. They show how the networks learn in a short time, no more: published trainings are orders of magnitude longer.
BasicSR's EDSR has no residual connection from the input to the output, a disadvantage at scale 1.

Equal images: N iterations each. Equal time: the N iterations of RAMiT, and of every other network as many as take the
same time by step times that are measured first: CPU seconds of one thread, all networks in turn, median. Wall-clock
time would depend on the load of the machine, and the iteration counts would change from run to run.
The hours that each really took are recorded in relatives.json. The rate is constant, so that one training serves both
tables: it is scored after the smaller number of iterations, and continued to the larger.

--datasets holds Set5/{HR,LRx2}, McMaster/HQ, Rain100H/{HQ,LQ} and photographs/{HR,LRx2}.raw, the latter made as
options/train_RAMiT-tiny_SRx2.yml says. WORK gets relatives.md, .json and .png. The same command continues where it was
stopped. Runs on the CPU, in bfloat16 and without compilation, RAMiT's native kernel included: what is compared are the
architectures, as PyTorch computes them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from statistics import fmean, median, stdev
from threading import Event
from typing import Any, NamedTuple

import torch
import yaml
from relatives_data import TASKS, baseline, prepare, sets
from short_training import BASICSR, OPTIONS
from side_by_side import machine

import basicsr_command
from ramit_arch.evaluation.complexity import complexity, measure
from ramit_arch.evaluation.runs import read_run
from ramit_arch.files import atomic_write
from ramit_arch.models.compute import read_compute
from ramit_arch.models.options import Validation
from ramit_arch.options import load
from ramit_arch.options.rows import OF_TASK

from basicsr.archs import build_network  # isort: skip
from basicsr.utils.registry import ARCH_REGISTRY  # isort: skip

BATCH, PATCH, LR, EMA = 2, 64, 1e-3, 0.99
LOADER = {
    'name': 'training', 'repeat': 27, 'batch_size_per_gpu': BATCH, 'lq_patch_size': PATCH, 'num_worker_per_gpu': 1,
    'persistent_workers': True,
}  # fmt: skip
TOLERANCE = 0.05  # of the number of parameters


class Network(NamedTuple):
    """Options; colour (Okabe and Ito) and marker in the figure; further options by scale; multiple to pad tests to."""

    options: dict[str, Any]
    colour: str
    marker: str
    at_scale: Mapping[int, dict[str, Any]] = {}
    size_multiple: int = 1


def sizes(name: str) -> dict[str, Any]:
    """A network's own options, of an option file of the project."""
    opt = load(f'{OPTIONS}/{name}')['network_g']
    return {key: value for key, value in opt.items() if key not in ('type', *OF_TASK)}


NETWORKS = {
    'RAMiT': Network(
        sizes('train_RAMiT-tiny_SRx2.yml'), '#0072B2', 'o',
        {1: {'reciprocal_helper': False}},  # off at scale 1 (paper, Tab. B)
    ),
    'LAformer': Network(sizes('relatives_tiny.yml::LAformer-tiny_SRx2'), '#009E73', 's'),
    'IPTV2': Network(sizes('relatives_tiny.yml::IPTV2-tiny_SRx2'), '#D55E00', '^'),
    'SwinIR': Network(
        {
            'in_chans': 3, 'img_size': PATCH, 'window_size': 8, 'img_range': 1.0, 'depths': [4, 4, 4],
            'embed_dim': 44, 'num_heads': [4, 4, 4], 'mlp_ratio': 2, 'resi_connection': '1conv',
        },
        '#CC79A7', 'D', {1: {'upsampler': ''}, 2: {'upsampler': 'pixelshuffledirect'}}, size_multiple=8,
    ),
    'EDSR': Network(
        {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 32, 'num_block': 13}, '#000000', 'v', {1: {'num_block': 14}}
    ),
}  # fmt: skip


def section(name: str, scale: int) -> dict[str, Any]:
    """`network_g` of a network."""
    network = NETWORKS[name]
    return {'type': name, 'upscale': scale, **network.options, **network.at_scale.get(scale, {})}


# ------------------------------------------------------------------------------------------------- speed, and memory


def cpu_seconds(rounds: int, contestants: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median CPU seconds, in turn, after two rounds that do not count: unlike a clock's, little disturbed by others."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(2 + rounds):
        for name, contestant in contestants.items():
            start = time.process_time()  # of all threads; one computes
            contestant()
            seconds[name].append(time.process_time() - start)
    return {name: median(several[2:]) for name, several in seconds.items()}


def step_times(networks: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of a training step by scale and network, one thread, all networks in turn."""
    found = {}
    compute, _ = read_compute(Validation(save_img=False, bf16=True), 'train', torch.device('cpu'))
    for scale in (1, 2):
        lq, gt = (torch.rand(BATCH, 3, PATCH * factor, PATCH * factor) for factor in (1, scale))

        def contestant(name: str, lq: torch.Tensor = lq, gt: torch.Tensor = gt, scale: int = scale) -> Any:
            net = build_network(section(name, scale))
            called, adam = compute.network(net), torch.optim.Adam(net.parameters(), LR)

            def step() -> None:
                adam.zero_grad()
                with compute.active():
                    output = called(lq)
                torch.nn.functional.l1_loss(output.float(), gt).backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                adam.step()

            return step

        found[str(scale)] = cpu_seconds(rounds, {name: contestant(name) for name in networks})
    return found


def costs(networks: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Counts, inference time for LQ 128x128 (float32, one thread, in turn) and peak memory, at x2."""
    nets = {name: build_network(section(name, 2)).eval() for name in networks}
    lq = torch.rand(1, 3, 128, 128)
    with torch.inference_mode():
        seconds = cpu_seconds(rounds, {name: partial(net, lq) for name, net in nets.items()})
    found = {}
    for name, net in nets.items():
        counted, memory = complexity(net, 3, 2), measure(section(name, 2), 2, 1).memory or 0
        found[name] = {
            'parameters': counted.parameters, 'mult_adds': counted.mult_adds, 'seconds': seconds[name],
            'memory': memory,
        }  # fmt: skip
    return found


# --------------------------------------------------------------------------------------------------------- trainings


class Training(NamedTuple):
    """One training: scored after each number of iterations in `counts`, ascending."""

    task: str
    network: str
    seed: int
    counts: tuple[int, ...]
    step: float

    @property
    def name(self) -> str:
        return f'{self.task}_{self.network}_{self.seed}'

    def scores(self, work: Path, count: int) -> dict[str, float] | None:
        """Mean scores after so many iterations, unless it is not that far."""
        file = work / f'experiments/{self.name}/scores/{TASKS[self.task].test}_{count}.json'
        return json.loads(file.read_text(encoding='utf-8'))['mean'] if file.is_file() else None

    def left(self, work: Path) -> float:
        """Seconds that are to be trained."""
        done = max((count for count in self.counts if self.scores(work, count)), default=0)
        return (self.counts[-1] - done) * self.step

    def hours(self, work: Path) -> float:
        """Measured hours, of the log."""
        opt = yaml.safe_load((work / f'experiments/{self.name}/{self.name}.yml').read_text(encoding='utf-8'))
        last = read_run(work / 'experiments' / self.name, opt).losses[-1]
        return last.hours * self.counts[-1] / last.iteration


def options(training: Training, count: int, datasets: Path, work: Path) -> dict[str, Any]:
    """The option file of a training up to an iteration: what differs from the project's file."""
    task = TASKS[training.task]
    train, test = sets(training.task, datasets, work / 'data')
    first = training.counts[0]
    return {
        'base': str(OPTIONS / task.base),
        'name': training.name,
        'num_gpu': 0,
        'manual_seed': training.seed,
        'datasets': {
            'train': {**LOADER, **train},
            'val': {'name': task.test, **test},
        },
        'network_g': section(training.network, task.scale),
        'train': {
            'total_iter': count,
            'progressive': None,
            'optim_g': {'lr': LR},
            'warmup_iter': min(100, max(first // 10, 1)),  # the same at both counts
            'scheduler': None,
            'ema_decay': EMA,
            'compile': False,
        },
        'val': {
            'val_freq': 10**6,  # at the end only
            'compile': False,
            'protocol': task.protocol,
            'size_multiple': NETWORKS[training.network].size_multiple,
        },
        'logger': {'print_freq': max(first // 20, 1), 'save_checkpoint_freq': 250, 'keep_checkpoints': 1},
    }


RUNNING: set[subprocess.Popen] = set()
STOPPING = Event()


def train(training: Training, datasets: Path, work: Path) -> Training:
    """Train, or continue, and score at each number of iterations."""
    for count in training.counts:
        if STOPPING.is_set() or training.scores(work, count):
            continue
        file = work / 'options' / f'{training.name}_{count}.yml'
        text = yaml.safe_dump(options(training, count, datasets, work), sort_keys=False)
        atomic_write(file, text.encode())
        with (work / 'options' / f'{training.name}.log').open('a', encoding='utf-8') as log:
            command = [str(BASICSR), 'train', '-opt', str(file), '--auto_resume']
            process = subprocess.Popen(command, cwd=work, stdout=log, stderr=subprocess.STDOUT)
            RUNNING.add(process)
            code = process.wait()
            RUNNING.discard(process)
        if code or not training.scores(work, count):
            raise RuntimeError(f'{training.name}: basicsr train failed; see {log.name}')
    return training


def train_all(trainings: list[Training], jobs: int, datasets: Path, work: Path) -> None:
    """Run what is left, `jobs` at once; the longest first, so that none is left alone at the end."""
    todo = sorted((t for t in trainings if t.left(work)), key=lambda t: -t.left(work))
    total = sum(t.left(work) for t in todo)
    seconds = {t: t.left(work) for t in todo}
    print(f'{len(trainings) - len(todo)} of {len(trainings)} trainings are done', flush=True)
    start, done = time.monotonic(), 0.0
    pool = ThreadPoolExecutor(jobs)
    futures = [pool.submit(train, t, datasets, work) for t in todo]
    try:
        for i, future in enumerate(as_completed(futures), len(trainings) - len(todo) + 1):
            training = future.result()
            done += seconds[training]
            left = (time.monotonic() - start) * (total - done) / done / 60
            psnr = (training.scores(work, training.counts[-1]) or {})['psnr']
            print(f'{i}/{len(trainings)} {training.name}: {psnr:.2f} dB; {left:.0f} min left', flush=True)
    except RuntimeError as error:
        raise SystemExit(str(error)) from error
    finally:
        STOPPING.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(RUNNING):  # they save their last step
            process.terminate()


# ------------------------------------------------------------------------------------------------------------ report


def collect(trainings: list[Training], iterations: int, work: Path) -> Iterator[dict[str, Any]]:
    """A row a task and network: iterations, seconds of training by step time, and scores of every seed."""
    groups: dict[tuple[str, str], list[Training]] = {}
    for training in trainings:
        groups.setdefault((training.task, training.network), []).append(training)
    for (task, network), group in groups.items():
        row: dict[str, Any] = {'task': task, 'network': network, 'hours': [t.hours(work) for t in group]}
        other = next((count for count in group[0].counts if count != iterations), iterations)
        for budget, count in [('images', iterations), ('time', other)]:
            scores = [t.scores(work, count) or {} for t in group]
            row[budget] = {'iterations': count, 'seconds': count * group[0].step, 'scores': scores}
        yield row


def spread(values: list[float], digits: int) -> str:
    """`33.68` or, of several, `33.68 ± 0.02`."""
    return f'{fmean(values):.{digits}f}' + (f' ± {stdev(values):.{digits}f}' if len(values) > 1 else '')


def markdown(table: list[list[str]]) -> str:
    head, *body = (f'| {" | ".join(row)} |' for row in table)
    return '\n'.join([head, '|' + '---|' * len(table[0]), *body]) + '\n'


def score_table(rows: list[dict], inputs: dict[str, dict[str, float]], budget: str) -> str:
    """PSNR / SSIM of every task, iterations below equal time."""
    table = [['network', *(TASKS[task].title for task in inputs)]]
    table.append(['input', *(f'{s["psnr"]:.2f} / {s["ssim"]:.4f}' for s in inputs.values())])
    for name in dict.fromkeys(row['network'] for row in rows):
        cells = []
        for row in (row for row in rows if row['network'] == name):
            scores, count = row[budget]['scores'], row[budget]['iterations']
            cell = ' / '.join(spread([s[m] for s in scores], d) for m, d in [('psnr', 2), ('ssim', 4)])
            cells.append(cell + (f' ({count:,})' if budget == 'time' else ''))
        table.append([name, *cells])
    return markdown(table)


def cost_table(cost: dict[str, dict[str, float]], times: dict[str, dict[str, float]]) -> str:
    head = 'network, parameters, Mult-Adds, training step x2, training step x1, inference, peak memory'
    table = [head.split(', ')]
    for name, row in cost.items():
        steps = [f'{times[scale][name] * 1e3:.0f} ms' for scale in ('2', '1')]
        counts = [f'{row["parameters"] / 1e3:.0f}K', f'{row["mult_adds"] / 1e9:.1f}G']
        table.append([name, *counts, *steps, f'{row["seconds"] * 1e3:.0f} ms', f'{row["memory"] / 2**30:.2f} GiB'])
    return markdown(table)


def figure(rows: list[dict], inputs: dict[str, dict[str, float]], file: Path) -> None:
    """A panel a task: PSNR over training time, both budgets of a network joined."""
    from matplotlib.figure import Figure

    columns = min(len(inputs), 2)
    lines = -(-len(inputs) // columns)
    page = Figure(figsize=(4.4 * columns, 3.3 * lines + 0.6), layout='constrained', dpi=200)
    panels = page.subplots(lines, columns, squeeze=False).flat
    for axes, (task, scores) in zip(panels, inputs.items(), strict=False):
        means = []
        for row in (row for row in rows if row['task'] == task):
            look, ends = NETWORKS[row['network']], [row['images'], row['time']]
            psnr = [[s['psnr'] for s in end['scores']] for end in ends]
            means += [fmean(values) for values in psnr]
            minutes = [end['seconds'] / 60 for end in ends]
            error = [stdev(values) if len(values) > 1 else 0 for values in psnr]
            axes.errorbar(minutes, means[-2:], error if any(error) else None, color=look.colour, capsize=3, lw=1.2)
            axes.plot(minutes[0], means[-2], look.marker, color=look.colour, ms=7, mfc='white', mew=1.5, zorder=3)
            axes.plot(minutes[1], means[-1], look.marker, color=look.colour, ms=7, label=row['network'])
        near = scores['psnr'] > min(means) - 1.5 * (max(means) - min(means))
        if near:  # else it would flatten all differences
            axes.axhline(scores['psnr'], color='0.4', ls='--', lw=1)
        axes.set_title(f'{TASKS[task].title}\ninput: {scores["psnr"]:.2f} dB{" (dashed)" if near else ""}', fontsize=9)
        axes.set(xlabel='training time, one thread [min]', ylabel='PSNR [dB]')
        axes.margins(0.12, 0.15)
        axes.grid(color='0.88')
        axes.set_axisbelow(True)
    handles, labels = page.axes[0].get_legend_handles_labels()
    page.legend(handles, labels, loc='outside lower center', ncols=len(labels), fontsize=9, frameon=False,
                title='hollow: equal images; filled: equal time', title_fontsize=9)  # fmt: skip
    page.savefig(file)


# -------------------------------------------------------------------------------------------------------------- main


def once(file: Path, make: Any) -> Any:
    """What a JSON file holds, made first if it is missing."""
    if not file.is_file():
        atomic_write(file, json.dumps(make(), indent=1).encode())
    return json.loads(file.read_text(encoding='utf-8'))


def check(args: argparse.Namespace) -> None:
    """Sizes of the networks, and whether WORK was begun with the same settings."""
    for scale in (1, 2):
        size = {n: sum(p.numel() for p in build_network(section(n, scale)).parameters()) for n in args.networks}
        for name, count in size.items():
            if abs(count / size['RAMiT'] - 1) > TOLERANCE:
                sys.exit(f'{name} has {count:,} parameters at x{scale}, RAMiT {size["RAMiT"]:,}: more than 5% apart')
    wanted = {
        'iterations': args.iterations, 'datasets': str(args.datasets), 'batch': BATCH, 'patch': PATCH, 'lr': LR,
        'ema': EMA, 'networks': {n: [section(n, 1), section(n, 2)] for n in args.networks},
    }  # fmt: skip
    found = once(args.work / 'settings.json', lambda: wanted)
    differ = [key for key, value in json.loads(json.dumps(wanted)).items() if found.get(key) != value]
    if differ:
        sys.exit(f'{args.work}: begun with other {", ".join(differ)}; use another work folder, or delete this one')


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train RAMiT and its relatives alike, at equal images and equal time.')
    parser.add_argument('--work', type=Path, required=True, help='folder for option files, experiments and results')
    parser.add_argument('--datasets', type=Path, default=Path('datasets'), help='default: datasets')
    parser.add_argument('--iterations', type=int, default=1500, help='of each network at equal images (default: 1500)')
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=list(TASKS))
    known = [name for name in NETWORKS if name in ARCH_REGISTRY]
    parser.add_argument('--networks', nargs='+', choices=known, default=known, help='RAMiT must be one')
    parser.add_argument('--seeds', type=int, default=3, help='seeds of the tasks of --seed_tasks (default: 3)')
    parser.add_argument('--seed_tasks', nargs='+', choices=TASKS, default=['SRx2'], help='default: SRx2')
    parser.add_argument('--jobs', type=int, default=2, help='trainings at once, one thread each (default: 2)')
    parser.add_argument('--rounds', type=int, default=11, help='of measuring step times (default: 11)')
    args = parser.parse_args()
    args.work, args.datasets = args.work.resolve(), args.datasets.resolve()
    if 'RAMiT' not in args.networks:
        parser.error('--networks: RAMiT must be one, whose time is the budget')
    if min(args.iterations, args.seeds, args.jobs, args.rounds) < 1:
        parser.error('--iterations, --seeds, --jobs and --rounds: at least 1')
    if not args.datasets.is_dir():
        parser.error(f'--datasets {args.datasets}: no such folder')
    return args


def main() -> None:
    args = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ |= {'OMP_NUM_THREADS': '1', 'GOMP_SPINCOUNT': '1000'}  # of the processes that are started
    basicsr_command.keep_freed_memory()  # as the command does
    torch.set_num_threads(1)
    work = args.work
    (work / 'options').mkdir(parents=True, exist_ok=True)
    check(args)
    prepare(args.datasets, work / 'data')
    times = once(work / 'step_times.json', lambda: step_times(args.networks, args.rounds))
    cost = once(work / 'costs.json', lambda: costs(args.networks, args.rounds))
    trainings = []
    for task in args.tasks:
        step = times[str(TASKS[task].scale)]
        for seed in range(args.seeds if task in args.seed_tasks else 1):
            for name in args.networks:
                counts = {args.iterations, max(1, round(args.iterations * step['RAMiT'] / step[name]))}
                trainings.append(Training(task, name, seed, tuple(sorted(counts)), step[name]))
    total = sum(t.left(work) for t in trainings)
    print(f'{total / 3600:.1f} hours of one thread to train, {args.jobs} trainings at once', flush=True)
    train_all(trainings, args.jobs, args.datasets, work)
    inputs = {task: baseline(task, args.datasets, work / 'data') for task in args.tasks}
    rows = list(collect(trainings, args.iterations, work))
    text = f'PSNR / SSIM after {args.iterations:,} iterations:\n\n{score_table(rows, inputs, "images")}'
    text += f'\nAt equal time (iterations):\n\n{score_table(rows, inputs, "time")}\n{cost_table(cost, times)}'
    text += f'\nMult-Adds and peak memory: 1280x720 output; inference: LQ 128x128 x2, float32. {machine()}.\n'
    content = {'machine': machine(), 'step_times': times, 'costs': cost, 'input': inputs, 'rows': rows}
    atomic_write(work / 'relatives.md', text.encode())
    atomic_write(work / 'relatives.json', json.dumps(content, indent=1).encode())
    figure(rows, inputs, work / 'relatives.png')
    print(text)


if __name__ == '__main__':
    main()
