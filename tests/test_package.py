"""What pip installs: a source distribution that builds, and a wheel in which every verb works without the clone."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from helpers import ROOT, call_basicsr, write_pairs

from ramit_arch.errors import UserError
from ramit_arch.options import packaged

NAMES = ('basicsr_command.py', 'CONTRIBUTING.md', 'LICENSE', 'MANIFEST.in', 'README.md', 'pyproject.toml',
         'requirements.txt', 'setup.py', 'data_prep', 'docs', 'install', 'options', 'ramit_arch')  # fmt: skip

VERBS = """
prepare own --from gt --to datasets/quickstart/test --scale 2 --format png lmdb --workers 1
verify --gt datasets/quickstart/test/HR.lmdb --lq datasets/quickstart/test/LRx2.lmdb --scale 2 --workers 1
statistics datasets/quickstart/test/LRx2.lmdb --workers 1
options
options train_RAMiT_SRx2
check -opt mine.yml
train -opt mine.yml
test -opt test_quickstart_RAMiT_SRx2 --force_yml num_gpu=0 datasets:test_1:name=Set5
compare -opt test_quickstart_RAMiT_SRx2 --force_yml datasets:test_1:name=Set5
table results
complexity -opt test_RAMiT-slimSR_SRx4 --counts
"""

MINE = """
base: quickstart_RAMiT_SRx2
num_gpu: 0
datasets: {train: {dataroot_gt: gt, dataroot_lq: lq, io_backend: {type: disk}, lq_patch_size: 8, batch_size_per_gpu: 2,
                   num_worker_per_gpu: 0, persistent_workers: false}}
train: {total_iter: 2, warmup_iter: 1, scheduler: {milestones: [1]}}
logger: {use_tb_logger: false}
"""


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that pip builds from the source distribution."""
    folder = tmp_path_factory.mktemp('built')
    source = folder / 'source'
    source.mkdir()
    for name in NAMES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build('build_sdist', folder, source)
    [archive] = folder.glob('*.tar.gz')
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter='data')
    build('build_wheel', folder, folder / archive.name.removesuffix('.tar.gz'))
    [wheel] = folder.glob('*.whl')
    return wheel


def build(what: str, target: Path, source: Path) -> None:
    code = f'from setuptools import build_meta; build_meta.{what}({str(target)!r})'
    subprocess.run([sys.executable, '-c', code], cwd=source, check=True, capture_output=True)


def test_the_wheel_holds_the_package_its_data_and_the_command_and_no_generic_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition('/')[0] for name in names}
    assert {name for name in top if not name.endswith('.dist-info')} == {'ramit_arch', 'basicsr_command.py'}
    data = ('preparation/datasets.yml', 'evaluation/paper.yml', 'archs/window_attention.cpp', 'web/static/page.js',
            'web/static/samples/cat.webp')  # fmt: skip
    assert {f'ramit_arch/{name}' for name in data} <= set(names)
    option_files = {Path(name).stem for name in names if name.startswith('ramit_arch/options/files/')}
    assert option_files == set(packaged.files())


def test_every_verb_works_in_an_environment_without_the_clone(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / 'environment'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', environment], check=True)
    python = environment / 'bin' / 'python'
    pip = [sys.executable, '-m', 'pip', '--python', str(python), 'install', '-q', '--no-deps', '--no-index', wheel]
    subprocess.run(pip, check=True, capture_output=True)
    # The dependencies; the editable installation beside them stays out, because its .pth file is not read from here.
    [site_packages] = environment.glob('lib/*/site-packages')
    (site_packages / 'dependencies.pth').write_text(sysconfig.get_path('purelib') + '\n')

    write_pairs(tmp_path)
    (tmp_path / 'mine.yml').write_text(MINE)
    code = (
        'import sys, basicsr_command, ramit_arch\n'
        f'assert ramit_arch.__file__.startswith({str(environment)!r}), ramit_arch.__file__\n'
        f'for line in {VERBS.strip().splitlines()!r}:\n'
        '    sys.argv[1:] = line.split()\n'
        '    assert basicsr_command.main() == 0, line\n'
    )
    clean = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    result = subprocess.run(
        [python, '-c', code], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=180, check=False
    )
    assert result.returncode == 0, result.stderr
    for name, file in packaged.files().items():
        assert f'{name} ' in result.stdout
        assert packaged.describe(file) in result.stdout
    assert (packaged.FOLDER / 'train_RAMiT_SRx2.yml').read_text() in result.stdout
    assert (tmp_path / 'results' / 'quickstart_RAMiT_SRx2' / 'comparison_Set5.png').is_file()
    version = subprocess.run(
        [python.with_name('basicsr'), '--version'], env=clean, capture_output=True, text=True, check=True
    )
    assert version.stdout.startswith('ramit-arch ')


def test_a_name_that_is_neither_a_file_nor_packaged_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'train_RAMiT_CDN').write_text('name: mine\n')
    assert packaged.find('train_RAMiT_CDN') == 'train_RAMiT_CDN'  # a file of the user's comes first
    assert Path(packaged.find('train_RAMiT_GDN.yml')).is_file()
    for name, near in [
        ('train_RAMiT_SRx5', 'did you mean train_RAMiT_SRx'),
        ('options/train_RAMiT_SRx2.yml', 'did you mean train_RAMiT_SRx2, the packaged one?'),
        ('mine.yml', 'mine.yml: no such file; basicsr options lists'),
    ]:
        with pytest.raises(UserError, match=near):
            packaged.find(name)


def test_errors_in_a_file_on_a_packaged_base_have_their_lines(tmp_path: Path) -> None:
    (tmp_path / 'mine.yml').write_text('base: train_RAMiT_SRx2\ntrain: {ema_dcay: 0.9}\n')
    text = call_basicsr('check', '-opt', 'mine.yml', cwd=tmp_path).stderr
    assert text == 'error: mine.yml:2: train.ema_dcay is unknown (did you mean ema_decay?)\n'


# What a package of ramit_arch may import: itself and those of lower levels.
LEVELS = {'errors': 0, 'files': 1, 'stopping': 1, 'archs': 2, 'options': 3, 'data': 4, 'evaluation': 5,
          'inference': 6, 'models': 7, 'preparation': 7, 'web': 7, 'cli': 8}  # fmt: skip


def test_imports_between_packages_run_one_way() -> None:
    package = ROOT / 'ramit_arch'
    for file in package.rglob('*.py'):
        own = file.relative_to(package).with_suffix('').parts[0]
        for node in ast.walk(ast.parse(file.read_text())) if own in LEVELS else ():
            module = getattr(node, 'module', None) or ''
            names = [f'{module}.{alias.name}' for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                root, _, rest = name.partition('.')
                other = rest.partition('.')[0]
                if root == 'ramit_arch' and other != own:
                    assert LEVELS[other] < LEVELS[own], f'{file} imports {name}'
