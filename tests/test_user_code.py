"""Users' own networks and datasets: one flag registers them, and errors name the user's file and line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY
from helpers import (
    call_basicsr,
    make_model,
    options_of_test,
    problems,
    run_basicsr,
    run_torchrun,
    step,
    tiny_options,
    write_options,
)

from ramit_arch import options
from ramit_arch.cli import user_code
from ramit_arch.errors import UserError

NETWORK = """
import torch
from basicsr.utils.registry import ARCH_REGISTRY

@ARCH_REGISTRY.register()
class Mine(torch.nn.Module):
    reconstruction_head = 'tail'

    def __init__(self, upscale: int = 2, fail: bool = False):
        super().__init__()
        self.fail = fail
        self.body = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.tail = torch.nn.Conv2d(4, 3 * upscale**2, 3, padding=1)
        self.shuffle = torch.nn.PixelShuffle(upscale)

    def forward(self, x):
        assert x.shape[-1] % 4 == x.shape[-2] % 4 == 0, 'multiples of 4'
        if self.fail:
            x = x @ x[..., :1, :1]  # line 19
        return self.shuffle(self.tail(self.body(x)))
"""

DATASET = """
from basicsr.utils.registry import DATASET_REGISTRY
from ramit_arch import PairedRestorationDataset

@DATASET_REGISTRY.register()
class MyPairs(PairedRestorationDataset):
    def __getitem__(self, index):
        if self.opt['name'] == 'fail':
            raise ValueError('no such pair')  # line 9
        return super().__getitem__(index)
"""


@pytest.fixture
def mine(pairs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network, a dataset, and an option file that trains them; images of odd sizes."""
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setenv(user_code.VARIABLE, '')
    for name in ('my_arch', 'my_dataset'):  # of an earlier test in this process
        sys.modules.pop(name, None)
    ARCH_REGISTRY._obj_map.pop('Mine', None)
    DATASET_REGISTRY._obj_map.pop('MyPairs', None)
    (tmp_path / 'my_arch.py').write_text(NETWORK)
    (tmp_path / 'my_dataset.py').write_text(DATASET)
    opt = tiny_options(*pairs)
    opt['network_g'] = {'type': 'Mine', 'upscale': 2}
    opt['datasets']['train'].update(type='MyPairs', num_worker_per_gpu=1, persistent_workers=True)
    opt['val']['size_multiple'] = 4
    write_options(tmp_path / 'train.yml', opt)
    write_options(tmp_path / 'test.yml', options_of_test(opt, 'experiments/tiny/models/net_g_latest.pth'))
    return tmp_path


def error_of(*arguments: str, cwd: Path) -> str:
    result = run_basicsr(*arguments, cwd=cwd)
    assert result.returncode == 1, result.stderr
    assert 'Traceback' not in result.stderr
    return result.stderr


def test_a_network_and_a_dataset_of_ones_own_are_trained_by_two_processes_tested_and_compared(mine: Path) -> None:
    flags = ['--import', 'my_arch.py', 'my_dataset.py', '--launcher', 'pytorch']
    result = run_torchrun(2, 'train', '-opt', 'train.yml', *flags, cwd=mine)
    assert result.returncode == 0, result.stderr
    archived = (mine / 'experiments' / 'tiny' / 'tiny.yml').read_text()
    assert '--import my_arch.py my_dataset.py' in archived
    opt = yaml.safe_load((mine / 'test.yml').read_text())
    opt['val']['size_multiple'] = 4
    write_options(mine / 'test.yml', opt)
    result = run_basicsr('test', '-opt', 'test.yml', '--import', '.', cwd=mine)
    assert result.returncode == 0, result.stderr
    assert len(list((mine / 'results' / 'tiny').rglob('*.png'))) == 3
    for verb in ('compare', 'complexity --counts', 'check'):
        result = call_basicsr(*verb.split(), '-opt', 'test.yml', '--import', 'my_arch.py', cwd=mine)
        assert result.returncode == 0, result.stderr
    assert (mine / 'results' / 'tiny' / 'comparison_tiny_val.png').is_file()


def test_it_has_a_warm_start_of_its_own_head(mine: Path) -> None:
    flags = ['--import', str(mine / 'my_arch.py'), '--force_yml', 'datasets:train:type=PairedRestorationDataset',
             'datasets:train:num_worker_per_gpu=0', 'datasets:train:persistent_workers=false']  # fmt: skip
    assert call_basicsr('train', '-opt', 'train.yml', *flags, cwd=mine).returncode == 0
    checkpoint = mine / 'experiments' / 'tiny' / 'models' / 'net_g_4.pth'
    flags += ['name=warm', 'train:warm_start={iter: 2}', f'path:pretrain_network_g={checkpoint}']
    result = call_basicsr('train', '-opt', 'train.yml', *flags, 'train:scheduler:milestones=[1]', cwd=mine)
    assert result.returncode == 0, result.stderr
    first, last = (
        torch.load(mine / 'experiments' / 'warm' / 'models' / f'net_g_{n}.pth', weights_only=True) for n in (2, 4)
    )
    trained = torch.load(checkpoint, weights_only=True)['params']
    assert torch.equal(first['params']['body.weight'], trained['body.weight'])  # the head alone was trained
    assert not torch.equal(last['params']['body.weight'], trained['body.weight'])


def test_a_wrong_argument_is_refused_by_its_annotation(mine: Path) -> None:
    flags = ['--import', str(mine / 'my_arch.py'), '--force_yml', 'network_g:upscale=two']
    text = call_basicsr('check', '-opt', 'train.yml', *flags, cwd=mine).stderr
    assert "network_g.upscale is 'two'; it must be an integer" in text


def test_spawned_workers_import_it_too(mine: Path) -> None:
    (mine / 'spawn.py').write_text(
        'import multiprocessing, sys\nfrom basicsr_command import main\n'
        'if __name__ == "__main__":\n    multiprocessing.set_start_method("spawn")\n    sys.exit(main())\n'
    )
    command = [sys.executable, 'spawn.py', 'train', '-opt', 'train.yml', '--import', str(mine)]
    result = subprocess.run(command, cwd=mine, capture_output=True, text=True, timeout=180, check=False)
    assert result.returncode == 0, result.stderr


def test_an_exception_in_it_names_the_users_line(mine: Path) -> None:
    flags = ['--import', '.', '--force_yml', 'network_g:fail=true']
    text = error_of('train', '-opt', 'train.yml', *flags, cwd=mine)
    assert f'({mine}/my_arch.py:19 in forward; --traceback shows more)' in text


def test_an_exception_in_a_worker_of_the_data_loader_names_it_too(mine: Path) -> None:
    flags = ['--import', '.', '--force_yml', 'datasets:train:name=fail']
    text = error_of('train', '-opt', 'train.yml', *flags, cwd=mine)
    assert f'error: ValueError: no such pair\n({mine}/my_dataset.py:9 in __getitem__; --traceback shows more)' in text


@pytest.mark.parametrize(('network', 'message'), [
    (torch.nn.Identity(), 'network_g returned 8x8 for a target of 16x16'),
    (lambda image: (image, image), 'network_g returned tuple; it must be one tensor'),
])  # fmt: skip
def test_an_output_of_the_wrong_kind_or_size_is_reported(network: object, message: str, tmp_path: Path) -> None:
    model = make_model(tmp_path)
    model.trained = network
    with pytest.raises(UserError, match=message):
        step(model, 1)


def test_a_loss_of_more_than_one_value_is_an_error(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    model.cri_pix = torch.nn.L1Loss(reduction='none')
    with pytest.raises(UserError, match=r'pixel_opt returned torch\.Size.*; a loss must be a tensor with one value'):
        step(model, 1)


def test_the_check_finds_a_network_of_another_scale_and_the_log_the_image_it_fails_on(mine: Path) -> None:
    flags = ['--import', str(mine), '--force_yml']
    text = call_basicsr('check', '-opt', 'train.yml', *flags, 'network_g:upscale=4', cwd=mine).stderr
    assert 'network_g: Mine returns 256x256 for an image of 64x64; scale 2 needs 128x128' in text
    text = error_of('train', '-opt', 'train.yml', *flags, 'val:size_multiple=1', cwd=mine)
    assert re.search(r'ERROR: Failed on .*1\.png of tiny_val, 25x21; .* set val\.size_multiple', text)


# -------------------------------------------------------------------------------------------------- what is imported


def registered(folder: Path, *items: str) -> str:
    code = (
        'import ramit_arch; from ramit_arch.cli.user_code import load\n'
        f'load({list(items)!r})\n'
        'from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY\n'
        'print("Mine" in ARCH_REGISTRY, "MyPairs" in DATASET_REGISTRY)\n'
    )
    result = subprocess.run([sys.executable, '-c', code], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_packages_and_modules_are_imported_by_their_names(mine: Path) -> None:
    package = mine / 'package'
    package.mkdir()
    (package / '__init__.py').touch()
    (package / 'my_arch.py').write_text('from package import helper\n' + NETWORK)
    (package / 'helper.py').touch()
    assert registered(mine, 'package', 'my_dataset') == 'True True'


@pytest.mark.parametrize(('item', 'content', 'message'), [
    ('none.py', None, r'--import .*none\.py: no such Python file, folder or module'),
    ('no_module', None, '--import no_module: no such Python file, folder or module'),
    ('.', None, r'the folder has no \*_arch\.py'),
    ('a_arch.py', 'x = 1\nx.y', r"a_arch\.py: AttributeError: .* \(.*a_arch\.py:2\)"),
    ('b_arch.py', 'def', r'b_arch\.py: SyntaxError: .* \(.*b_arch\.py:1\)'),
    ('c_arch.py', '\nimport missing_thing', r"No module named 'missing_thing' \(.*c_arch\.py:2\)"),
    ('json.py', '', r'a module json is loaded already, from .*; rename yours'),
])  # fmt: skip
def test_what_cannot_be_imported_is_named(
    item: str, content: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    if content is not None:
        (tmp_path / item).write_text(content)
    with pytest.raises(UserError, match=message):
        user_code.load([item])


# ------------------------------------------------------------------------------------------------------ option files


def test_a_name_that_nobody_registered_is_one_problem(pairs: tuple[Path, Path]) -> None:
    opt = tiny_options(*pairs)
    opt['model_type'] = 'ExampleModel'
    opt['network_g'] = {'type': 'ExampleArch', 'num_feat': 64}
    assert problems(opt).splitlines() == [
        "model_type is 'ExampleModel', but no model of that name is registered; --import FILE registers your own",
        "network_g.type is 'ExampleArch', but no arch of that name is registered; --import FILE registers your own",
    ]


def test_a_section_of_another_type_replaces_the_bases(tmp_path: Path) -> None:
    base = {'network_g': {'type': 'RAMiT', 'dim': 64}, 'train': {'optim_g': {'type': 'Adam', 'betas': [0.9, 0.99]}}}
    write_options(tmp_path / 'base.yml', base)
    changes = {'network_g': {'type': 'Mine', 'fail': None}, 'train': {'optim_g': {'type': 'Adam', 'lr': 0.1}}}
    write_options(tmp_path / 'mine.yml', {'base': 'base.yml', **changes})
    assert options.load(tmp_path / 'mine.yml') == {
        'network_g': {'type': 'Mine'},
        'train': {'optim_g': {'type': 'Adam', 'betas': [0.9, 0.99], 'lr': 0.1}},
    }
