"""Restoring pictures of any size: tiles, pixel formats, alpha, self-ensemble, memory."""

from __future__ import annotations

import itertools
import logging

import cv2
import numpy as np
import pytest
import torch
from helpers import TINY_NETWORK, photograph
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ramit_arch import RAMiT, Restorer
from ramit_arch.archs import window_attention
from ramit_arch.errors import UserError
from ramit_arch.inference import memory, restorer
from ramit_arch.inference.tiles import grid


class Nearest(nn.Module):
    """Repeats pixels: the same for a tile as for the whole image."""

    def __init__(self, upscale: int = 1, in_chans: int = 3) -> None:
        super().__init__()
        self.upscale, self.in_chans = upscale, in_chans
        self.largest = 0

    def forward(self, image: Tensor) -> Tensor:
        assert image.shape[1] == self.in_chans
        self.largest = max(self.largest, *image.shape[-2:])
        return image.repeat_interleave(self.upscale, 2).repeat_interleave(self.upscale, 3)


def repeated(picture: np.ndarray, scale: int) -> np.ndarray:
    return picture.repeat(scale, 0).repeat(scale, 1)


def random_picture(shape: tuple[int, ...], dtype: type, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype is np.float32:
        return rng.random(shape, dtype=np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


# ------------------------------------------------------------------------------------------------------------- tiles


@given(
    height=st.integers(1, 60), width=st.integers(1, 60), tile=st.integers(1, 40), overlap=st.integers(0, 39),
    scale=st.integers(1, 3), dtype=st.sampled_from(restorer.DTYPES), ensemble=st.booleans(),
)  # fmt: skip
def test_tiles_of_a_network_that_sees_single_pixels_are_exact(
    height: int, width: int, tile: int, overlap: int, scale: int, dtype: type, ensemble: bool
) -> None:
    network = Nearest(scale)
    picture = random_picture((height, width, 3), dtype)
    overlap = min(overlap, tile - 1)
    restored = Restorer(network, tile=tile, overlap=overlap, ensemble=ensemble).restore(picture)
    assert restored.dtype == dtype
    if dtype is np.float32 and ensemble:  # the mean of eight equal numbers is rounded
        assert np.allclose(restored, repeated(picture, scale), atol=1e-6)
    else:
        assert np.array_equal(restored, repeated(picture, scale))
    assert network.largest <= tile


@given(length=st.integers(1, 500), tile=st.integers(1, 100), overlap=st.integers(0, 99), multiple=st.integers(1, 32))
def test_tiles_cover_an_axis_with_the_overlap_that_is_asked_for(
    length: int, tile: int, overlap: int, multiple: int
) -> None:
    overlap = min(overlap, tile - 1)
    size, starts = grid(length, tile, overlap, multiple)
    assert starts[0] == 0
    assert starts[-1] + size == length
    assert size <= tile
    assert all(0 < following - start <= size - overlap for start, following in itertools.pairwise(starts))


def test_tiles_are_multiples_of_what_the_network_pads_to() -> None:
    assert grid(1000, 320, 32, 32).size % 32 == 0
    assert grid(1000, 320, 32, 32).size == 288  # four tiles; 320 would be more than they need


def test_blending_hides_the_seams_between_tiles() -> None:
    class Brighter(nn.Module):
        """Returns its tile with the mean of the tile, so that tiles disagree."""

        def forward(self, image: Tensor) -> Tensor:
            return torch.ones_like(image) * image.mean()

    picture = np.tile(np.linspace(0, 1, 200, dtype=np.float32)[None, :, None], (40, 1, 3))
    hard = Restorer(Brighter(), tile=100, overlap=0).restore(picture)
    blended = Restorer(Brighter(), tile=100, overlap=50).restore(picture)
    assert np.abs(np.diff(hard[..., 0])).max() > 0.4
    assert np.abs(np.diff(blended[..., 0])).max() < 0.02


def test_whole_picture_equals_the_network() -> None:
    network = RAMiT(**{k: v for k, v in TINY_NETWORK.items() if k != 'type'}).eval()
    picture = photograph(1, 21, 34)
    with torch.no_grad():
        output = network(torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32) / 255)[None])[0]
    expected = (output.clamp(0, 1) * 255).round().numpy().astype(np.uint8).transpose(1, 2, 0)
    assert np.array_equal(Restorer(network).restore(picture), expected)


# ------------------------------------------------------------------------------------------------------------ pixels


@pytest.mark.parametrize('dtype', restorer.DTYPES)
@pytest.mark.parametrize('shape', [(9, 7), (9, 7, 1), (9, 7, 3), (1, 1, 3), (1, 50, 3)])
@pytest.mark.parametrize('in_chans', [1, 3])
def test_shape_and_dtype_of_a_picture_are_kept(dtype: type, shape: tuple[int, ...], in_chans: int) -> None:
    picture = random_picture(shape, dtype)
    restored = Restorer(Nearest(2, in_chans)).restore(picture)
    assert restored.dtype == dtype
    assert np.allclose(restored, repeated(picture, 2), rtol=1e-6, atol=0)  # gray floats are means of three


def test_gray_pictures_get_no_colour_cast() -> None:
    class Reddish(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image + torch.tensor([0.3, 0.0, 0.0])[:, None, None]

    restored = Restorer(Reddish()).restore(np.full((4, 4), 0.5, np.float32))
    assert restored.shape == (4, 4)
    assert restored == pytest.approx(0.6)


def test_values_out_of_range_are_clipped() -> None:
    class Doubled(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return 2 * image - 0.5

    assert Restorer(Doubled()).restore(np.array([[0, 100, 255]], np.uint8)).tolist() == [[0, 72, 255]]


@pytest.mark.parametrize('channels', [2, 4])
def test_colours_under_transparent_pixels_do_not_reach_the_edge(channels: int) -> None:
    class Blur(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(image, 5, 1, 2, count_include_pad=False)

    picture = np.zeros((20, 20, channels), np.uint8)
    picture[..., :-1] = 255  # white where transparent
    picture[:, :10] = [*[40] * (channels - 1), 255]
    restored = Restorer(Blur()).restore(picture)
    assert (restored[:, :10, :-1] == 40).all()
    assert np.array_equal(restored[..., -1], picture[..., -1])


def test_alpha_grows_by_the_same_factor() -> None:
    picture = random_picture((6, 5, 4), np.uint16)
    picture[..., 3] = 65535
    picture[:3, :, 3] = 0
    restored = Restorer(Nearest(3)).restore(picture)
    assert restored.shape == (18, 15, 4)
    assert (restored[0, 0, 3], restored[-1, -1, 3]) == (0, 65535)
    assert np.array_equal(
        restored[..., 3], cv2.resize(picture[..., 3], None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    )


@pytest.mark.parametrize(
    ('picture', 'text'),
    [
        (np.zeros((4, 4), np.float64), 'float64'),
        (np.zeros((4, 4, 5), np.uint8), r'\(4, 4, 5\)'),
        (np.zeros((4,), np.uint8), r'\(4,\)'),
        (np.zeros((0, 4), np.uint8), 'empty'),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(picture: np.ndarray, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Restorer(Nearest()).restore(picture)


@pytest.mark.parametrize(
    'arguments', [{'tile': 8, 'overlap': 8}, {'tile': 'some'}, {'precision': 'half'}, {'overlap': -1}, {'overlap': 1.5}]
)
def test_wrong_settings_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Restorer(Nearest(), **arguments)


def test_device_that_is_not_there_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match='device cuda:77: not available') as error:
        Restorer(Nearest(), device='cuda:77')
    assert '\n' not in str(error.value)


# --------------------------------------------------------------------------------------------------- ensemble, memory


def test_ensemble_is_the_mean_over_flips_and_rotations() -> None:
    network = RAMiT(**{k: v for k, v in TINY_NETWORK.items() if k != 'type'}).eval()
    image = torch.rand(1, 3, 13, 10)
    with torch.no_grad():
        outputs = [
            network(image.rot90(turns, (2, 3)).flip(axes)).flip(axes).rot90(-turns, (2, 3))
            for turns in range(4)
            for axes in ([], [3])
        ]
    expected = torch.stack(outputs).mean(0)
    assert torch.allclose(Restorer(network, ensemble=True).restore_tensor(image), expected, atol=1e-6)


def test_bfloat16_stays_close() -> None:
    network = RAMiT(**{k: v for k, v in TINY_NETWORK.items() if k != 'type'}).eval()
    image = torch.rand(1, 3, 12, 12)
    exact = Restorer(network).restore_tensor(image)
    fast = Restorer(network, precision='bfloat16').restore_tensor(image)
    assert fast.dtype == torch.float32
    assert 0 < (fast - exact).abs().max() < 0.1


def test_automatic_tiles_follow_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    network = RAMiT(**{k: v for k, v in TINY_NETWORK.items() if k != 'type'}).eval()
    needed = memory.bytes_per_pixel(network, 3)
    monkeypatch.setattr(memory, 'available', lambda device: int(2 * needed * 200**2))
    assert Restorer(network)._tile(1000, 1000) == 192
    assert Restorer(network)._tile(300, 300) == 192
    assert Restorer(network)._tile(100, 390) == 390  # whole
    assert Restorer(network, tile=None)._tile(1000, 1000) == 1000


def test_memory_of_a_network_is_estimated_without_computing() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1))
    # The image, and both outputs while the second is made: 3 + 8 + 3 channels of float32.
    assert memory.bytes_per_pixel(network, 3) == pytest.approx(memory.WORKSPACE * 4 * (3 + 8 + 3))


class Hungry(Nearest):
    """Runs out of memory above 100x100."""

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-1] > 100:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes")
        return super().forward(image)


def test_automatic_tiles_halve_when_memory_runs_out(caplog: pytest.LogCaptureFixture) -> None:
    picture = random_picture((30, 250, 3), np.uint8)
    logging.getLogger('basicsr').addHandler(caplog.handler)
    try:
        assert np.array_equal(Restorer(Hungry()).restore(picture), picture)
    finally:
        logging.getLogger('basicsr').removeHandler(caplog.handler)
    assert 'Out of memory with tiles of 250; going on with tiles of 125.' in caplog.text


def test_out_of_memory_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r'250x30 pixels in tiles of 250; use tiles'):
        Restorer(Hungry(), tile=None).restore(random_picture((30, 250, 3), np.uint8))


def test_errors_of_a_network_are_not_taken_for_a_lack_of_memory() -> None:
    class Failing(Nearest):
        def forward(self, image: Tensor) -> Tensor:
            raise RuntimeError('size mismatch')

    with pytest.raises(RuntimeError, match='size mismatch'):
        Restorer(Failing()).restore(random_picture((3, 3), np.uint8))


def test_progress_adds_up_to_the_picture() -> None:
    done: list[int] = []
    Restorer(Nearest(), tile=10, overlap=2).restore(random_picture((30, 30), np.uint8), done.append)
    assert len(done) == 16
    assert 0.9 * 900 <= sum(done) <= 900


def test_large_pictures_are_restored_by_native_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    network = RAMiT(dim=16, depths=(1, 1, 1, 1), window_size=4, expand_groups=1).eval()
    attention = network.stage1.blocks['block0'].sp_attn
    picture = photograph(0, 16, 20)
    restored = Restorer(network)
    expected = restored.restore(picture)
    assert not attention.native
    monkeypatch.setattr(restorer, 'LARGE', 300)
    found = restored.restore(picture)
    assert attention.native is (window_attention.available(4, 4) is None)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_network_that_says_nothing_of_itself_is_told_scale_and_channels() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.PixelShuffle(2))
    assert Restorer(network, scale=2, channels=1).restore(photograph(0, 6, 5)).shape == (12, 10, 3)
    with pytest.raises(UserError, match=r'Sequential returned 10x12 for an image of 5x6; the scale is 1'):
        Restorer(network, channels=1).restore(photograph(0, 6, 5))


class Remembering(Nearest):
    """Keeps a tensor, and needs values."""

    def forward(self, image: Tensor) -> Tensor:
        if not hasattr(self, 'kept'):
            self.kept = torch.ones_like(image[:, :1, :1, :1])
        return super().forward(image) * self.kept * float(image.max() <= 2)


def test_estimating_memory_leaves_the_network_as_it_is() -> None:
    network = Remembering()
    picture = random_picture((300, 300, 3), np.uint8)
    assert memory.bytes_per_pixel(network, 3) == memory.UNKNOWN
    assert np.array_equal(Restorer(network).restore(picture), picture)
    assert type(network(torch.rand(1, 3, 2, 2))) is Tensor
