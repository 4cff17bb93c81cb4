"""From unpacked archives to stores: the published layouts, what is stored, and how it is told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from basicsr.data.paired_image_dataset import PairedImageDataset
from helpers import ROOT, photograph, write_pairs
from hypothesis import given
from hypothesis import strategies as st
from preparing import SPECIAL, archive, contents, put, refused, run

from ramit_arch.data.stores import LmdbStore, RawStore, open_store
from ramit_arch.preparation import workers, writers
from ramit_arch.preparation.bicubic import downscale
from ramit_arch.preparation.catalogue import DataSet, Source, data_sets
from ramit_arch.preparation.plan import Cut

PARTS = [(entry, part) for entry in data_sets() for part in entry.parts]


# ------------------------------------------------------------------------------------ the paper's datasets


def test_counts_are_the_published_ones() -> None:
    counts = {part.to: part.count for _, part in PARTS}
    assert counts == {
        'DIV2K': 800, 'Flickr2K': 2650, 'BSD500': 400, 'WED': 4744, 'LOL/train': 485, 'LOL/test': 15,
        'VE-LOL/train': 1300, 'VE-LOL-cap': 100, 'Rain13K': 13711, 'Set5': 5, 'Set14': 14, 'BSD100': 100,
        'Urban100': 100, 'Manga109': 109, 'CBSD68': 68, 'Kodak24': 24, 'McMaster': 18, 'Set12': 12, 'BSD68': 68,
        'Test100': 100, 'Rain100H': 100,
        'Rain100L': 100, 'Test1200': 1200, 'Test2800': 2800, 'GoPro/train': 2103, 'GoPro/test': 1111, 'HIDE': 2025,
        'ITS': 13990, 'SOTS-indoor': 500, 'SOTS-outdoor': 500, 'SIDD/train': 320, 'SIDD/test': 1280,
    }  # fmt: skip


def test_every_store_that_an_option_file_names_is_made_and_no_other() -> None:
    def roots(section: object) -> Iterator[str]:
        if isinstance(section, dict):
            yield from (value for key, value in section.items() if key.startswith('dataroot'))
        for value in section.values() if isinstance(section, dict) else section if isinstance(section, list) else ():
            yield from roots(value)

    named = {
        root for file in (ROOT / 'options').rglob('*.yml') for root in roots(yaml.safe_load(file.read_text()))
        if root and not root.startswith(('datasets/quickstart', 'datasets/photographs'))
    }  # fmt: skip
    made = {
        f'datasets/{part.to}/{store}{".lmdb" if part.use == "train" else ""}'
        for _, part in PARTS for store in part.stores if part.to not in ('Rain100L', 'Test1200', 'Test2800')
    }  # fmt: skip
    assert named == made


@pytest.mark.parametrize(
    'entry', [entry for entry in data_sets() if entry.name not in SPECIAL], ids=lambda entry: entry.name
)
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
