"""What pip installs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from helpers import ROOT


def test_the_wheel_holds_the_package_and_the_command_and_no_generic_name(tmp_path: Path) -> None:
    source = tmp_path / 'source'
    shutil.copytree(ROOT / 'ramit_arch', source / 'ramit_arch')
    for folder in ('data_prep', 'install'):
        shutil.copytree(ROOT / folder, source / folder)
    for name in ('setup.py', 'pyproject.toml', 'basicsr_command.py', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', tmp_path, source]
    subprocess.run(command, check=True, capture_output=True)
    [wheel] = tmp_path.glob('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition('/')[0] for name in names}
    assert {name for name in top if not name.endswith('.dist-info')} == {'ramit_arch', 'basicsr_command.py'}
    assert {'ramit_arch/preparation/datasets.yml', 'ramit_arch/evaluation/paper.yml'} <= set(names)
