"""The walks of docs/your-own-pictures.md, typed as they stand there, with few and small pictures."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import ROOT, call_basicsr, photograph

from ramit_arch.cli import init

GUIDE = (ROOT / 'docs' / 'your-own-pictures.md').read_text(encoding='utf-8')
COMMANDS = re.findall(r'^\$ basicsr (.+)$', GUIDE, re.MULTILINE)
FILES = dict(re.findall(r'^```python\n# (\S+\.py)\n(.+?)^```', GUIDE, re.MULTILINE | re.DOTALL))
SHORTER = {'init': ['--hours', '0.001'], 'train': ['--force_yml', 'train:total_iter=2', 'logger:print_freq=1']}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folders that the guide's reader has."""
    for i in range(6):
        picture = photograph(i, 40, 48)
        noise = np.random.default_rng(i).normal(0, 10, picture.shape)
        for folder, name, content in [
            ('photographs', f'DSC_{i:04d}.jpg', picture),
            ('clean', f'DSC_{i:04d}_iso100.png', picture),
            ('noisy', f'DSC_{i:04d}_iso6400.jpg', (picture + noise).clip(0, 255)),
        ]:
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / name), content)
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def test_the_walks_run_from_their_first_command_to_their_last(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, 'SIZES', {'cpu': (2, 8), 'cuda': (2, 8)})
    monkeypatch.setattr(init, 'MIDDLE', 24)
    monkeypatch.setattr(init, 'WARM_UP', 1)
    monkeypatch.setattr(init, 'MEASURED', 1)
    verbs = [command.split()[0] for command in COMMANDS]
    assert [verbs.count(verb) for verb in ('init', 'train', 'runs')] == [3, 3, 1]
    for command in COMMANDS:
        arguments = shlex.split(command)
        result = call_basicsr(*arguments, *SHORTER.get(arguments[0], []), cwd=home)
        assert result.returncode == 0, f'{command}\n{result.stderr}'
    written = re.findall(r'(?:-o|--plot|--sheet) (\S+)', '\n'.join(COMMANDS))
    assert len(written) >= 4
    for name in written:
        assert (home / name).is_file(), name
