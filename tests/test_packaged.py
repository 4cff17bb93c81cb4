"""The networks that come with the package: listed, found by name, and as good as their cards say."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
import torch
from basicsr.metrics import calculate_psnr
from helpers import ROOT, TINY_NETWORK, call_basicsr, photograph
from safetensors import safe_open

from ramit_arch import RAMiT, Restorer, load_network, options
from ramit_arch.errors import UserError
from ramit_arch.inference import packaged
from ramit_arch.inference.checkpoints import write_checkpoint
from ramit_arch.inference.networks import describe, load
from ramit_arch.preparation.bicubic import downscale

NAMES = list(packaged.networks())


def crops() -> list[np.ndarray]:
    """The middles of three photographs, (128, 128, 3) BGR."""
    folder = Path(skimage.__file__).parent / 'data'
    images = [cv2.imread(str(folder / f'{name}.png')) for name in ('astronaut', 'chelsea', 'coffee')]
    corners = [(image.shape[0] // 2 - 64, image.shape[1] // 2 - 64) for image in images]
    return [image[y : y + 128, x : x + 128] for image, (y, x) in zip(images, corners, strict=True)]


@pytest.mark.parametrize('name', NAMES)
def test_packaged_network_is_what_the_list_and_its_option_file_say(name: str) -> None:
    entry, loaded = packaged.networks()[name], load(name)
    assert (loaded.task, loaded.scale) == (entry.task, entry.scale)
    assert entry.file.stat().st_size <= (1.26e6 if entry.scale == 4 else 1.2e6)  # its head has 15K weights more
    assert 150_000 <= sum(parameter.numel() for parameter in loaded.network.parameters()) <= 300_000
    trained = options.load(ROOT / 'options' / f'train_{name}.yml')
    assert trained['network_g'].items() <= loaded.network_g.items()
    with safe_open(entry.file, 'pt') as stored:
        assert all(stored.get_tensor(key).dtype in (torch.float32, torch.uint8) for key in stored.keys())  # noqa: SIM118
    state = load_network(name).state_dict()
    assert state.keys() == RAMiT(**{k: v for k, v in loaded.network_g.items() if k != 'type'}).state_dict().keys()


@pytest.mark.parametrize('name', NAMES)
def test_packaged_network_scores_as_listed(name: str) -> None:
    entry, restorer, rng = packaged.networks()[name], Restorer(name), np.random.default_rng(0)
    scores = []
    for crop in crops():
        if entry.scale > 1:
            lq, options = downscale(crop, entry.scale), {'crop_border': entry.scale, 'test_y_channel': True}
        else:
            noisy = crop + rng.normal(0, 25, crop.shape)
            lq, options = noisy.round().clip(0, 255).astype(np.uint8), {'crop_border': 0}
        restored = restorer.restore(np.ascontiguousarray(lq[..., ::-1]))[..., ::-1]
        scores.append(calculate_psnr(restored, crop, **options))
    assert np.mean(scores) == pytest.approx(entry.scores['crops'], abs=0.01)


def test_cards_and_list_have_the_same_scores() -> None:
    cards = (ROOT / 'docs' / 'models.md').read_text(encoding='utf-8')
    for name, entry in packaged.networks().items():
        card = cards.partition(f'## {name}\n')[2].partition('\n## ')[0]
        for test, score in entry.scores.items():
            assert f'{score:.2f}' in card, (name, test)
        assert entry.licence in card


def test_restore_takes_a_packaged_network_and_says_which(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / 'photo.png'), photograph(0, 12, 16))
    result = call_basicsr('restore', 'photo.png', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'RAMiT x2 for SR from RAMiT-tiny_SRx2, a small packaged network (use -m for a better one)' in result.stdout
    assert cv2.imread(str(tmp_path / 'photo_x2.png')).shape == (24, 32, 3)
    result = call_basicsr('restore', 'photo.png', '-m', 'RAMiT-tiny_SRx2', '--scale', '2', '-o', 'b.png', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'b.png').read_bytes() == (tmp_path / 'photo_x2.png').read_bytes()


def test_scale_and_task_choose_a_network_that_is_there(tmp_path: Path) -> None:
    for name, entry in packaged.networks().items():
        assert packaged.choose(entry.task, entry.scale) == name
    cv2.imwrite(str(tmp_path / 'photo.png'), photograph(0, 12, 16))
    result = call_basicsr('restore', 'photo.png', '--scale', '7', cwd=tmp_path)
    assert 'error: no packaged network for SR x7 (there are SR x2' in result.stderr
    result = call_basicsr('restore', 'photo.png', '-m', 'RAMiT-tiny_SRx2', '--scale', '3', cwd=tmp_path)
    assert 'a network for scale 2; leave it out' in result.stderr
    assert not (tmp_path / 'photo_x2.png').exists()


def test_a_misspelt_name_is_answered_with_the_near_one() -> None:
    with pytest.raises(UserError, match='did you mean RAMiT-tiny_SRx2'):
        load('RAMiT-tiny_SR2')


def test_a_file_of_the_name_goes_before_the_packaged_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_network(tmp_path / 'RAMiT-tiny_SRx2')
    assert load('RAMiT-tiny_SRx2').network_g['dim'] == TINY_NETWORK['dim']


def test_models_lists_them(tmp_path: Path) -> None:
    result = call_basicsr('models', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in NAMES)
    assert 'Set5' in result.stdout
    assert 'Apache-2.0' in result.stdout


def write_network(file: Path) -> None:
    torch.manual_seed(0)
    arguments = {key: value for key, value in TINY_NETWORK.items() if key != 'type'}
    network = RAMiT(**arguments)
    described = describe({'type': 'RAMiT', **arguments}, 2, 'SR')
    write_checkpoint({'params': network.state_dict(), 'network': described}, file)


def test_export_writes_the_same_network_as_safetensors(tmp_path: Path) -> None:
    write_network(tmp_path / 'net.pth')
    result = call_basicsr('export', '-m', 'net.pth', '--to', 'net.safetensors', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'net.pth (params) -> net.safetensors: ' in result.stdout
    image = torch.rand(1, 3, 9, 10)
    a, b = load(tmp_path / 'net.pth'), load(tmp_path / 'net.safetensors')
    assert torch.equal(a.network(image), b.network(image))
    assert (a.network_g, a.scale, a.task) == (b.network_g, b.scale, b.task)
    result = call_basicsr('export', '-m', 'net.pth', '--to', 'net.pt', cwd=tmp_path)
    assert 'error: --to net.pt: must end in .safetensors' in result.stderr
