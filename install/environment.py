"""Make .venv with the versions of requirements.txt and this package: what `make setup` runs. Standard library only.

    python3 install/environment.py [--this-python]

A complete environment is updated if requirements.txt or setup.py has changed. One whose installation was interrupted is
built from scratch.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / '.venv'
PYTHON = VENV / 'bin' / 'python'
STATE = VENV / 'installed'  # what is installed; empty until all of it is
THIS_PYTHON = f'{sys.version_info.major}.{sys.version_info.minor}'
# GB that .venv and the downloads for it take with the CUDA and the CPU build of PyTorch, on x86_64 Linux, rounded up.
CUDA, CPU = (6, 3), (2, 1)


def main(arguments: list[str]) -> None:
    """Leave a complete .venv, or end with one line that says why not."""
    if sys.version_info < (3, 10):  # noqa: UP036
        raise SystemExit(f'error: Python {THIS_PYTHON} is too old, 3.10 or newer is needed; '
                         'name another: make setup PYTHON=python3.12')  # fmt: skip
    with locked():
        pins = [line for line in read(ROOT / 'requirements.txt').splitlines() if line and line[0] != '#']
        digest = hashlib.sha256('\n'.join([*pins, read(ROOT / 'setup.py')]).encode()).hexdigest()
        wanted = f'{VENV}\n{digest}\n'
        if not complete():
            create()
        elif '--this-python' in arguments:
            check_python()
        former = read(STATE)
        if former != wanted:
            STATE.write_text('', encoding='utf-8')
            try:
                install(pins)
            except SystemExit:  # pip undoes what it cannot finish: an environment that was complete still is
                STATE.write_text(former, encoding='utf-8')
                raise
            STATE.write_text(wanted, encoding='utf-8')


@contextmanager
def locked() -> Iterator[None]:
    """Wait for another run in this folder; pip inherits the lock, and holds it should this process be killed."""
    folder = os.open(ROOT, os.O_RDONLY)
    os.set_inheritable(folder, True)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print('Waiting for another make setup.', flush=True)
        fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(folder)


def complete() -> bool:
    """Whether .venv was completely installed, perhaps for other requirements.

    Raises:
        SystemExit: it was made by somebody else, or elsewhere.
    """
    if not VENV.exists() or not any(VENV.iterdir()):
        return False
    if not STATE.is_file():
        raise SystemExit('error: .venv was not created by make setup; move or remove it')
    state = read(STATE)
    if not state:
        return False
    if not state.startswith(f'{VENV}\n'):
        raise SystemExit(f'error: .venv was created in {state.splitlines()[0]}, and cannot be moved; remove it')
    if not PYTHON.exists():
        raise SystemExit(f'error: the Python of .venv, {PYTHON.resolve()}, no longer exists; remove .venv')
    return True


def check_python() -> None:
    """Raises SystemExit if .venv has another Python than this one."""
    this = f'python{THIS_PYTHON}'
    if not (VENV / 'lib' / this).is_dir():
        other = ' and '.join(folder.name for folder in (VENV / 'lib').iterdir())
        raise SystemExit(f'error: .venv has {other}, not {this}; remove .venv to install for another Python')


def create() -> None:
    """Make a .venv without packages, in place of what an interrupted installation has left.

    Raises:
        SystemExit: Python lacks ensurepip, or the disk is too full for what will be installed.
    """
    if importlib.util.find_spec('ensurepip') is None:
        raise SystemExit('error: this Python cannot make virtual environments; on Debian and Ubuntu: '
                         f'apt-get install python3-venv (or python{THIS_PYTHON}-venv)')  # fmt: skip
    print(f'Creating .venv with Python {THIS_PYTHON}.', flush=True)
    python = Path(sys.executable).resolve()  # not a link in the .venv that is cleared
    VENV.mkdir(exist_ok=True)
    STATE.touch()
    for path in VENV.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != STATE:
            path.unlink()
    run(python, '-m', 'venv', VENV)
    check_disk()


def check_disk() -> None:
    """Keep no downloads in pip's cache where the disk is short.

    Raises:
        SystemExit: the installation would not fit.
    """
    settings = subprocess.run([PYTHON, '-m', 'pip', 'config', 'list'], stdout=subprocess.PIPE, text=True, check=False)
    cpu = sys.platform == 'darwin' or '/whl/cpu' in settings.stdout
    environment, downloads = CPU if cpu else CUDA
    temporary = Path(tempfile.gettempdir())
    together = ROOT.stat().st_dev == temporary.stat().st_dev
    needs = {ROOT: environment + downloads} if together else {ROOT: environment, temporary: downloads}
    for folder, needed in needs.items():
        free = shutil.disk_usage(folder).free / 1e9
        if free < needed:
            less = '' if cpu else '; the CPU build of PyTorch needs less, see README.md'
            raise SystemExit(f'error: {folder} has {free:.1f} GB free, the installation needs {needed} GB there{less}')
        if free < needed + downloads:
            os.environ['PIP_NO_CACHE_DIR'] = '1'


def install(pins: list[str]) -> None:
    """Install the pinned versions and this package into .venv.

    Raises:
        SystemExit: pip failed.
    """
    basicsr = [pin for pin in pins if pin.startswith('basicsr')]
    print('Installing the packages of requirements.txt; the first time this takes a few minutes.', flush=True)
    # BasicSR requires torch while it is built; an isolated build would download a second one.
    pip('install', *(pin for pin in pins if pin not in basicsr))
    pip('install', '--no-build-isolation', '--use-pep517', *basicsr)
    pip('install', '--no-build-isolation', '--no-deps', '--editable', str(ROOT))
    provide_opencv(next(pin.partition('==')[2] for pin in pins if pin.startswith('opencv-python==')))
    pip('check')


def provide_opencv(release: str) -> None:
    """Where OpenCV lacks X11 or OpenGL libraries, as on servers and in containers, install its headless build over it.

    The metadata of both stay, because BasicSR requires the package `opencv-python` by name.
    """
    result = subprocess.run([PYTHON, '-c', 'import cv2'], stderr=subprocess.PIPE, text=True, check=False)
    problem = result.stderr.strip().rpartition('\n')[2]
    if 'cannot open shared object file' in problem:
        print(
            f'{problem}\nOpenCV: installing opencv-python-headless {release}, which needs no X11 or OpenGL.', flush=True
        )
        pip('install', '--no-deps', '--force-reinstall', f'opencv-python-headless=={release}')
    if result.returncode:
        run(PYTHON, '-c', 'import cv2')


def pip(*arguments: str) -> None:
    """Run pip in .venv, with progress bars on a terminal."""
    quiet = [] if sys.stdout.isatty() or arguments == ('check',) else ['--quiet']
    settings = {
        'PYTHONPATH': str(ROOT / 'install'),  # see sitecustomize.py
        'PIP_DISABLE_PIP_VERSION_CHECK': '1',
        'PIP_USER': '0',
    }
    run(PYTHON, '-m', 'pip', *arguments[:1], *quiet, *arguments[1:], env={**os.environ, **settings})


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Run a command.

    Raises:
        SystemExit: it failed, with its own message above.
    """
    status = subprocess.run(command, env=env, close_fds=False, check=False).returncode
    if status:
        raise SystemExit(f'error: {" ".join(map(str, command[:4]))} ... exited with {status}, see above')


def read(file: Path) -> str:
    return file.read_text(encoding='utf-8')


if __name__ == '__main__':
    try:
        main(sys.argv[1:])
    except OSError as error:
        raise SystemExit(f'error: {error}') from None
    except KeyboardInterrupt:
        print('interrupted; run make setup again to start over', file=sys.stderr)
        sys.exit(130)
