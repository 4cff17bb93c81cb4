"""Files of strangers: nothing in them is executed, and none takes more memory than its contents need."""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import zipfile
import zlib
from pathlib import Path

import lmdb
import pytest
import torch
from helpers import call_basicsr, make_model, options_of_test, tiny_options, write_lmdb, write_options, write_pairs

from ramit_arch.data import pixels
from ramit_arch.data.pixels import MAX_PIXELS, decode
from ramit_arch.data.stores import open_store, parse_meta_info
from ramit_arch.errors import UserError
from ramit_arch.inference.checkpoints import read_weights
from ramit_arch.models.states import read_state


class Exploit:
    """Unpickled, it makes a folder."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ('EXPLOITED',)


@pytest.fixture
def files(pairs: tuple[Path, Path], tmp_path: Path) -> Path:
    opt = tiny_options(*pairs)
    write_options(tmp_path / 'train.yml', opt)
    write_options(tmp_path / 'test.yml', options_of_test(opt, 'evil.pth'))
    return tmp_path


def plain_pickle(content: object) -> bytes:
    return pickle.dumps(content)


def archive(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def legacy(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize('form', [plain_pickle, archive, legacy])
@pytest.mark.parametrize(
    'content', [Exploit(), {'params': Exploit()}, {'params': {'weight': torch.zeros(1), 'x': Exploit()}}]
)
def test_a_malicious_checkpoint_is_refused(form: object, content: object, files: Path) -> None:
    (files / 'evil.pth').write_bytes(form(content))
    result = call_basicsr('test', '-opt', 'test.yml', cwd=files)
    assert result.returncode == 1
    assert result.stderr.startswith('error: test.yml:29: evil.pth: refused; it is damaged or holds more than tensors')
    assert not list(files.rglob('EXPLOITED'))
    assert not (files / 'results').exists()


def test_a_malicious_state_is_passed_over(files: Path) -> None:
    states = files / 'experiments' / 'tiny' / 'training_states'
    states.mkdir(parents=True)
    (states / '2.state').write_bytes(archive({'iter': 2, 'epoch': 0, 'optimizers': [Exploit()]}))
    result = call_basicsr('train', '-opt', 'train.yml', '--auto_resume', cwd=files)
    assert result.returncode == 1
    assert 'Skipping experiments/tiny/training_states/2.state: damaged or no training state' in result.stdout
    assert not list(files.rglob('EXPLOITED'))


GOOD_STATE: dict = {'iter': 2, 'epoch': 0, 'optimizers': [{}], 'manual_seed': 1, 'validated': [], 'best': {}}


@pytest.mark.parametrize(
    'change',
    [
        {'iter': -1}, {'iter': '2'}, {'iter': True}, {'epoch': 0.5}, {'optimizers': [3]}, {'optimizers': {}},
        {'best': [1]}, {'best': {'set': 3}}, {'best': {'set': {'psnr': 3}}}, {'best': {'set': {'psnr': {'val': 3}}}},
        {'validated': 3}, {'manual_seed': 'x'},
    ],
    ids=str,
)  # fmt: skip
def test_a_state_with_odd_contents_is_no_state(change: dict, tmp_path: Path) -> None:
    torch.save(GOOD_STATE, tmp_path / '2.state')
    read_state(tmp_path / '2.state')
    torch.save({**GOOD_STATE, **change}, tmp_path / '2.state')
    with pytest.raises(UserError, match='not a training state'):
        read_state(tmp_path / '2.state')


def test_a_compressed_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'stored.pth').write_bytes(archive({'params': {'weight': torch.zeros(10)}}))
    with (
        zipfile.ZipFile(tmp_path / 'stored.pth') as stored,
        zipfile.ZipFile(tmp_path / 'net.pth', 'w', zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    with pytest.raises(UserError, match='compressed, which no checkpoint is'):
        read_weights(str(tmp_path / 'net.pth'))


@pytest.mark.parametrize(
    'line',
    [
        'name: !!python/object/apply:os.mkdir [EXPLOITED]',
        'name: !!python/object/new:os.mkdir [EXPLOITED]',
        'name: !!python/name:os.mkdir',
        "name: !!python/object/apply:subprocess.check_call [['mkdir', 'EXPLOITED']]",
    ],
)
def test_a_malicious_option_file_is_refused(line: str, files: Path) -> None:
    text = (files / 'train.yml').read_text().replace('name: tiny\n', line + '\n', 1)
    (files / 'train.yml').write_text(text)
    for verb in ('train', 'test', 'options'):
        result = call_basicsr(verb, '-opt', 'train.yml', cwd=files)
        assert result.returncode == 1
        assert result.stderr.startswith('error: train.yml:1: not plain YAML: could not determine a constructor')
    assert not list(files.rglob('EXPLOITED'))


@pytest.mark.parametrize(
    'value',
    ["[os.mkdir('EXPLOITED')]", "[__import__('os').mkdir('EXPLOITED')]", '!!python/object/apply:os.mkdir [EXPLOITED]'],
)
def test_force_yml_is_never_evaluated(value: str, files: Path) -> None:
    result = call_basicsr('train', '-opt', 'train.yml', '--force_yml', f'name={value}', cwd=files)
    assert result.returncode == 1
    assert result.stderr.startswith('error: ')
    assert not list(files.rglob('EXPLOITED'))
    key = """name"]=__import__('os').mkdir('EXPLOITED') or opt["name"""
    result = call_basicsr('train', '-opt', 'train.yml', '--force_yml', f'{key}=1', cwd=files)
    assert result.returncode == 1
    assert not list(files.rglob('EXPLOITED'))


# --------------------------------------------------------------------------------------------------- where results go


@pytest.mark.parametrize('training', [True, False])
def test_an_image_name_cannot_leave_the_results_folder(training: bool, tmp_path: Path) -> None:
    model = make_model(tmp_path)
    model.is_train = training
    folder = (tmp_path / 'visualization' / 'set').resolve()
    for name in ('../../../evil', '/tmp/evil', 'a/b/../../../../evil'):
        assert model._image_path(Path(name).stem, 'set', 3).resolve().is_relative_to(folder), name
    for stem in ('..', '.', ''):  # of '..', of '..evil' before Python 3.14, and of '.'
        with pytest.raises(UserError, match='is no file name'):
            model._image_path(stem, 'set', 3)


@pytest.mark.parametrize('name', ['../evil', 'a/b', '..', '/tmp/evil', 'a\\b'])
def test_names_of_runs_and_sets_cannot_leave_it(name: str, files: Path) -> None:
    for key in ('name', 'datasets:val:name', 'val:suffix'):
        result = call_basicsr('train', '-opt', 'train.yml', '--force_yml', f"{key}='{name}'", cwd=files)
        assert result.returncode == 1, key
        assert 'a name for files and folders, without slashes' in result.stderr


# ------------------------------------------------------------------------------------------------------ memory


@pytest.fixture
def never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels.cv2, 'imdecode', lambda *_: pytest.fail('it was decoded'))


def png(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and is not."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b'')


def bmp(width: int, height: int) -> bytes:
    info = struct.pack('<IiiHHIIiiII', 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b'BM' + struct.pack('<IHHI', 54 + 1000, 0, 0, 54) + info + bytes(1000)


@pytest.mark.parametrize('form', [png, bmp])
def test_a_decompression_bomb_is_refused_before_memory_is_taken(
    form: object, tmp_path: Path, never_decoded: None
) -> None:
    for side in (60000, 30000, int(MAX_PIXELS**0.5) + 1):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(UserError, match=r'bomb\.x: refused'):
            decode(form(side, side), 'bomb.x')
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50000  # KiB
    (tmp_path / 'bomb.png').write_bytes(form(60000, 60000))
    with pytest.raises(UserError, match=r'bomb\.png'):
        open_store(str(tmp_path), 'disk').size('bomb')


def test_a_bomb_in_a_format_whose_size_is_not_known_is_refused(never_decoded: None) -> None:
    head = b'#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 15000 +X 15000\n'
    row = b'\x02\x02' + struct.pack('>H', 15000) + b''.join(b'\xff\x01' * 118 + b'\xff' * 0 for _ in range(4))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match='not an image that can be read'):
        decode(head + row * 15000, 'bomb.png')
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100000


def test_an_lmdb_value_that_lies_about_its_shape_is_refused(tmp_path: Path, never_decoded: None) -> None:
    gt, _ = write_pairs(tmp_path / 'data', count=1)
    target = write_lmdb(gt, tmp_path / 'gt.lmdb')
    [size] = parse_meta_info(target / 'meta_info.txt').values()
    assert size
    environment = lmdb.open(str(target), map_size=2**24)
    with environment.begin(write=True) as transaction:
        transaction.put(b'0', png(12000, 12000))
    environment.close()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=f'is 12000x12000 pixels, but meta_info.txt lists {size[1]}x{size[0]}'):
        open_store(str(target), 'lmdb').pixels('0')
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50000


def test_a_bit_that_fell_over_in_a_checkpoint_is_found(tmp_path: Path) -> None:
    content = archive({'params': {'weight': torch.randn(64, 64)}})
    path = tmp_path / 'net.pth'
    path.write_bytes(content)
    whole, messages = read_weights(str(path))['weight'], []
    for at in range(600, len(content) - 1500, 997):
        damaged = bytearray(content)
        damaged[at] ^= 4
        path.write_bytes(damaged)
        try:
            weight = read_weights(str(path))['weight']
        except UserError as error:
            messages.append(str(error))
        else:  # in the padding between the records
            assert torch.equal(weight, whole)
    assert len(messages) > 10
    assert all('damaged (checksum of' in message for message in messages)
