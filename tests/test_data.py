"""The paired dataset: folders, LMDBs, bit depths, crops, and the pairs that do not fit."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from helpers import call_basicsr, photograph, tiny_options, write_lmdb, write_options, write_pairs
from hypothesis import given
from hypothesis import strategies as st

from ramit_arch import PairedRestorationDataset
from ramit_arch.data.pixels import convert_color, decode
from ramit_arch.data.samplers import SampleIndex
from ramit_arch.data.stores import RawStore, _environment, parse_meta_info
from ramit_arch.errors import UserError


def options(gt: Path | str, lq: Path | str, phase: str = 'val', **others: object) -> dict:
    training = {'lq_patch_size': 8, 'batch_size_per_gpu': 1} if phase == 'train' else {}
    roots = {'dataroot_gt': str(gt), 'dataroot_lq': str(lq)}
    kind = {'name': 'set', 'type': 'PairedRestorationDataset', 'phase': phase, 'scale': 2}
    return {**kind, **roots, **training, **others}


def dataset(*args: object, **kwargs: object) -> PairedRestorationDataset:
    return PairedRestorationDataset(options(*args, **kwargs))


def assert_same_item(ours: dict, theirs: dict) -> None:
    torch.testing.assert_close(ours['lq'], theirs['lq'], rtol=0, atol=0)
    torch.testing.assert_close(ours['gt'], theirs['gt'], rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------ stores and layouts


def test_items_equal_those_of_basicsr_from_disk(pairs: tuple[Path, Path]) -> None:
    ours = dataset(*pairs)
    theirs = PairedImageDataset({**options(*pairs), 'io_backend': {'type': 'disk'}})
    by_name = {Path(theirs[i]['gt_path']).name: theirs[i] for i in range(len(theirs))}
    assert len(ours) == len(theirs) == 3
    for i in range(3):
        assert ours[i]['lq'].dtype == torch.float32
        assert_same_item(ours[i], by_name[Path(ours[i]['gt_path']).name])


def test_either_side_reads_the_others_lmdb(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    names = sorted(path.name for path in pairs[0].iterdir())
    keys = [Path(name).stem for name in names]
    for kind, folder in zip(('gt', 'lq'), pairs, strict=True):
        make_lmdb_from_imgs(str(folder), str(tmp_path / f'their_{kind}.lmdb'), names, keys)
        write_lmdb(folder, tmp_path / f'our_{kind}.lmdb')
    # LMDB opens a path once a process, so each side reads a store of its own.
    reference = dataset(*pairs)
    ours = dataset(tmp_path / 'their_gt.lmdb', tmp_path / 'their_lq.lmdb', io_backend={'type': 'lmdb'})
    roots = tmp_path / 'our_gt.lmdb', tmp_path / 'our_lq.lmdb'
    theirs = PairedImageDataset({**options(*roots), 'io_backend': {'type': 'lmdb'}})
    for i in range(3):
        assert_same_item(ours[i], reference[i])
        assert_same_item(theirs[i], reference[i])


def test_two_data_sets_share_one_lmdb_in_one_process(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    roots = [write_lmdb(folder, tmp_path / f'{kind}.lmdb') for kind, folder in zip(('gt', 'lq'), pairs, strict=True)]
    first, second = (dataset(*roots, io_backend={'type': 'lmdb'}) for _ in range(2))
    assert_same_item(first[0], second[0])


@pytest.mark.parametrize('color', ['rgb', 'gray'])
@pytest.mark.parametrize('workers', [0, 2])
def test_batches_are_identical_from_disk_lmdb_and_raw_store(color: str, workers: int, tmp_path: Path) -> None:
    gt, lq = write_pairs(tmp_path)
    cv2.imwrite(str(gt / '0.png'), photograph(7, 40, 48)[..., 0])  # one gray file among colour ones
    code = call_basicsr(
        'prepare', 'own', '--from', str(gt), '--lq', str(lq), '--to', 'data', '--scale', '2', '--format', 'png',
        'lmdb', 'raw', cwd=tmp_path,
    ).returncode  # fmt: skip
    assert code == 0
    sets = {
        'disk': (gt, lq),
        'lmdb': (tmp_path / 'data/HR.lmdb', tmp_path / 'data/LRx2.lmdb'),
        'raw': (tmp_path / 'data/HR.raw', tmp_path / 'data/LRx2.raw'),
    }
    draws = [SampleIndex(i % 3, (5, i // 3, i % 3), 8) for i in range(12)]
    batches = []
    for backend, roots in sets.items():
        data = dataset(*roots, phase='train', color=color, lq_patch_size=8, io_backend={'type': backend})
        loader = torch.utils.data.DataLoader(data, 4, sampler=draws, num_workers=workers)
        batches.append([(batch['lq'], batch['gt']) for batch in loader])
    for other in batches[1:]:
        for one, two in zip(batches[0], other, strict=True):
            assert torch.equal(one[0], two[0])
            assert torch.equal(one[1], two[1])


def test_a_raw_store_gives_views_of_its_file(tmp_path: Path) -> None:
    gt, _ = write_pairs(tmp_path, count=1)
    call_basicsr('prepare', 'own', '--from', str(gt), '--to', 'data', '--format', 'raw', cwd=tmp_path)
    store = RawStore(str(tmp_path / 'data/HQ.raw'))
    assert np.shares_memory(store.pixels('0'), store.pixels('0'))
    assert not store.pixels('0').flags.writeable
    assert (store.pixels('0') == cv2.imread(str(gt / '0.png'))).all()


@pytest.mark.parametrize(('backend', 'hint'), [('raw', 'lmdb'), ('lmdb', 'raw')])
def test_the_wrong_backend_for_a_store_names_the_right_one(backend: str, hint: str, tmp_path: Path) -> None:
    gt, _ = write_pairs(tmp_path, count=1)
    call_basicsr('prepare', 'own', '--from', str(gt), '--to', 'data', '--format', 'raw', 'lmdb', cwd=tmp_path)
    root = tmp_path / 'data' / f'HQ.{hint}'
    with pytest.raises(UserError, match=f'set io_backend.type to {hint}'):
        dataset(root, root, io_backend={'type': backend})


def test_a_raw_store_trains(tmp_path: Path) -> None:
    gt, lq = write_pairs(tmp_path)
    call_basicsr(
        'prepare', 'own', '--from', str(gt), '--lq', str(lq), '--to', 'data', '--scale', '2', '--format', 'raw',
        cwd=tmp_path,
    )  # fmt: skip
    opt = tiny_options(tmp_path / 'data/HR.raw', tmp_path / 'data/LRx2.raw')
    for section in opt['datasets'].values():
        section['io_backend'] = {'type': 'raw'}
    opt['datasets']['train']['num_worker_per_gpu'] = 2
    write_options(tmp_path / 'train.yml', opt)
    result = call_basicsr('train', '-opt', 'train.yml', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'experiments/tiny/models/net_g_latest.pth').exists()


def test_workers_read_an_lmdb_that_their_parent_has_read(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    roots = [write_lmdb(folder, tmp_path / f'{kind}.lmdb') for kind, folder in zip(('gt', 'lq'), pairs, strict=True)]
    data = dataset(*roots, io_backend={'type': 'lmdb'})
    first = data[0]
    reader, writer = multiprocessing.Pipe()
    child = multiprocessing.get_context('fork').Process(target=lambda: writer.send(_environment.cache_info().currsize))
    child.start()
    child.join()
    assert reader.recv() == 0  # no handle crosses a fork
    for batch in torch.utils.data.DataLoader(data, 1, sampler=[0, 0], num_workers=2):
        assert torch.equal(batch['gt'][0], first['gt'])
    assert_same_item(data[0], first)


def test_filename_template_finds_the_lq_name(tmp_path: Path) -> None:
    gt, lq = write_pairs(tmp_path)
    for path in list(lq.iterdir()):
        path.rename(path.with_stem(f'{path.stem}x2'))
    assert Path(dataset(gt, lq, filename_tmpl='{}x2')[1]['lq_path']).name == '1x2.png'


def test_names_with_spaces_and_unicode(tmp_path: Path) -> None:
    gt, lq = write_pairs(tmp_path, count=1)
    for folder in (gt, lq):
        (folder / '0.png').rename(folder / 'Bäume am See.png')
    meta = tmp_path / 'meta_info.txt'
    meta.write_text('Bäume am See.png (40,48,3)\n', encoding='utf-8')
    assert dataset(gt, lq, meta_info_file=str(meta))[0]['lq'].shape == (3, 20, 24)


def test_meta_info_file_chooses_the_images(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    meta = tmp_path / 'meta.txt'
    meta.write_text('2.png (44,52,3)\n0.png (40,48,3)\n')
    chosen = dataset(*pairs, meta_info_file=str(meta))
    assert [Path(chosen[i]['gt_path']).name for i in range(len(chosen))] == ['0.png', '2.png']


@pytest.mark.parametrize(
    ('line', 'name', 'size'),
    [
        ('a.png (4,5,3)', 'a.png', (4, 5)),
        ('a b.png (4, 5, 3) 1', 'a b.png', (4, 5)),
        ('sub/a.png', 'sub/a.png', None),
        ('a(1).png (4,5)', 'a(1).png', (4, 5)),
    ],
)
def test_meta_info_lines(line: str, name: str, size: tuple | None, tmp_path: Path) -> None:
    (tmp_path / 'meta.txt').write_text(line + '\n')
    assert parse_meta_info(tmp_path / 'meta.txt') == {name: size}


# ---------------------------------------------------------------------------------------------- pixels and channels


def encoded(image: np.ndarray) -> bytes:
    return cv2.imencode('.png', image)[1].tobytes()


def test_16_bit_png_keeps_its_depth(tmp_path: Path) -> None:
    gt, lq = write_pairs(tmp_path, count=1)
    values = (photograph(1, 40, 48).astype(np.uint16) << 8) + 77
    cv2.imwrite(str(gt / '0.png'), values)
    expected = torch.from_numpy(values[..., ::-1].transpose(2, 0, 1).astype(np.float32) / 65535)
    torch.testing.assert_close(dataset(gt, lq)[0]['gt'], expected, rtol=0, atol=1e-7)


def test_gray_file_becomes_three_equal_channels() -> None:
    gray = photograph(3, 8, 9)[..., 0]
    assert (convert_color(decode(encoded(gray), ''), 'rgb') == gray[..., None]).all()


def test_gray_of_a_gray_file_is_the_file() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (convert_color(decode(encoded(gray), ''), 'gray')[..., 0] == gray).all()


def test_gray_of_a_colour_file_is_opencv_rgb2gray() -> None:
    colour = photograph(4, 8, 9)
    expected = cv2.cvtColor(colour[..., ::-1].copy(), cv2.COLOR_RGB2GRAY)
    assert (convert_color(decode(encoded(colour), ''), 'gray')[..., 0] == expected).all()


def test_alpha_is_dropped() -> None:
    colour = photograph(5, 8, 9)
    alpha = np.linspace(0, 255, 72).reshape(8, 9, 1).astype(np.uint8)
    assert (decode(encoded(np.concatenate([colour, alpha], -1)), '') == colour).all()


def test_gray_items_have_one_channel(pairs: tuple[Path, Path]) -> None:
    item = dataset(*pairs, color='gray', phase='train')[0]
    assert item['lq'].shape == (1, 8, 8)
    assert item['gt'].shape == (1, 16, 16)


# -------------------------------------------------------------------------------------------- crops and augmentation


def _ramp_pair(folder: Path) -> tuple[Path, Path]:
    """A pair in which every LQ pixel holds its own coordinates and GT repeats it 2x2."""
    y, x = np.mgrid[0:24, 0:30].astype(np.uint8)
    lq = np.stack([y, x, y * 0], -1)
    for kind, image in [('gt', lq.repeat(2, 0).repeat(2, 1)), ('lq', lq)]:
        (folder / kind).mkdir()
        cv2.imwrite(str(folder / kind / '0.png'), image)
    return folder / 'gt', folder / 'lq'


@given(seed=st.integers(0, 2**32))
def test_crop_flip_and_rotation_keep_the_pair_aligned(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    gt, lq = _ramp_pair(tmp_path_factory.mktemp('ramp'))
    item = dataset(gt, lq, phase='train')[SampleIndex(0, (seed,))]
    assert item['lq'].shape == (3, 8, 8)
    enlarged = item['lq'].repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(enlarged, item['gt'], rtol=0, atol=0)


def test_all_eight_orientations_and_all_corners_are_drawn(tmp_path: Path) -> None:
    data = dataset(*_ramp_pair(tmp_path), phase='train')
    patches = [(data[SampleIndex(0, (seed,))]['lq'] * 255).round().int() for seed in range(400)]
    steps = {tuple((p[1:, 0, 1] - p[1:, 0, 0]).tolist() + (p[1:, 1, 0] - p[1:, 0, 0]).tolist()) for p in patches}
    assert len(steps) == 8
    rows, columns = zip(*[(int(p[2].min()), int(p[1].min())) for p in patches], strict=True)
    assert (min(rows), max(rows), min(columns), max(columns)) == (0, 16, 0, 22)


def test_augmentation_can_be_switched_off(tmp_path: Path) -> None:
    data = dataset(*_ramp_pair(tmp_path), phase='train', use_hflip=False, use_rot=False)
    for seed in range(20):
        patch = (data[SampleIndex(0, (seed,))]['lq'] * 255).round()
        assert (patch[2].diff(dim=0) == 1).all()
        assert (patch[1].diff(dim=1) == 1).all()


def test_gt_size_of_basicsr_means_the_same_patch(pairs: tuple[Path, Path]) -> None:
    opt = options(*pairs, phase='train')
    del opt['lq_patch_size']
    assert PairedRestorationDataset({**opt, 'gt_size': 16})[0]['lq'].shape == (3, 8, 8)


def test_validation_crops_gt_to_the_scaled_lq(tmp_path: Path) -> None:
    gt, lq = write_pairs(tmp_path, count=1)
    larger = photograph(0, 41, 49)
    cv2.imwrite(str(gt / '0.png'), larger)
    item = dataset(gt, lq)[0]
    expected = torch.from_numpy(larger[:40, :48, ::-1].transpose(2, 0, 1).astype(np.float32) / 255)
    torch.testing.assert_close(item['gt'], expected)


# -------------------------------------------------------------------------------------------------- roots and repeats


def test_several_roots_with_a_repeat_each(tmp_path: Path) -> None:
    first, second = write_pairs(tmp_path / 'a', count=2), write_pairs(tmp_path / 'b', count=3)
    roots = [{'dataroot_gt': str(gt), 'dataroot_lq': str(lq)} for gt, lq in (first, second)]
    opt = {**options('', '', phase='train', repeat=2), 'roots': [roots[0], {**roots[1], 'repeat': 1.5}]}
    del opt['dataroot_gt'], opt['dataroot_lq']
    data = PairedRestorationDataset(opt)
    assert len(data) == 2 * 2 + int(3 * 1.5)
    roots = [Path(data[SampleIndex(i, (0, i))]['gt_path']).parts[-3] for i in range(len(data))]
    assert roots == ['a'] * 4 + ['b'] * 4


def test_df2k_repeat_of_the_paper_gives_64000_images() -> None:
    assert int(3450 * 18.551 + 1e-6) == 64000
    assert int(800 * 80 + 1e-6) == 64000


def test_the_fraction_of_a_repeat_favours_no_image(tmp_path: Path) -> None:
    data = dataset(*write_pairs(tmp_path, count=4), phase='train', repeat=1.25)
    assert len(data) == 5
    whole = [Path(data[SampleIndex(i, (0, i))]['gt_path']).stem for i in range(4)]
    assert whole == ['0', '1', '2', '3']
    extra = {Path(data[SampleIndex(4, (epoch, 4))]['gt_path']).stem for epoch in range(40)}
    assert extra == {'0', '1', '2', '3'}


# ------------------------------------------------------------------------------------------------------------ mistakes


def fails(*args: object, **kwargs: object) -> str:
    with pytest.raises(UserError) as error:
        dataset(*args, **kwargs)
    assert len(str(error.value).splitlines()) <= 2
    return str(error.value)


def test_missing_partner_is_named(tmp_path: Path) -> None:
    gt, lq = write_pairs(tmp_path)
    (lq / '1.png').unlink()
    assert str(gt / '1.png') in fails(gt, lq)
    write_pairs(tmp_path / 'other')
    (tmp_path / 'other' / 'gt' / '2.png').unlink()
    assert str(tmp_path / 'other' / 'lq' / '2.png') in fails(tmp_path / 'other' / 'gt', tmp_path / 'other' / 'lq')


def test_pair_that_does_not_fit_the_scale_is_named_on_construction(tmp_path: Path) -> None:
    gt, lq = write_pairs(tmp_path)
    message = fails(gt, lq, scale=3)
    assert str(gt / '0.png') in message
    assert str(lq / '0.png') in message
    assert '24x20' in message
    assert '3 of 3 images' in message


def test_lmdb_pair_that_does_not_fit_is_found_from_meta_info(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    roots = [write_lmdb(folder, tmp_path / f'{kind}.lmdb') for kind, folder in zip(('gt', 'lq'), pairs, strict=True)]
    assert 'does not fit scale 4' in fails(*roots, io_backend={'type': 'lmdb'}, scale=4)


def test_an_lmdb_whose_meta_info_lists_a_wrong_size_is_told_as_that(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    gt, lq = (write_lmdb(folder, tmp_path / f'{kind}.lmdb') for kind, folder in zip(('gt', 'lq'), pairs, strict=True))
    meta = lq / 'meta_info.txt'
    meta.write_text(meta.read_text().replace('0.png (20,24,3)', '0.png (24,20,3)'))
    message = fails(gt, lq, io_backend={'type': 'lmdb'})
    assert f'{meta} lists 20x24 for 0, but the image is 24x20' in message
    assert 'does not fit' not in message


def test_image_smaller_than_the_patch_is_found_on_construction(pairs: tuple[Path, Path]) -> None:
    assert 'smaller than the patch of 21' in fails(*pairs, phase='train', lq_patch_size=21)


@pytest.mark.parametrize('content', [b'', b'no image', encoded(photograph(0, 40, 48))[:15]])
def test_unreadable_file_is_found_on_construction(content: bytes, tmp_path: Path) -> None:
    gt, lq = write_pairs(tmp_path)
    (gt / '1.png').write_bytes(content)
    message = fails(gt, lq)
    assert str(gt / '1.png') in message
    assert str(lq / '1.png') in message


@pytest.mark.parametrize('share', [0.5, 0.999])
def test_truncated_file_with_a_good_header_is_named_when_read(share: float, tmp_path: Path) -> None:
    gt, lq = write_pairs(tmp_path, count=1)
    content = (gt / '0.png').read_bytes()
    (gt / '0.png').write_bytes(content[: int(len(content) * share)])
    data = dataset(gt, lq)
    with pytest.raises(UserError, match=r'gt.0\.png'):
        data[0]


def test_lmdb_without_the_listed_key_is_named(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    roots = [write_lmdb(folder, tmp_path / f'{kind}.lmdb') for kind, folder in zip(('gt', 'lq'), pairs, strict=True)]
    for root in roots:
        with (root / 'meta_info.txt').open('a') as file:
            file.write(f'ghost.png ({40 if root == roots[0] else 20},{48 if root == roots[0] else 24},3) 1\n')
    with pytest.raises(UserError, match='ghost'):
        dataset(*roots, io_backend={'type': 'lmdb'})[3]


@pytest.mark.parametrize(
    ('others', 'message'),
    [
        ({'use_hflp': True}, 'use_hflp is unknown (did you mean use_hflip?)'),
        ({'color': 'y'}, "color is 'y'; it must be 'rgb' or 'gray'"),
        ({'repeat': 0}, 'repeat is 0'),
        ({'repeat': [1, 2]}, 'repeat is [1, 2]'),
        ({'roots': [{}]}, 'give either roots or'),
        ({'roots': 'datasets'}, "roots is 'datasets'; it must be a list"),
        ({'io_backend': {'type': 'lmbd'}}, 'did you mean lmdb?'),
        ({'filename_tmpl': 'x2'}, 'filename_tmpl'),
        ({'lq_patch_size': 0}, 'lq_patch_size is 0'),
        ({'gt_size': 17}, 'gt_size is 17, no multiple of scale 2'),
        ({'dataroot_lq': '/nowhere'}, '/nowhere: no such folder'),
        ({'dataroot_gt': None}, 'dataroot_gt is missing'),
    ],
)
def test_wrong_options_are_named(others: dict, message: str, pairs: tuple[Path, Path]) -> None:
    assert message in fails(*pairs, phase='train', **others)


def test_repeat_outside_training_is_refused(pairs: tuple[Path, Path]) -> None:
    assert 'repeat is for training' in fails(*pairs, repeat=2)


def test_patch_size_is_asked_for(pairs: tuple[Path, Path]) -> None:
    assert 'lq_patch_size is missing' in fails(*pairs, phase='train', lq_patch_size=None)
