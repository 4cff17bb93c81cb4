"""Feature maps and attention of a network, and `basicsr features`."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import call_basicsr, photograph, run_basicsr
from matplotlib.axes import Axes
from torch import Tensor, nn

from ramit_arch import RAMiT
from ramit_arch.archs.davit_arch import DaViTCore
from ramit_arch.archs.iptv2_arch import IPTV2
from ramit_arch.archs.laformer_arch import LAformer
from ramit_arch.archs.layers import window_partition, window_reverse
from ramit_arch.archs.ramit_arch import DRAMiTBlock
from ramit_arch.errors import UserError
from ramit_arch.evaluation.features import attention_maps, feature_maps, figure, standardise
from ramit_arch.inference.networks import describe

SMALL = {'dim': 16, 'depths': (1, 1, 1, 2), 'num_heads': (4, 4, 4, 4), 'expand_groups': 1, 'window_size': 4}


def network(**options: object) -> RAMiT:
    """Untrained, but with attention that is not uniform."""
    torch.manual_seed(0)
    made = RAMiT(**{**SMALL, **options}).eval()
    for name, parameter in made.named_parameters():
        if 'bias_table' in name:
            nn.init.normal_(parameter)
    return made


def image(height: int = 32, width: int = 48) -> Tensor:
    return torch.from_numpy(photograph(0, height, width)).permute(2, 0, 1)[None] / 255


# ------------------------------------------------------------------------------------------------------- feature maps


def test_maps_of_the_stages_and_hrami() -> None:
    maps = feature_maps(network(), image())
    assert {title: tuple(values.shape) for title, values in maps.items()} == {
        'stage 1': (16, 32, 48), 'stage 2': (16, 16, 24), 'stage 3': (16, 8, 12), 'stage 4': (16, 32, 48),
        'H-RAMi': (16, 32, 48), 'stage 4 x H-RAMi': (16, 32, 48),
    }  # fmt: skip
    assert torch.equal(maps['stage 4 x H-RAMi'], maps['stage 4'] * maps['H-RAMi'])


def test_the_re_attended_map_is_what_the_network_reconstructs_from() -> None:
    made = network()
    seen = []
    made.to_target.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    made.shallow.register_forward_hook(lambda *call: seen.append(call[-1]))
    maps = feature_maps(made, image())
    shallow, features = seen
    assert torch.allclose(maps['stage 4 x H-RAMi'], (features - shallow)[0].movedim(-1, 0), atol=1e-5)


def test_without_hrami_there_are_the_stages() -> None:
    assert list(feature_maps(network(hrami=False), image())) == [f'stage {i}' for i in (1, 2, 3, 4)]


def test_hooks_are_removed() -> None:
    made = network()
    feature_maps(made, image())
    attention_maps(made, image(), 'stage1.block0', (0, 0))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in made.modules())


@pytest.mark.parametrize(('made', 'titles'), [
    (LAformer(dim=8, depth=5), ['block 1', 'block 2', 'block 3', 'block 5']),
    (LAformer(dim=8, depth=1), ['block 1']),
    (IPTV2(dim=8, depths=(1, 1, 1), window_size=4, grid_size=(4, 4, 4)),
     ['encoder1', 'encoder2', 'bottleneck', 'decoder2', 'decoder1']),
    (DaViTCore(**SMALL), ['stage 1', 'stage 2', 'stage 3', 'stage 4', 'H-RAMi', 'stage 4 x H-RAMi']),
])  # fmt: skip
def test_the_relatives_answer_too(made: nn.Module, titles: list[str]) -> None:
    maps = feature_maps(made.eval(), image())
    assert list(maps) == titles
    assert maps[titles[0]].shape[1:] == (32, 48)


class Own(nn.Module):
    """A network of someone else's, (N, C, H, W)."""

    def __init__(self, **titles: tuple[str, ...]) -> None:
        super().__init__()
        self.titles = titles
        self.head, self.gate, self.pool = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 5, 1), nn.Flatten()

    def feature_maps(self) -> dict[str, tuple[str, ...]]:
        return self.titles

    def forward(self, x: Tensor) -> Tensor:
        self.pool(x)
        return (self.head(x) * self.gate(x))[:, :3]


def test_channels_are_first_unless_a_network_says_otherwise() -> None:
    made = Own(head=('head',), both=('head', 'gate'))
    maps = feature_maps(made, image())
    assert maps['head'].shape == (5, 32, 48)
    assert torch.allclose(maps['both'][:3], made(image())[0])


def test_what_a_network_must_answer_is_said() -> None:
    with pytest.raises(UserError, match=r'Conv2d does not define `feature_maps\(\)`'):
        feature_maps(nn.Conv2d(3, 3, 1), image())
    with pytest.raises(UserError, match='Own has no submodule body'):
        feature_maps(Own(body=('body',)), image())
    with pytest.raises(UserError, match=r'Own.pool: returns no map'):
        feature_maps(Own(pool=('pool',)), image())
    with pytest.raises(UserError, match='Own: none of its blocks defines'):
        attention_maps(Own(), image(), 'head', (0, 0))


def test_maps_are_pooled_and_standardised() -> None:
    features = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 8.0]]])
    for pool, values in (('max', [[1, 2], [3, 8]]), ('mean', [[0.5, 1], [1.5, 6]])):
        expected = np.array(values, float)
        assert np.allclose(standardise(features, pool), (expected - expected.mean()) / expected.std())  # type: ignore[arg-type]
    assert not standardise(torch.ones(2, 3, 3)).any()


# ----------------------------------------------------------------------------------------------------------- attention


def test_spatial_attention_is_what_the_forward_pass_computes() -> None:
    attention = network().stage1.blocks['block0'].sp_attn
    qkv = torch.randn(2, 8, 12, 3 * 3 * 4)
    maps = attention.attention_map(qkv)
    assert maps.shape == (2 * 2 * 3, 3, 16, 16)
    assert torch.allclose(maps.sum(-1), torch.ones(1), atol=1e-5)
    values = window_partition(qkv, 4).flatten(1, 2).unflatten(-1, (3, 3, 4))[..., 2, :].transpose(1, 2)
    out = (maps @ values).transpose(1, 2).reshape(-1, 4, 4, 12)
    assert torch.allclose(window_reverse(out, 8, 12), attention.attend(qkv, None), atol=1e-5)


def test_channel_attention_is_what_the_forward_pass_computes() -> None:
    attention = network().stage1.blocks['block0'].ch_attn
    qkv = torch.randn(2, 8, 12, 3 * 4)
    maps = attention.attention_map(qkv)
    assert maps.shape == (2, 1, 4, 4)
    assert torch.allclose(maps.sum(-1), torch.ones(1), atol=1e-5)
    values = qkv[..., 8:].flatten(1, 2)  # (N, HW, D)
    assert torch.allclose((values @ maps[:, 0].mT).view(2, 8, 12, 4), attention.attend(qkv, None), atol=1e-5)


@pytest.mark.parametrize(('block', 'row', 'column'), [('block0', 5, 10), ('block1', 5, 10), ('block1', 31, 1)])
def test_attention_of_a_token_gives_its_output(block: str, row: int, column: int) -> None:
    made = network()
    module: DRAMiTBlock = made.stage4.blocks[block]
    seen = []
    module.sp_attn.proj.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    x = torch.randn(1, 32, 48, 16)
    with torch.no_grad():
        module(x)
        weights = module.attention_maps(x, row, column)['spatial']
    assert weights.shape == (3, 32, 48)
    assert (weights.isfinite().sum((1, 2)) == 16).all()
    weights = weights.nan_to_num()
    assert torch.allclose(weights.sum((1, 2)), torch.ones(3), atol=1e-5)
    values = module.qkv_proj[0](x, module.spatial)[0].unflatten(-1, (3, 3, 4))[..., 2, :]  # (H, W, heads, D)
    expected = torch.einsum('lhw,hwld->ld', weights, values).flatten()
    whole = torch.cat(seen, 1).roll((module.shift, module.shift), (1, 2))  # bands, put together
    assert torch.allclose(whole[0, row, column], expected, atol=1e-5)


def test_a_token_is_found_in_a_smaller_map() -> None:
    found = attention_maps(network(), image(), 'stage2.blocks.block0', (21, 9))
    assert (found.block, found.token, found.stride) == ('stage2.blocks.block0', (10, 4), 2)
    assert [side.tolist() for side in found.window] == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert found.maps['channel'].shape == (1, 4, 4)


def test_weights_that_underflow_are_part_of_the_window() -> None:
    made = network()
    made.stage1.blocks['block0'].sp_attn.relative_position_bias_table.data[0] = 1e4  # one pair of tokens, all others 0
    found = attention_maps(made, image(), 'stage1.block0', (0, 0))
    assert [len(side) for side in found.window] == [4, 4]


def test_a_window_around_the_border_is_put_together() -> None:
    found = attention_maps(network(), image(), 'stage4.block1', (1, 20))
    assert [side.tolist() for side in found.window] == [[18, 19, 20, 21], [46, 47, 0, 1]]


def test_pure_attentions_have_one_kind() -> None:
    for ratio, kind in ((0, 'spatial'), (1, 'channel')):
        found = attention_maps(network(chsa_head_ratio=ratio), image(), 'stage1.block0', (0, 0))
        assert list(found.maps) == [kind]


@pytest.mark.parametrize(('block', 'message'), [
    ('stage1.block7', r'stage1.block7: no block with attention maps of this name in RAMiT \(did you mean stage1.b'),
    ('head', r'of this name in RAMiT; there are stage1.blocks.block0 to stage4.blocks.block1'),
    ('block0', 'several blocks of this name in RAMiT'),
])  # fmt: skip
def test_unknown_blocks_are_told(block: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        attention_maps(network(), image(), block, (0, 0))


# -------------------------------------------------------------------------------------------------------- the command

OWN = """
import torch
from basicsr.utils.registry import ARCH_REGISTRY

@ARCH_REGISTRY.register()
class Silent(torch.nn.Conv2d):
    def __init__(self):
        super().__init__(3, 3, 1)
"""


def test_names_in_a_string_are_refused() -> None:
    with pytest.raises(
        UserError, match=re.escape("Own.feature_maps: 'head' has 'head'; give a tuple of names, ('head',)")
    ):
        feature_maps(Own(head='head'), image())


@pytest.fixture(scope='module')
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of a size that must be padded, and untrained networks."""
    folder = tmp_path_factory.mktemp('features')
    cv2.imwrite(str(folder / 'photo.png'), photograph(0, 27, 42))
    made = network()
    torch.save(
        {'params': made.state_dict(), 'network': describe({'type': 'RAMiT', **SMALL}, 2, 'SR')}, folder / 'a.pth'
    )
    (folder / 'silent.py').write_text(OWN)
    known = {'format': 1, 'network_g': {'type': 'Silent'}, 'scale': 1, 'task': None, 'color': 'rgb'}
    torch.save({'params': nn.Conv2d(3, 3, 1).state_dict(), 'network': known}, folder / 'silent.pth')
    return folder


def typed(*more: str, model: str = 'a.pth') -> list[str]:
    return ['features', '-m', model, '--image', 'photo.png', *more]


def test_features_prints_sizes_and_draws(home: Path) -> None:
    result = run_basicsr(*typed('-o', 'maps.png', '--block', 'stage4.block1', '--token', '40,26'), cwd=home)
    assert (result.returncode, result.stderr) == (0, '')
    lines = result.stdout.splitlines()
    assert lines[0].split() == ['map', 'channels', 'size']
    assert lines[1].split() == ['stage', '1', '16', '48x32']
    assert lines[7] == 'stage4.blocks.block1: spatial attention, heads 0 to 2'
    assert lines[8] == 'stage4.blocks.block1: channel attention, head 3'
    assert lines[-1] == 'Feature maps: maps.png'
    assert cv2.imread(str(home / 'maps.png')).std() > 10


@pytest.mark.parametrize('kind', ['png', 'pdf', 'svg'])
def test_figures_are_the_same_every_time(kind: str, home: Path) -> None:
    contents = []
    for i in range(2):
        result = call_basicsr(*typed('-o', f'{i}.{kind}', '--block', 'stage1.block0', '--head', '1'), cwd=home)
        assert result.returncode == 0, result.stderr
        contents.append((home / f'{i}.{kind}').read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--block', 'stage1.block0', '--token', '42,0'], '--token 42,0: not in photo.png, which has 42x27 pixels'),
    (['--block', 'stage1.block0', '--head', '4'], '--head 4: stage1.blocks.block0 has spatial heads 0 to 2, channel'),
    (['-o', 'photo.png'], '-o photo.png: photo.png is read; give a file elsewhere'),
    (['-o', '.'], '-o .: a figure is a .png, .pdf or .svg file'),
    (['--head', '3'], '--head needs --block, the block whose attention to draw'),
    (['--token', '1,1'], '--token needs --block, the block whose attention to draw'),
    (['-o', 'maps.txt'], '-o maps.txt: a figure is a .png, .pdf or .svg file'),
])  # fmt: skip
def test_mistakes_are_one_line(arguments: list[str], message: str, home: Path) -> None:
    result = call_basicsr(*typed('-o', 'a.png', *arguments), cwd=home)
    assert result.returncode == 1
    assert result.stderr.startswith(f'error: {message}')
    assert result.stderr.count('\n') == 1


def test_a_network_that_does_not_answer_is_told(home: Path) -> None:
    result = call_basicsr(*typed('-o', 'a.png', '--import', 'silent.py', model='silent.pth'), cwd=home)
    assert result.returncode == 1
    assert result.stderr == 'error: Silent does not define `feature_maps()`, which names the maps to show\n'


def test_a_picture_of_one_pixel_is_drawn(home: Path) -> None:
    cv2.imwrite(str(home / 'pixel.png'), photograph(0, 1, 1))
    result = call_basicsr(
        'features', '-m', 'a.pth', '--image', 'pixel.png', '-o', 'p.png', '--block', 'stage1.block0', cwd=home
    )
    assert (result.returncode, result.stderr) == (0, '')


def test_one_head_is_that_of_the_network(home: Path) -> None:
    made = attention_maps(network(), image(), 'stage1.block0', (0, 0))
    assert made.heads() == {'spatial': range(3), 'channel': range(3, 4)}
    for head, titles in [(3, ['channel, head 3']), (1, ['window', 'spatial, head 1'])]:
        page = figure(np.zeros((32, 48, 3)), {'stage': np.zeros((32, 48))}, 'max', made, head)
        shown = [axes.get_title() for axes in page.findobj(Axes) if axes.get_title()]
        assert shown == ['input', 'stage', *titles]
