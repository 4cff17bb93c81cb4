"""Archives whose layout is more than two folders of equal names: sequences, shared ground truth, MATLAB files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import call_basicsr, photograph
from preparing import SPECIAL, blocks, gopro, hide, its, put, refused, run, sidd, sots
from scipy.io import savemat

from ramit_arch.data.stores import LmdbStore, Store, open_store
from ramit_arch.preparation import verify
from ramit_arch.preparation.catalogue import data_set


def prepared(name: str, root: Path, *arguments: object) -> dict[str, tuple[Store, Store]]:
    """The stores of ground truth and LQ images of every part."""
    code, text = run(name, '--from', 'raw', '--to', 'data', '--any_count', *arguments, cwd=root)
    assert code == 0, text
    found = {}
    for part in data_set(name).parts:
        suffix, backend = ('.lmdb', 'lmdb') if part.use == 'train' else ('', 'disk')
        hq, lq = (open_store(str(root / 'data' / part.to / f'{kind}{suffix}'), backend) for kind in ('HQ', 'LQ'))
        found[part.to] = hq, lq
    return found


@pytest.mark.parametrize('name', SPECIAL)
def test_names_are_found_resumed_and_verified(name: str, tmp_path: Path) -> None:
    make, expected = SPECIAL[name]
    make(tmp_path / 'raw')
    stores = prepared(name, tmp_path)
    for to, names in expected.items():
        assert [store.names() for store in stores[to]] == [names, names]
    again = run(name, '--from', 'raw', '--to', 'data', '--any_count', cwd=tmp_path)[1]
    assert again.count('exists already') == 2 * len(expected)
    result = call_basicsr('verify', 'data', '--any_count', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'no problems' in result.stdout


def test_frames_of_equal_number_stay_with_their_sequence(tmp_path: Path) -> None:
    root = gopro(tmp_path / 'raw') / 'GOPRO_Large' / 'train'
    hq, lq = prepared('GoPro', tmp_path)['GoPro/train']
    for sequence in ('GOPR0372_07_00', 'GOPR0372_07_01'):
        for store, kind in ((hq, 'sharp'), (lq, 'blur')):
            file = root / sequence / kind / '000048.png'
            assert isinstance(store, LmdbStore)
            assert store.read(f'{sequence}-000048') == file.read_bytes()


def test_only_training_images_are_cut_where_a_dataset_has_both(tmp_path: Path) -> None:
    gopro(tmp_path / 'raw')
    stores = prepared('GoPro', tmp_path, '--subimages', 12, 12, 0)
    assert len(stores['GoPro/train'][0].names()) == 4 * 4
    assert len(stores['GoPro/test'][0].names()) == 4


def test_hazy_images_get_their_clear_one_without_its_border(tmp_path: Path) -> None:
    root = its(tmp_path / 'raw') / 'ITS'
    hq, lq = prepared('ITS', tmp_path)['ITS']
    for name in ('1_1_0p90179', '1_2_0p97842', '2_1_0p99082'):
        assert (hq.pixels(name) == cv2.imread(str(root / 'clear' / f'{name[0]}.png'))[10:-10, 10:-10]).all()
    assert (lq.pixels('2_2_0p8') == cv2.imread(str(root / 'hazy' / '2_2_0.8.png'))).all()


def test_clear_images_without_a_border_are_copied(tmp_path: Path) -> None:
    put(tmp_path / 'raw/ITS/clear', '1.png')
    put(tmp_path / 'raw/ITS/hazy', '1_1_0.9.png', seed=10)
    hq, _ = prepared('ITS', tmp_path)['ITS']
    assert isinstance(hq, LmdbStore)
    assert hq.read('1_1_0p9') == (tmp_path / 'raw/ITS/clear/1.png').read_bytes()


def test_cropped_ground_truth_is_made_again_of_another_release(tmp_path: Path) -> None:
    its(tmp_path / 'raw')
    prepared('ITS', tmp_path)
    put(tmp_path / 'raw/ITS/hazy', '1_1_0.90179.png', size=(44, 52), seed=10)
    text = run('ITS', '--from', 'raw', '--to', 'data', '--any_count', cwd=tmp_path)[1]
    assert 'HQ.lmdb: exists already, but not of these files' in text


def test_blocks_of_a_matlab_file_keep_their_pixels(tmp_path: Path) -> None:
    sidd(tmp_path / 'raw')
    stores = prepared('SIDD', tmp_path)
    for seed, store in enumerate(stores['SIDD/test']):
        for image, block in ((0, 0), (2, 1)):
            assert (store.pixels(f'000{image}_0{block}') == blocks(seed)[image, block, ..., ::-1]).all()
    for store, kind in zip(stores['SIDD/train'], ('GT', 'NOISY'), strict=True):
        file = tmp_path / f'raw/SIDD_Medium_Srgb/Data/0002_001_S6_00100_00020_3200_N/0002_{kind}_SRGB_011.PNG'
        assert isinstance(store, LmdbStore)
        assert store.read('0002_011') == file.read_bytes()


# ------------------------------------------------------------------------------------------------- bad archives


def refusal(name: str, root: Path) -> str:
    return refused(name, '--from', 'raw', '--any_count', cwd=root)


def test_counts_are_of_pairs(tmp_path: Path) -> None:
    for make in (its, hide, sidd):
        make(tmp_path / 'raw')
    text = refused('ITS', 'HIDE', 'SIDD', '--from', 'raw', cwd=tmp_path)
    assert 'raw/ITS/hazy: 4 images, but ITS has 13,990' in text
    assert 'raw/HIDE_dataset/test/test-long-shot: 2 images, but HIDE has 2,025' in text
    assert 'ValidationGtBlocksSrgb.mat: 6 images, but SIDD/test has 1,280' in text


def test_missing_partners_are_named_together(tmp_path: Path) -> None:
    root = gopro(tmp_path / 'raw') / 'GOPRO_Large'
    (root / 'train/GOPR0372_07_01/blur/000047.png').unlink()
    (root / 'test/GOPR0372_07_00/sharp/000048.png').unlink()
    text = refusal('GoPro', tmp_path)
    assert 'train/GOPR0372_07_01/sharp/000047.png: no LQ image for it' in text
    assert 'test/GOPR0372_07_00/blur/000048.png: no ground truth image for it' in text


def test_hazy_without_clear_and_clear_without_hazy(tmp_path: Path) -> None:
    root = its(tmp_path / 'raw') / 'ITS'
    (root / 'clear/1.png').unlink()
    put(root / 'clear', '3.png')
    text = refusal('ITS', tmp_path)
    for name in ('1_1_0.90179.png', '1_2_0.97842.png'):
        assert f'hazy/{name}: no ground truth image for it' in text
    assert 'clear/3.png: no LQ image for it' in text


def test_a_test_image_without_ground_truth_among_further_ones(tmp_path: Path) -> None:
    (hide(tmp_path / 'raw') / 'HIDE_dataset/GT/12fromGOPR0977.png').unlink()
    assert 'test-long-shot/12fromGOPR0977.png: no ground truth image for it' in refusal('HIDE', tmp_path)


def test_only_the_published_border_is_cut_off(tmp_path: Path) -> None:
    root = sots(tmp_path / 'raw') / 'SOTS'
    put(root / 'indoor/gt', '1400.png', size=(44, 50))
    put(root / 'outdoor/gt', '0002.png', size=(44, 44))
    text = refusal('SOTS', tmp_path)
    assert '1400_1.png: 32x24, which does not fit' in text
    assert '0002_1_0.16.jpg: 24x24, which does not fit' in text


def test_sequences_below_two_folders_are_told_apart_by_the_user(tmp_path: Path) -> None:
    for copy in ('a', 'b'):
        gopro(tmp_path / 'raw' / copy)
    text = refusal('GoPro', tmp_path)
    assert 'raw/a/GOPRO_Large/train/GOPR0372_07_00/sharp' in text
    assert 'could both be GOPRO_Large/train/*/sharp' in text


@pytest.mark.parametrize(
    ('damage', 'words'),
    [
        (lambda file: file.write_bytes(b'no MATLAB file' * 20), 'not a MATLAB file that can be read'),
        (lambda file: savemat(file, {'a': np.zeros((2, 2, 16, 16), np.uint8)}), 'holds no array of'),
        (lambda file: savemat(file, {'a': blocks(0)[:2]}), 'ValidationNoisyBlocksSrgb.mat/0002_01: no ground truth'),
        (lambda file: savemat(file, {'a': blocks(0)[..., :8, :, :]}), '0000_00: 16x16, which does not fit'),
    ],
)
def test_a_damaged_matlab_file(damage: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    damage(sidd(tmp_path / 'raw') / 'ValidationGtBlocksSrgb.mat')
    assert words in refusal('SIDD', tmp_path)


def test_a_truncated_matlab_file_is_named_once_before_anything_is_written(tmp_path: Path) -> None:
    file = sidd(tmp_path / 'raw') / 'ValidationGtBlocksSrgb.mat'
    file.write_bytes(file.read_bytes()[:-500])
    assert refusal('SIDD', tmp_path).count('ValidationGtBlocksSrgb.mat: is damaged or cut short') == 1


def test_hazy_images_of_no_clear_one_are_named(tmp_path: Path) -> None:
    put(tmp_path / 'raw/ITS/clear', 'a.png')
    put(tmp_path / 'raw/ITS/hazy', '1_1_0.9.png', seed=10)
    text = refused('ITS', '--from', 'raw', cwd=tmp_path)
    assert '1_1_0.9.png: no ground truth image for it' in text
    assert 'a.png: no LQ image for it' in text


def test_numbers_of_frames_are_not_taken_for_missing_images(tmp_path: Path) -> None:
    gopro(tmp_path / 'raw')
    text = refused('GoPro', '--from', 'raw', cwd=tmp_path)
    assert '4 images, but GoPro/train has 2,103;' in text


# ------------------------------------------------------------------------------------------------------- verify


def test_pairs_of_one_clear_image_are_one_picture_in_a_leak(tmp_path: Path) -> None:
    clear = photograph(1, 44, 52)
    for folder in ('ITS/clear/1.png', 'SOTS/indoor/gt/1400.png'):
        (tmp_path / 'raw' / folder).parent.mkdir(parents=True)
        cv2.imwrite(str(tmp_path / 'raw' / folder), clear)
    put(tmp_path / 'raw/ITS/hazy', '1_1_0.9.png', '1_2_0.9.png', size=(24, 32), seed=10)
    put(tmp_path / 'raw/SOTS/indoor/hazy', '1400_1.png', size=(24, 32), seed=20)
    put(tmp_path / 'raw/SOTS/outdoor/gt', '0001.png', seed=30)
    put(tmp_path / 'raw/SOTS/outdoor/hazy', '0001_0.8_0.2.jpg', seed=40)
    prepared('ITS', tmp_path)
    prepared('SOTS', tmp_path)
    result = call_basicsr('verify', 'data', '--any_count', cwd=tmp_path)
    assert result.returncode == 1
    assert 'SOTS-indoor and ITS share 1 picture: 1400_1 = 1_1_0p9' in result.stderr


def test_equal_hazy_images_are_duplicates_and_equal_clear_ones_are_not(tmp_path: Path) -> None:
    root = its(tmp_path / 'raw') / 'ITS/hazy'
    (root / '1_2_0.97842.png').write_bytes((root / '1_1_0.90179.png').read_bytes())
    prepared('ITS', tmp_path)
    result = call_basicsr('verify', 'data', '--any_count', cwd=tmp_path)
    assert [line.strip() for line in result.stderr.splitlines() if 'the same pixels' in line] == [
        'data/ITS/LQ.lmdb: the same pixels in 1_1_0p90179, 1_2_0p97842'
    ]


def test_the_search_for_shared_pictures_finds_what_comparing_all_does() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(40, 200, (40, 256)).astype(np.float32)
    near = base[:20] + rng.uniform(-3.9, 3.9, (20, 1)).astype(np.float32) + rng.normal(0, 0.3, (20, 256))
    train, test = ([verify.Look(str(i), thumb) for i, thumb in enumerate(thumbs)] for thumbs in (base, near))
    groups, looks = [], {}
    for part, found in zip((data_set('ITS').parts[0], data_set('SOTS').parts[0]), (train, test), strict=True):
        groups.append(verify.Group(part.to, part, {}, []))
        looks[part.to] = {f'{i:02}': look for i, look in enumerate(found)}
    distance = np.abs(base[None] - near[:, None]).mean(axis=2)
    expected = [f'{i:02} = {row.argmin():02}' for i, row in enumerate(distance) if row.min() < verify.NEAR]
    [(text, why)] = list(verify._leaks(groups, looks))
    assert 5 < len(expected) < 20
    assert text.partition(': ')[2].split(', ') == expected
    assert why is None
