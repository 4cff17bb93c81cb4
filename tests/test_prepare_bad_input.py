"""What may be wrong with the images and command lines that `basicsr prepare` is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import photograph, write_pairs
from PIL import Image
from preparing import contents, put, refused, run

from ramit_arch.data.stores import open_store

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
    assert f'{gt}/2.png: no LQ image for it' in refused('own', '--from', gt, '--lq', lq, cwd=tmp_path)


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
    assert 'HQ.lmdb: exists already, but not of these files' in text


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
        (['--from', 'photographs'], 'no dataset given'),
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
