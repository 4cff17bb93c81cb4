"""Everything that `basicsr verify` must find, and the statistics of a set."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from helpers import TINY_NETWORK, call_basicsr, write_pairs
from hypothesis import given
from hypothesis import strategies as st

from ramit_arch import RAMiT
from ramit_arch.data.stores import open_store
from ramit_arch.preparation import image_statistics
from ramit_arch.preparation.bicubic import downscale

NAMES = ('baby', 'bird', 'butterfly', 'head', 'woman')


def run(verb: str, *arguments: object, cwd: Path) -> tuple[int, str]:
    result = call_basicsr(verb, *map(str, arguments), cwd=cwd)
    return result.returncode, result.stdout + result.stderr


def picture(seed: int, height: int = 60, width: int = 72) -> np.ndarray:
    """An image with details of its own."""
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def write(folder: Path, *names: str, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), picture(seed + i))


@pytest.fixture
def set5(tmp_path: Path) -> Path:
    """A prepared dataset."""
    write(tmp_path / 'raw/Set5', *(f'{name}.png' for name in NAMES))
    assert run('prepare', 'Set5', '--from', 'raw', '--to', 'data', cwd=tmp_path)[0] == 0
    return tmp_path / 'data/Set5'


def problems(*arguments: object, cwd: Path) -> list[str]:
    code, text = run('verify', *(arguments or ('data',)), cwd=cwd)
    assert code == 1, text
    assert 'Traceback' not in text
    return [line.strip() for line in text.partition('error: ')[2].splitlines()[1:]]


def test_sound_data_has_no_problems_and_its_checksums_are_written_once(set5: Path, tmp_path: Path) -> None:
    code, text = run('verify', 'data', cwd=tmp_path)
    assert code == 0
    assert text.count('written') == 4
    assert 'no problems' in text
    lines = (set5 / 'HR.checksums.txt').read_text().splitlines()
    assert [line.split('  ')[1] for line in lines] == list(NAMES)
    assert (set5 / 'LRx2.checksums.txt').exists()
    code, text = run('verify', 'data', '--only', 'set5', cwd=tmp_path)
    assert code == 0
    assert text.count('as before') == 4


def test_a_changed_pixel_is_found_later(set5: Path, tmp_path: Path) -> None:
    run('verify', 'data', cwd=tmp_path)
    image = cv2.imread(str(set5 / 'HR/bird.png'))
    image[-1, -1, 0] ^= 1
    cv2.imwrite(str(set5 / 'HR/bird.png'), image)
    found = problems(cwd=tmp_path)
    assert 'data/Set5/HR: bird has other pixels since HR.checksums.txt was written' in found


def test_renew_writes_the_checksums_of_what_is_there_now(tmp_path: Path) -> None:
    write(tmp_path / 'in', 'a.png', 'b.png')
    assert run('verify', '--gt', 'in', cwd=tmp_path)[0] == 0
    before = (tmp_path / 'in.checksums.txt').read_text()
    write(tmp_path / 'in', 'b.png', seed=9)
    assert problems('--gt', 'in', cwd=tmp_path) == ['in: b has other pixels since in.checksums.txt was written']
    assert (tmp_path / 'in.checksums.txt').read_text() == before
    code, text = run('verify', '--gt', 'in', '--renew', cwd=tmp_path)
    assert code == 0
    assert 'written' in text
    assert (tmp_path / 'in.checksums.txt').read_text() != before
    assert run('verify', '--gt', 'in', cwd=tmp_path)[0] == 0


def test_encoding_anew_changes_no_checksum(set5: Path, tmp_path: Path) -> None:
    run('verify', 'data', cwd=tmp_path)
    for file in (set5 / 'HR').glob('*.png'):
        cv2.imwrite(str(file), cv2.imread(str(file)), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert run('verify', 'data', cwd=tmp_path)[0] == 0


def test_all_formats_of_a_store_share_their_checksums(tmp_path: Path) -> None:
    write(tmp_path / 'raw/Set5', *(f'{name}.png' for name in NAMES))
    prepare = ('Set5', '--from', 'raw', '--to', 'data', '--format', 'png', 'lmdb', 'raw')
    assert run('prepare', *prepare, cwd=tmp_path)[0] == 0
    code, text = run('verify', 'data', cwd=tmp_path)
    assert code == 0
    assert (text.count('written'), text.count('as before')) == (4, 8)


def test_everything_is_reported_at_once(set5: Path, tmp_path: Path) -> None:
    (set5 / 'HR/baby.png').write_bytes((set5 / 'HR/baby.png').read_bytes()[:-40])
    (set5 / 'HR/bird.png').unlink()
    (set5 / 'LRx2/butterflyx2.png').write_bytes(b'')
    cv2.imwrite(str(set5 / 'LRx3/headx3.png'), picture(9, 20, 20))
    cv2.imwrite(str(set5 / 'LRx4/womanx4.png'), cv2.imread(str(set5 / 'LRx4/womanx4.png')) ^ 1)
    found = '\n'.join(problems(cwd=tmp_path))
    for text in (
        'HR/baby.png: is cut short',
        'HR: bird is missing, other stores of Set5 have it',
        'HR: 4 images, but Set5 has 5',
        'LRx2/butterflyx2.png: is empty',
        'LRx3/headx3.png: is 20x20, GT 72x60, no fit at x3',
        "LRx4/womanx4.png: is not MATLAB's bicubic of GT: 100.0% of the values differ, by up to 1",
    ):
        assert text in found
    assert not (set5 / 'HR.checksums.txt').exists()


def test_the_same_pixels_twice(set5: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(set5 / 'HR/head.png'), cv2.imread(str(set5 / 'HR/baby.png')), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert 'data/Set5/HR: the same pixels in baby, head' in problems(cwd=tmp_path)
    assert not (set5 / 'HR.checksums.txt').exists()


def test_one_clean_image_may_have_several_partners(tmp_path: Path) -> None:
    for kind in ('HQ', 'LQ'):
        write(tmp_path / 'raw/Rain100H' / kind, 'a.png', 'b.png')
    cv2.imwrite(str(tmp_path / 'raw/Rain100H/HQ/a.png'), picture(1))
    assert run('prepare', 'Rain100H', '--from', 'raw', '--to', 'data', '--any_count', cwd=tmp_path)[0] == 0
    assert run('verify', 'data', '--any_count', cwd=tmp_path)[0] == 0


@pytest.mark.parametrize(
    ('test_set', 'name', 'change'),
    [
        ('CBSD68', 'x.png', lambda image: image),
        ('CBSD68', 'x.jpg', lambda image: image),  # other codecs
        ('BSD68', 'x.png', lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)),
    ],
)
def test_a_training_image_among_the_test_images_is_a_leak(test_set: str, name: str, change, tmp_path: Path) -> None:
    write(tmp_path / 'raw/BSD400', '1.png', '2.png', '3.png')
    write(tmp_path / 'raw' / test_set, 'other.png', seed=50)
    photograph = picture(1, 240, 320)
    cv2.imwrite(str(tmp_path / 'raw/BSD400/2.png'), photograph)
    cv2.imwrite(str(tmp_path / 'raw' / test_set / name), change(photograph))
    arguments = ('BSD500', test_set, '--from', 'raw', '--to', 'data', '--any_count')
    assert run('prepare', *arguments, cwd=tmp_path)[0] == 0
    assert problems('data', '--any_count', cwd=tmp_path) == [f'{test_set} and BSD500 share 1 picture: x = 2']


@pytest.mark.parametrize(
    ('train', 'test', 'why'),
    [('BSD500', 'BSD100', 'no task trains on'), ('BSD500', 'Rain100H', 'no task'), ('Rain13K', 'Rain100H', 'Berkeley')],
)
def test_known_overlaps_are_listed_as_known(train: str, test: str, why: str, tmp_path: Path) -> None:
    folders = {'BSD500': ['BSD400'], 'BSD100': ['B100/HR'], 'Rain100H': ['Rain100H/HQ', 'Rain100H/LQ'],
               'Rain13K': ['Rain13K/HQ', 'Rain13K/LQ']}  # fmt: skip
    for folder in folders[train] + folders[test]:
        write(tmp_path / 'raw' / folder, '1.png')
    prepare = (train, test, '--from', 'raw', '--to', 'data', '--any_count')
    assert run('prepare', *prepare, cwd=tmp_path)[0] == 0
    code, text = run('verify', 'data', '--any_count', cwd=tmp_path)
    assert code == 0
    assert f'{test} and {train} share 1 picture: 1 = 1' in text
    assert why in text


@pytest.mark.parametrize('backend', ['lmdb', 'raw', 'png'])
def test_pairs_of_ones_own_in_any_store(backend: str, tmp_path: Path) -> None:
    gt, lq = write_pairs(tmp_path / 'in')
    own = ('own', '--from', gt, '--lq', lq, '--scale', 2, '--to', 'data', '--format', backend)
    assert run('prepare', *own, cwd=tmp_path)[0] == 0
    suffix = '' if backend == 'png' else f'.{backend}'
    stores = ('--gt', f'data/HR{suffix}', '--lq', f'data/LRx2{suffix}')
    assert run('verify', *stores, '--scale', 2, cwd=tmp_path)[0] == 0
    cv2.imwrite(str(lq / '0.png'), picture(0, 20, 20))
    assert 'no fit at x2' in problems('--gt', gt, '--lq', lq, '--scale', 2, cwd=tmp_path)[0]


def test_a_truncated_lmdb_is_told_and_does_not_end_the_process(tmp_path: Path) -> None:
    write(tmp_path / 'in', *(f'{i}.png' for i in range(6)))
    assert run('prepare', 'own', '--from', 'in', '--to', 'data', cwd=tmp_path)[0] == 0
    os.truncate(tmp_path / 'data/HQ.lmdb/data.mdb', 20_000)
    assert all('shorter than its contents' in line for line in problems('--gt', 'data/HQ.lmdb', cwd=tmp_path))


def test_a_meta_info_that_lies(tmp_path: Path) -> None:
    write(tmp_path / 'in', 'a.png')
    assert run('prepare', 'own', '--from', 'in', '--to', 'data', cwd=tmp_path)[0] == 0
    (tmp_path / 'data/HQ.lmdb/meta_info.txt').write_text('a.png (10,10,3) 1\nb.png (10,10,3) 1\n')
    found = problems('--gt', 'data/HQ.lmdb', cwd=tmp_path)
    assert 'data/HQ.lmdb/a.png: meta_info.txt says another size than 72x60' in found
    assert any('lists b, but the LMDB has no such key' in line for line in found)
    assert 'data/HQ.lmdb: holds 1 images, meta_info.txt lists 2' in found


@pytest.mark.parametrize(
    ('arguments', 'word'),
    [
        ([], 'give either'),
        (['nowhere'], 'no such folder'),
        (['.'], 'no published dataset is there'),
        (['.', '--only', 'Set14'], 'Set14 is not there'),
        (['.', '--only', 'Urban10'], 'did you mean Urban100?'),
        (['.', '--lq', 'x'], '--lq goes with --gt'),
        (['.', '--scale', '2'], '--scale goes with --lq'),
        (['--gt', 'nowhere'], 'no such folder'),
        (['--gt', '.', '--only', 'Set5'], '--only goes with'),
    ],
)
def test_wrong_command_lines(arguments: list[str], word: str, tmp_path: Path) -> None:
    code, text = run('verify', *arguments, cwd=tmp_path)
    assert code == 1
    assert word in text


def test_damaged_stores_do_not_hide_other_problems(tmp_path: Path) -> None:
    write(tmp_path / 'raw/Set5', *(f'{name}.png' for name in NAMES))
    prepare = ('Set5', '--from', 'raw', '--to', 'data', '--format', 'lmdb', 'raw', 'png')
    assert run('prepare', *prepare, cwd=tmp_path)[0] == 0
    folder = tmp_path / 'data/Set5'
    os.truncate(folder / 'LRx2.raw/pixels.bin', 100)
    (folder / 'LRx3.raw/meta_info.txt').write_bytes(b'\xff\xfe junk\n')
    (folder / 'LRx2.lmdb/meta_info.txt').write_bytes(b'\xff\xfe junk\n')
    os.truncate(folder / 'LRx3.lmdb/data.mdb', 9000)
    (folder / 'LRx4.lmdb/data.mdb').unlink()
    (folder / 'HR/bird.png').unlink()
    found = problems(cwd=tmp_path)
    for name in ('LRx2.raw', 'LRx3.raw', 'LRx2.lmdb', 'LRx3.lmdb', 'LRx4.lmdb', 'HR: bird'):
        assert len([line for line in found if f'data/Set5/{name}' in line]) == 1, (name, found)


def test_a_damaged_page_of_an_lmdb_is_told_with_its_image(tmp_path: Path) -> None:
    write(tmp_path / 'in', *(f'{i:03}.png' for i in range(300)))
    assert run('prepare', 'own', '--from', 'in', '--to', 'data', cwd=tmp_path)[0] == 0
    file = tmp_path / 'data/HQ.lmdb/data.mdb'
    data = bytearray(file.read_bytes())
    leaves = [at for at in range(8192, len(data), 4096) if data[at + 10 : at + 12] == b'\x02\x00']
    for at in leaves[:1]:
        data[at : at + 4096] = bytes(4096)
    file.write_bytes(data)
    found = problems('--gt', 'data/HQ.lmdb', cwd=tmp_path)
    assert found
    assert all('data/HQ.lmdb' in line for line in found)


def test_data_that_may_only_be_read_can_be_verified(
    set5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **_: object) -> None:
        raise OSError(30, 'Read-only file system')

    monkeypatch.setattr(Path, 'write_text', refuse)
    code, text = run('verify', 'data', cwd=tmp_path)
    assert code == 0
    assert 'not written (Read-only file system)' in text


def test_an_empty_folder_is_a_problem_and_the_current_one_has_a_name(set5: Path, tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    assert problems('--gt', 'empty', cwd=tmp_path) == ['empty: no images']
    assert run('verify', '--gt', '.', cwd=set5 / 'HR')[0] == 0
    assert (set5 / 'HR.checksums.txt').exists()


@pytest.mark.parametrize('format_', ['png', 'lmdb', 'raw'])
def test_subimages_are_sound(format_: str, tmp_path: Path) -> None:
    write(tmp_path / 'raw/Set5', *(f'{name}.png' for name in NAMES))
    cut = ('Set5', '--from', 'raw', '--to', 'data', '--subimages', 24, 24, 0, '--format', format_)
    assert run('prepare', *cut, cwd=tmp_path)[0] == 0
    code, text = run('verify', 'data', '--any_count', cwd=tmp_path)
    assert code == 0, text


def test_names_that_end_like_a_scale(tmp_path: Path) -> None:
    write(tmp_path / 'in', 'matrix2.png', 'b.png')
    own = ('own', '--from', 'in', '--to', 'data', '--scale', 2, '--format', 'lmdb', 'png')
    assert run('prepare', *own, cwd=tmp_path)[0] == 0
    for suffix in ('', '.lmdb'):
        stores = ('--gt', f'data/HR{suffix}', '--lq', f'data/LRx2{suffix}', '--scale', 2)
        assert run('verify', *stores, cwd=tmp_path)[0] == 0
    again = ('own', '--from', 'data/HR', '--lq', 'data/LRx2', '--scale', 2, '--to', 'again')
    assert run('prepare', *again, cwd=tmp_path)[0] == 0
    assert open_store(str(tmp_path / 'again/LRx2.lmdb'), 'lmdb').names() == ['b', 'matrix2']


def test_a_missing_store_is_told(tmp_path: Path) -> None:
    for kind in ('HQ', 'LQ'):
        write(tmp_path / 'raw/Rain100H' / kind, 'a.png', seed=len(kind) + ord(kind[0]))
    assert run('prepare', 'Rain100H', '--from', 'raw', '--to', 'data', '--any_count', cwd=tmp_path)[0] == 0
    shutil.rmtree(tmp_path / 'data/Rain100H/LQ')
    assert problems('data', '--any_count', cwd=tmp_path) == ['Rain100H: LQ is missing']


# ------------------------------------------------------------------------------------------------------ statistics


def reference(images: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Both conventions by NumPy in float64."""
    flat = [image.reshape(-1, image.shape[2])[:, ::-1].astype(np.float64) / 255 for image in images]
    pixels = np.concatenate(flat)
    return (
        np.mean([image.mean(0) for image in flat], 0), np.mean([image.std(0) for image in flat], 0),
        pixels.mean(0), pixels.std(0),
    )  # fmt: skip


@given(
    sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=5),
    count=st.sampled_from([1, 2]),
)
def test_statistics_equal_numpy_in_float64(
    sizes: list[tuple[int, int]], count: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp('images')
    images = [picture(i, *size) for i, size in enumerate(sizes)]
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / f'{i}.png'), image)
    found = image_statistics.statistics([folder] * count, 'rgb', 1)
    assert found.images == count * len(images)
    np.testing.assert_allclose(
        [found.mean, found.std, found.pixel_mean, found.pixel_std], reference(images), rtol=0, atol=1e-6
    )


def test_statistics_are_the_same_of_any_store_and_number_of_processes(tmp_path: Path) -> None:
    write(tmp_path / 'in', *(f'{i}.png' for i in range(5)))
    prepare = ('own', '--from', 'in', '--to', 'data', '--format', 'png', 'lmdb', 'raw')
    assert run('prepare', *prepare, cwd=tmp_path)[0] == 0
    roots = [tmp_path / 'data' / name for name in ('HQ', 'HQ.lmdb', 'HQ.raw')]
    first, *others = (image_statistics.statistics([root], 'gray', workers) for root in roots for workers in (1, 2))
    assert first.mean.shape == (1,)
    for other in others:
        np.testing.assert_array_equal(first.std, other.std)
        np.testing.assert_array_equal(first.pixel_std, other.pixel_std)


@pytest.mark.parametrize('color', ['rgb', 'gray'])
def test_printed_lines_are_options_of_the_network(color: str, tmp_path: Path) -> None:
    write(tmp_path / 'in', 'a.png', 'b.png')
    code, text = run('statistics', 'in', '--color', color, cwd=tmp_path)
    assert code == 0
    section = yaml.safe_load(text[text.index('network_g') :])['network_g']
    network = {key: value for key, value in TINY_NETWORK.items() if key != 'type'}
    RAMiT(**network, in_chans=3 if color == 'rgb' else 1, **section)
    expected = reference([picture(i) for i in range(2)])
    if color == 'rgb':
        np.testing.assert_allclose(section['img_mean'], expected[0], atol=1e-4)


def test_statistics_of_an_empty_folder(tmp_path: Path) -> None:
    code, text = run('statistics', '.', cwd=tmp_path)
    assert code == 1
    assert 'no images' in text


def test_verify_recomputes_what_prepare_made(tmp_path: Path) -> None:
    image = picture(2, 37, 41)
    (tmp_path / 'raw/Set5').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'raw/Set5/a.png'), image)
    run('prepare', 'Set5', '--from', 'raw', '--to', 'data', '--any_count', '--scale', 3, cwd=tmp_path)
    assert (cv2.imread(str(tmp_path / 'data/Set5/LRx3/ax3.png')) == downscale(image, 3)).all()
    assert run('verify', 'data', '--any_count', cwd=tmp_path)[0] == 0
