"""Local attribution maps: the path integral, the diffusion index, and `basicsr attribute`."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import TINY_NETWORK, call_basicsr, photograph, run_basicsr
from scipy.stats import gaussian_kde
from torch import Tensor, nn

import basicsr_command
from ramit_arch import RAMiT
from ramit_arch.cli import figures as cli_figures
from ramit_arch.errors import UserError
from ramit_arch.evaluation.attribution import (
    Box,
    attribute,
    blur_path,
    contribution_area,
    detect_gradient,
    diffusion_index,
    gini,
    share_beyond,
)
from ramit_arch.inference.networks import describe

BOX = Box(8, 12, 8)
SIGMA = 1.2


def image(seed: int = 0, height: int = 24, width: int = 32) -> Tensor:
    """Smooth with some noise, (1, 3, height, width)."""
    noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    smooth = torch.from_numpy(photograph(seed, height, width)).permute(2, 0, 1)[None] / 255
    return 0.8 * smooth + 0.2 * noise


def tiny(**options: object) -> RAMiT:
    torch.manual_seed(0)
    network = RAMiT(**{key: value for key, value in TINY_NETWORK.items() if key != 'type'} | options)
    return network.eval().requires_grad_(False)


class LeftHalf(nn.Module):
    """A convolution of the image whose right half it replaces by zeros."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x * (torch.arange(x.shape[3]) < x.shape[3] // 2))


# ------------------------------------------------------------------------------------------------------ path integral


@pytest.mark.parametrize('network', [tiny(), nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 12, 3))])
def test_attributions_add_up_to_the_change_of_the_detector(network: nn.Module) -> None:
    found = attribute(network, image(), BOX, steps=30, sigma=SIGMA)
    assert abs(found.sharp - found.blurred) > 0.1
    assert found.integral.sum() == pytest.approx(found.sharp - found.blurred, rel=0.02)
    assert found.error < 0.02


def test_more_steps_make_the_integral_more_exact() -> None:
    few, many = (attribute(tiny(), image(), BOX.scaled(2), steps=steps, sigma=SIGMA) for steps in (2, 30))
    assert many.error < few.error


def test_the_path_leads_from_the_blurred_image_to_the_image() -> None:
    pixels = image()[0].numpy()
    pieces = list(blur_path(pixels, sigma=2, steps=7))
    assert len(pieces) == 7
    start = pixels - sum(difference for _, difference in pieces)
    spread = [middle.std() for middle, _ in pieces]
    assert start.std() < spread[0]
    assert spread == sorted(spread)
    assert start.mean() == pytest.approx(pixels.mean(), rel=1e-3)


def test_pixels_that_a_network_ignores_get_nothing() -> None:
    found = attribute(LeftHalf(), image(), Box(10, 4, 8), steps=4, sigma=SIGMA)
    assert (found.map[:, 16:] == 0).all()
    assert (found.map[:, :16] > 0).any()


def test_a_1x1_convolution_attributes_to_the_box_and_its_neighbours_alone() -> None:
    torch.manual_seed(0)
    found = attribute(nn.Conv2d(3, 3, 1), image(), BOX, steps=4, sigma=SIGMA)
    inside = np.zeros(found.map.shape, bool)
    inside[BOX.y : BOX.y + BOX.size + 1, BOX.x : BOX.x + BOX.size + 1] = True  # differences to the right and downwards
    inside[BOX.y + BOX.size, BOX.x + BOX.size] = False
    assert np.array_equal(found.map > 0, inside)


def test_the_detector_sums_gradient_magnitudes_in_the_box() -> None:
    output = torch.zeros(1, 2, 9, 9)
    output[0, 0] = 3 * torch.arange(9) + 4 * torch.arange(9)[:, None]  # |gradient| is 5 everywhere
    assert detect_gradient(output, Box(2, 3, 4)).item() == pytest.approx(4 * 4 * 5)
    assert detect_gradient(output, Box(5, 5, 4)).item() == pytest.approx(3 * 3 * 5)  # at the border


def test_the_map_is_close_to_that_of_the_published_procedure() -> None:
    """Written out: kernels of 9x9, gradients at the end of every step."""
    network, lq, box, steps = tiny(), image(), BOX.scaled(2), 40
    offsets = np.arange(-4, 5)
    kernels = [np.exp(-np.add.outer(offsets**2, offsets**2) / (2 * (sigma + 1e-5) ** 2))
               for sigma in np.linspace(1.2, 0, steps + 1)]  # fmt: skip
    pixels = lq[0].permute(1, 2, 0).numpy()
    blurred = [cv2.filter2D(pixels, -1, kernel / kernel.sum()).transpose(2, 0, 1) for kernel in kernels]
    total = np.zeros(blurred[0].shape)
    for before, after in pairwise(blurred):
        point = torch.from_numpy(after.copy())[None].requires_grad_()
        output = network(point)
        down, right = output[..., 1:, :-1] - output[..., :-1, :-1], output[..., :-1, 1:] - output[..., :-1, :-1]
        magnitude = (down**2 + right**2).sqrt()[..., box.y : box.y + box.size, box.x : box.x + box.size].sum()
        total += torch.autograd.grad(magnitude, point)[0][0].numpy() * (after - before)
    expected = np.abs(total.sum(0))
    found = attribute(network, lq, box, steps, SIGMA).map
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.995
    assert diffusion_index(found) == pytest.approx(diffusion_index(expected), rel=0.1)


def test_a_constant_output_has_finite_gradients() -> None:
    found = attribute(nn.Identity(), torch.full((1, 3, 12, 12), 0.5), Box(2, 2, 4), steps=2, sigma=SIGMA)
    assert not found.map.any()


def test_activation_checkpointing_changes_nothing() -> None:
    network = tiny()
    before = attribute(network, image(), BOX.scaled(2), steps=2, sigma=SIGMA)
    network.set_grad_checkpointing()
    after = attribute(network, image(), BOX.scaled(2), steps=2, sigma=SIGMA)
    assert np.array_equal(before.integral, after.integral)


def test_progress_is_called_for_every_step() -> None:
    steps: list[None] = []
    attribute(nn.Identity(), image(), BOX, steps=5, sigma=SIGMA, progress=lambda: steps.append(None))
    assert len(steps) == 5


def test_a_network_without_gradients_is_refused() -> None:
    with pytest.raises(UserError, match='no gradients reach the image'):
        attribute(lambda x: x.detach(), image(), BOX, steps=1, sigma=SIGMA)


# ------------------------------------------------------------------------------------- diffusion index and contribution


def test_diffusion_index_of_known_maps() -> None:
    single = np.zeros((8, 10))
    single[3, 4] = 0.7
    assert gini(single) == pytest.approx(1 - 1 / 80)
    assert diffusion_index(single) == pytest.approx(100 / 80)
    assert diffusion_index(np.full((8, 10), 0.3)) == pytest.approx(100)
    assert gini(np.array([1.0, 3.0])) == pytest.approx(0.25)  # mean difference 2 over twice the mean of 2, of 4 pairs
    assert diffusion_index(single * 5) == pytest.approx(diffusion_index(single))
    with pytest.raises(ValueError, match='not defined'):
        gini(np.zeros(4))


def test_share_beyond_a_distance_from_the_box() -> None:
    flat = np.ones((20, 30))
    assert share_beyond(flat, Box(10, 5, 4), 3) == pytest.approx(1 - 10 * 10 / 600)
    assert share_beyond(flat, Box(1, 0, 4), 3) == pytest.approx(1 - 8 * 7 / 600)  # at the border
    assert share_beyond(flat, Box(10, 5, 4), 30) == 0


def test_contribution_area_is_a_kernel_density_estimate() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((14, 18)) ** 8
    values[:7] *= 4
    rows, columns = np.mgrid[:14, :18]
    positions = np.stack([rows.ravel(), columns.ravel()])
    expected = gaussian_kde(positions, weights=values.ravel())(positions).reshape(14, 18)
    area = contribution_area(values)
    assert area.max() == 1
    assert np.abs(area - expected / expected.max()).max() < 0.02  # 1/12 in the covariance


def test_contribution_area_of_one_pixel_lies_around_it() -> None:
    single = np.zeros((9, 7))
    single[2, 5] = 3
    area = contribution_area(single)
    assert np.unravel_index(area.argmax(), area.shape) == (2, 5)
    assert area[2, 3] < 0.01


# -------------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope='module')
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture, and two untrained networks, x2 and gray x1."""
    folder = tmp_path_factory.mktemp('attribute')
    cv2.imwrite(str(folder / 'photo.png'), (image(height=21)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    gray = {'upscale': 1, 'in_chans': 1, 'img_mean': [0.5], 'img_std': [0.2]}
    for name, options, task in [('a', {}, 'SR'), ('gray', gray, 'GDN')]:
        network = tiny(**options)
        known = describe({**TINY_NETWORK, **options}, network.upscale, task, 'gray' if options else 'rgb')
        torch.save({'params': network.state_dict(), 'network': known}, folder / f'{name}.pth')
    (folder / 'notes.txt').write_text('no picture')
    return folder


def typed(*more: str, box: str = '6,5,8', picture: str = 'photo.png') -> list[str]:
    return ['attribute', '-m', 'a.pth', '--image', picture, '--box', box, '--steps', '2', *more]


def test_attribute_prints_the_diffusion_index_and_draws(home: Path) -> None:
    result = run_basicsr(*typed('-o', 'lam.png', '-m', 'gray.pth'), cwd=home)
    assert result.returncode == 0, result.stderr
    header, *rows, last = result.stdout.splitlines()
    assert header.split() == 'network scale DI beyond 32 detector blurred integration error'.split()
    assert [row.split()[:2] for row in rows if row[0] != 'A'] == [['a', 'x2'], ['gray', 'x1']]
    assert all(0 < float(row.split()[2]) <= 100 for row in rows if row[0] != 'A')
    assert last == 'Attribution maps: lam.png'
    assert result.stderr == ''
    picture = cv2.imread(str(home / 'lam.png'))
    assert picture.shape[1] > picture.shape[0] > 500
    assert picture.std() > 10


@pytest.mark.parametrize(('kind', 'start'), [('png', b'\x89PNG'), ('pdf', b'%PDF'), ('svg', b'<?xml')])
def test_figures_are_the_same_every_time(kind: str, start: bytes, home: Path) -> None:
    contents = []
    for i in range(2):
        result = call_basicsr(*typed('-o', f'{i}.{kind}'), cwd=home)
        assert result.returncode == 0, result.stderr
        contents.append((home / f'{i}.{kind}').read_bytes())
    assert contents[0].startswith(start)
    assert contents[0] == contents[1]


def test_names_are_titles(home: Path) -> None:
    result = call_basicsr(*typed('-o', 'named.svg', '--names', 'our network'), cwd=home)
    assert result.stdout.splitlines()[1].startswith('our network')
    assert 'our network' in (home / 'named.svg').read_text()


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'box': '26,5,8'}, '--box 26,5,8: not inside photo.png, which has 32x21 pixels'),
    ({'picture': 'notes.txt'}, 'notes.txt: damaged, truncated, or not an image'),
    ({'picture': 'none.png'}, 'none.png: cannot be read (No such file'),
    ({'more': ['-o', 'lam.gif']}, '-o lam.gif: a figure is a .png, .pdf or .svg file'),
    ({'more': ['-o', 'none/lam.png']}, '-o none/lam.png: there is no folder'),
    ({'more': ['-o', 'a.png', '--names', 'a', 'b']}, '--names: 2 for 1 networks; give one for each -m'),
    ({'more': ['-o', 'a.png', '--device', 'abacus']}, 'device abacus: not available here'),
    ({'more': ['-o', 'a.png', '-m', 'a.pth', './a.pth', '--names', 'a', 'a', 'b']}, "two networks have the name 'a'"),
    ({'more': ['-o', 'a.png', '-m', 'missing.pth']}, 'missing.pth: no such checkpoint'),
])  # fmt: skip
def test_mistakes_are_one_line(arguments: dict, message: str, home: Path) -> None:
    more = arguments.pop('more', ['-o', 'a.png'])
    result = call_basicsr(*typed(*more, **arguments), cwd=home)
    assert result.returncode == 1
    assert result.stderr.startswith(f'error: {message}')
    assert result.stderr.count('\n') == 1
    assert result.stdout == ''


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--box', '1,2'], '--box: 1,2 is not X,Y,SIZE: integers from 0 up, without spaces'),
    (['--box', '-1,2,8'], '--box: '),
    (['--box=-1,2,8'], '--box: -1,2,8 is not X,Y,SIZE'),
    (['--box', '1,2,1'], '--box: 1,2,1: SIZE is 1; it must be 2 or more'),
    (['--steps', '0'], '--steps: 0 is not an integer from 1 up'),
    (['--sigma', '0'], '--sigma: 0 is not a number above 0'),
])  # fmt: skip
def test_wrong_values_are_refused_by_the_parser(arguments: list[str], message: str, home: Path) -> None:
    result = call_basicsr(*typed('-o', 'a.png', *arguments), cwd=home)
    assert result.returncode == 2
    assert f'error: argument {message}' in result.stderr


def test_a_flat_box_is_told(home: Path) -> None:
    cv2.imwrite(str(home / 'flat.png'), np.full((24, 24, 3), 128, np.uint8))
    result = call_basicsr(*typed('-o', 'a.png', picture='flat.png'), cwd=home)
    assert 'a.pth: the box of its output does not change along the path' in result.stderr


def test_missing_matplotlib_is_told_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_figures.importlib.util, 'find_spec', lambda _: None)
    result = call_basicsr(*typed('-o', 'a.png', picture='none.png'), cwd=home)
    assert result.stderr == 'error: -o needs matplotlib: pip install matplotlib\n'


def test_defaults_are_those_of_the_authors() -> None:
    args = basicsr_command.build_parser().parse_args(['attribute', *'-m a --image b --box 1,2,3 -o c'.split()])
    assert (args.steps, args.sigma) == (50, 1.2)
