"""The L1 model: accumulation, clipping, EMA, warm start, resuming, checkpoints, and a loss that is not finite."""

from __future__ import annotations

import copy
import csv
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from helpers import PLACE, TINY_NETWORK, batch, make_model, step, tiny_options, weights, write_pairs
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from ramit_arch import RAMiT, RAMiTModel
from ramit_arch.errors import UserError
from ramit_arch.evaluation.comparison_sheet import CELL, MARGIN, THUMBNAIL
from ramit_arch.inference.checkpoints import read_weights

# ------------------------------------------------------------------------------------------------------------ training


def test_loss_is_the_l1_of_the_option_file(tmp_path: Path) -> None:
    model = make_model(tmp_path, pixel_opt={'type': 'L1Loss', 'loss_weight': 3.0})
    data = batch()
    with torch.no_grad():
        expected = 3 * (model.net_g(data['lq']) - data['gt']).abs().mean().item()
    step(model, 1, data)
    assert model.get_current_log()['l_pix'] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(('size', 'parts'), [(4, 2), (4, 4), (5, 3), (2, 3)])
def test_accumulated_parts_give_the_gradient_of_the_whole_batch(size: int, parts: int, tmp_path: Path) -> None:
    whole, split = make_model(tmp_path), make_model(tmp_path, accumulate=parts)
    for model in (whole, split):
        model.net_g.double()
        model.feed_data({name: value.double() for name, value in batch(size).items()})
        model.optimize_parameters(1)
    for (name, a), b in zip(whole.net_g.named_parameters(), split.net_g.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-8, msg=name)
    assert whole.get_current_log()['l_pix'] == pytest.approx(split.get_current_log()['l_pix'], rel=1e-5)


def test_optimiser_is_adam_with_the_papers_settings(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    assert isinstance(model.optimizer_g, torch.optim.Adam)
    group = model.optimizer_g.param_groups[0]
    assert (tuple(group['betas']), group['eps'], group['lr']) == ((0.9, 0.99), 1e-8, 0.001)
    assert len(group['params']) == len(list(model.net_g.parameters()))


def test_clipping_bounds_the_gradient(tmp_path: Path) -> None:
    model = make_model(tmp_path, grad_clip_norm=1e-3)
    step(model, 1)
    norm = torch.stack([p.grad.norm() for p in model.net_g.parameters()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_rate_is_set_before_the_step(tmp_path: Path) -> None:
    model = make_model(tmp_path, warmup_iter=2, scheduler={'type': 'MultiStepLR', 'milestones': [3], 'gamma': 0.5})
    rates = []
    for iteration in range(1, 6):
        step(model, iteration)
        rates.append(model.get_current_learning_rate()[0])
    assert rates == pytest.approx([0.0005, 0.001, 0.001, 0.0005, 0.0005])


def test_ema_follows_the_weights_and_validates(tmp_path: Path) -> None:
    model = make_model(tmp_path, ema_decay=0.5)
    before = weights(model)
    step(model, 1)
    after = weights(model)
    name = 'to_target.conv.weight'
    torch.testing.assert_close(model.net_g_ema.state_dict()[name], (before[name] + after[name]) / 2)
    model.feed_data(batch())
    model.test()
    with torch.no_grad():
        torch.testing.assert_close(model.output, model.net_g_ema(batch()['lq']))


def test_a_loss_that_was_not_finite_stops_before_anything_is_logged_saved_or_scored(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    step(model, 1)
    bad = batch()
    bad['gt'][0, 0, 0, 0] = math.nan
    step(model, 2, bad)
    step(model, 3)
    message = r'(?s)the loss of iteration 2 is not finite.*lower train\.optim_g\.lr'
    with pytest.raises(UserError, match=message):
        model.get_current_log()
    with pytest.raises(UserError, match=message):
        model.save(0, 3)
    assert not list(tmp_path.rglob('net_g_*.pth'))
    with pytest.raises(UserError, match=message):
        model.validation([], 3, None)


class Reads(TorchDispatchMode):
    """Counts the values that Python asks of tensors; on a GPU each would wait for all that was computed before."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_the_loss_is_read_back_only_when_it_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path)
    monkeypatch.setattr(model.optimizer_g, 'step', lambda: None)  # Adam reads its count of steps, which is on the CPU
    with Reads() as reads:
        step(model, 1)
        assert reads.count == 0
        assert model.get_current_log()['l_pix'] > 0
        assert reads.count > 0


@pytest.mark.parametrize(
    ('train', 'message'),
    [
        ({'ema_dcay': 0.9}, 'did you mean ema_decay?'),
        ({'accumulate': 1.5}, 'accumulate is 1.5'),
        ({'accumulate': 2, 'pixel_opt': {'type': 'L1Loss', 'reduction': 'sum'}}, 'reduction to mean'),
        ({'optim_g': {'type': 'SGD', 'lr': 0.1}}, "optim_g.type is 'SGD'; it must be 'Adam'"),
        ({'warm_start': {'iter': 2}}, 'needs path.pretrain_network_g'),
    ],
)
def test_wrong_training_keys_are_named(train: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        make_model(tmp_path, **train)
    assert message in str(error.value)


# ---------------------------------------------------------------------------------------------------------- warm start


@pytest.fixture
def x3_checkpoint(tmp_path: Path) -> Path:
    """Stands for the x2 network a warm start begins from: another scale, so another reconstruction module."""
    torch.manual_seed(9)
    options = {k: v for k, v in TINY_NETWORK.items() if k != 'type'}
    torch.save({'params': RAMiT(**{**options, 'upscale': 3}).state_dict()}, tmp_path / 'x3.pth')
    return tmp_path / 'x3.pth'


def warm_model(folder: Path, checkpoint: Path, **others: object) -> RAMiTModel:
    return make_model(folder, path={'pretrain_network_g': str(checkpoint)}, warm_start={'iter': 2}, **others)


def split(state: dict) -> tuple[dict, dict]:
    """Reconstruction module, and everything else."""
    names = [name for name in state if name.startswith('to_target.')]
    return {n: state[n] for n in names}, {n: v for n, v in state.items() if n not in names}


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_warm_start_loads_all_but_the_reconstruction_module(tmp_path: Path, x3_checkpoint: Path) -> None:
    model = warm_model(tmp_path, x3_checkpoint, ema_decay=0.9)
    source = read_weights(str(x3_checkpoint))
    _, body = split(weights(model))
    assert same(body, source)
    assert same(weights(model), model.net_g_ema.state_dict())


def test_warm_start_trains_the_reconstruction_module_alone_then_everything(tmp_path: Path, x3_checkpoint: Path) -> None:
    model = warm_model(tmp_path, x3_checkpoint)
    states = [weights(model)]
    first_optimiser = model.optimizer_g
    for iteration in range(1, 4):
        step(model, iteration)
        states.append(weights(model))
    (tail0, body0), (tail2, body2), (tail3, body3) = (split(states[i]) for i in (0, 2, 3))
    assert same(body0, body2)
    assert not any(torch.equal(tail0[name], tail2[name]) for name in tail0)
    assert model.optimizer_g is not first_optimiser
    assert len(model.optimizer_g.param_groups[0]['params']) == len(list(model.net_g.parameters()))
    assert not same(body2, body3)
    assert not same(tail2, tail3)


@pytest.mark.parametrize('saved_at', [1, 2, 3])
def test_resuming_lands_in_the_right_phase_with_the_same_weights(
    saved_at: int, tmp_path: Path, x3_checkpoint: Path
) -> None:
    straight = warm_model(tmp_path, x3_checkpoint)
    for iteration in range(1, saved_at + 1):
        step(straight, iteration)
    straight.save(0, saved_at)
    state = torch.load(tmp_path / 'training_states' / f'{saved_at}.state', weights_only=True)
    resumed = make_model(
        tmp_path, seed=5, warm_start={'iter': 2},
        path={'pretrain_network_g': str(tmp_path / 'models' / f'net_g_{saved_at}.pth'), 'resume_state': 'given'},
    )  # fmt: skip
    resumed.resume_training(state)
    for iteration in range(saved_at + 1, 6):
        for model in (straight, resumed):
            step(model, iteration)
        assert straight.get_current_learning_rate() == resumed.get_current_learning_rate()
    assert same(weights(straight), weights(resumed))


# --------------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def state() -> dict:
    torch.manual_seed(1)
    return RAMiT(**{k: v for k, v in TINY_NETWORK.items() if k != 'type'}).state_dict()


@pytest.mark.parametrize('form', ['raw', 'params', 'params_ema', 'module', 'safetensors'])
def test_checkpoints_of_every_form_load(form: str, state: dict, tmp_path: Path) -> None:
    path = tmp_path / ('net.safetensors' if form == 'safetensors' else 'net.pth')
    if form == 'safetensors':
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        forms = {'raw': state, 'module': {'params': {f'module.{name}': value for name, value in state.items()}}}
        torch.save(forms.get(form, {form: state}), path)
    model = make_model(tmp_path, path={'pretrain_network_g': str(path)})
    assert same(state, weights(model))


def test_the_asked_for_parameters_are_taken(state: dict, tmp_path: Path) -> None:
    other = {name: value + 1 for name, value in state.items()}
    torch.save({'params': state, 'params_ema': other}, tmp_path / 'net.pth')
    assert same(read_weights(str(tmp_path / 'net.pth'), 'params'), state)
    assert same(read_weights(str(tmp_path / 'net.pth'), 'params_ema'), other)


def test_checkpoint_that_does_not_fit_is_refused_whole(state: dict, tmp_path: Path) -> None:
    broken = {name: value for name, value in state.items() if name != 'shallow.conv.bias'}
    broken['to_target.conv.weight'] = torch.zeros(1)
    broken['surplus'] = torch.zeros(1)
    torch.save(broken, tmp_path / 'net.pth')
    model = make_model(tmp_path)
    before = weights(model)
    with pytest.raises(UserError) as error:
        model.load_network(model.net_g, str(tmp_path / 'net.pth'))
    for text in ('1 missing (first shallow.conv.bias)', '1 unknown (first surplus)', '1 of another shape'):
        assert text in str(error.value)
    assert same(before, weights(model))
    model.load_network(model.net_g, str(tmp_path / 'net.pth'), strict=False)
    assert torch.equal(model.net_g.shallow.conv.weight, state['shallow.conv.weight'])


@pytest.mark.parametrize(
    ('content', 'message'), [(None, 'no such'), (b'junk', 'refused|not a checkpoint'), (b'', 'not a checkpoint')]
)
def test_missing_and_damaged_checkpoints_are_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    for suffix in ('pth', 'safetensors'):
        path = tmp_path / f'net.{suffix}'
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=message) as error:
            read_weights(str(path))
        assert str(path) in str(error.value)


# ---------------------------------------------------------------------------------------------------------- validation


def validate(tmp_path: Path, pairs: tuple[Path, Path], **val: object) -> tuple[RAMiTModel, list[dict], dict]:
    model = make_model(tmp_path, val=val)
    section = tiny_options(*pairs)['datasets']['val']
    section = {**section, 'phase': 'val', 'scale': 2}
    loader = build_dataloader(build_dataset(section), section)
    model.validation(loader, 4, None, save_img=True)
    stem = tmp_path / 'scores' / 'tiny_val_4'
    with stem.with_suffix('.csv').open() as file:
        rows = list(csv.DictReader(file))
    return model, rows, json.loads(stem.with_suffix('.json').read_text())


def test_scores_of_every_image_are_written_and_their_mean_is_the_logged_one(
    tmp_path: Path, pairs: tuple[Path, Path]
) -> None:
    model, rows, content = validate(tmp_path, pairs)
    assert [row['image'] for row in rows] == ['0', '1', '2', 'mean']
    for metric in ('psnr', 'ssim'):
        mean = sum(row[metric] for row in content['images']) / 3
        assert model.metric_results[metric] == pytest.approx(mean, rel=1e-12)
        assert content['mean'][metric] == pytest.approx(mean, rel=1e-12)
        assert float(rows[3][metric]) == pytest.approx(mean, abs=1e-6)
    assert content['metrics']['psnr'] == {'type': 'calculate_psnr', 'crop_border': 2, 'test_y_channel': True}


def test_strip_shows_the_same_crop_at_every_validation(tmp_path: Path, pairs: tuple[Path, Path]) -> None:
    model = make_model(tmp_path, val={'strips': 2}, total_iter=100)
    section = {**tiny_options(*pairs)['datasets']['val'], 'phase': 'val', 'scale': 2}
    loader = build_dataloader(build_dataset(section), section)
    folder = tmp_path / 'visualization' / 'tiny_val'
    widths = []
    for iteration in range(4, 100, 4):
        model.validation(loader, iteration, None, save_img=False)
        strip = cv2.imread(str(folder / '0' / 'strip.png'))
        widths.append(strip.shape[1])
    assert sorted(path.name for path in folder.iterdir()) == ['0', '1']
    assert len(list((folder / '0' / 'strip').iterdir())) == len(widths)
    assert widths[5:] == widths[5:6] * (len(widths) - 5)  # six of them at most
    assert widths[4] < widths[5]
    cells = np.split(strip[:, MARGIN:], range(CELL[0], strip.shape[1] - MARGIN, CELL[0]), axis=1)
    first, last = (cv2.imread(str(folder / '0' / 'strip' / f'{i}.png')) for i in (4, 96))
    assert np.array_equal(cells[3][MARGIN:], first)  # after overview, LQ and bicubic
    assert np.array_equal(cells[-2][MARGIN:], last)
    assert np.array_equal(first[:THUMBNAIL], last[:THUMBNAIL])  # nothing was trained between them


def test_scores_are_those_of_the_saved_images(tmp_path: Path, pairs: tuple[Path, Path]) -> None:
    from basicsr.metrics import calculate_psnr

    _, rows, content = validate(tmp_path, pairs)
    for row, record in zip(rows, content['images'], strict=False):
        restored, target = cv2.imread(record['restored']), cv2.imread(record['gt'])
        psnr = calculate_psnr(restored, target, crop_border=2, test_y_channel=True)
        assert float(row['psnr']) == pytest.approx(psnr, abs=1e-5)


def test_validation_leaves_the_network_training(tmp_path: Path, pairs: tuple[Path, Path]) -> None:
    model, _, _ = validate(tmp_path, pairs)
    assert model.net_g.training


def test_two_images_of_one_name_are_refused_rather_than_overwritten(tmp_path: Path) -> None:
    roots = []
    for kind in ('a', 'b'):
        gt, lq = write_pairs(tmp_path / kind, count=1)
        roots.append({'dataroot_gt': str(gt), 'dataroot_lq': str(lq)})
    section = {'name': 'twins', 'type': 'PairedRestorationDataset', 'phase': 'val', 'scale': 2, 'roots': roots}
    loader = build_dataloader(build_dataset(section), section)
    with pytest.raises(UserError, match='duplicate image name in twins'):
        make_model(tmp_path).validation(loader, 4, None, save_img=True)


def test_a_metric_that_fails_is_named_with_the_image(tmp_path: Path) -> None:
    gt, lq = write_pairs(tmp_path / 'data', count=1)
    section = {'name': 'small', 'type': 'PairedRestorationDataset', 'phase': 'val', 'scale': 2}
    section |= {'dataroot_gt': str(gt), 'dataroot_lq': str(lq)}
    niqe = {'niqe': {'type': 'calculate_niqe', 'crop_border': 0, 'better': 'lower'}}  # takes blocks of 96x96
    with pytest.raises(UserError, match=r'val\.metrics\.niqe cannot score 0 of small \(RuntimeError: '):
        make_model(tmp_path, val={'metrics': niqe}).validation(
            build_dataloader(build_dataset(section), section), 4, None
        )


def test_wrong_validation_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='did you mean save_img'):
        make_model(tmp_path, val={'save_imgs': True})


def test_model_leaves_the_callers_options_alone(tmp_path: Path) -> None:
    opt = {**tiny_options(Path('gt'), Path('lq')), **PLACE}
    before = copy.deepcopy(opt)
    build_model(opt)
    assert opt == before
