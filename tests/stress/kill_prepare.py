"""Kill `basicsr prepare` at twenty moments of its writing, look at what is left, and run it again.

    python tests/stress/kill_prepare.py --images DIR --work DIR

DIR holds PNG photographs; they are packed as LMDB, raw store and folder, with LR images x2. A kill is SIGKILL, in the
middle of writing by the clock of a run that was not killed.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from ramit_arch.data.stores import open_store
from ramit_arch.evaluation.text import aligned
from ramit_arch.preparation.writers import WRITERS

BASICSR = Path(sys.executable).with_name('basicsr')
STORES = [(name, format_) for name in ('HR', 'LRx2') for format_ in WRITERS]
MOMENTS = 20


def path(target: Path, name: str, format_: str) -> Path:
    return target / f'{name}{WRITERS[format_].suffix}'


def contents(target: Path, name: str, format_: str) -> dict[str, bytes]:
    store = open_store(str(path(target, name, format_)), 'disk' if format_ == 'png' else format_)
    return {image.removesuffix('x2'): store.pixels(image).tobytes() for image in store.names()}


def start(images: Path, target: Path) -> subprocess.Popen[bytes]:
    """Begin a run and wait until it writes."""
    arguments = ['own', '--from', images, '--to', target, '--scale', '2', '--format', *WRITERS]
    process = subprocess.Popen([BASICSR, 'prepare', *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(target.glob('.*.unfinished')) and process.poll() is None:
        time.sleep(0.001)
    return process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--images', type=Path, required=True)
    parser.add_argument('--work', type=Path, required=True, help='folder to create')
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    process = start(args.images, args.work / 'whole')
    begun = time.perf_counter()
    while not all(path(args.work / 'whole', *store).exists() for store in STORES):
        if process.poll():
            sys.exit('the run that is not killed failed')
        time.sleep(0.001)
    duration = time.perf_counter() - begun
    process.wait()
    whole = {store: contents(args.work / 'whole', *store) for store in STORES}

    rows = [['killed after', 'finished stores', 'all whole', 'unfinished', 'after the next run']]
    for moment in range(MOMENTS):
        target = args.work / 'killed'
        shutil.rmtree(target, ignore_errors=True)
        process = start(args.images, target)
        after = duration * (moment + 0.5) / MOMENTS
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished = [store for store in STORES if path(target, *store).exists()]
        sound = all(contents(target, *store) == whole[store] for store in finished)
        unfinished = len(list(target.glob('.*.unfinished')))
        code = start(args.images, target).wait()
        complete = code == 0 and all(contents(target, *store) == whole[store] for store in STORES)
        left = [file for file in target.iterdir() if file.name.startswith('.')]
        state = 'complete, the same pixels' if complete and not left else 'WRONG'
        rows.append([f'{after:.2f} s', f'{len(finished)} of 6', 'yes' if sound else 'NO', str(unfinished), state])
        if not sound or not complete or left:
            print(aligned(rows))
            sys.exit(1)
    print(f'{len(whole["HR", "lmdb"])} images, {duration:.2f} s of writing when not killed')
    print(aligned(rows))


if __name__ == '__main__':
    main()
