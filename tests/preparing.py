"""What the tests of `basicsr prepare` share: images, archives of a published layout, and the command."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from helpers import call_basicsr, photograph
from scipy.io import savemat

from ramit_arch.data.stores import open_store
from ramit_arch.preparation.catalogue import DataSet


def put(folder: Path, *names: str, size: tuple[int, int] = (24, 24), seed: int = 0) -> Path:
    """Write images; their suffix decides the format."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), photograph(seed + i, *size))
    return folder


def gopro(root: Path) -> Path:
    """GOPRO_Large: two sequences of two frames in each part."""
    for use in ('train', 'test'):
        for i, sequence in enumerate(('GOPR0372_07_00', 'GOPR0372_07_01')):
            for j, kind in enumerate(('sharp', 'blur', 'blur_gamma')):
                folder = root / 'GOPRO_Large' / use / sequence / kind
                put(folder, '000047.png', '000048.png', seed=100 * (use == 'test') + 10 * i + 30 * j)
    return root


def hide(root: Path) -> Path:
    """HIDE_dataset: the ground truth of training and test in one folder, the test in two."""
    put(root / 'HIDE_dataset' / 'GT', '10fromGOPR0950.png', '11fromGOPR0950.png', '12fromGOPR0977.png')
    put(root / 'HIDE_dataset' / 'train', '10fromGOPR0950.png', seed=10)
    put(root / 'HIDE_dataset' / 'test' / 'test-close-ups', '11fromGOPR0950.png', seed=11)
    put(root / 'HIDE_dataset' / 'test' / 'test-long-shot', '12fromGOPR0977.png', seed=12)
    return root


def its(root: Path) -> Path:
    """ITS of RESIDE: two hazy images of each clear one, which has ten pixels more at every side."""
    put(root / 'ITS' / 'clear', '1.png', '2.png', size=(44, 52))
    names = ('1_1_0.90179.png', '1_2_0.97842.png', '2_1_0.99082.png', '2_2_0.8.png')
    put(root / 'ITS' / 'hazy', *names, size=(24, 32), seed=10)
    return root


def sots(root: Path) -> Path:
    """SOTS of RESIDE; outdoors, hazy images are JPEG files and clear ones PNG files."""
    put(root / 'SOTS' / 'indoor' / 'gt', '1400.png', size=(44, 52))
    put(root / 'SOTS' / 'indoor' / 'hazy', '1400_1.png', '1400_10.png', size=(24, 32), seed=10)
    put(root / 'SOTS' / 'outdoor' / 'gt', '0001.png', '0002.png', seed=20)
    put(root / 'SOTS' / 'outdoor' / 'hazy', '0001_0.8_0.2.jpg', '0002_1_0.16.jpg', seed=30)
    return root


def sidd(root: Path) -> Path:
    """SIDD: two pairs in each of two folders, and 3x2 blocks in MATLAB files."""
    for i, scene in enumerate(('0001_001_S6_00100_00060_3200_L', '0002_001_S6_00100_00020_3200_N')):
        for j, kind in enumerate(('GT', 'NOISY')):
            names = (f'{scene[:4]}_{kind}_SRGB_{part}.PNG' for part in ('010', '011'))
            put(root / 'SIDD_Medium_Srgb' / 'Data' / scene, *names, seed=10 * i + 30 * j)
    for i, kind in enumerate(('Gt', 'Noisy')):
        savemat(root / f'Validation{kind}BlocksSrgb.mat', {f'Validation{kind}BlocksSrgb': blocks(i)})
    return root


def blocks(seed: int) -> np.ndarray:
    """(3, 2, 16, 16, 3) uint8 in RGB order."""
    images = [photograph(100 * (seed + 1) + i, 16, 16)[..., ::-1] for i in range(6)]
    return np.stack(images).reshape(3, 2, 16, 16, 3)


# Archives whose layout is more than folders of equal names, and the names in the stores made of them.
SPECIAL = {
    'GoPro': (gopro, {
        f'GoPro/{use}': [f'GOPR0372_07_0{i}-00004{j}' for i in (0, 1) for j in (7, 8)] for use in ('train', 'test')
    }),
    'HIDE': (hide, {'HIDE': ['11fromGOPR0950', '12fromGOPR0977']}),
    'ITS': (its, {'ITS': ['1_1_0p90179', '1_2_0p97842', '2_1_0p99082', '2_2_0p8']}),
    'SOTS': (sots, {'SOTS-indoor': ['1400_1', '1400_10'], 'SOTS-outdoor': ['0001_0p8_0p2', '0002_1_0p16']}),
    'SIDD': (sidd, {
        'SIDD/train': [f'000{i}_01{j}' for i in (1, 2) for j in (0, 1)],
        'SIDD/test': [f'000{i}_0{j}' for i in (0, 1, 2) for j in (0, 1)],
    }),
}  # fmt: skip


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
