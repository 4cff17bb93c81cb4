"""Working on many images at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ramit_arch.errors import UserError
from ramit_arch.preparation.workers import in_processes, in_threads


def square(value: int) -> int:
    time.sleep(0.001 * (value % 3))
    return value * value


def die(value: int) -> int:
    os._exit(3)


@pytest.mark.parametrize('run', [in_threads, in_processes])
@pytest.mark.parametrize('workers', [1, 2])
def test_results_come_in_order(run, workers: int) -> None:
    assert list(run(square, range(30), workers)) == [i * i for i in range(30)]


def test_no_more_is_begun_than_a_few_ahead() -> None:
    begun = []
    results = in_threads(begun.append, range(1000), 2)
    for _ in range(10):
        next(results)
    assert len(begun) < 20
    results.close()
    assert threading.active_count() < 20


def test_a_worker_that_ends_is_told() -> None:
    with pytest.raises(UserError, match='worker process ended'):
        list(in_processes(die, range(4), 2))


def test_workers_end_with_their_parent_however_it_ends(tmp_path: Path) -> None:
    script = tmp_path / 'script.py'
    script.write_text(
        'import os, sys, time\n'
        'from ramit_arch.preparation.workers import in_processes\n'
        'def work(i):\n'
        '    open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()\n'
        '    time.sleep(60)\n'
        'if __name__ == "__main__":\n'
        '    list(in_processes(work, range(4), 2))\n'
    )
    pids = tmp_path / 'pids'
    pids.mkdir()
    parent = subprocess.Popen([sys.executable, script, pids])
    deadline = time.monotonic() + 60
    while len(list(pids.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [int(file.name) for file in pids.iterdir()]
    assert len(workers) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while any(Path(f'/proc/{pid}').exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended may wait for the process that collects it."""
    try:
        return 'Z' not in Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except FileNotFoundError:
        return False
