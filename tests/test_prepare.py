"""From unpacked archives to stores: layouts, formats, interruptions, and all that may be wrong with the input."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from basicsr.data.paired_image_dataset import PairedImageDataset
from helpers import ROOT, call_basicsr, photograph, write_pairs
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_prep import plan, prepare, workers, writers
from data_prep.bicubic import downscale
from data_prep.catalogue import DataSet, Source, data_sets
from data_prep.plan import Cut
from ramit_arch.data import stores
from ramit_arch.data.stores import LmdbStore, RawStore, open_store

PARTS = [(entry, part) for entry in data_sets() for part in entry.parts]


def put(folder: Path, *names: str, size: tuple[int, int] = (24, 24), seed: int = 0) -> Path:
    """Write images; their suffix decides the format."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), photograph(seed + i, *size))
    return folder


def archive(entry: DataSet, root: Path, count: int = 2) -> Path:
    """A small archive laid out as the authors ship it."""
    for part in entry.parts:
        for number, source in enumerate(part.layouts[0]):
            for folder, start in ((source.hq, 'normal' if source.strip else ''), (source.lq, 'low')):
                if folder:
                    start = start if source.strip else ''
                    first = 1 if source.prefix else 1 + 1000 * number
                    names = (f'{start}{i:04}.png' for i in range(first, first + count))
                    put(root / folder, *names, seed=10 * number)
    return root


def run(*arguments: object, cwd: Path) -> tuple[int, str]:
    result = call_basicsr('prepare', *map(str, arguments), cwd=cwd)
    return result.returncode, result.stdout + result.stderr


def refused(*arguments: object, cwd: Path, to: str = 'data') -> str:
    """The message of a run that must fail and leave no store."""
    code, text = run(*arguments, '--to', to, cwd=cwd)
    assert code == 1, text
    assert 'Traceback' not in text
    finished = [path for path in cwd.rglob('*') if path.is_dir() and path.name in ('HQ', 'HR', 'HQ.lmdb', 'HR.lmdb')]
    assert not [path for path in finished if to in path.relative_to(cwd).parts]
    return text


def contents(path: Path, backend: str) -> dict[str, bytes]:
    store = open_store(str(path), backend)
    return {name: store.pixels(name).tobytes() for name in store.names()}


# ------------------------------------------------------------------------------------ the paper's data sets


def test_counts_are_the_papers() -> None:
    counts = {part.to: part.count for _, part in PARTS}
    assert counts == {
        'DIV2K': 800, 'Flickr2K': 2650, 'BSD500': 400, 'WED': 4744, 'LOL/train': 485, 'LOL/test': 15,
        'VE-LOL/train': 1300, 'VE-LOL-cap': 100, 'Rain13K': 13711, 'Set5': 5, 'Set14': 14, 'BSD100': 100,
        'Urban100': 100, 'Manga109': 109, 'CBSD68': 68, 'Kodak24': 24, 'McMaster': 18, 'Set12': 12, 'BSD68': 68,
        'Test100': 100, 'Rain100H': 100,
    }  # fmt: skip


def test_every_store_that_an_option_file_names_is_made_and_no_other() -> None:
    def roots(section: object) -> Iterator[str]:
        if isinstance(section, dict):
            yield from (value for key, value in section.items() if key.startswith('dataroot'))
        for value in section.values() if isinstance(section, dict) else section if isinstance(section, list) else ():
            yield from roots(value)

    named = {
        root for file in (ROOT / 'options').rglob('*.yml') for root in roots(yaml.safe_load(file.read_text()))
        if 'quickstart' not in root
    }  # fmt: skip
    made = {
        f'datasets/{part.to}/{store}{".lmdb" if part.use == "train" else ""}'
        for _, part in PARTS for store in part.stores
    }  # fmt: skip
    assert named == made


@pytest.mark.parametrize('entry', data_sets(), ids=lambda entry: entry.name)
def test_every_published_layout_is_found_and_written_as_the_option_files_expect(entry: DataSet, tmp_path: Path) -> None:
    archive(entry, tmp_path / 'my downloads' / 'entpackt äöü')
    code, text = run(
        entry.name.lower(), '--from', tmp_path / 'my downloads', '--to', 'datasets', '--any_count', cwd=tmp_path
    )
    assert code == 0, text
    for part in entry.parts:
        for store in part.stores:
            suffix, backend = ('.lmdb', 'lmdb') if part.use == 'train' else ('', 'disk')
            names = open_store(str(tmp_path / 'datasets' / part.to / (store + suffix)), backend).names()
            assert len(names) == 2 * len(part.layouts[0])
            if part.use == 'test' and store.startswith('LRx'):
                assert names[0] == f'0001x{store[-1]}'
    left = [path for path in (tmp_path / 'datasets').rglob('.*') if path.name != '.job']
    assert not left


def test_merged_folders_keep_apart(tmp_path: Path) -> None:
    entry = next(entry for entry in data_sets() if entry.name == 'VE-LOL')
    archive(entry, tmp_path / 'raw')
    assert run('VE-LOL', '--from', 'raw', '--to', 'data', '--any_count', cwd=tmp_path)[0] == 0
    names = open_store(str(tmp_path / 'data/VE-LOL/train/LQ.lmdb'), 'lmdb').names()
    assert names == ['cap_0001', 'cap_0002', 'syn_0001', 'syn_0002']


def test_what_is_laid_out_like_the_result_is_accepted(tmp_path: Path) -> None:
    put(tmp_path / 'raw' / 'Rain100H' / 'HQ', 'a.png')
    put(tmp_path / 'raw' / 'Rain100H' / 'LQ', 'a.png', seed=5)
    assert run('Rain100H', '--from', 'raw', '--to', 'data', '--any_count', cwd=tmp_path)[0] == 0


def test_another_count_is_refused_and_tells_what_is_missing(tmp_path: Path) -> None:
    put(tmp_path / 'Set12', *(f'{i:02}.png' for i in range(1, 13) if i not in (3, 7)))
    text = refused('Set12', '--from', '.', cwd=tmp_path)
    assert '10 images, but Set12 has 12 (missing: 3, 7)' in text
    assert '--any_count' in text


def test_a_missing_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    text = refused('LOL', '--from', '.', cwd=tmp_path)
    assert 'our485/high and our485/low' in text


def test_two_copies_of_a_folder_are_told_apart_by_the_user(tmp_path: Path) -> None:
    for copy in ('a', 'b'):
        put(tmp_path / copy / 'Set12', '01.png')
    text = refused('Set12', '--from', '.', '--any_count', cwd=tmp_path)
    assert 'a/Set12' in text
    assert 'b/Set12' in text


def test_unknown_names_are_answered_with_the_near_one(tmp_path: Path) -> None:
    assert 'did you mean DIV2K?' in refused('DIV2', '--from', '.', cwd=tmp_path)


def test_alone_it_lists_all_data_sets_with_their_archives(tmp_path: Path) -> None:
    code, text = run(cwd=tmp_path)
    assert code == 0
    for entry in data_sets():
        assert entry.name in text
        assert entry.archive in text
        assert entry.cite


# ---------------------------------------------------------------------------------------------- what is stored


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return put(tmp_path / 'photographs', *(f'{i}.png' for i in range(6)), size=(50, 40))


def test_png_files_are_copied_byte_for_byte(photographs: Path, tmp_path: Path) -> None:
    assert run('own', '--from', 'photographs', '--to', 'data', '--format', 'lmdb', 'png', cwd=tmp_path)[0] == 0
    store = LmdbStore(str(tmp_path / 'data/HQ.lmdb'))
    for file in photographs.iterdir():
        assert store.read(file.stem) == file.read_bytes() == (tmp_path / 'data/HQ' / file.name).read_bytes()


@pytest.mark.parametrize('suffix', ['.bmp', '.jpg', '.tif', '.PNG'])
def test_other_formats_keep_their_pixels(suffix: str, tmp_path: Path) -> None:
    folder = put(tmp_path / 'in', f'a{suffix}')
    assert run('own', '--from', 'in', '--to', 'data', cwd=tmp_path)[0] == 0
    data = LmdbStore(str(tmp_path / 'data/HQ.lmdb')).read('a')
    assert data.startswith(b'\x89PNG')
    assert (cv2.imdecode(np.frombuffer(data, np.uint8), -1) == cv2.imread(str(folder / f'a{suffix}'))).all()


def test_gray_stays_gray(tmp_path: Path) -> None:
    (tmp_path / 'in').mkdir()
    cv2.imwrite(str(tmp_path / 'in' / 'a.bmp'), photograph(1, 20, 21)[..., 0])
    assert run('own', '--from', 'in', '--to', 'data', '--format', 'lmdb', 'raw', cwd=tmp_path)[0] == 0
    assert (tmp_path / 'data/HQ.lmdb/meta_info.txt').read_text() == 'a.png (20,21,1) 1\n'
    assert (tmp_path / 'data/HQ.raw/meta_info.txt').read_text() == 'a.png (20,21,1) uint8 0\n'


def test_low_resolution_images_are_bicubic_of_all_clean_ones(photographs: Path, tmp_path: Path) -> None:
    run('own', '--from', 'photographs', '--to', 'data', '--scale', 2, 3, '--format', 'png', 'lmdb', 'raw', cwd=tmp_path)
    for file in photographs.iterdir():
        for scale in (2, 3):
            expected = downscale(cv2.imread(str(file)), scale)
            folder = tmp_path / 'data' / f'LRx{scale}'
            assert (cv2.imread(str(folder / f'{file.stem}x{scale}.png')) == expected).all()
            assert (open_store(f'{folder}.lmdb', 'lmdb').pixels(file.stem) == expected).all()
            assert (open_store(f'{folder}.raw', 'raw').pixels(file.stem) == expected).all()


def test_basicsr_reads_the_lmdbs(photographs: Path, tmp_path: Path) -> None:
    run('own', '--from', 'photographs', '--to', 'data', '--scale', 2, cwd=tmp_path)
    roots = {'dataroot_gt': str(tmp_path / 'data/HR.lmdb'), 'dataroot_lq': str(tmp_path / 'data/LRx2.lmdb')}
    dataset = PairedImageDataset({**roots, 'io_backend': {'type': 'lmdb'}, 'scale': 2, 'phase': 'val'})
    assert len(dataset) == 6
    for i in range(6):
        item = dataset[i]
        gt = (item['gt'].numpy() * 255).round().transpose(1, 2, 0)[..., ::-1]
        assert (gt == cv2.imread(str(photographs / f'{item["gt_path"]}.png'))).all()
        assert item['lq'].shape == (3, 25, 20)


def test_own_pairs_with_a_scale_in_their_names(tmp_path: Path) -> None:
    gt, lq = write_pairs(tmp_path / 'in')
    for path in list(lq.iterdir()):
        path.rename(path.with_stem(f'{path.stem}x2'))
    assert run('own', '--from', gt, '--lq', lq, '--scale', 2, '--to', 'data', cwd=tmp_path)[0] == 0
    hr, lr = (open_store(str(tmp_path / 'data' / name), 'lmdb') for name in ('HR.lmdb', 'LRx2.lmdb'))
    assert hr.names() == lr.names() == ['0', '1', '2']


def test_the_map_grows_as_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, 'FIRST_MAP', 2**16)
    noise = np.random.default_rng(0).integers(0, 256, (4, 200, 200, 3), dtype=np.uint8)
    (tmp_path / 'in').mkdir()
    for i, image in enumerate(noise):
        cv2.imwrite(str(tmp_path / 'in' / f'{i}.png'), image)
    assert run('own', '--from', 'in', '--to', 'data', cwd=tmp_path)[0] == 0
    assert list(contents(tmp_path / 'data/HQ.lmdb', 'lmdb').values()) == [image.tobytes() for image in noise]


@pytest.mark.parametrize('format_', ['lmdb', 'raw', 'png'])
@pytest.mark.parametrize('scale', [2, 3])
def test_subimages_of_a_pair_stay_aligned(format_: str, scale: int, tmp_path: Path) -> None:
    put(tmp_path / 'in', 'a.png', size=(53, 67))
    arguments = ('--scale', scale, '--subimages', 24, 12, 0, '--format', format_)
    assert run('own', '--from', 'in', '--to', 'data', *arguments, cwd=tmp_path)[0] == 0
    whole = cv2.imread(str(tmp_path / 'in/a.png'))
    suffix, backend = ('', 'disk') if format_ == 'png' else (f'.{format_}', format_)
    hr, lr = (open_store(str(tmp_path / 'data' / f'{name}{suffix}'), backend) for name in ('HR', f'LRx{scale}'))
    small = downscale(whole, scale)
    assert len(hr.names()) == len(lr.names()) > 6
    for name, low in zip(hr.names(), lr.names(), strict=True):
        places = np.argwhere((np.lib.stride_tricks.sliding_window_view(small, (24 // scale, 24 // scale, 3))[:, :, 0]
                              == lr.pixels(low)).all((2, 3, 4)))  # fmt: skip
        assert any(
            (whole[y * scale : y * scale + 24, x * scale : x * scale + 24] == hr.pixels(name)).all() for y, x in places
        )


@given(st.integers(1, 200), st.integers(1, 60), st.integers(1, 60), st.integers(0, 60))
def test_subimages_begin_where_basicsr_cuts(length: int, size: int, step: int, threshold: int) -> None:
    if length < size:
        assert Cut(size, step, threshold).starts(length) == []
        return
    theirs = np.arange(0, length - size + 1, step)
    if length - (theirs[-1] + size) > threshold:
        theirs = np.append(theirs, length - size)
    assert Cut(size, step, threshold).starts(length) == theirs.tolist()


def test_subimages_larger_than_an_image_or_off_the_grid_are_refused(photographs: Path, tmp_path: Path) -> None:
    own = ('own', '--from', 'photographs', '--scale', 2, '--subimages')
    assert 'smaller than sub-images of 48' in refused(*own, 48, 24, 0, cwd=tmp_path)
    assert 'multiples of 2' in refused(*own, 15, 24, 0, cwd=tmp_path)
    assert 'from 1 up' in refused(*own, 16, 0, 0, cwd=tmp_path)


# -------------------------------------------------------------------------- again, at once, interrupted, killed


def test_a_second_run_does_nothing_and_other_options_are_not_ignored(photographs: Path, tmp_path: Path) -> None:
    own = ('own', '--from', 'photographs', '--to', 'data')
    run(*own, cwd=tmp_path)
    before = (tmp_path / 'data/HQ.lmdb/data.mdb').stat().st_mtime_ns
    code, text = run(*own, cwd=tmp_path)
    assert code == 0
    assert 'HQ.lmdb: is there already' in text
    assert (tmp_path / 'data/HQ.lmdb/data.mdb').stat().st_mtime_ns == before
    code, text = run(*own, '--subimages', 16, 16, 0, cwd=tmp_path)
    assert code == 1
    assert 'HQ.lmdb: is there already, but not of these files with these options; remove it' in text
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
            pytest.skip('may not mount a file system here')
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
    assert 'the disk is full; make room and run the same command again' in text
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


# ------------------------------------------------------------------------------------------------- bad input


def truncated_png(file: Path) -> None:
    cv2.imwrite(str(file), photograph(1, 40, 40))
    file.write_bytes(file.read_bytes()[:-30])


def damaged_png(file: Path) -> None:
    cv2.imwrite(str(file), photograph(1, 40, 40))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncated(file: Path) -> None:
    cv2.imwrite(str(file), np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    file.write_bytes(file.read_bytes()[:-200])


def saved(mode: str) -> Callable[[Path], None]:
    def save(file: Path) -> None:
        gray = Image.fromarray(photograph(1, 40, 40)[..., 0])
        image = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257) if mode == 'I;16' else gray.convert(mode)
        image.save(file)

    return save


@pytest.mark.parametrize(
    ('name', 'make', 'words'),
    [
        ('b.png', truncated_png, ['cut short', 'copy it again']),
        ('b.png', damaged_png, ['damaged', 'copy it again']),
        ('b.jpg', truncated, ['cut short', 'copy it again']),
        ('b.bmp', truncated, ['damaged', 'copy it again']),
        ('b.png', Path.touch, ['is empty', 'copy it again']),
        ('b.png', lambda file: file.write_text('<html>not found</html>'), ['not an image', 'copy it again']),
        ('b.png', lambda file: file.write_bytes(b'\x89PNG\r\n\x1a\n' + bytes(60)), ['not a PNG', 'copy it again']),
        ('b.jpg', saved('CMYK'), ['CMYK', '--convert']),
        ('b.png', saved('I;16'), ['16-bit gray', '--convert']),
        ('b.png', saved('P'), ['palette', '--convert']),
        ('b.png', saved('RGBA'), ['alpha', '--convert']),
        ('b.png', saved('LA'), ['gray with alpha', '--convert']),
        ('b.png', saved('1'), ['1-bit', '--convert']),
        ('a.jpg', lambda file: cv2.imwrite(str(file), photograph(1, 40, 40)), ['has the name of', 'rename']),
        ('A.png', lambda file: cv2.imwrite(str(file), photograph(1, 40, 40)), ['has the name of', 'rename']),
        ('Bäume.png', lambda file: cv2.imwrite(str(file), photograph(1, 40, 40)), ['ASCII', 'rename', '--format raw']),
        ('b.c.png', lambda file: cv2.imwrite(str(file), photograph(1, 40, 40)), ['without dots', 'rename']),
        ('b.png', lambda file: file.symlink_to(file), ['symbolic links']),
        ('b.png', lambda file: file.symlink_to('nowhere'), ['No such file']),
        ('b.png', Path.mkdir, ['Is a directory']),
        ('b.png', lambda file: cv2.imwrite(str(file), photograph(1, 1, 40)), ['too small for scale 2']),
    ],
)
def test_a_bad_file_is_named_with_the_remedy_and_nothing_is_half_written(
    name: str, make: Callable[[Path], object], words: list[str], tmp_path: Path
) -> None:
    folder = put(tmp_path / 'in', 'a.png', size=(40, 40))
    make(folder / name)
    text = refused('own', '--from', 'in', '--scale', 2, cwd=tmp_path)
    for word in [name, 'in/', *words]:
        assert word in text


@pytest.mark.parametrize(('name', 'mode'), [('b.jpg', 'CMYK'), ('b.png', 'I;16'), ('b.png', 'P'), ('b.png', 'RGBA'),
                                            ('b.png', 'LA'), ('b.png', '1')])  # fmt: skip
def test_convert_accepts_what_can_be_converted(name: str, mode: str, tmp_path: Path) -> None:
    (tmp_path / 'in').mkdir()
    saved(mode)(tmp_path / 'in' / name)
    own = ('own', '--from', 'in', '--to', 'data', '--convert', '--format', 'lmdb', 'raw')
    assert run(*own, cwd=tmp_path)[0] == 0
    stored, raw = (contents(tmp_path / f'data/HQ.{kind}', kind)['b'] for kind in ('lmdb', 'raw'))
    assert stored == raw
    if mode in ('P', 'RGBA', 'LA', 'I;16'):
        image = np.frombuffer(stored, np.uint8).reshape(40, 40, -1)
        expected = photograph(1, 40, 40)[..., :1].astype(int)
        assert np.abs(image - expected).max() <= (0 if mode != 'P' else 8)


def test_all_bad_files_are_named_at_once(tmp_path: Path) -> None:
    folder = put(tmp_path / 'in', 'a.png')
    for name in ('b.png', 'c.png', 'd.png'):
        (folder / name).touch()
        truncated_png(folder / f'cut_{name}')
    text = refused('own', '--from', 'in', cwd=tmp_path)
    assert all(f'in/{name}.png: is empty' in text for name in 'bcd')
    for name in 'bcd':
        (folder / f'{name}.png').unlink()
    text = refused('own', '--from', 'in', cwd=tmp_path)
    assert all(f'in/cut_{name}.png: is cut short' in text for name in 'bcd')
    for name in 'bcd':
        (folder / f'cut_{name}.png').unlink()
    assert run('own', '--from', 'in', '--to', 'data', cwd=tmp_path)[0] == 0


def test_pairs_that_do_not_fit_are_named_at_once(tmp_path: Path) -> None:
    gt, lq = write_pairs(tmp_path / 'in', scale=1)
    cv2.imwrite(str(lq / '0.png'), photograph(0, 9, 9))
    cv2.imwrite(str(lq / '1.png'), photograph(0, 9, 9))
    text = refused('own', '--from', gt, '--lq', lq, cwd=tmp_path)
    assert '2 problems' in text
    assert '9x9, which does not fit' in text
    (lq / '2.png').unlink()
    assert f'{gt}/2.png: no low-quality partner' in refused('own', '--from', gt, '--lq', lq, cwd=tmp_path)


def test_partners_may_differ_in_case_and_suffix(tmp_path: Path) -> None:
    put(tmp_path / 'hq', 'Tree 1.png')
    put(tmp_path / 'lq', 'tree 1.BMP')
    assert run('own', '--from', 'hq', '--lq', 'lq', '--to', 'data', cwd=tmp_path)[0] == 0
    for name in ('HQ', 'LQ'):
        assert open_store(str(tmp_path / f'data/{name}.lmdb'), 'lmdb').names() == ['Tree 1']


def test_a_folder_that_links_to_itself(tmp_path: Path) -> None:
    put(tmp_path / 'raw' / 'Set12', '01.png')
    (tmp_path / 'raw' / 'Set12' / 'loop').symlink_to(tmp_path / 'raw')
    assert run('Set12', '--from', 'raw', '--to', 'data', '--any_count', cwd=tmp_path)[0] == 0


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    put(tmp_path / 'elsewhere' / 'Set12', '01.png')
    (tmp_path / 'raw').mkdir()
    (tmp_path / 'raw' / 'link').symlink_to(tmp_path / 'elsewhere')
    assert run('Set12', '--from', 'raw', '--to', 'data', '--any_count', cwd=tmp_path)[0] == 0


def test_a_link_may_have_the_name_that_is_looked_for(tmp_path: Path) -> None:
    put(tmp_path / 'elsewhere' / 'xyz', '01.png')
    (tmp_path / 'raw').mkdir()
    (tmp_path / 'raw' / 'Set12').symlink_to(tmp_path / 'elsewhere' / 'xyz')
    assert run('Set12', '--from', 'raw', '--to', 'data', '--any_count', cwd=tmp_path)[0] == 0


def test_names_that_cannot_be_stored_are_refused(photographs: Path, tmp_path: Path) -> None:
    (photographs / '0.png').rename(photographs / 'a\nb.png')
    assert 'a name that cannot be stored; rename it' in refused('own', '--from', 'photographs', cwd=tmp_path)


def test_problems_of_several_data_sets_are_told_at_once(tmp_path: Path) -> None:
    put(tmp_path / 'Set12', '01.png')
    put(tmp_path / 'BSD68', '01.png')
    text = refused('Set12', 'BSD68', 'Set5', '--from', '.', cwd=tmp_path)
    assert 'Set12 has 12' in text
    assert 'BSD68 has 68' in text
    assert 'the folders of Set5 are not below it' in text


def test_a_dry_run_tells_of_a_store_that_is_in_the_way(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / 'data/HQ.lmdb').mkdir(parents=True)
    code, text = run('own', '--from', 'photographs', '--to', 'data', '--dry_run', cwd=tmp_path)
    assert code == 1
    assert 'HQ.lmdb: is there already, but not of these files' in text


def test_repeated_options_add_up(photographs: Path, tmp_path: Path) -> None:
    own = ('own', '--from', 'photographs', '--to', 'data', '--scale', 2, '--scale', 3)
    assert run(*own, '--format', 'raw', '--format', 'lmdb', cwd=tmp_path)[0] == 0
    names = {path.name for path in (tmp_path / 'data').iterdir()}
    assert names == {f'{name}.{format_}' for name in ('HR', 'LRx2', 'LRx3') for format_ in ('lmdb', 'raw')}


def test_paths_that_are_files(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    assert 'is a file' in refused('own', '--from', 'file', cwd=tmp_path)
    assert 'is a file; unpack it' in refused('Set5', '--from', 'file', cwd=tmp_path)
    text = refused('own', '--from', 'photographs', cwd=tmp_path, to='file')
    assert 'file' in text
    assert 'choose another --to' in text


@pytest.mark.parametrize(
    ('arguments', 'word'),
    [
        (['--from', 'photographs'], 'which data set?'),
        (['Set5'], '--from is missing'),
        (['Set5', '--from', 'photographs'], '--to is missing'),
        (['Rain100H', '--from', 'photographs', '--to', 'data', '--scale', '2'], 'has no low-resolution images'),
        (['Set5', '--from', 'photographs', '--to', 'data', '--lq', 'photographs'], '--lq is for own'),
        (['own', 'Set5', '--from', 'photographs', '--to', 'data'], 'another run'),
        (['own', '--from', 'nowhere', '--to', 'data'], 'no such folder'),
    ],
)
def test_wrong_command_lines(arguments: list[str], word: str, photographs: Path, tmp_path: Path) -> None:
    code, text = run(*arguments, cwd=tmp_path)
    assert code == 1
    assert word in text


# --------------------------------------------------------------------------------------- progress, and as files


def test_a_log_gets_plain_lines_with_rate_and_time_left(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, 'LINE_EVERY', 0)
    _, text = run('own', '--from', 'photographs', '--to', 'data', cwd=tmp_path)
    lines = [line for line in text.splitlines() if 'of 6 images' in line]
    assert len(lines) >= 6
    assert '/s, ' in lines[2]
    assert 's left' in lines[2]
    assert '\r' not in text


@pytest.mark.parametrize('script', ['prepare', 'verify', 'image_statistics'])
def test_scripts_run_as_files(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / 'data_prep' / f'{script}.py'), '--help']
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0
    assert 'usage: basicsr' in result.stdout


def test_a_source_names_its_images() -> None:
    source = Source('a', 'b', prefix='cap_', strip='^(low|normal)')
    assert [source.key(Path(name)) for name in ('low01.png', 'normal01.png')] == ['cap_01', 'cap_01']


def test_raw_store_needs_all_its_pixels(photographs: Path, tmp_path: Path) -> None:
    run('own', '--from', 'photographs', '--to', 'data', '--format', 'raw', cwd=tmp_path)
    pixels = tmp_path / 'data/HQ.raw' / RawStore.PIXELS
    os.truncate(pixels, pixels.stat().st_size - 1)
    with pytest.raises(Exception, match='shorter than its contents'):
        RawStore(str(tmp_path / 'data/HQ.raw'))
