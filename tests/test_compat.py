"""Every repair mends its fault, and a healthy installation stays as it was."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ramit_arch import compat
from ramit_arch.errors import UserError
from ramit_arch.models.states import load_resume_state


def python(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process in which `path` shadows installed packages."""
    start = f'import sys; sys.path.insert(0, {str(path)!r})\n'
    return subprocess.run([sys.executable, '-c', start + code], capture_output=True, text=True, check=False)


def fake_torchvision(folder: Path, operators: bool, functional_tensor: bool) -> None:
    """A torchvision whose import needs its operators, as the real one does."""
    transforms = folder / 'torchvision' / 'transforms'
    transforms.mkdir(parents=True)
    define = "library = torch.library.Library('torchvision', 'DEF')\n"
    define += "for op in ('nms', 'qnms'): library.define(op + '(Tensor d, Tensor s, float t) -> Tensor')\n"
    needs = "torch.library.register_fake('torchvision::nms')(lambda d, s, t: d)\n"
    text = 'import torch\n' + (define if operators else '') + needs + 'from torchvision import transforms\n'
    (folder / 'torchvision' / '__init__.py').write_text(text)
    (transforms / '__init__.py').write_text('')
    (transforms / '_functional_tensor.py').write_text('rgb_to_grayscale = "private"\n')
    if functional_tensor:
        (transforms / 'functional_tensor.py').write_text('rgb_to_grayscale = "public"\n')


COMPAT = f"""
import sys, types
package = sys.modules['ramit_arch'] = types.ModuleType('ramit_arch')  # without running its __init__
package.__path__ = [{str(Path(compat.__file__).parent)!r}]
from ramit_arch import compat
"""
REPAIR = f"""{COMPAT}
compat.repair_torchvision_operators()
compat.repair_functional_tensor()
from torchvision.transforms.functional_tensor import rgb_to_grayscale
import torchvision
print(rgb_to_grayscale, len(compat._libraries))
"""


def test_missing_operators_and_missing_module_are_repaired(tmp_path: Path) -> None:
    fake_torchvision(tmp_path, operators=False, functional_tensor=False)
    broken = python('import torchvision', tmp_path)
    assert 'torchvision::nms' in broken.stderr
    result = python(REPAIR, tmp_path)
    assert result.stdout.split() == ['private', '1'], result.stderr


def test_healthy_torchvision_stays_as_it_was(tmp_path: Path) -> None:
    fake_torchvision(tmp_path, operators=True, functional_tensor=True)
    result = python(REPAIR, tmp_path)
    assert result.stdout.split() == ['public', '0'], result.stderr


def test_another_runtime_error_of_torchvision_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / 'torchvision').mkdir()
    (tmp_path / 'torchvision' / '__init__.py').write_text('raise RuntimeError("out of order")')
    assert 'out of order' in python(REPAIR, tmp_path).stderr


def test_a_start_imports_neither_the_compiler_nor_scipys_distributions(tmp_path: Path) -> None:
    result = python("import ramit_arch; print(*sorted({'torch._dynamo', 'scipy.stats'} & set(sys.modules)))", tmp_path)
    assert (result.stdout, result.stderr) == ('\n', '')


def test_what_was_not_imported_works_when_it_is_called(tmp_path: Path) -> None:
    code = """
import ramit_arch, numpy, torch
from basicsr.data.degradations import cdf2
from torchvision.ops.roi_align import is_compile_supported
print(float(cdf2(numpy.eye(2), numpy.zeros((1, 1, 2)))), is_compile_supported('cpu'))
print(torch.compile(torch.nn.Identity(), backend='eager')(torch.ones(1)).item())
"""
    result = python(code, tmp_path)
    assert result.stdout.split() == ['0.25', 'True', '1.0'], result.stderr


def test_versions_that_import_more_of_these_modules_get_them(tmp_path: Path) -> None:
    code = f"""{COMPAT}
def import_other_version():
    from scipy.stats import norm
    print(norm.cdf(0))
compat.import_basicsr = import_other_version
compat.import_without_unused()
"""
    result = python(code, tmp_path)
    assert result.stdout.split() == ['0.5'], result.stderr


def test_all_of_basicsr_imports() -> None:
    for name in ('archs', 'data', 'losses', 'metrics', 'models', 'utils', 'train', 'test', 'data.degradations'):
        assert importlib.import_module(f'basicsr.{name}')


def test_runs_that_start_within_one_second_are_all_archived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import basicsr.train
    import basicsr.utils.misc

    monkeypatch.setattr(basicsr.utils, 'get_time_str', lambda: 'now')
    for i in range(4):
        basicsr.utils.misc.mkdir_and_rename(str(tmp_path / 'run'))
        (tmp_path / 'run' / str(i)).touch()
    names = {path.name: [file.name for file in path.iterdir()] for path in tmp_path.iterdir()}
    assert names == {'run': ['3'], 'run_archived_now': ['0'], 'run_archived_now_2': ['1'], 'run_archived_now_3': ['2']}
    assert basicsr.train.mkdir_and_rename is basicsr.utils.misc.mkdir_and_rename


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment with states and networks of iterations 5, 900 and 1000."""
    monkeypatch.chdir(tmp_path)
    experiment = tmp_path / 'experiments' / 'run'
    for folder in ('training_states', 'models'):
        (experiment / folder).mkdir(parents=True)
    for iteration in (5, 900, 1000):
        torch.save({'iter': iteration, 'epoch': 0, 'optimizers': []}, experiment / f'training_states/{iteration}.state')
        torch.save({'params': {'weight': torch.zeros(1)}}, experiment / 'models' / f'net_g_{iteration}.pth')
    (experiment / 'training_states' / 'notes.state').write_text('not a number')
    return experiment


def resume(total: int = 2000, auto: bool = True, **path: str) -> tuple[dict | None, dict]:
    opt = {'auto_resume': auto, 'name': 'run', 'network_g': {}, 'path': {'models': 'experiments/run/models', **path},
           'train': {'total_iter': total}}  # fmt: skip
    return load_resume_state(opt), opt


def test_auto_resume_takes_the_newest_state_by_number(run: Path) -> None:
    state, opt = resume()
    assert state is not None
    assert state['iter'] == 1000
    assert opt['path']['pretrain_network_g'] == 'experiments/run/models/net_g_1000.pth'


@pytest.mark.parametrize('damage', ['empty', 'truncated', 'network', 'truncated network'])
def test_auto_resume_passes_over_a_broken_newest_state(
    damage: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = run / 'training_states' / '1000.state'
    network = run / 'models' / 'net_g_1000.pth'
    if damage == 'network':
        network.unlink()
    elif damage == 'truncated network':
        network.write_bytes(network.read_bytes()[:200])
    else:
        newest.write_bytes(newest.read_bytes()[: 0 if damage == 'empty' else 200])
    state, _ = resume()
    assert state is not None
    assert state['iter'] == 900
    assert 'Skipping experiments/run/training_states/1000.state' in capsys.readouterr().out


def test_auto_resume_without_states_takes_the_one_that_was_given(run: Path) -> None:
    given = (run / 'training_states' / '5.state').rename(run / '5.state')
    for state in (run / 'training_states').iterdir():
        state.unlink()
    resumed, opt = resume(resume_state=str(given))
    assert resumed is not None
    assert resumed['iter'] == 5
    assert opt['path']['resume_state'] == str(given)


def test_a_state_is_not_resumed_in_another_experiment(run: Path) -> None:
    state = str(run / 'training_states' / '5.state')
    with pytest.raises(UserError, match='a state is resumed in its own experiment, but other/models is missing'):
        resume(auto=False, resume_state=state, models='other/models')


def test_a_run_past_its_end_is_not_resumed(run: Path) -> None:
    with pytest.raises(UserError, match='already at iteration 1000'):
        resume(total=999)


@pytest.mark.parametrize('content', [b'', b'junk'])
def test_a_state_that_was_asked_for_and_cannot_be_read_is_named(content: bytes, run: Path) -> None:
    (run / 'x.state').write_bytes(content)
    with pytest.raises(UserError, match=r'x\.state: damaged'):
        resume(auto=False, resume_state=str(run / 'x.state'))


def test_a_checkpoint_is_not_taken_for_a_state(run: Path) -> None:
    torch.save({'params': {}}, run / 'net.pth')
    with pytest.raises(UserError, match='not a training state'):
        resume(auto=False, resume_state=str(run / 'net.pth'))


def test_without_states_there_is_nothing_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resume()[0] is None


def test_launching_without_cuda_needs_torchrun() -> None:
    with pytest.raises(UserError, match='torchrun'):
        compat.init_dist_on_cpu('slurm')
