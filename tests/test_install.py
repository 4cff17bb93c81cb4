"""`make setup`: a complete .venv or one line that says why not, and BasicSR builds on every Python."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from helpers import ROOT

VERSION = f'{sys.version_info.major}.{sys.version_info.minor}'


class Project:
    """A small project whose packages are not really installed; `commands` are those that would have been run."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.venv = folder, folder / '.venv'
        (folder / 'requirements.txt').write_text('# pinned\ntorch==2\nopencv-python==5.0\n\nbasicsr==1.4.2\n')
        (folder / 'setup.py').write_text('')
        self.monkeypatch = monkeypatch
        self.commands: list[str] = []
        self.failing = ''

    def module(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location('environment', ROOT / 'install' / 'environment.py')
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        places = {'ROOT': self.folder, 'VENV': self.venv, 'PYTHON': self.venv / 'bin/python'}
        for name, value in {**places, 'STATE': self.venv / 'installed', 'run': self.run}.items():
            setattr(module, name, value)
        return module

    def setup(self, *arguments: str) -> list[str]:
        """Run it; the commands of this run."""
        self.commands.clear()
        self.module().main(list(arguments))
        return self.commands

    def run(self, *command: str | Path, env: dict[str, str] | None = None) -> None:
        line = ' '.join(map(str, command)).replace(' --quiet', '')
        self.commands.append(line)
        if '-m pip' in line:
            assert env is not None
            assert env['PYTHONPATH'] == str(self.folder / 'install')  # absolute: pip builds elsewhere
        if self.failing and self.failing in line:
            raise SystemExit(f'error: {self.failing}')
        if '-m venv' in line:
            (self.venv / 'bin').mkdir()
            (self.venv / 'bin' / 'python').write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
            (self.venv / 'bin' / 'python').chmod(0o755)
            (self.venv / 'lib' / f'python{VERSION}').mkdir(parents=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    folder = tmp_path / 'project'
    folder.mkdir()
    (tmp_path / 'cv2.py').touch()
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=1e12))
    return Project(folder, monkeypatch)


def test_basicsr_is_built_after_torch_is_installed_and_without_isolation(project: Project) -> None:
    made, torch, basicsr, package, checked = project.setup()
    assert made.endswith('-m venv ' + str(project.venv))
    assert torch.endswith('install torch==2 opencv-python==5.0')
    assert basicsr.endswith('install --no-build-isolation --use-pep517 basicsr==1.4.2')
    assert package.endswith(f'install --no-build-isolation --no-deps --editable {project.folder}')
    assert checked.endswith('pip check')
    assert project.setup() == []


@pytest.mark.parametrize('step', ['venv', 'torch', 'basicsr', 'pip check'])
def test_an_installation_that_failed_starts_again_from_nothing(step: str, project: Project) -> None:
    project.failing = step
    with pytest.raises(SystemExit):
        project.setup()
    (project.venv / 'remains').touch()
    project.failing = ''
    assert len(project.setup()) == 5
    assert not (project.venv / 'remains').exists()
    assert project.setup() == []


@pytest.mark.parametrize('file', ['requirements.txt', 'setup.py'])
def test_a_change_of_the_requirements_updates_the_environment(file: str, project: Project) -> None:
    project.setup()
    (project.venv / 'mine').touch()
    with (project.folder / file).open('a') as stream:
        stream.write('numpy==2\n')
    project.failing = 'pip check'
    with pytest.raises(SystemExit):
        project.setup()
    project.failing = ''
    assert len(project.setup()) == 4  # all but making .venv
    assert (project.venv / 'mine').exists()
    assert project.setup() == []


def test_an_update_that_is_killed_starts_again_from_nothing(project: Project) -> None:
    project.setup()
    (project.folder / 'setup.py').write_text('# changed')
    module = project.module()
    module.install = killed
    with pytest.raises(KeyboardInterrupt):
        module.main([])
    assert len(project.setup()) == 5


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_clearing_what_was_interrupted_can_be_interrupted(project: Project) -> None:
    project.failing = 'torch'
    with pytest.raises(SystemExit):
        project.setup()
    project.failing = ''
    remove = shutil.rmtree
    project.monkeypatch.setattr(shutil, 'rmtree', killed)
    with pytest.raises(KeyboardInterrupt):
        project.setup()
    project.monkeypatch.setattr(shutil, 'rmtree', remove)
    assert len(project.setup()) == 5


def test_an_environment_of_the_users_own_is_left_alone(project: Project) -> None:
    (project.venv / 'bin').mkdir(parents=True)
    (project.venv / 'bin' / 'python').symlink_to(sys.executable)
    with pytest.raises(SystemExit, match=r'\.venv was not created by make setup'):
        project.setup()
    assert project.commands == []
    assert (project.venv / 'bin' / 'python').exists()


def test_a_moved_environment_and_one_without_its_python_are_named(project: Project) -> None:
    project.setup()
    before = project.folder
    project.folder = project.folder.rename(project.folder.with_name('moved'))
    project.venv = project.folder / '.venv'
    with pytest.raises(SystemExit, match=f'created in {before}/.venv, and cannot be moved'):
        project.setup()
    project.folder = project.folder.rename(before)
    project.venv = project.folder / '.venv'
    (project.venv / 'bin' / 'python').unlink()
    (project.venv / 'bin' / 'python').symlink_to('/no/such/python')
    with pytest.raises(SystemExit, match=r'/no/such/python, no longer exists; remove \.venv'):
        project.setup()
    assert project.commands == []


def test_two_runs_at_once_take_turns(project: Project) -> None:
    code = (
        f'import runpy, sys; sys.argv = ["environment.py"]\n'
        f'module = runpy.run_path({str(ROOT / "install" / "environment.py")!r})\n'
        f'module["locked"].__wrapped__.__globals__["ROOT"] = {str(project.folder)!r}\n'
        f'with module["locked"](): print("in", flush=True)\n'
    )
    module = project.module()
    with module.locked():
        other = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
        assert other.stdout
        assert other.stdout.readline() == 'Waiting for another make setup.\n'
    assert other.communicate(timeout=30)[0] == 'in\n'


def test_a_python_that_was_asked_for_is_not_silently_another(project: Project) -> None:
    assert len(project.setup('--this-python')) == 5
    assert project.setup('--this-python') == []
    (project.venv / 'lib' / f'python{VERSION}').rename(project.venv / 'lib' / 'python3.7')
    with pytest.raises(SystemExit, match=rf'\.venv has python3\.7, not python{VERSION}'):
        project.setup('--this-python')
    assert project.setup() == []


def test_the_package_that_brings_ensurepip_is_named(project: Project) -> None:
    find = importlib.util.find_spec
    project.monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'ensurepip' else find(name))
    with pytest.raises(SystemExit, match='apt-get install python3-venv'):
        project.setup()
    assert not project.venv.exists()


def test_a_python_that_is_too_old_is_named(project: Project) -> None:
    module = project.module()
    module.THIS_PYTHON = '3.9'
    project.monkeypatch.setattr(sys, 'version_info', (3, 9, 18))
    with pytest.raises(SystemExit, match=r'Python 3\.9 is too old, 3\.10 or newer is needed'):
        module.main([])
    assert not project.venv.exists()


@pytest.mark.parametrize(('index', 'free', 'fits', 'cached'), [
    ('', 8.9, False, True), ('', 9.1, True, False), ('', 12.1, True, True),
    ('https://host/whl/cpu', 2.9, False, True), ('https://host/whl/cpu', 4.1, True, True),
])  # fmt: skip
def test_a_disk_that_is_too_small_is_reported_before_the_download(
    index: str, free: float, fits: bool, cached: bool, project: Project
) -> None:
    project.monkeypatch.setattr(sys, 'platform', 'linux')
    project.monkeypatch.setenv('PIP_EXTRA_INDEX_URL', index)
    project.monkeypatch.setenv('PIP_INDEX_URL', '')
    project.monkeypatch.setenv('PIP_NO_CACHE_DIR', '')
    project.monkeypatch.setattr(tempfile, 'gettempdir', lambda: str(project.folder))
    project.monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=free * 1e9))
    if fits:
        assert len(project.setup()) == 5
    else:
        with pytest.raises(SystemExit, match=rf'{project.folder} has {free} GB free'):
            project.setup()
        assert len(project.commands) == 1  # only .venv
    assert (os.environ['PIP_NO_CACHE_DIR'] == '') == cached


def test_where_x_and_gl_are_missing_opencv_comes_without_windows(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = 'libxcb.so.1: cannot open shared object file: No such file or directory'
    (project.folder.parent / 'cv2.py').write_text(f'raise ImportError({fault!r})')
    commands = project.setup()
    assert commands[4].endswith('install --no-deps --force-reinstall opencv-python-headless==5.0')
    assert commands[5].endswith('import cv2')
    assert f'{fault}\nOpenCV: installing opencv-python-headless 5.0' in capsys.readouterr().out


def test_another_fault_of_opencv_ends_the_installation(project: Project) -> None:
    (project.folder.parent / 'cv2.py').write_text('raise ImportError("no numpy")')
    project.failing = 'import cv2'
    with pytest.raises(SystemExit):
        project.setup()
    assert not any('headless' in command for command in project.commands)


# ------------------------------------------------------------------------------------------------- BasicSR's own build

GET_VERSION = """
def get_version():
    exec("__version__ = '1.4.2'")
    return locals()['__version__']
print(get_version())
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-c', code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_basicsr_finds_its_version_while_it_is_built() -> None:
    assert python(GET_VERSION, PYTHONPATH=str(ROOT / 'install')).stdout == '1.4.2\n'


@pytest.mark.skipif(sys.version_info < (3, 13), reason='exec writes to locals() before Python 3.13')
def test_without_help_basicsr_does_not_find_its_version() -> None:
    assert "KeyError: '__version__'" in python(GET_VERSION, PYTHONPATH='').stderr


def test_exec_with_namespaces_and_in_a_class_is_unchanged() -> None:
    code = (
        'a, b = {}, {}\nexec("x = 1", a)\nexec("y = 2", a, b)\n'
        'class C:\n    exec("z = 3")\n'
        'exec("w = 4")\nprint(a["x"], b["y"], C.z, w, "y" in a)\n'
    )
    assert python(code, PYTHONPATH=str(ROOT / 'install')).stdout == '1 2 3 4 False\n'
