"""What the tests of `basicsr prepare` share: images, archives of a published layout, and the command."""

from __future__ import annotations

from pathlib import Path

import cv2
from helpers import call_basicsr, photograph

from ramit_arch.data.stores import open_store
from ramit_arch.preparation.catalogue import DataSet


def put(folder: Path, *names: str, size: tuple[int, int] = (24, 24), seed: int = 0) -> Path:
    """Write images; their suffix decides the format."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), photograph(seed + i, *size))
    return folder


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
