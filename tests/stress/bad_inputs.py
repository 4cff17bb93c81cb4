"""Give `basicsr` bad images, option files, checkpoints, LMDBs and command lines, and see how it takes them.

    python tests/stress/bad_inputs.py --work DIR
    python tests/stress/bad_inputs.py --work DIR --each 10 --seed 1 --show

Every input is made of a good one by a seeded mutation that no tool should accept. It should end in a message of one or
two lines and an exit status of 1, or 2 for a wrong command line. Counted apart are tracebacks and errors that are not
ours, wrong successes, and runs that do not end. Every command is a fork of this process, which saves the seconds of
importing.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import re
import shutil
import signal
import string
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import lmdb
import numpy as np
import torch
import yaml

import basicsr_command
from ramit_arch import RAMiT
from ramit_arch.evaluation.text import aligned
from ramit_arch.inference.pictures import Picture, write_picture

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers import write_lmdb, write_pairs

NETWORK = {'upscale': 2, 'dim': 16, 'depths': [1, 1, 1, 1], 'expand_groups': 1, 'window_size': 2}
LIMIT = 60  # seconds that a command may take


class Case(NamedTuple):
    """What was done to the good input, and the command that meets it."""

    done: str
    command: list[str]


Mutator = Callable[[Path, random.Random], Case]


# --------------------------------------------------------------------------------------------------- the good inputs


def write_good(folder: Path) -> None:
    """Images, LMDBs of them, option files that work with either, and a checkpoint."""
    for images in write_pairs(folder, lq=(24, 32)):
        write_lmdb(images, folder / f'{images.name}.lmdb')
    torch.manual_seed(0)
    torch.save({'params': RAMiT(**NETWORK).state_dict()}, folder / 'net.pth')
    write_options(folder, options())


def options() -> dict[str, Any]:
    data = {
        'type': 'PairedRestorationDataset',
        'dataroot_gt': 'gt',
        'dataroot_lq': 'lq',
        'io_backend': {'type': 'disk'},
    }
    return {
        'name': 'run', 'model_type': 'RAMiTModel', 'scale': 2, 'num_gpu': 0, 'manual_seed': 1,
        'datasets': {
            'train': {**data, 'name': 'train', 'lq_patch_size': 8, 'batch_size_per_gpu': 3, 'num_worker_per_gpu': 0,
                      'use_hflip': True, 'use_rot': True, 'color': 'rgb'},
            'val': {**data, 'name': 'val'},
        },
        'network_g': {'type': 'RAMiT', **NETWORK},
        'path': {'pretrain_network_g': 'net.pth', 'strict_load_g': True, 'param_key_g': 'params'},
        'train': {
            'total_iter': 2, 'warmup_iter': 1, 'ema_decay': 0.9, 'grad_clip_norm': 1.0, 'lr_batch_size': 3,
            'lr_rule': 'linear', 'accumulate': 1, 'bf16': False, 'checkpointing': False,
            'optim_g': {'type': 'Adam', 'lr': 0.001, 'betas': [0.9, 0.99]},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [1], 'gamma': 0.5},
            'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'},
        },
        'val': {'val_freq': 2, 'save_img': False, 'metrics': {
            'psnr': {'type': 'calculate_psnr', 'crop_border': 2, 'test_y_channel': True}}},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'keep_checkpoints': 2, 'keep_best': 'psnr',
                   'use_tb_logger': False},
    }  # fmt: skip


def write_options(folder: Path, opt: dict[str, Any]) -> None:
    (folder / 'train.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    test = {key: opt[key] for key in ('name', 'model_type', 'scale', 'num_gpu', 'network_g', 'path') if key in opt}
    metrics = {key: value for key, value in opt['val'].items() if key != 'val_freq'}
    test |= {'datasets': {'test': opt['datasets'].get('val')}, 'val': metrics}
    (folder / 'test.yml').write_text(yaml.safe_dump(test, sort_keys=False))


# ------------------------------------------------------------------------------------------------------- bad images


def damage(file: Path, rng: random.Random) -> str:
    """Damage a file; what was done to it."""
    done, content = damaged(file.read_bytes(), rng)
    file.write_bytes(content)
    return done


SEEN = ('cut short', 'empty', 'noise', 'head missing', 'text')  # in files of every format
UNSEEN = ('zeros in the middle', 'a bit turned')  # in formats without checksums


def damaged(data: bytes, rng: random.Random, kinds: Sequence[str] = SEEN + UNSEEN) -> tuple[str, bytes]:
    """Bytes that are no longer what they were."""
    kind = rng.choice(kinds)
    middle = rng.randrange(len(data) // 4, 3 * len(data) // 4)
    return kind, {
        'cut short': data[:middle],
        'empty': b'',
        'noise': rng.randbytes(len(data)),
        'zeros in the middle': data[:middle] + bytes(64) + data[middle + 64 :],
        'head missing': data[rng.randrange(1, 40) :],
        'text': b'not found\n' * 9,
        'a bit turned': data[:middle] + bytes([data[middle] ^ 1 << rng.randrange(8)]) + data[middle + 1 :],
    }[kind]


def bad_image(folder: Path, rng: random.Random) -> Case:
    file = folder / rng.choice(['gt', 'lq']) / f'{rng.randrange(3)}.png'
    kind = rng.choice(['damage', 'damage', 'damage', 'size', 'float', 'bomb', 'missing', 'folder', 'name'])
    done = kind
    if kind == 'damage':
        done = damage(file, rng)
    elif kind == 'size':
        cv2.imwrite(str(file), np.zeros((rng.choice([1, 7, 200]), rng.choice([1, 5, 300]), 3), np.uint8))
    elif kind == 'float':
        cv2.imwrite(str(file.with_suffix('.tiff')), np.zeros((48, 64, 3), np.float32))
        file.unlink()
    elif kind == 'bomb':
        data = bytearray(file.read_bytes())
        data[16:24] = (60000).to_bytes(4, 'big') * 2
        file.write_bytes(data)
    elif kind == 'missing':
        file.unlink()
    elif kind == 'folder':
        shutil.rmtree(file.parent)
        file.parent.write_text('a file')
    else:
        file.rename(file.with_stem(f'{file.stem}_renamed'))
    return Case(f'{file.parent.name}/{file.name}: {done}', rng.choice([['train', '-opt', 'train.yml'], TEST]))


TEST = ['test', '-opt', 'test.yml']


def bad_picture(folder: Path, rng: random.Random) -> Case:
    """For `basicsr restore`."""
    suffix = rng.choice(['.png', '.jpg', '.webp', '.tif'])
    file = folder / f'picture{suffix}'
    dtype = rng.choice([np.uint8, np.uint16, np.float32]) if suffix == '.tif' else np.uint8
    pixels = np.random.default_rng(rng.randrange(99)).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    pixels = (pixels / np.float32(255)) if dtype == np.float32 else pixels.astype(dtype)
    command = ['restore', file.name, '-m', 'net.pth']
    kind = rng.choice(['damage', 'damage', 'damage', 'nan', 'range', 'bomb', 'folder', 'model', 'output', 'task'])
    if kind == 'nan':
        file = file.with_suffix('.tif')
        pixels = pixels.astype(np.float32)
        pixels[0, 0, 0] = rng.choice([np.nan, np.inf])
    elif kind == 'range':
        file, pixels = file.with_suffix('.tif'), pixels.astype(np.float32) + 300
    write_picture(Picture(pixels), file)
    command[1] = file.name
    done = kind
    if kind == 'damage':
        done, content = damaged(file.read_bytes(), rng, SEEN + UNSEEN if suffix == '.png' else SEEN)
        file.write_bytes(content)
    elif kind == 'bomb':
        data = bytearray((folder / 'lq' / '0.png').read_bytes())
        data[16:24] = (60000).to_bytes(4, 'big') * 2
        file.write_bytes(data)
    elif kind == 'folder':
        file.unlink()
        file.mkdir()
    elif kind == 'model':
        newer = {'params': torch.load(folder / 'net.pth', weights_only=True)['params'], 'network': {'format': 99}}
        other = {'params': {'conv.weight': torch.zeros(3)}}
        content = rng.choice([{}, other, {'iter': 1, 'optimizers': []}, [1], newer, re.compile('hostile')])
        torch.save(content, folder / 'net.pth') if rng.random() < 0.5 else damage(folder / 'net.pth', rng)
    elif kind == 'output':
        command += ['-o', rng.choice(['.', 'net.pth/x', f'train.yml/{file.name}'])]
        command += ['--format', file.suffix[1:]]
    elif kind == 'task':
        command += ['--task', rng.choice(['CDN', 'DR', 'none'])]
    return Case(f'{file.name}: {done}', command)


# ------------------------------------------------------------------------------------------------- bad option files


def leaves(section: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for key, value in section.items():
        found += [(*path, key)]
        if isinstance(value, dict):
            found += leaves(value, (*path, key))
    return found


STARTS = [['train', '-opt', 'train.yml', *more] for more in ([], ['--auto_resume'], ['--debug'])]
STARTS += [['check', '-opt', 'train.yml']]
ABSURD: list[Any] = [
    -3,
    0.5,
    'nonsense',
    '',
    [],
    {},
    [[1]],
    {'a': {'b': 1}},
    float('nan'),
    float('inf'),
    10**30,
    '1e-4',
]


def bad_options(folder: Path, rng: random.Random) -> Case:
    opt = options()
    kind = rng.choice(
        ['misspelt', 'misspelt', 'value', 'value', 'value', 'missing', 'syntax', 'surplus', 'contradiction']
    )
    places = leaves(opt)
    file = folder / 'train.yml'
    if kind == 'misspelt':
        place = rng.choice([p for p in places if p[-1] not in ('psnr', 'val', 'train')])
        at = rng.randrange(len(place[-1]))
        wrong = place[-1][:at] + rng.choice(string.ascii_lowercase) + place[-1][at + rng.randrange(2) :]
        section = at_place(opt, place[:-1])
        if wrong in section:
            wrong += 'x'
        section[wrong] = section.pop(place[-1])
        done = f'{".".join(place)} misspelt as {wrong}'
    elif kind == 'value':
        place, value = wrong_value(opt, places, rng)
        at_place(opt, place[:-1])[place[-1]] = value
        done = f'{".".join(place)}: {value!r}'
    elif kind == 'missing':
        needed = ['name', 'model_type', 'num_gpu', 'datasets', 'network_g', 'path', 'train', 'logger', 'datasets.train',
                  'datasets.train.type', 'datasets.train.name', 'datasets.train.dataroot_gt', 'train.total_iter',
                  'datasets.train.lq_patch_size', 'train.optim_g', 'train.optim_g.lr', 'train.optim_g.type',
                  'train.pixel_opt', 'network_g.type', 'logger.print_freq', 'val.val_freq', 'datasets.val.dataroot_lq',
                  'val.metrics.psnr.type', 'datasets.train.batch_size_per_gpu']  # fmt: skip
        place = tuple(rng.choice(needed).split('.'))
        del at_place(opt, place[:-1])[place[-1]]
        done = f'{".".join(place)} missing'
    elif kind == 'surplus':
        place = rng.choice([(), ('train',), ('val',), ('logger',), ('path',), ('network_g',), ('datasets', 'train')])
        key = ''.join(rng.choices(string.ascii_lowercase, k=7))
        at_place(opt, place)[key] = 1
        done = f'{".".join((*place, key))} added'
    elif kind == 'contradiction':
        done, change = rng.choice(CONTRADICTIONS)
        change(opt)
    else:
        text = file.read_text()
        done, text = broken_syntax(text, rng)
        file.write_bytes(text)
        return Case(f'syntax: {done}', rng.choice(STARTS))
    file.write_text(yaml.safe_dump(opt, sort_keys=False))
    return Case(done, rng.choice(STARTS))


def at_place(opt: dict[str, Any], place: tuple[str, ...]) -> dict[str, Any]:
    section: Any = opt
    for key in place:
        section = section[key]
    return section


def wrong_value(opt: dict[str, Any], places: list[tuple[str, ...]], rng: random.Random) -> tuple[tuple[str, ...], Any]:
    """A place and a value of another kind than belongs there."""
    while True:
        place = rng.choice(places)
        old, value = at_place(opt, place[:-1])[place[-1]], copy.deepcopy(rng.choice(ABSURD))
        if type(value) is type(old) and not (isinstance(value, (float, int)) and value in (-3, 10**30)):
            continue  # of the right kind, perhaps right
        if place[-1] in ('name', 'metrics', 'path', 'val', 'manual_seed', 'scheduler', 'io_backend') and not value:
            continue  # may be empty
        if isinstance(old, float) and isinstance(value, (int, float)) and value in (0.5, 10**30):
            continue
        if place[-1] in ('manual_seed', 'total_iter', 'milestones', 'crop_border', 'loss_weight', 'warmup_iter') or (
            value == 10**30 and place[-1].endswith(('_freq', '_checkpoints', 'lr_batch_size', 'repeat', 'accumulate'))
        ):
            continue  # any integer has a meaning
        if place[-1] == 'name' and isinstance(value, str) and value:
            continue
        return place, value


def _set(*place_and_value: Any) -> Callable[[dict[str, Any]], None]:
    *place, last, value = place_and_value
    return lambda opt: at_place(opt, tuple(place)).__setitem__(last, value)


CONTRADICTIONS: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    ('gt_size against scale', _set('datasets', 'train', 'gt_size', 17)),
    ('three channels with gray', _set('datasets', 'train', 'color', 'gray')),
    ('upscale against scale', _set('network_g', 'upscale', 3)),
    ('patch larger than the images', _set('datasets', 'train', 'lq_patch_size', 500)),
    ('no such root', _set('datasets', 'val', 'dataroot_gt', 'nowhere')),
    ('no such checkpoint', _set('path', 'pretrain_network_g', 'nowhere.pth')),
    ('stages against total_iter', _set('train', 'progressive', [{'iter': 9, 'lq_patch_size': 8, 'batch_size': 2}])),
    ('milestones beyond total_iter', _set('train', 'scheduler', 'milestones', [1, 500])),
    ('best by a metric that is not scored', _set('logger', 'keep_best', 'lpips')),
    ('an LMDB where a folder is', _set('datasets', 'train', 'io_backend', {'type': 'lmdb'})),
    ('heads that do not divide dim', _set('network_g', 'num_heads', [4, 4, 4, 5])),
    ('a base that is the file itself', _set('base', 'train.yml')),
]


def broken_syntax(text: str, rng: random.Random) -> tuple[str, bytes]:
    lines = text.splitlines(keepends=True)
    kind = rng.choice(
        ['key twice', 'tab', 'not UTF-8', 'tag', 'open bracket', 'empty', 'a list', 'binary', 'open quote']
    )
    if kind == 'key twice':
        return kind, (text + 'name: again\n').encode()
    if kind == 'tab':
        lines.insert(rng.randrange(1, len(lines)), '\tx: 1\n')
    elif kind == 'not UTF-8':
        return kind, text.encode() + b'# \xff\xfe\n'
    elif kind == 'tag':
        return kind, text.replace('name: run', 'name: !!python/object/apply:os.getcwd []').encode()
    elif kind == 'open bracket':
        lines.insert(1, 'x: [1, 2\n')
    elif kind == 'open quote':
        lines.insert(1, 'x: "1\n')
    elif kind in ('empty', 'a list'):
        return kind, b'' if kind == 'empty' else b'- 1\n- 2\n'
    else:
        return kind, rng.randbytes(300)
    return kind, ''.join(lines).encode()


# -------------------------------------------------------------------------------------- bad checkpoints and states


def bad_checkpoint(folder: Path, rng: random.Random) -> Case:
    file = folder / 'net.pth'
    state = torch.load(file, weights_only=True)['params']
    kind = rng.choice(['damage', 'damage', 'names', 'shapes', 'missing', 'kind', 'content', 'safetensors', 'state'])
    done = kind
    if kind == 'damage':
        done = damage(file, rng)
    elif kind == 'names':
        state[f'{rng.choice(list(state))}x'] = torch.zeros(1)
        torch.save({'params': state}, file)
    elif kind == 'shapes':
        name = rng.choice(list(state))
        state[name] = torch.zeros(*state[name].shape, 2)
        torch.save({'params': state}, file)
    elif kind == 'missing':
        del state[rng.choice(list(state))]
        torch.save(state, file)
    elif kind == 'kind':
        shutil.rmtree(folder / 'gt') if rng.random() < 0.2 else None
        file.unlink()
        file.mkdir()
    elif kind == 'content':
        torch.save(rng.choice([[], {}, 7, None, {'params': {}}, {'params': 3}, {'a': 'b'}, torch.zeros(3)]), file)
    elif kind == 'safetensors':
        other = folder / 'net.safetensors'
        other.write_bytes(
            rng.choice([b'', bytes(8), (10**12).to_bytes(8, 'little') + b'{}', b'\x02' + bytes(7) + b'{}'])
        )
        for name in ('train.yml', 'test.yml'):
            text = (folder / name).read_text()
            (folder / name).write_text(text.replace('net.pth', 'net.safetensors'))
    else:
        states = folder / 'experiments' / 'run' / 'training_states'
        states.mkdir(parents=True)
        content = rng.choice(
            [{'iter': 1}, [], {'iter': 'x', 'epoch': 0, 'optimizers': []}, {'iter': 1, 'epoch': 0, 'optimizers': 3}]
        )
        torch.save(content, states / '1.state')
        return Case(f'state {content}', ['train', '-opt', 'train.yml', '--auto_resume'])
    return Case(done, rng.choice([['train', '-opt', 'train.yml'], TEST]))


# --------------------------------------------------------------------------------------------------------- bad LMDBs


def bad_lmdb(folder: Path, rng: random.Random) -> Case:
    for name in ('train.yml', 'test.yml'):
        text = (folder / name).read_text().replace('type: disk', 'type: lmdb')
        text = re.sub(r'(dataroot_\w+: )(\w+)', r'\1\2.lmdb', text)
        (folder / name).write_text(text)
    root = folder / rng.choice(['gt.lmdb', 'lq.lmdb'])
    meta, data = root / 'meta_info.txt', root / 'data.mdb'
    kind = rng.choice(
        ['value', 'value', 'cut', 'head', 'no data', 'no list', 'list lies', 'list cut', 'key gone', 'list damaged']
    )
    done = kind
    if kind in ('value', 'key gone'):
        environment = lmdb.open(str(root), map_size=2**22)
        key = b'%d' % rng.randrange(3)
        with environment.begin(write=True) as transaction:
            if kind == 'value':
                done, value = damaged(bytes(transaction.get(key)), rng)
                transaction.put(key, value or b'\0')
            else:
                transaction.delete(key)
        environment.close()
    elif kind == 'cut':
        data.write_bytes(data.read_bytes()[: rng.randrange(1, 20000)])
    elif kind == 'head':
        data.write_bytes(rng.randbytes(8192) + data.read_bytes()[8192:])
    elif kind == 'no data':
        data.unlink()
    elif kind == 'no list':
        meta.unlink()
    elif kind == 'list lies':
        meta.write_text(re.sub(r'\d+,', lambda match: f'{int(match[0][:-1]) * 2},', meta.read_text(), count=1))
    elif kind == 'list cut':
        meta.write_text(''.join(meta.read_text().splitlines(keepends=True)[:-1]))
    else:
        meta.write_bytes(rng.randbytes(100))
    return Case(f'{root.name}: {done}', rng.choice([['train', '-opt', 'train.yml'], TEST]))


# ------------------------------------------------------------------------------------------------- bad command lines


def bad_command(folder: Path, rng: random.Random) -> Case:
    word = ''.join(rng.choices(string.ascii_lowercase, k=5))
    command = rng.choice(
        [
            [], [word], ['train'], ['train', '-opt'], ['train', '-opt', f'{word}.yml'], ['train', '-opt', '.'],
            ['train', '-opt', 'train.yml', f'--{word}'], ['train', '-opt', 'train.yml', word],
            ['train', '-opt', 'train.yml', '--launcher', word], ['train', '-opt', 'train.yml', '--local_rank', word],
            ['train', '-opt', 'train.yml', '--launcher', 'slurm'],
            ['train', '-opt', 'train.yml', '--launcher', 'pytorch'],
            ['train', '-opt', 'train.yml', '--force_yml', word],
            ['train', '-opt', 'train.yml', '--force_yml', f'{word}:x=1'],
            ['train', '-opt', 'train.yml', '--force_yml', 'train:total_iter=[1'], ['train', '-opt', 'net.pth'],
            ['train', '-opt', 'train.yml', '--force_yml', f'train:{word}=1'], ['train', '-opt', 'test.yml'],
            ['test', '-opt', 'train.yml', '--force_yml', 'path:pretrain_network_g=~'], [*TEST, '--only', word],
            [*TEST, '--auto_resume', '--only'], ['compare', '-opt', 'test.yml'], ['compare', '-opt', 'train.yml'],
            ['restore'], ['restore', 'gt'], ['restore', 'gt', '-m', word], ['restore', word, '-m', 'net.pth'],
            ['restore', 'gt', '-m', 'lq'], ['restore', 'gt', '-m', 'net.pth', '--tile', '-1'],
            ['restore', 'gt', '-m', 'net.pth', '--quality', '0'], ['test', '-m', 'net.pth'], ['test', '-m', word],
            ['table'], ['table', word], ['table', 'gt'], ['table', 'net.pth'], ['options', '-opt', 'net.pth'],
            ['table', 'gt', '--tables', word], ['complexity'], ['complexity', '-opt', word],
            ['complexity', '-opt', 'train.yml', '--repeats', '0'], ['complexity', '-opt', 'train.yml', '--plot', word],
            ['prepare', word], ['prepare', 'Set5', '--from', word, '--to', 'out'], ['prepare', 'own', '--from', 'gt'],
            ['prepare', 'own', '--from', 'net.pth', '--to', 'out'],
            ['prepare', 'own', '--from', 'gt', '--to', 'out', '--scale', '7'],
            ['prepare', 'own', '--from', 'gt', '--to', 'out', '--subimages', '0', '0', '0'],
            ['prepare', 'own', '--from', 'gt', '--lq', 'gt.lmdb', '--to', 'out', '--scale', '2'],
            ['verify', word], ['verify', '--gt', 'gt', '--lq', 'lq', '--scale', '3'], ['verify', '--lq', 'lq'],
            ['statistics', word], ['statistics', 'net.pth'], ['statistics', 'gt', '--workers', '-1'],
        ]
    )  # fmt: skip
    return Case(' '.join(command), command)


KINDS: dict[str, Mutator] = {
    'image': bad_image,
    'option file': bad_options,
    'picture': bad_picture,
    'checkpoint': bad_checkpoint,
    'LMDB': bad_lmdb,
    'command line': bad_command,
}


# ------------------------------------------------------------------------------------------------------ running them


def run(folder: Path, command: list[str]) -> tuple[int | None, str]:
    """Exit status, or none where it did not end in time, and what it wrote to stderr."""
    process = os.fork()
    if process == 0:
        try:
            os.chdir(folder)
            torch.set_num_threads(1)
            for number, name in [(1, 'out.txt'), (2, 'err.txt')]:
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.argv = ['basicsr', *command]
            try:
                code = basicsr_command.main(command)
            except SystemExit as error:
                code = int(error.code or 0)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        finally:
            os._exit(99)
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), (folder / 'err.txt').read_text(errors='replace')
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None, ''


def verdict(code: int | None, err: str) -> str:
    if code is None:
        return 'no end'
    if code == 0:
        return 'wrong success'
    _, found, message = ('\n' + err).rpartition('\nerror: ')
    if code == 2 and 'usage: basicsr' in err:
        return 'clear message'
    if 'Traceback' in err or '--traceback shows more' in message or not found or code != 1:
        return 'traceback'
    listed = re.match(r'.*\b\d+ problems?\b', message)  # with a line each
    return 'clear message' if listed or len(message.strip().splitlines()) <= 2 else 'long message'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work', type=Path, required=True, help='folder to create')
    parser.add_argument('--each', type=int, default=60, help='inputs of every kind (default: 60)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--show', action='store_true', help='print every input and its message')
    args = parser.parse_args()
    work = args.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    write_good(work / 'good')
    for command in (['train', '-opt', 'train.yml'], TEST):  # the good input is good
        shutil.copytree(work / 'good', work / 'try')
        code, err = run(work / 'try', command)
        if code != 0:
            sys.exit(f'the good input fails: {err[-2000:]}')
        shutil.rmtree(work / 'try')
    counts: dict[str, Counter[str]] = {}
    for kind, mutate in KINDS.items():
        counts[kind] = Counter()
        for i in range(args.each):
            folder = work / 'try'
            shutil.copytree(work / 'good', folder)
            case = mutate(folder, random.Random(f'{kind} {args.seed} {i}'))
            code, err = run(folder, case.command)
            result = verdict(code, err)
            counts[kind][result] += 1
            if args.show or result != 'clear message':
                last = err.strip()[-300:] if result != 'clear message' else err.rpartition('error: ')[2].strip()
                print(f'{kind} {i}: {case.done}: {result}\n    {last}', flush=True)
            shutil.rmtree(folder)
    results = ['clear message', 'long message', 'traceback', 'wrong success', 'no end']
    rows = [['bad input', 'tried', *results]]
    rows += [[kind, str(count.total()), *(str(count[result]) for result in results)] for kind, count in counts.items()]
    total = sum(counts.values(), Counter())
    print(aligned([*rows, ['all', str(total.total()), *(str(total[result]) for result in results)]]))


if __name__ == '__main__':
    main()
