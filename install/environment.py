"""Make .venv with the versions of requirements.txt and this package: what `make setup` runs. Standard library only.

    python3 install/environment.py [--this-python]

A complete environment is updated if requirements.txt or setup.py has changed. One whose installation was interrupted,
or that was moved with the repository, is built from scratch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / '.venv'
PYTHON = VENV / 'bin' / 'python'
STATE = VENV / 'installed'  # what is installed; empty until all of it is
THIS_PYTHON = f'{sys.version_info.major}.{sys.version_info.minor}'
# GB that .venv and pip's downloads take, with the CUDA and with the CPU build of PyTorch (measured on x86_64 Linux).
CUDA, CPU = (6, 3), (2, 1)


def main(arguments: list[str]) -> None:
    """Leave a complete .venv, or end with one line that says why not."""
    if sys.version_info < (3, 10):  # noqa: UP036
        raise SystemExit(f'error: Python {THIS_PYTHON} is too old, 3.10 or newer is needed; '
                         'name another: make setup PYTHON=python3.12')  # fmt: skip
    pins = [line for line in (ROOT / 'requirements.txt').read_text().splitlines() if line and line[0] != '#']
    wanted = f'{VENV}\n{hashlib.sha256("".join([*pins, (ROOT / "setup.py").read_text()]).encode()).hexdigest()}\n'
    if not usable():
        create()
    elif '--this-python' in arguments:
        check_python()
    if STATE.read_text() != wanted:
        STATE.write_text('')
        install(pins)
        STATE.write_text(wanted)


def usable() -> bool:
    """Whether .venv is complete and where it was made; if it is only a part of one, remove it.

    Raises:
        SystemExit: .venv was made by somebody else.
    """
    if not VENV.exists():
        return False
    if not STATE.is_file():
        raise SystemExit('error: make setup did not create this .venv, and leaves it alone; move or remove it')
    if PYTHON.exists() and STATE.read_text().startswith(f'{VENV}\n'):
        return True
    print('Removing .venv: its installation was interrupted, or its Python or folder is gone.', flush=True)
    shutil.rmtree(VENV)
    return False


def check_python() -> None:
    """Raises SystemExit if .venv has another Python than this one."""
    this = f'python{THIS_PYTHON}'
    if not (VENV / 'lib' / this).is_dir():
        other = ' and '.join(folder.name for folder in (VENV / 'lib').iterdir())
        raise SystemExit(f'error: .venv has {other}, not {this}; remove .venv to install for another Python')


def create() -> None:
    """Make an empty .venv.

    Raises:
        SystemExit: Python lacks ensurepip, or the disk is too full for what will be installed.
    """
    if importlib.util.find_spec('ensurepip') is None:
        raise SystemExit('error: this Python cannot make virtual environments; on Debian and Ubuntu: '
                         'apt-get install python3-venv')  # fmt: skip
    check_disk()
    print(f'Creating .venv with Python {THIS_PYTHON}.', flush=True)
    VENV.mkdir()
    STATE.touch()
    # Not sys.executable: that may be a link in the .venv that was just removed.
    run(Path(sys.executable).resolve(), '-m', 'venv', VENV)


def check_disk() -> None:
    """Keep no downloads in pip's cache where the disk is short.

    Raises:
        SystemExit: the installation would not fit.
    """
    indexes = f'{os.environ.get("PIP_INDEX_URL")} {os.environ.get("PIP_EXTRA_INDEX_URL")}'
    environment, downloads = CPU if sys.platform == 'darwin' or '/cpu' in indexes else CUDA
    temporary = Path(tempfile.gettempdir())
    together = ROOT.stat().st_dev == temporary.stat().st_dev
    needs = {ROOT: environment + downloads} if together else {ROOT: environment, temporary: downloads}
    for folder, needed in needs.items():
        free = shutil.disk_usage(folder).free / 1e9
        if free < needed:
            raise SystemExit(f'error: {folder} has {free:.1f} GB free, and the installation takes {needed} GB there')
        if free < needed + downloads:
            os.environ['PIP_NO_CACHE_DIR'] = '1'


def install(pins: list[str]) -> None:
    """Install the pinned versions and this package into .venv.

    Raises:
        SystemExit: pip failed.
    """
    basicsr = [pin for pin in pins if pin.startswith('basicsr')]
    print('Installing PyTorch, BasicSR and what they need; this takes a few minutes.', flush=True)
    # BasicSR asks for torch while it is built. In an isolated build it would download a second one.
    pip('install', *(pin for pin in pins if pin not in basicsr))
    pip('install', '--no-build-isolation', '--use-pep517', *basicsr)
    pip('install', '--no-build-isolation', '--no-deps', '--editable', str(ROOT))
    provide_opencv(next(pin.partition('==')[2] for pin in pins if pin.startswith('opencv-python==')))
    pip('check')


def provide_opencv(release: str) -> None:
    """Where OpenCV lacks libraries of X or GL, as on servers and in containers, put the build without windows over it.

    The metadata of both stay, because BasicSR requires the package `opencv-python` by name.
    """
    result = subprocess.run([PYTHON, '-c', 'import cv2'], stderr=subprocess.PIPE, text=True, check=False)
    problem = result.stderr.strip().rpartition('\n')[2]
    if 'cannot open shared object file' in problem:
        print(f'{problem}\nOpenCV: installing opencv-python-headless {release}, which needs no X or GL.', flush=True)
        pip('install', '--no-deps', '--force-reinstall', f'opencv-python-headless=={release}')
    if result.returncode:
        run(PYTHON, '-c', 'import cv2')


def pip(*arguments: str) -> None:
    """Run pip in .venv, with its progress where somebody watches."""
    quiet = [] if sys.stdout.isatty() or arguments == ('check',) else ['--quiet']
    # See sitecustomize.py.
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parent), 'PIP_DISABLE_PIP_VERSION_CHECK': '1'}
    run(PYTHON, '-m', 'pip', *quiet, *arguments, env=environment)


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Run a command.

    Raises:
        SystemExit: it failed, with its own message above.
    """
    status = subprocess.run(command, env=env, check=False).returncode
    if status:
        raise SystemExit(f'error: {" ".join(map(str, command[:4]))} ... ended with {status}; see above')


if __name__ == '__main__':
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print('interrupted; make setup starts again', file=sys.stderr)
        sys.exit(130)
