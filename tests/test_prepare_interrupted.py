"""Runs of `basicsr prepare` that are repeated, at once, stopped, killed, or out of disk."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from preparing import contents, put, refused, run

from ramit_arch.data import stores
from ramit_arch.data.stores import LmdbStore
from ramit_arch.preparation import plan, prepare, writers

# -------------------------------------------------------------------------- again, at once, interrupted, killed


def test_a_second_run_does_nothing_and_other_options_are_not_ignored(photographs: Path, tmp_path: Path) -> None:
    own = ('own', '--from', 'photographs', '--to', 'data')
    run(*own, cwd=tmp_path)
    before = (tmp_path / 'data/HQ.lmdb/data.mdb').stat().st_mtime_ns
    code, text = run(*own, cwd=tmp_path)
    assert code == 0
    assert 'HQ.lmdb: exists already' in text
    assert (tmp_path / 'data/HQ.lmdb/data.mdb').stat().st_mtime_ns == before
    code, text = run(*own, '--subimages', 16, 16, 0, cwd=tmp_path)
    assert code == 1
    assert 'HQ.lmdb: exists already, but not of these files with these options; remove it' in text
    (photographs / '5.png').unlink()
    assert run(*own, cwd=tmp_path)[0] == 1


def test_other_pixels_in_files_of_the_same_name_and_size_are_other_files(tmp_path: Path) -> None:
    put(tmp_path / 'a', '0.bmp')
    time.sleep(0.01)
    put(tmp_path / 'b', '0.bmp', seed=5)
    assert run('own', '--from', 'a', '--to', 'data', cwd=tmp_path)[0] == 0
    code, text = run('own', '--from', 'b', '--to', 'data', cwd=tmp_path)
    assert code == 1
    assert 'but not of these files' in text


@pytest.mark.parametrize('format_', ['lmdb', 'raw', 'png'])
def test_after_a_damaged_file_is_mended_it_goes_on(
    format_: str, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (photographs / '5.png').read_bytes()
    (photographs / '5.png').write_bytes(whole[:-30])
    own = ('own', '--from', 'photographs', '--to', 'data', '--format', format_)
    assert run(*own, cwd=tmp_path)[0] == 1
    (photographs / '5.png').write_bytes(whole)
    made = []
    original = prepare._produce
    monkeypatch.setattr(prepare, '_produce', lambda one, task: (made.append(task[0].key), original(one, task))[1])
    assert run(*own, cwd=tmp_path)[0] == 0
    assert made == ['5']


def test_a_file_that_changed_after_it_was_stored_begins_anew(photographs: Path, tmp_path: Path) -> None:
    whole = (photographs / '5.png').read_bytes()
    (photographs / '5.png').write_bytes(whole[:-30])
    own = ('own', '--from', 'photographs', '--to', 'data')
    assert run(*own, cwd=tmp_path)[0] == 1
    (photographs / '5.png').write_bytes(whole)
    put(photographs, '0.png', size=(30, 30), seed=40)
    assert run(*own, cwd=tmp_path)[0] == 0
    assert LmdbStore(str(tmp_path / 'data/HQ.lmdb')).read('0') == (photographs / '0.png').read_bytes()


def test_the_lock_of_a_run_killed_after_its_last_step_is_removed(photographs: Path, tmp_path: Path) -> None:
    own = ('own', '--from', 'photographs', '--to', 'data')
    assert run(*own, cwd=tmp_path)[0] == 0
    (tmp_path / 'data/.HQ.lmdb.lock').touch()
    assert run(*own, cwd=tmp_path)[0] == 0
    assert [path.name for path in (tmp_path / 'data').iterdir()] == ['HQ.lmdb']


def test_a_store_made_by_something_else_is_left_alone(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / 'data/HQ.lmdb').mkdir(parents=True)
    code, text = run('own', '--from', 'photographs', '--to', 'data', cwd=tmp_path)
    assert code == 1
    assert 'remove it or choose another --to' in text
    assert list((tmp_path / 'data/HQ.lmdb').iterdir()) == []


def test_two_runs_on_one_target_the_second_stops(photographs: Path, tmp_path: Path) -> None:
    with writers.LmdbWriter(tmp_path / 'data/HQ.lmdb', writers.Job('job')):
        code, text = run('own', '--from', 'photographs', '--to', 'data', cwd=tmp_path)
        assert code == 1
        assert 'another run is writing it' in text
    assert run('own', '--from', 'photographs', '--to', 'data', cwd=tmp_path)[0] == 0


@pytest.mark.parametrize('format_', ['lmdb', 'raw', 'png'])
def test_a_stopped_run_goes_on(
    format_: str, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, 'BATCH_BYTES', 0)
    made: list[str] = []

    def stop_at(number: int) -> Callable:
        def produce(*arguments):
            made.append(arguments[1][0].key)
            if len(made) == number:
                raise KeyboardInterrupt
            return original(*arguments)

        return produce

    original = prepare._produce
    own = ('own', '--from', 'photographs', '--to', 'data', '--format', format_, '--workers', 1)
    monkeypatch.setattr(prepare, '_produce', stop_at(5))
    code, _ = run(*own, cwd=tmp_path)
    assert code == 130
    assert not [path for path in (tmp_path / 'data').iterdir() if not path.name.startswith('.')]
    first = list(made)
    made.clear()
    monkeypatch.setattr(prepare, '_produce', stop_at(100))
    assert run(*own, cwd=tmp_path)[0] == 0
    assert first[:2] == ['0', '1']
    assert '0' not in made  # what was stored is not made again
    assert made[-1] == '5'
    target = tmp_path / 'data' / f'HQ{prepare.WRITERS[format_].suffix}'
    assert len(contents(target, 'disk' if format_ == 'png' else format_)) == 6


def test_an_unfinished_store_of_other_files_is_begun_anew(photographs: Path, tmp_path: Path) -> None:
    with writers.LmdbWriter(tmp_path / 'data/HQ.lmdb', writers.Job('another job')) as writer:
        writer.put([writers.Record('stranger', (1, 1, 3), (photographs / '0.png').read_bytes())])
    assert run('own', '--from', 'photographs', '--to', 'data', cwd=tmp_path)[0] == 0
    assert 'stranger' not in contents(tmp_path / 'data/HQ.lmdb', 'lmdb')


def test_killed_at_twenty_moments_nothing_looks_finished_and_the_next_run_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, 'BATCH_BYTES', 20_000)
    put(tmp_path / 'in', *(f'{i:02}.png' for i in range(40)), size=(64, 64))
    formats = {'HR.lmdb': 'lmdb', 'LRx2.lmdb': 'lmdb', 'HR.raw': 'raw', 'LRx2.raw': 'raw', 'HR': 'disk', 'LRx2': 'disk'}

    def make(target: Path) -> int:
        own = ('own', '--from', 'in', '--to', target, '--scale', 2, '--format', 'lmdb', 'raw', 'png', '--workers', 2)
        return run(*own, cwd=tmp_path)[0]

    start = time.perf_counter()
    assert make(tmp_path / 'whole') == 0
    duration = time.perf_counter() - start
    whole = {name: contents(tmp_path / 'whole' / name, backend) for name, backend in formats.items()}
    interrupted = 0
    for moment in range(20):
        target = tmp_path / f'killed_{moment}'
        child = multiprocessing.get_context('fork').Process(target=lambda target=target: os._exit(make(target)))
        child.start()
        time.sleep(duration * (moment + 0.5) / 20)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        for name, backend in formats.items():
            if (target / name).exists():
                assert contents(target / name, backend) == whole[name]
            else:
                interrupted += 1
        assert make(target) == 0
        for name, backend in formats.items():
            assert contents(target / name, backend) == whole[name]
        assert not [path for path in target.iterdir() if path.name.startswith('.')]
    assert interrupted > 20  # the kills did hit


# ------------------------------------------------------------------------------------------------- the disk


def test_a_dry_run_tells_the_size_and_writes_nothing(photographs: Path, tmp_path: Path) -> None:
    code, text = run('own', '--from', 'photographs', '--to', 'data', '--scale', 2, '--dry_run', cwd=tmp_path)
    assert code == 0
    assert 'data/LRx2.lmdb' in text
    assert 'bicubic x2' in text
    assert 'MiB' in text
    assert not (tmp_path / 'data').exists()


@pytest.mark.parametrize('format_', ['lmdb', 'raw', 'png'])
def test_the_report_is_near_the_truth(format_: str, tmp_path: Path) -> None:
    put(tmp_path / 'in', *(f'{i}.png' for i in range(20)), size=(300, 300))
    entries = plan.plan_own(tmp_path / 'in', None, tmp_path / 'data', plan.Options(formats=(format_,)))
    run('own', '--from', 'in', '--to', 'data', '--format', format_, cwd=tmp_path)
    (store,) = entries[0].stores
    taken = sum(file.stat().st_blocks * 512 for file in store.target.iterdir())
    assert 0.9 * taken < entries[0].bytes(store) < 1.3 * taken


def test_a_disk_too_small_stops_before_the_work(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, '_free', lambda target: 10)
    text = refused('own', '--from', 'photographs', cwd=tmp_path)
    assert 'the disk is too small by about' in text
    assert not (tmp_path / 'data').exists()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a small file system; skips where that is not allowed."""
    mounts = []

    def mount(options: str) -> Path:
        folder = tmp_path / 'mounted'
        folder.mkdir()
        done = subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'none', folder], capture_output=True, check=False)
        if done.returncode:
            pytest.skip('needs root, to mount a file system')
        mounts.append(folder)
        return folder

    yield mount
    stores._environment.cache_clear()
    stores._mapped.cache_clear()
    for folder in mounts:
        subprocess.run(['umount', folder], check=True)


@pytest.mark.parametrize('formats', [['lmdb'], ['raw'], ['png'], ['png', 'lmdb', 'raw']], ids='+'.join)
def test_a_disk_that_fills_up_says_so_and_the_next_run_goes_on(
    formats: list[str], tmp_path: Path, mounted: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mounted('size=1m')
    noise = np.random.default_rng(0).integers(0, 256, (8, 250, 250, 3), dtype=np.uint8)
    (tmp_path / 'in').mkdir()
    for i, image in enumerate(noise):
        cv2.imwrite(str(tmp_path / 'in' / f'{i}.png'), image)
    monkeypatch.setattr(writers, 'BATCH_BYTES', 100_000)
    own = ('own', '--from', 'in', '--to', disk / 'data', '--format', *formats)
    code, text = run(*own, cwd=tmp_path)
    assert code == 1
    assert 'the disk is too small' in text
    monkeypatch.setattr(plan, '_free', lambda target: 2**40)
    code, text = run(*own, cwd=tmp_path)
    assert code == 1
    assert 'the disk is full; free space and run the same command again' in text
    targets = {format_: disk / 'data' / f'HQ{writers.WRITERS[format_].suffix}' for format_ in formats}
    assert not any(target.exists() for target in targets.values())
    subprocess.run(['mount', '-o', 'remount,size=16m', disk], check=True)
    assert run(*own, cwd=tmp_path)[0] == 0
    for format_, target in targets.items():
        assert len(contents(target, 'disk' if format_ == 'png' else format_)) == 8


def test_a_read_only_target(photographs: Path, tmp_path: Path, mounted: Callable[[str], Path]) -> None:
    code, text = run('own', '--from', 'photographs', '--to', mounted('ro,size=1m') / 'data', cwd=tmp_path)
    assert code == 1
    assert 'Read-only file system' in text
    assert 'choose another --to' in text
