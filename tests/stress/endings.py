"""How trainings end: exit status and seconds of faults and signals, without this package, with it, and by `basicsr`.

    python tests/stress/endings.py --work DIR [--only network SIGTERM] [--jobs 2]

Every combination of fault, number of workers, `persistent_workers`, start method, and model (BasicSR's SRModel with its
PairedImageDataset, or RAMiTModel with ours) is a process of its own. Seconds count from the start of the training, or
from the signal, until no process of the run is left.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tests'))

from helpers import tiny_options, write_pairs  # noqa: E402

from ramit_arch.evaluation.text import markdown  # noqa: E402

FAULTS = ('image', 'validation', 'network', 'SIGINT', 'SIGTERM')
WAYS = ('without', 'script', 'command')
LIMIT = 60

NETWORK = """
import os, torch
from basicsr.utils.registry import ARCH_REGISTRY

@ARCH_REGISTRY.register()
class Failing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 12, 3, padding=1)
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        if os.environ['FAIL'] == ('network' if self.training else 'validation') and self.calls > 2:
            raise ValueError('the network fails')
        return torch.nn.functional.pixel_shuffle(self.conv(x), 2)
"""

# Without the package BasicSR gets only the two repairs without which it cannot be imported beside a recent torchvision.
SCRIPT = """
import importlib, multiprocessing, sys, types
way, method = sys.argv[1:3]
if way in ('command', 'train'):  # the latter in a spawned worker
    import basicsr_command
if way == 'without':
    package = sys.modules['ramit_arch'] = types.ModuleType('ramit_arch')
    package.__path__ = [ROOT]
    compat = importlib.import_module('ramit_arch.compat')
    compat.repair_torchvision_operators()
    compat.repair_functional_tensor()
else:
    import ramit_arch
sys.path.insert(0, '.')
if __name__ == '__main__':
    multiprocessing.set_start_method(method)
    del sys.argv[1:3]
    if way == 'command':
        sys.argv[1:1] = ['train']
        sys.exit(basicsr_command.main([*sys.argv[1:], '--import', 'failing_arch.py']))
    import failing_arch
    from basicsr.train import train_pipeline
    train_pipeline('.')
"""


class Case(NamedTuple):
    fault: str
    ours: bool
    workers: int
    persistent: bool
    method: str
    way: str


def cases(faults: list[str]) -> list[Case]:
    loaders = [(0, False, 'fork')]
    loaders += [(n, persistent, method) for n in (1, 2) for persistent in (False, True) for method in ('fork', 'spawn')]
    return [
        Case(fault, ours, *loader, way)
        for fault in faults
        for ours in (False, True)
        for loader in loaders
        for way in WAYS
        if not (ours and way == 'without')
    ]


def options(case: Case, data: Path) -> dict:
    opt = tiny_options(data / 'gt', data / ('broken' if case.fault == 'image' else 'lq'))
    opt['datasets']['val']['dataroot_lq'] = str(data / 'lq')
    train = opt['datasets']['train']
    opt['network_g'] = {'type': 'Failing'}
    loader = {'num_worker_per_gpu': case.workers, 'persistent_workers': case.persistent}
    if case.ours:
        train.update(loader, repeat=1000)
    else:
        opt['model_type'] = 'SRModel'
        stock = {'type': 'PairedImageDataset', 'io_backend': {'type': 'disk'}}
        del train['lq_patch_size'], train['repeat']
        train.update(stock, **loader, gt_size=16, use_hflip=True, use_rot=True, dataset_enlarge_ratio=1000)
        opt['datasets']['val'].update(stock)
    opt['train'].update(total_iter=10**6, ema_decay=0)
    opt['train']['scheduler'] = {'type': 'MultiStepLR', 'milestones': [10**5], 'gamma': 0.5}
    opt['val']['val_freq'] = 4 if case.fault == 'validation' else 10**6
    opt['logger'].update(save_checkpoint_freq=10**6)
    opt['path'] = {'pretrain_network_g': None, 'strict_load_g': True, 'resume_state': None}
    return opt


def run(case: Case, work: Path, data: Path) -> tuple[int | str, float]:
    """Exit status and seconds."""
    folder = work / '_'.join(map(str, case))
    folder.mkdir()
    (folder / 'train.yml').write_text(yaml.safe_dump(options(case, data)))
    (folder / 'failing_arch.py').write_text(NETWORK)
    (folder / 'run.py').write_text(SCRIPT.replace('ROOT', repr(str(ROOT / 'ramit_arch'))))
    command = [sys.executable, 'run.py', case.way, case.method, '-opt', 'train.yml']
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, 'FAIL': case.fault, 'OMP_NUM_THREADS': '1'}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    timer = threading.Timer(LIMIT, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    assert process.stderr
    start = None
    with (folder / 'log').open('w') as log:
        for line in process.stderr:
            log.write(line)
            if start is None and ('iter:' in line if case.fault.startswith('SIG') else 'Start training' in line):
                start = time.monotonic()
                if case.fault == 'SIGINT':
                    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
                elif case.fault == 'SIGTERM':
                    process.terminate()
    process.wait()
    while True:
        try:
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        except ProcessLookupError:
            break
    timer.cancel()
    seconds = time.monotonic() - (start or float('nan'))
    return ('never' if process.returncode == -signal.SIGKILL else process.returncode), seconds


def cell(results: list[tuple[int | str, float]]) -> str:
    """Statuses of all loaders, and the range of seconds."""
    if not results:
        return ''
    statuses = ', '.join(sorted({str(status) for status, _ in results}))
    seconds = [seconds for _, seconds in results]
    return f'{statuses} in {min(seconds):.1f} to {max(seconds):.1f} s'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--work', type=Path, required=True, help='folder to create')
    parser.add_argument('--only', nargs='+', choices=FAULTS, default=list(FAULTS))
    parser.add_argument('--jobs', type=int, default=2, help='trainings at once')
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would they
    args.work.mkdir(parents=True)
    data = args.work.resolve() / 'data'
    write_pairs(data)
    (data / 'broken').mkdir()
    for file in (data / 'lq').iterdir():
        (data / 'broken' / file.name).write_bytes(file.read_bytes()[:60])  # only the header
    todo = cases(args.only)
    with ThreadPoolExecutor(args.jobs) as pool:
        results = dict(zip(todo, pool.map(lambda case: run(case, args.work.resolve(), data), todo), strict=True))
    for case, (status, seconds) in results.items():
        print(*case, status, f'{seconds:.1f}')
    rows = [['fault', 'model', 'workers started by', *WAYS]]
    for fault in args.only:
        for ours in (False, True):
            for method in ('fork', 'spawn'):
                row = [
                    cell(
                        [
                            result
                            for case, result in results.items()
                            if (case.fault, case.ours, case.method, case.way) == (fault, ours, method, way)
                        ]
                    )
                    for way in WAYS
                ]
                rows.append([fault, 'RAMiTModel' if ours else 'SRModel', method, *row])
    print(markdown(rows))


if __name__ == '__main__':
    main()
