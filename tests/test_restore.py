"""`basicsr restore`: pictures and folders, as a user types it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import BASICSR, TINY_NETWORK, call_basicsr, photograph, run_basicsr, run_torchrun
from PIL import Image

import basicsr_command
from ramit_arch import RAMiT, Restorer
from ramit_arch.evaluation.protocols import PROTOCOLS
from ramit_arch.inference import folders
from ramit_arch.inference.checkpoints import write_checkpoint
from ramit_arch.inference.networks import describe
from ramit_arch.inference.restorer import LARGEST_OVERLAP, OVERLAP

ARGUMENTS = {key: value for key, value in TINY_NETWORK.items() if key != 'type'}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with net.pth, a tiny x2 network, and photo.png."""
    torch.manual_seed(0)
    network = RAMiT(**ARGUMENTS)
    content = {'params': network.state_dict(), 'network': describe({'type': 'RAMiT', **ARGUMENTS}, 2, 'SR')}
    write_checkpoint(content, tmp_path / 'net.pth')
    cv2.imwrite(str(tmp_path / 'photo.png'), photograph(0, 12, 16))
    return tmp_path


def restore(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return call_basicsr('restore', *arguments, '-m', 'net.pth', cwd=home)


def tree(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob('*') if file.is_file())


def test_a_picture_in_a_better_picture_beside_it(home: Path) -> None:
    result = run_basicsr('restore', 'photo.png', '-m', 'net.pth', cwd=home)
    assert result.returncode == 0, result.stderr
    assert 'RAMiT x2 for SR from net.pth, on cpu' in result.stdout
    assert 'photo.png -> photo_x2.png: 16x12' in result.stdout
    assert result.stdout.endswith('restored 1\n')
    restored = cv2.imread(str(home / 'photo_x2.png'))[..., ::-1]
    expected = Restorer(home / 'net.pth').restore(np.ascontiguousarray(photograph(0, 12, 16)[..., ::-1]))
    assert np.array_equal(restored, expected)


def make_folder(home: Path) -> Path:
    folder = home / 'photos'
    for name in ('a.png', 'b.jpg', 'deep/er/c.webp', 'deep/a.png'):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(len(name), 10, 14)).save(file)
    (folder / 'readme.txt').write_text('not a picture')
    (folder / '.hidden.png').touch()
    return folder


def test_a_folder_keeps_its_tree_and_what_is_no_picture_is_named(home: Path) -> None:
    make_folder(home)
    result = restore('photos', '-o', 'out', home=home)
    assert result.returncode == 0, result.stderr
    assert tree(home / 'out') == ['a.png', 'b.png', 'deep/a.png', 'deep/er/c.png']
    assert result.stdout.endswith('restored 4, skipped 1 (1 file of another kind: readme.txt)\n')


def test_finished_pictures_are_skipped_until_overwrite(home: Path) -> None:
    make_folder(home)
    restore('photos', '-o', 'out', home=home)
    (home / 'out' / 'b.png').unlink()
    kept = (home / 'out' / 'a.png').stat().st_mtime_ns
    result = restore('photos', '-o', 'out', home=home)
    assert 'restored 1, skipped 4 (3 with a result already' in result.stdout
    assert (home / 'out' / 'a.png').stat().st_mtime_ns == kept
    result = restore('photos', '-o', 'out', '--overwrite', home=home)
    assert 'restored 4, skipped 1' in result.stdout
    assert (home / 'out' / 'a.png').stat().st_mtime_ns > kept


def test_a_folder_restored_in_place_is_not_restored_again(home: Path) -> None:
    folder = make_folder(home)
    restore('photos', home=home)
    assert 'deep/er/c_x2.png' in tree(folder)
    before = tree(folder)
    result = restore('photos', home=home)
    assert 'restored 0, skipped 5 (4 with a result already' in result.stdout
    assert tree(folder) == before


def test_an_output_folder_inside_the_source_is_not_read(home: Path) -> None:
    folder = make_folder(home)
    for _ in range(2):
        restore('photos', '-o', 'photos/out', home=home)
    assert len(tree(folder / 'out')) == 4


def test_one_bad_picture_does_not_stop_the_others(home: Path) -> None:
    folder = make_folder(home)
    (folder / 'aa.png').write_bytes(b'')
    (folder / 'bad.jpg').write_bytes((folder / 'b.jpg').read_bytes()[:200])
    result = restore('photos', '-o', 'out', home=home)
    assert result.returncode == 1
    assert 'restored 4, skipped 1 (1 file of another kind: readme.txt), failed 2' in result.stdout
    assert 'error: 2 of 6 pictures failed' in result.stderr
    assert re.search(r'photos/aa\.png: empty file', result.stderr)
    assert re.search(r'photos/bad\.jpg: ', result.stderr)
    assert tree(home / 'out') == ['a.png', 'b.png', 'deep/a.png', 'deep/er/c.png']


def test_pictures_that_would_share_a_result_are_reported(home: Path) -> None:
    folder = make_folder(home)
    Image.fromarray(photograph(1, 10, 14)).save(folder / 'b.bmp')
    result = restore('photos', '-o', 'out', home=home)
    assert result.returncode == 1
    assert 'restored 4' in result.stdout
    assert 'photos/b.jpg: out/b.png is the result of photos/b.bmp already; rename either' in result.stderr
    assert np.array_equal(
        cv2.imread(str(home / 'out' / 'b.png'))[..., ::-1], Restorer(home / 'net.pth').restore(photograph(1, 10, 14))
    )


def test_several_folders_keep_their_names(home: Path) -> None:
    for name in ('one', 'two'):
        (home / name).mkdir()
        Image.fromarray(photograph(len(name), 10, 14)).save(home / name / 'same.png')
    result = restore('one', 'two', '-o', 'out', home=home)
    assert result.returncode == 0, result.stderr
    assert tree(home / 'out') == ['one/same.png', 'two/same.png']


def test_a_picture_given_twice_is_restored_once(home: Path) -> None:
    result = restore('photo.png', './photo.png', str(home / 'photo.png'), '.', home=home)
    assert 'restored 1, ' in result.stdout
    assert set(tree(home)) == {'net.pth', 'photo.png', 'photo_x2.png'}


def test_results_given_as_pictures_are_left_out(home: Path) -> None:
    restore('photo.png', home=home)
    result = restore('photo.png', 'photo_x2.png', home=home)
    assert 'restored 0, skipped 1 (1 with a result already' in result.stdout
    cv2.imwrite(str(home / 'photo_x2.jpg'), photograph(0, 12, 16))  # no result of ours
    result = restore('.', home=home)
    assert 'photo_x2.jpg -> photo_x2_x2.png' in result.stdout


def test_links_are_followed_once_and_what_is_no_file_is_named(home: Path) -> None:
    folder = make_folder(home)
    (folder / 'deep' / 'loop').symlink_to(folder)
    other = home / 'elsewhere'
    other.mkdir()
    Image.fromarray(photograph(0, 10, 14)).save(other / 'linked.png')
    (folder / 'link').symlink_to(other)
    os.mkfifo(folder / 'pipe.png')
    result = restore('photos', '-o', 'out', home=home)
    assert result.returncode == 0, result.stderr
    assert 'link/linked.png' in tree(home / 'out')
    assert 'restored 5, skipped 2 (2 files of another kind: pipe.png, readme.txt)' in result.stdout


def test_any_error_of_a_picture_leaves_the_others_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2.imwrite(str(home / 'wide.png'), photograph(1, 12, 40))
    whole = Restorer.restore

    def fail(self: Restorer, picture: np.ndarray, *rest: object) -> np.ndarray:
        if picture.shape[1] == 16:
            raise RuntimeError('the network failed')
        return whole(self, picture, *rest)

    monkeypatch.setattr(Restorer, 'restore', fail)
    result = restore('photo.png', 'wide.png', home=home)
    assert result.returncode == 1
    assert 'photo.png: RuntimeError: the network failed' in result.stderr
    assert (home / 'wide_x2.png').is_file()


def test_one_picture_goes_to_the_file_that_is_named(home: Path) -> None:
    result = restore('photo.png', '-o', 'big.jpg', '--quality', '90', home=home)
    assert result.returncode == 0, result.stderr
    assert Image.open(home / 'big.jpg').size == (32, 24)


def test_format_and_suffix_are_chosen(home: Path) -> None:
    restore('photo.png', '--format', 'webp', '--suffix', '_big', home=home)
    assert Image.open(home / 'photo_big.webp').size == (32, 24)


def test_depth_gray_alpha_and_profile_are_kept(home: Path) -> None:
    rng = np.random.default_rng(0)
    cv2.imwrite(str(home / 'deep.png'), rng.integers(0, 65536, (9, 7, 3), dtype=np.uint16))
    cv2.imwrite(str(home / 'gray.png'), photograph(0, 9, 7, 1))
    cv2.imwrite(str(home / 'alpha.png'), rng.integers(0, 256, (9, 7, 4), dtype=np.uint8))
    Image.new('RGB', (7, 9)).save(home / 'dpi.png', dpi=(300, 300))
    result = restore('deep.png', 'gray.png', 'alpha.png', 'dpi.png', '-o', 'out', home=home)
    assert result.returncode == 0, result.stderr
    images = {name: cv2.imread(str(home / 'out' / name), cv2.IMREAD_UNCHANGED) for name in tree(home / 'out')}
    assert (images['deep.png'].dtype, images['deep.png'].shape) == (np.uint16, (18, 14, 3))
    assert images['gray.png'].shape == (18, 14)
    assert images['alpha.png'].shape == (18, 14, 4)
    assert Image.open(home / 'out' / 'dpi.png').info['dpi'] == pytest.approx((300, 300), abs=0.1)


def test_tiles_ensemble_and_precision_are_chosen(home: Path) -> None:
    settings = {'plain': [], 'tiles': ['--tile', '8', '--overlap', '2'], 'ensemble': ['--ensemble'], 'bf16': ['--bf16']}
    images = []
    for name, arguments in settings.items():
        result = restore('photo.png', '-o', f'{name}.png', *arguments, home=home)
        assert result.returncode == 0, result.stderr
        images.append(cv2.imread(str(home / f'{name}.png')).tobytes())
    assert len(set(images)) == len(settings)


@pytest.mark.parametrize(('arguments', 'text'), [
    (['nothing.png'], 'nothing.png: no such picture or folder'),
    (['nothing'], 'nothing: no such picture or folder'),
    (['empty'], 'empty: no pictures'),
    (['photo.png', 'net.pth', '-o', 'one.png'], '-o one.png: a file, but there are several pictures'),
    (['photo.png', '-o', 'out.gif'], '-o out.gif: cannot be written; choose one of .png'),
    (['photo.png', '-o', 'out.jpg', '--format', 'png'], '-o out.jpg: contradicts --format png'),
    (['photo.png', '--suffix', ''], 'results would be among the sources'),
    (['photo.png', '-o', '.'], 'results would be among the sources'),
    (['photo.png', '-o', 'photo.png'], 'photo.png: would be overwritten'),
    (['photo.png', '-o', ''], 'a path is empty'),
    (['photo.png', '--suffix', '/../x'], 'must not contain slashes'),
    (['photo.png', '-o', 'net.pth/out'], 'net.pth/out: cannot be written'),
    (['photo.png', '--tile', '16'], '--tile 16: must be above the overlap, which is 32'),
    (['photo.png', '--device', 'tpu'], 'device tpu: not available here'),
    (['photo.png', '--task', 'DR'], 'task DR: net.pth is a network for SR; leave it out'),
])  # fmt: skip
def test_mistakes_are_one_line_before_anything_is_computed(arguments: list[str], text: str, home: Path) -> None:
    (home / 'empty').mkdir()
    before = tree(home)
    result = restore(*arguments, home=home)
    assert result.returncode == 1
    assert result.stderr.startswith('error: ')
    assert text in result.stderr
    assert result.stderr.count('\n') == 1
    assert tree(home) == before


def test_a_full_disk_stops_before_the_picture_is_computed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders.shutil, 'disk_usage', lambda path: _Usage())
    monkeypatch.setattr(Restorer, 'restore', lambda *_: pytest.fail('it was computed'))
    result = restore('photo.png', home=home)
    assert result.returncode == 1
    assert 'not enough disk space' in result.stderr


class _Usage:
    free = 1000


def test_several_processes_share_the_pictures(home: Path) -> None:
    make_folder(home)
    result = run_torchrun(2, 'restore', 'photos', '-m', 'net.pth', '-o', 'out', cwd=home)
    assert result.returncode == 0, result.stderr
    assert len(tree(home / 'out')) == 4
    assert 'restored 4, skipped 1' in result.stdout


def test_an_interrupt_keeps_what_is_finished_and_leaves_nothing_half_written(home: Path) -> None:
    folder = home / 'many'
    folder.mkdir()
    for i in range(60):
        cv2.imwrite(str(folder / f'{i:02}.png'), photograph(i, 160, 160))
    process = subprocess.Popen(
        [str(BASICSR), 'restore', 'many', '-m', 'net.pth', '-o', 'out'],
        cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout
    while '->' not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith('interrupted\n')
    done = tree(home / 'out')
    assert 0 < len(done) < 60
    assert all(re.fullmatch(r'\d\d\.png', name) for name in done)
    for name in done:
        assert cv2.imread(str(home / 'out' / name)).shape == (320, 320, 3)
    result = restore('many', '-o', 'out', home=home)
    assert f'restored {60 - len(done)}, skipped {len(done)}' in result.stdout


def test_the_parser_repeats_what_it_must_not_import() -> None:
    assert list(PROTOCOLS) == basicsr_command.TASKS
    restore_parser = basicsr_command.build_parser().parse_args(['restore', 'a.png', '-m', 'net.pth'])
    assert restore_parser.overlap == OVERLAP
    assert (
        basicsr_command.build_parser()
        .parse_args(['restore', 'a.png', '-m', 'net.pth', '--overlap', str(LARGEST_OVERLAP)])
        .overlap
        == LARGEST_OVERLAP
    )
    with pytest.raises(SystemExit):
        basicsr_command.build_parser().parse_args(
            ['restore', 'a.png', '-m', 'net.pth', '--overlap', str(LARGEST_OVERLAP + 1)]
        )


@pytest.mark.skipif(sys.platform != 'linux', reason='script of util-linux')
def test_a_terminal_shows_progress_in_megapixels(home: Path) -> None:
    if shutil.which('script') is None:
        pytest.skip('script is not installed')
    command = f'stty rows 30 cols 110; {BASICSR} restore photo.png -m net.pth'
    result = subprocess.run(
        ['script', '-qec', command, '/dev/null'], cwd=home, capture_output=True, text=True, check=True
    )
    assert re.search(r'1 picture: 100%\|.*\| 0\.0/0\.0 MP \[', result.stdout)
