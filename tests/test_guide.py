"""The commands of the guides, typed as they stand there, with few and small pictures."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import preparing
import pytest
import torch
from basicsr.archs import build_network
from helpers import ROOT, call_basicsr, photograph

import basicsr_command
from ramit_arch import options
from ramit_arch.cli import init
from ramit_arch.options import packaged
from ramit_arch.preparation.catalogue import data_set

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


# ---------------------------------------------------------------------------------------------- the guides of the tasks

TASKS = sorted((ROOT / 'docs' / 'tasks').glob('*.md'))
NETWORK = 'dim=16 depths=[1,1,1,1] window_size=2 expand_groups=1 mixer_expand_groups=1'
SMALL = ['num_gpu=0', *(f'network_g:{option}' for option in NETWORK.split())]
LOADER = ['num_worker_per_gpu=0', 'persistent_workers=false']
SHORT = [
    *SMALL, *(f'datasets:train:{option}' for option in LOADER),
    'train:total_iter=2', 'train:warmup_iter=-1', 'train:scheduler:milestones=[1]', 'val:val_freq=2',
    'logger:print_freq=1', 'logger:save_checkpoint_freq=2', 'logger:use_tb_logger=false',
]  # fmt: skip
PATCHES = ['datasets:train:lq_patch_size=4', 'datasets:train:batch_size_per_gpu=1']
STAGES = ['train:progressive=[{iter: 2, lq_patch_size: 4, batch_size: 1}]']
WARM_START = ['train:warm_start={iter: 1}']


def shortened(command: list[str]) -> list[str]:
    """A command for archives of a few small images."""
    verb, *_ = command
    if verb in ('prepare', 'verify'):
        small = [{'512': '16', '256': '8', '384': '8'}.get(word, word) for word in command]
        return [*small, *(['--any_count'] if '--any_count' not in command else [])]
    if verb in ('train', 'check'):
        opt = options.load(packaged.find(command[2]))
        changed = STAGES if 'progressive' in opt['train'] else PATCHES
        return [*command, '--force_yml', *SHORT, *changed, *(WARM_START if 'warm_start' in opt['train'] else [])]
    if verb in ('test', 'compare') and '-m' not in command:
        return [*command, '--force_yml', *SMALL]
    return command


def write_downloads(names: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small archives, no two of them with the same pictures."""
    seeds = itertools.count()
    monkeypatch.setattr(preparing, 'photograph', lambda _, *size: photograph(next(seeds), *size))
    for name in names:
        if name in preparing.SPECIAL:
            preparing.SPECIAL[name][0](folder)
        else:
            preparing.archive(data_set(name), folder)


@pytest.mark.parametrize('guide', TASKS, ids=[file.stem for file in TASKS])
def test_a_tasks_guide_runs_from_the_archive_to_the_score(
    guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = [shlex.split(line) for line in re.findall(r'^ {4}basicsr (.+)$', guide.read_text(), re.MULTILINE)]
    sets = [word for verb, *rest in commands if verb == 'prepare' for word in rest[: rest.index('--from')]]
    write_downloads(sets, tmp_path / 'downloads', monkeypatch)
    for file in {words[1] for words in commands if words[0] == 'restore'}:
        cv2.imwrite(str(tmp_path / file), photograph(7, 20, 24))
    for name in {word for words in commands for word in words if word.endswith('.pth')}:
        network, purpose = name.removesuffix('.pth').split('_')
        opt = options.load(packaged.find(f'test_{network}_{purpose.replace("X", "SRx")}'))
        torch.save(build_network(opt['network_g']).state_dict(), tmp_path / name)
    for words in commands:
        short = [word.replace('~', str(tmp_path)) for word in shortened(words)]
        result = call_basicsr(*short, cwd=tmp_path)
        assert result.returncode == 0, f'{shlex.join(words)}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}'
    verbs = [verb for verb, *_ in commands]
    assert {'prepare', 'verify', 'check', 'train', 'test', 'table', 'restore'} <= set(verbs)
    for words in commands:
        assert words[0] != 'restore' or (tmp_path / words[words.index('-o') + 1]).is_file()


# ------------------------------------------------------------------------------------------------------ all other pages

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]


def commands_in(page: Path) -> list[list[str]]:
    """The words after `basicsr` of every command that a page shows."""
    text = page.read_text().replace('\\\n', '')
    lines = re.findall(r'^(?: {4}|\$ )(?:torchrun .*\(which basicsr\)|basicsr) ((?!VERB)[^>\n]+)', text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize('page', PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_commands_of_every_page_are_accepted(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = basicsr_command.build_parser()
    for words in commands_in(page):
        try:
            parser.parse_args(words)
        except SystemExit as end:  # --help and --version end with 0
            if end.code:
                pytest.fail(f'{shlex.join(words)}\n{capsys.readouterr().err}')
        for name in words:
            if name.startswith('options/'):
                assert list(ROOT.glob(name.partition('::')[0])), name
            elif name.startswith(('train_', 'test_')):
                packaged.find(name)


def test_the_guide_to_a_network_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / 'docs' / 'add-a-network.md'
    for name, content in re.findall(r'^```\w+\n# (\S+\.\w+)\n(.+?)^```', page.read_text(), re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(content)
    write_downloads(['DIV2K', 'Set5'], tmp_path / 'downloads', monkeypatch)
    cv2.imwrite(str(tmp_path / 'photo.png'), photograph(7, 20, 24))
    assert call_basicsr(
        *f'prepare DIV2K Set5 --from {tmp_path}/downloads --to datasets --any_count'.split(), cwd=tmp_path
    ).returncode == 0  # fmt: skip
    for words in commands_in(page):
        small = {'check': [*SHORT, *PATCHES], 'train': [*SHORT, *PATCHES], 'test': ['num_gpu=0']}.get(words[0], [])
        small = [option for option in small if not option.startswith('network_g:')]
        more = ['--force_yml', *small] if small else ['--counts'] if words[0] == 'complexity' else []
        result = call_basicsr(*words, *more, cwd=tmp_path)
        assert result.returncode == 0, f'{shlex.join(words)}\n{result.stderr}'
    assert (tmp_path / 'large.png').is_file()
    assert (tmp_path / 'my_net.safetensors').is_file()
