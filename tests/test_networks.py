"""From a path to a network: descriptions in checkpoints, experiments, and raw files recognised by their shapes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from basicsr.utils.registry import ARCH_REGISTRY
from helpers import TINY_NETWORK, call_basicsr, make_model, tiny_options, write_options
from test_ramit_arch import NETWORKS
from torch import nn

from ramit_arch import LAformer, RAMiT, Restorer, load_network
from ramit_arch.errors import UserError
from ramit_arch.inference.checkpoints import read_content, write_checkpoint
from ramit_arch.inference.networks import describe, load

ARGUMENTS = {key: value for key, value in TINY_NETWORK.items() if key != 'type'}
IMAGE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def outputs_equal(first: nn.Module, second: nn.Module) -> bool:
    with torch.no_grad():
        return torch.equal(first(IMAGE), second(IMAGE))


def write(path: Path, network: RAMiT, **changes: object) -> Path:
    description = {**describe({'type': 'RAMiT', **ARGUMENTS}, 2, 'SR'), **changes}
    write_checkpoint({'params': network.state_dict(), 'network': description}, path)
    return path


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_checkpoint_carries_its_network(suffix: str, tmp_path: Path) -> None:
    network = RAMiT(**ARGUMENTS, img_mean=(0.1, 0.2, 0.3)).eval()
    path = tmp_path / f'net{suffix}'
    description = describe({'type': 'RAMiT', **ARGUMENTS, 'img_mean': [0.1, 0.2, 0.3]}, 2, 'SR')
    write_checkpoint({'params': network.state_dict(), 'network': description}, path)
    loaded = load(path)
    assert (loaded.scale, loaded.task, loaded.file) == (2, 'SR', path)
    assert not loaded.network.training
    assert outputs_equal(loaded.network, network)


def test_description_holds_the_defaults_of_today() -> None:
    described = describe({'type': 'RAMiT'}, 2, None)['network_g']
    assert described['img_mean'] == [0.4485, 0.4375, 0.4045]
    assert described['depths'] == [6, 4, 4, 6]


def test_trained_checkpoint_is_described_and_still_read_by_basicsr(tmp_path: Path) -> None:
    model = make_model(tmp_path, ema_decay=0.5)
    model.save_network([model.net_g, model.net_g_ema], 'net_g', 7, ['params', 'params_ema'])
    file = tmp_path / 'models' / 'net_g_7.pth'
    content = torch.load(file, weights_only=True)
    assert content['network']['network_g']['type'] == 'RAMiT'
    assert content['network']['scale'] == 2
    bare = RAMiT(**ARGUMENTS)
    super(type(model).__mro__[1], model).load_network(bare, str(file), True, 'params_ema')  # SRModel's own
    assert outputs_equal(bare.eval(), load_network(file))


@pytest.mark.parametrize('name', NETWORKS)
def test_raw_checkpoints_of_all_published_networks_are_recognised(name: str, tmp_path: Path) -> None:
    variant = NETWORKS[name]
    weights = {key: torch.zeros(shape) for key, shape in variant['state_dict'].items()}
    torch.save(weights, tmp_path / 'raw.pth')
    task = name.rpartition('_')[2]
    asked = task if task in ('CDN', 'LLE', 'DR') else None
    loaded = load(tmp_path / 'raw.pth', asked)
    expected = variant['options']
    assert loaded.scale == expected['upscale']
    # Shapes do not tell these two ablations from the paper's network.
    unseen = {'ablation_no_helper_SRx2': 'reciprocal_helper', 'ablation_relu6_SRx2': 'mobivari_act'}.get(name)
    found = {**describe({'type': 'RAMiT'}, 1, None)['network_g'], **loaded.network_g}
    assert {key: found[key] for key in expected if key != unseen} == {
        key: value for key, value in expected.items() if key != unseen
    }


@pytest.mark.parametrize('arguments', [
    {'depths': [1, 2, 1, 3], 'num_heads': [2, 4, 4, 8], 'chsa_head_ratio': 0.5, 'dim': 32},
    {'hrami': False, 'tail_mobivari': 0, 'exp_factor': 2.5, 'hidden_ratio': 1.5, 'qkv_bias': False},
    {'in_chans': 1, 'img_mean': [0.5], 'img_std': [0.2], 'upscale': 1, 'reciprocal_helper': False, 'window_size': 4},
    {'upscale': 3, 'mixer_exp_factor': 2.0, 'mixer_expand_groups': 1, 'dim': 64, 'expand_groups': 4},
])  # fmt: skip
def test_options_of_other_networks_follow_from_their_shapes(arguments: dict, tmp_path: Path) -> None:
    arguments = {**ARGUMENTS, **arguments}
    torch.save(RAMiT(**arguments).state_dict(), tmp_path / 'raw.pth')
    found = load(tmp_path / 'raw.pth').network_g
    normalisation = ('img_mean', 'img_std')
    assert {k: found[k] for k in arguments if k not in normalisation} == {
        k: v for k, v in arguments.items() if k not in normalisation
    }


def test_raw_checkpoint_of_scale_1_asks_for_its_task(tmp_path: Path) -> None:
    torch.save(RAMiT(**{**ARGUMENTS, 'upscale': 1}).state_dict(), tmp_path / 'raw.pth')
    with pytest.raises(UserError, match=r'a RAMiT for CDN, LLE or DR; .*: give its task, --task CDN, LLE or DR'):
        load_network(tmp_path / 'raw.pth')
    network = load_network(tmp_path / 'raw.pth', task='DR')
    assert network.mean.flatten().tolist() == pytest.approx([0.5110, 0.5105, 0.4877])


def test_unknown_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='task XX: unknown; the tasks are SR, CDN, GDN, LLE, DR'):
        load_network(write(tmp_path / 'net.pth', RAMiT(**ARGUMENTS)), task='XX')


def test_task_that_contradicts_the_checkpoint_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / 'net.pth', RAMiT(**ARGUMENTS))
    with pytest.raises(UserError, match=r'task CDN: .*net.pth is a network for SR; leave it out'):
        load_network(path, task='CDN')
    torch.save(RAMiT(**ARGUMENTS).state_dict(), tmp_path / 'raw.pth')
    with pytest.raises(UserError, match=r'task CDN: .*raw.pth is a network for SR; leave it out'):
        load_network(tmp_path / 'raw.pth', task='CDN')


# ------------------------------------------------------------------------------------------------------- experiments


def experiment(tmp_path: Path, **content: dict) -> Path:
    folder = tmp_path / 'mine'
    (folder / 'models').mkdir(parents=True)
    for i, name in enumerate(content, 1):
        write(folder / 'models' / f'{name}.pth', RAMiT(**ARGUMENTS), scale=i)
    return folder


@pytest.mark.parametrize(('names', 'chosen'), [
    (['net_g_2', 'net_g_10', 'net_g_latest', 'net_g_best'], 'net_g_best'),
    (['net_g_2', 'net_g_10', 'net_g_latest'], 'net_g_latest'),
    (['net_g_2', 'net_g_10'], 'net_g_10'),
])  # fmt: skip
def test_experiment_folder_means_its_best_network_or_else_the_latest(
    names: list[str], chosen: str, tmp_path: Path
) -> None:
    folder = experiment(tmp_path, **{name: {} for name in names})
    assert load(folder).file.stem == chosen


def test_old_checkpoint_takes_its_network_from_the_option_file_of_its_experiment(tmp_path: Path) -> None:
    folder = tmp_path / 'mine'
    (folder / 'models').mkdir(parents=True)
    network = RAMiT(**ARGUMENTS, img_mean=(0.2, 0.2, 0.2)).eval()
    torch.save({'params': network.state_dict()}, folder / 'models' / 'net_g_latest.pth')
    opt = {**tiny_options(Path('gt'), Path('lq')), 'network_g': {**TINY_NETWORK, 'img_mean': [0.2, 0.2, 0.2]}}
    write_options(folder / 'train.yml', opt)
    assert outputs_equal(load_network(folder), network)


def test_moving_average_is_taken_where_there_is_one(tmp_path: Path) -> None:
    trained, averaged = RAMiT(**ARGUMENTS), RAMiT(**ARGUMENTS).eval()
    description = describe({'type': 'RAMiT', **ARGUMENTS}, 2, 'SR')
    content = {'params': trained.state_dict(), 'params_ema': averaged.state_dict(), 'network': description}
    for name in ('net.pth', 'net.safetensors'):
        write_checkpoint(content, tmp_path / name)
        assert outputs_equal(load_network(tmp_path / name), averaged)


# --------------------------------------------------------------------------------------------------------- bad input


def test_every_unusable_checkpoint_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'empty.pth').touch()
    (tmp_path / 'text.pth').write_text('hello')
    torch.save({'params': {'conv.weight': torch.zeros(1)}}, tmp_path / 'other.pth')
    torch.save({'iter': 3, 'epoch': 0, 'optimizers': []}, tmp_path / '3.state')
    torch.save({'params': {}}, tmp_path / 'nothing.pth')
    torch.save(re.compile('hostile'), tmp_path / 'hostile.pth')
    write(tmp_path / 'newer.pth', RAMiT(**ARGUMENTS), format=99)
    write(tmp_path / 'broken.pth', RAMiT(**ARGUMENTS), scale='two')
    write(tmp_path / 'unknown.pth', RAMiT(**ARGUMENTS), network_g={'type': 'EDSRGAN'})
    write(tmp_path / 'wrong.pth', RAMiT(**ARGUMENTS), network_g={'type': 'RAMiT', 'dim': 17})
    write(tmp_path / 'another.pth', RAMiT(**ARGUMENTS), network_g={'type': 'RAMiT', **ARGUMENTS, 'dim': 32})
    for name, text in {
        'missing.pth': 'no such checkpoint, experiment or packaged network',
        'empty.pt': 'did you mean empty.pth',
        'folder': r'no experiment with a network \(models/net_g_\*.pth\)',
        'empty.pth': 'not a checkpoint that can be read',
        'text.pth': 'not a checkpoint that can be read',
        'other.pth': 'its weights .conv.weight, ....* do not tell the network',
        '3.state': 'a training state, not a network',
        'nothing.pth': 'no weights in it',
        'hostile.pth': 'refused; it is damaged or holds more than tensors',
        'newer.pth': r'newer version of ramit-arch \(format 99\); update it',
        'broken.pth': 'its description of the network is damaged',
        'unknown.pth': "its network is 'EDSRGAN', which is not registered; --import FILE registers it",
        'wrong.pth': 'RAMiT cannot be built with its arguments .dim is 17; it must be a multiple of 16',
        'another.pth': 'does not fit RAMiT',
    }.items():
        with pytest.raises(UserError, match=text) as error:
            load_network(tmp_path / name)
        assert '\n' not in str(error.value)
        assert name.partition('.')[0] in str(error.value)


# ------------------------------------------------------------------------------------------------- test, compare, ...


@pytest.fixture
def trained(tmp_path: Path, pairs: tuple[Path, Path]) -> Path:
    """A folder with an experiment of four iterations."""
    opt = tiny_options(*pairs)
    opt['logger']['keep_best'] = 'psnr'
    write_options(tmp_path / 'train.yml', opt)
    result = call_basicsr('train', '-opt', 'train.yml', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    return tmp_path


def scores(folder: Path, name: str = 'tiny') -> dict:
    return yaml.safe_load((folder / 'results' / name / 'scores' / 'tiny_val.json').read_text())


def test_validation_sets_are_tested_without_a_second_option_file(trained: Path) -> None:
    validated = yaml.safe_load((trained / 'experiments/tiny/scores/tiny_val_4.json').read_text())
    for arguments in (['-opt', 'train.yml'], ['-opt', 'experiments/tiny'], ['-m', 'experiments/tiny'],
                      ['-m', 'experiments/tiny/models/net_g_best.pth']):  # fmt: skip
        result = call_basicsr('test', *arguments, cwd=trained)
        assert result.returncode == 0, result.stderr
        tested = scores(trained)
        assert tested['mean'] == validated['mean']
        assert tested['checkpoint'] == 'experiments/tiny/models/net_g_best.pth'
    result = call_basicsr('compare', 'experiments/tiny', cwd=trained)
    assert result.returncode == 0, result.stderr
    assert 'gain PSNR' in result.stdout
    kept = result.stdout.replace('RAMiT', 'tiny')
    result = call_basicsr('compare', '-m', str(trained / 'experiments' / 'tiny'), cwd=trained)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == kept.split()


def test_a_checkpoint_replaces_the_network_of_an_option_file(trained: Path) -> None:
    network = RAMiT(**{**ARGUMENTS, 'depths': [1, 1, 1, 1]})
    torch.save(network.state_dict(), trained / 'other.pth')
    result = call_basicsr('test', '-opt', 'train.yml', '-m', 'other.pth', cwd=trained)
    assert result.returncode == 0, result.stderr
    assert scores(trained)['network_g']['depths'] == [1, 1, 1, 1]


def test_scores_of_another_network_get_the_name_of_its_experiment(trained: Path) -> None:
    network_g = {'type': 'LAformer', 'dim': 4, 'depth': 1}
    description = describe(network_g, 2, 'SR')
    for file, name in [('experiments/other/models/net_g_best.pth', 'other'), ('mine.pth', 'mine')]:
        (trained / file).parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint({'params': LAformer(dim=4, depth=1).state_dict(), 'network': description}, trained / file)
        result = call_basicsr('test', '-opt', 'train.yml', '-m', file, cwd=trained)
        assert result.returncode == 0, result.stderr
        assert (trained / 'results' / name / 'scores').is_dir()


def test_complexity_counts_the_networks_of_checkpoints(tmp_path: Path) -> None:
    write(tmp_path / 'net.pth', RAMiT(**ARGUMENTS))
    result = call_basicsr('complexity', '-m', 'net.pth', '--counts', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(r'net\.pth +x2 +38K', result.stdout)


@pytest.mark.parametrize(('arguments', 'text'), [
    (['test'], 'give an option file by -opt FILE, or an experiment folder by -m'),
    (['test', '-m', 'net.pth'], '-m net.pth: no option file of an experiment beside it'),
    (['test', '-m', 'nett.pth'], 'no such checkpoint, experiment or packaged network (did you mean net.pth?)'),
    (['test', '-opt', '.'], 'no experiment with a network'),
    (['complexity'], 'give option files by -opt, or checkpoints by -m'),
])  # fmt: skip
def test_what_is_missing_on_the_command_line_is_named(arguments: list[str], text: str, tmp_path: Path) -> None:
    write(tmp_path / 'net.pth', RAMiT(**ARGUMENTS))
    result = call_basicsr(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert text in result.stderr


def test_size_multiple_of_the_validation_goes_with_the_checkpoint(tmp_path: Path) -> None:
    model = make_model(tmp_path, val={'size_multiple': 8})
    model.save_network(model.net_g, 'net_g', 7)
    assert Restorer(tmp_path / 'models' / 'net_g_7.pth').size_multiple == 8


def test_description_survives_reading(tmp_path: Path) -> None:
    path = write(tmp_path / 'net.safetensors', RAMiT(**ARGUMENTS))
    assert read_content(str(path))['network'] == describe({'type': 'RAMiT', **ARGUMENTS}, 2, 'SR')


def test_gray_network_that_does_not_say_so_gets_gray_images(tmp_path: Path) -> None:
    class Gray(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(1, 1, 1)

    ARCH_REGISTRY._do_register('GrayForTest', Gray)
    try:
        content = {'params': Gray().state_dict(), 'network': describe({'type': 'GrayForTest'}, 1, color='gray')}
        write_checkpoint(content, tmp_path / 'gray.pth')
        assert Restorer(tmp_path / 'gray.pth').channels == 1
    finally:
        del ARCH_REGISTRY._obj_map['GrayForTest']
