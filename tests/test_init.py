"""`basicsr init`: from a folder of pictures to an option file that trains."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from helpers import ROOT, call_basicsr, photograph
from PIL import Image

from ramit_arch import PairedRestorationDataset
from ramit_arch.cli import init
from ramit_arch.errors import UserError
from ramit_arch.preparation.bicubic import downscale


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that suit a test."""
    monkeypatch.setattr(init, 'SIZES', {'cpu': (2, 8), 'cuda': (2, 8)})
    monkeypatch.setattr(init, 'MIDDLE', 64)
    monkeypatch.setattr(init, 'WARM_UP', 1)
    monkeypatch.setattr(init, 'MEASURED', 1)


def write_pictures(folder: Path, count: int = 6, size: tuple[int, int] = (40, 48), channels: int = 3) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        cv2.imwrite(str(folder / f'{i}.png'), photograph(i, *size, channels))
    return folder


def run(home: Path, *arguments: str) -> dict:
    """The options that init writes, with which a training of two iterations then runs."""
    result = call_basicsr('init', *arguments, '--hours', '0.001', cwd=home)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith('next: basicsr train mine.yml\n')
    opt = yaml.safe_load((home / 'mine.yml').read_text())
    result = call_basicsr('train', 'mine.yml', '--force_yml', 'train:total_iter=2', cwd=home)
    assert result.returncode == 0, result.stderr
    result = call_basicsr('test', '-m', 'experiments/mine', cwd=home)
    assert result.returncode == 0, result.stderr
    return opt


def names(store: str) -> set[str]:
    """Images of a folder or a raw store."""
    path = Path(store)
    listed = path / 'meta_info.txt'
    lines = listed.read_text().splitlines() if listed.is_file() else [file.name for file in path.glob('*.png')]
    return {line.split()[0].removesuffix('.png').removesuffix('x2') for line in lines}


def test_photographs_become_a_super_resolution_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / 'photos', count=12)
    (tmp_path / 'photos' / 'notes.png').write_text('no picture')
    opt = run(tmp_path, 'sr', '--data', 'photos')
    monkeypatch.chdir(tmp_path)
    train, val = opt['datasets']['train'], opt['datasets']['val']
    assert len(names(val['dataroot_gt'])) == 1
    assert len(names(train['dataroot_gt'])) == 11
    for kind in ('dataroot_gt', 'dataroot_lq'):
        assert names(train[kind]).isdisjoint(names(val[kind]))
    assert (opt['scale'], opt['network_g']['upscale'], opt['val']['protocol']) == (2, 2, 'SR')
    lines = (tmp_path / 'mine.yml').read_text().splitlines()
    assert lines[0] == '# super-resolution x2, on photos'
    assert any(line.startswith('  val:  # 1 image that training does not see') for line in lines)


def test_pairs_become_a_training_and_what_does_not_fit_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path / 'clean')
    write_pictures(tmp_path / 'noisy', count=5)
    cv2.imwrite(str(tmp_path / 'noisy' / '3.png'), photograph(3, 30, 48))
    result = call_basicsr('init', 'pairs', '--data', 'clean', '--lq', 'noisy', '--hours', '0.001', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'skipping clean/5.png: no LQ image for it' in result.stdout
    assert 'skipping noisy/3.png: 48x30, which does not fit clean/3.png' in result.stdout
    assert 'clean: 4 images' in result.stdout
    opt = yaml.safe_load((tmp_path / 'mine.yml').read_text())
    assert (opt['scale'], opt['val']['protocol']) == (1, 'RGB')
    assert call_basicsr('check', 'mine.yml', cwd=tmp_path).returncode == 0


def test_a_gray_network_of_ones_own_is_timed_on_gray_images(tmp_path: Path) -> None:
    write_pictures(tmp_path / 'photos')
    (tmp_path / 'gray_net.py').write_text(
        'from basicsr.utils.registry import ARCH_REGISTRY\n'
        'from torch import nn\n'
        '@ARCH_REGISTRY.register()\n'
        'class GrayNet(nn.Sequential):\n'
        '    def __init__(self, in_chans: int = 1) -> None:\n'
        '        super().__init__(nn.Conv2d(in_chans, 8, 3, padding=1), nn.Conv2d(8, in_chans, 3, padding=1))\n'
    )
    flags = ('--network', 'GrayNet', '--import', 'gray_net.py', '--hours', '0.001')
    result = call_basicsr('init', 'denoise', '--data', 'photos', '--gray', *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(('name', 'rule'), [('{}_iso6400', 'iso100 -> iso6400'), ('noisy_{}_iso100', 'noisy_NAME')])
def test_pairs_are_found_by_what_their_names_differ_in(name: str, rule: str, tmp_path: Path) -> None:
    write_pictures(tmp_path / 'clean')
    write_pictures(tmp_path / 'noisy')
    for i in range(6):
        (tmp_path / 'clean' / f'{i}.png').rename(tmp_path / 'clean' / f'DSC{i}_iso100.png')
        (tmp_path / 'noisy' / f'{i}.png').rename(tmp_path / 'noisy' / f'{name.format(f"DSC{i}")}.png')
    section = {'name': 'a', 'type': 'PairedRestorationDataset', 'phase': 'val', 'scale': 1}
    roots = {'dataroot_gt': str(tmp_path / 'clean'), 'dataroot_lq': str(tmp_path / 'noisy')}
    with pytest.raises(UserError, match=r"filename_tmpl: 'noisy_\{\}' would|all names differ by iso100 -> iso6400"):
        PairedRestorationDataset({**section, **roots})
    result = call_basicsr('init', 'pairs', '--data', 'clean', '--lq', 'noisy', '--hours', '0.001', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f'pairs by their names: {rule}' in result.stdout
    assert 'clean: 6 images' in result.stdout


def test_a_network_of_ones_own_trains_on_the_same_images(tmp_path: Path) -> None:
    write_pictures(tmp_path / 'photos', count=12)
    net = (ROOT / 'tests' / 'data' / 'own_net.py').read_text()
    (tmp_path / 'own_net.py').write_text(net)
    first = run(tmp_path, 'sr', '--data', 'photos', '--scale', '3')
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / 'datasets').rglob('*') if file.is_file()}
    flags = ('--import', 'own_net.py')
    arguments = ('sr', '--data', 'photos', '--scale', '3', '--hours', '0.001', '--store', 'datasets/mine')
    result = call_basicsr('init', *arguments, '--network', 'OwnNet', '--name', 'own', *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith('next: basicsr train own.yml --import own_net.py\n')
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / 'datasets').rglob('*') if file.is_file()}
    second = yaml.safe_load((tmp_path / 'own.yml').read_text())
    assert second['datasets'] == first['datasets']
    assert second['network_g'] == {'type': 'OwnNet', 'upscale': 3}
    result = call_basicsr('train', 'own.yml', *flags, '--force_yml', 'train:total_iter=2', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith('Networks, states, scores and log: experiments/own\n')


@pytest.mark.parametrize(('sigma', 'trained', 'scored'), [((), [0, 50], 25), (('15',), 15, 15)])
def test_gray_photographs_become_a_denoiser(
    sigma: tuple[str, ...], trained: object, scored: int, tmp_path: Path
) -> None:
    write_pictures(tmp_path / 'photos', channels=1)
    opt = run(tmp_path, 'denoise', '--data', 'photos', *(('--sigma', *sigma) if sigma else ()))
    train, val = opt['datasets']['train'], opt['datasets']['val']
    assert (train['sigma'], val['sigma'], val['name']) == (trained, scored, f'mine_held_out_sigma{scored}')
    assert 'dataroot_lq' not in train
    assert (train['color'], opt['network_g']['in_chans'], opt['val']['protocol']) == ('gray', 1, 'GDN')
    assert opt['network_g']['reciprocal_helper'] is False


def test_the_hours_set_the_iterations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / 'photos')
    monkeypatch.setattr(init, 'seconds_of', lambda *_: (0.25, 1.0))
    result = call_basicsr('init', 'sr', '--data', 'photos', '--hours', '1.5', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    opt = yaml.safe_load((tmp_path / 'mine.yml').read_text())
    assert opt['train']['total_iter'] == 22000  # of 21,520
    assert opt['val']['val_freq'] == 1100


@pytest.mark.parametrize(
    ('arguments', 'error'),
    [
        (['sr', '--data', 'none'], 'none: no such folder'),
        (['sr', '--data', 'one'], 'one: 1 image can be used, but 2 are needed'),
        (['pairs', '--data', 'photos'], '--lq DIR is missing: the LQ images'),
        (['sr', '--data', 'photos', '--lq', 'photos'], '--lq is for init pairs'),
        (
            ['denoise', '--data', 'photos', '--sigma', '50', '0'],
            '--sigma 50 0: give one level, or two from low to high',
        ),
        (['sr', '--data', 'photos', '--sigma', '5'], '--sigma is for init denoise'),
        (['denoise', '--data', 'photos', '--scale', '2'], '--scale is for init sr and init pairs'),
        (
            ['sr', '--data', 'photos', '--network', 'RAMIT'],
            '--network RAMIT: neither tiny, slim, full nor a registered network',
        ),
        (['sr', '--data', 'photos', '--network', 'ECBSR'], 'ECBSR cannot be built:\nnetwork_g.num_block is missing'),
        (['sr', '--data', 'photos', '--name', 'there'], 'there.yml exists; remove it, or choose another --name'),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(arguments: list[str], error: str, tmp_path: Path) -> None:
    write_pictures(tmp_path / 'photos', count=3)
    write_pictures(tmp_path / 'one', count=1)
    (tmp_path / 'there.yml').write_text('')
    result = call_basicsr('init', *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert f'error: {error}' in result.stderr
    assert not (tmp_path / 'mine.yml').exists()
    assert not (tmp_path / 'datasets').exists()


def test_of_large_pictures_the_middle_is_held_out_and_small_ones_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(init, 'MIDDLE', 24)
    write_pictures(tmp_path / 'photos', size=(41, 58))
    cv2.imwrite(str(tmp_path / 'photos' / 'icon.png'), photograph(9, 10, 14))
    result = call_basicsr('init', 'sr', '--data', 'photos', '--hours', '0.001', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'skipping photos/icon.png: smaller than a patch of 16x16' in result.stdout
    [gt] = (tmp_path / 'datasets' / 'mine' / 'test' / 'HR').glob('*.png')
    whole, kept = cv2.imread(str(tmp_path / 'photos' / gt.name)), cv2.imread(str(gt))
    assert np.array_equal(kept, whole[8:32, 16:40])
    lq = cv2.imread(str(tmp_path / 'datasets' / 'mine' / 'test' / 'LRx2' / f'{gt.stem}x2.png'))
    assert np.array_equal(lq, downscale(kept, 2))


def test_small_pictures_shrink_the_patch(tmp_path: Path) -> None:
    write_pictures(tmp_path / 'photos', size=(12, 14))
    result = call_basicsr('init', 'sr', '--data', 'photos', '--hours', '0.001', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'the images are small: LQ patches of 6 instead of 8' in result.stdout


def test_pictures_are_prepared_upright(tmp_path: Path) -> None:
    (tmp_path / 'photos').mkdir()
    upright = np.ascontiguousarray(photograph(0, 40, 64)[..., ::-1])
    exif = Image.Exif()
    exif[274] = 6  # stored turned to the left
    stored = Image.fromarray(np.rot90(upright))
    stored.save(tmp_path / 'photos' / '0.jpg', exif=exif, quality=100, subsampling=0)
    stored.save(tmp_path / 'photos' / '1.tif', exif=exif)
    result = call_basicsr(
        'prepare', 'own', '--from', 'photos', '--to', 'made', '--scale', '2', '--format', 'png', cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    for i in range(2):
        made = cv2.imread(str(tmp_path / 'made' / 'HR' / f'{i}.png'))[..., ::-1]
        assert made.shape == upright.shape
        assert np.abs(made.astype(int) - upright).mean() < 3
        assert cv2.imread(str(tmp_path / 'made' / 'LRx2' / f'{i}x2.png')).shape == (20, 32, 3)
