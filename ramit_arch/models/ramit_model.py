"""The L1 model: BasicSR's SRModel with the training of the paper's Appendix B and scores for every image."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from basicsr.metrics import calculate_metric
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, imwrite, tensor2img
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from ramit_arch.data.progression import read_progression
from ramit_arch.errors import UserError, check_keys
from ramit_arch.evaluation.protocols import check_protocol, describe, validation_metrics
from ramit_arch.evaluation.scores import mean_scores, write_scores
from ramit_arch.models.checkpoints import load_weights, read_weights
from ramit_arch.models.compute import COMPUTE_KEYS, TRAIN_COMPUTE_KEYS, enable_checkpointing, read_compute
from ramit_arch.models.schedule import Schedule, read_schedule

RECONSTRUCTION = 'to_target.'  # the module that the warm start trains and that no x2 checkpoint fills
TRAIN_KEYS = frozenset(
    'total_iter warmup_iter optim_g scheduler progressive lr_batch_size lr_rule warm_start pixel_opt perceptual_opt '
    'ema_decay accumulate grad_clip_norm'.split()
).union(TRAIN_COMPUTE_KEYS)
VAL_KEYS = frozenset(['val_freq', 'save_img', 'suffix', 'pbar', 'protocol', 'metrics', *COMPUTE_KEYS])


def check_model_options(opt: dict[str, Any]) -> Schedule | None:
    """Check the sections `train` and `val`; the schedule of a training run.

    Args:
        opt: the whole option dictionary, with `is_train`, `dist`, `world_size` and a number for `num_gpu`.

    Raises:
        UserError: names the key, its value, and what is allowed.
    """
    check_keys(opt.get('val') or {}, VAL_KEYS, 'val')
    check_protocol(opt)
    if not opt['is_train']:
        return None
    train = opt['train']
    check_keys(train, TRAIN_KEYS, 'train')
    schedule = read_schedule(opt)
    if train['optim_g'].get('type') != 'Adam':
        raise UserError(f'train.optim_g.type is {train["optim_g"].get("type")!r}; RAMiTModel knows Adam')
    if not train.get('pixel_opt') and not train.get('perceptual_opt'):
        raise UserError('train.pixel_opt is missing; the paper takes {type: L1Loss}')
    if train.get('warm_start') is not None and opt['path'].get('pretrain_network_g') is None:
        raise UserError('train.warm_start needs path.pretrain_network_g, the checkpoint to start from')
    accumulate = train.get('accumulate') or 1
    if not isinstance(accumulate, int) or accumulate < 1:
        raise UserError(f'train.accumulate is {accumulate!r}; it must be an integer from 1 up')
    if accumulate > 1 and (train.get('pixel_opt') or {}).get('reduction', 'mean') != 'mean':
        raise UserError('train.accumulate weights its parts for a mean; set train.pixel_opt.reduction to mean')
    return schedule


@MODEL_REGISTRY.register()
class RAMiTModel(SRModel):
    """SRModel with these keys besides its own:

    train.progressive: a list of stages {iter, lq_patch_size, batch_size}: how many iterations they last, the side of
        the LQ patch, and the images of an iteration in total over all processes.
    train.lr_batch_size: total batch for which optim_g.lr is meant; the rate is scaled to the real one of each stage.
    train.lr_rule: linear (default) or inverse; see `read_schedule`.
    train.warm_start: {iter: n}: `path.pretrain_network_g` fills all but the reconstruction module, which is trained
        alone at constant rate for n iterations; then a new optimiser trains everything, and milestones and warm-up
        count from there.
    train.accumulate: k: a batch passes in k parts, with the gradient of the whole; memory falls, nothing else changes.
    train.grad_clip_norm: largest norm of the gradient.
    val.protocol: SR, CDN, GDN, LLE or DR: the metrics of a task (`evaluation.protocols`); `val.metrics` may add others.
    train.bf16, tf32, channels_last, compile, checkpointing; val.bf16, tf32, channels_last, compile: how the network is
        computed (`models.compute`); the log says what was chosen and why.

    Checkpoints may be plain state dicts, BasicSR's `params` and `params_ema`, or safetensors.

    Raises:
        UserError: for unknown or wrong keys, checkpoints that do not fit, and when a loss was not finite, which is seen
            where it is read back: every `logger.print_freq` iterations, and before anything is saved or validated.
    """

    net_g: nn.Module

    def __init__(self, opt: dict[str, Any]) -> None:
        schedule = check_model_options(opt)
        if schedule is not None:
            self.schedule = schedule
            self.progression = read_progression(opt)
            self.stage: int | None = None  # whose begin is not yet logged
            self.warm_starting = opt['train'].get('warm_start') is not None
            self.accumulate = opt['train'].get('accumulate') or 1
        if opt.get('val'):
            opt['val'] = {**opt['val'], 'metrics': validation_metrics(opt)}
        super().__init__(opt)
        self.val_compute, line = read_compute(opt.get('val') or {}, 'val', self.device)
        if opt.get('val') or not self.is_train:
            get_root_logger().info(line)
        self._val_network: tuple[nn.Module, Any] | None = None

    # -------------------------------------------------------------------------------------------------- set-up

    def init_training_settings(self) -> None:
        self.train_compute, line = read_compute(self.opt['train'], 'train', self.device)
        get_root_logger().info(line)
        net = self.get_bare_model(self.net_g)
        if self.train_compute.checkpointing:
            enable_checkpointing(net)
        if self.train_compute.channels_last:
            net.to(memory_format=torch.channels_last)
        self.losses: dict[str, Tensor] = {}
        self.failed_at = torch.zeros((), dtype=torch.int64, device=self.device)  # first iteration without finite loss
        self._require_gradients(warm_start=self.schedule.in_warm_start(1))
        super().init_training_settings()
        if hasattr(self, 'net_g_ema') and self._fresh_warm_start():
            self.model_ema(0)  # its own random reconstruction module gives way to that of net_g

    def print_network(self, net: nn.Module) -> None:
        """Log one line; BasicSR would log every layer."""
        net = self.get_bare_model(net)
        get_root_logger().info(f'{type(net).__name__}: {sum(p.numel() for p in net.parameters()):,} parameters.')

    def setup_optimizers(self) -> None:
        options = {**self.opt['train']['optim_g'], 'lr': self.schedule.rates[0]}
        parameters = [p for p in self.net_g.parameters() if p.requires_grad]
        self.optimizer_g = self.get_optimizer(options.pop('type'), parameters, **options)
        self.optimizers = [self.optimizer_g]

    def setup_schedulers(self) -> None:
        # `schedule` is a function of the iteration: there is nothing to step or to save.
        self.schedulers: list[Any] = []

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = 'params'
    ) -> None:
        skip = RECONSTRUCTION if self._fresh_warm_start() else None
        load_weights(self.get_bare_model(net), read_weights(load_path, param_key), load_path, strict, skip)
        what = 'all but the reconstruction module' if skip else 'all parameters'
        get_root_logger().info(f'Loaded {what} from {load_path}.')

    def _fresh_warm_start(self) -> bool:
        return self.is_train and self.warm_starting and not self.opt['path'].get('resume_state')

    def _require_gradients(self, warm_start: bool) -> None:
        net = self.get_bare_model(self.net_g)
        if warm_start and not any(name.startswith(RECONSTRUCTION) for name, _ in net.named_parameters()):
            raise UserError(f'train.warm_start: {type(net).__name__} has no reconstruction module {RECONSTRUCTION}*')
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(not warm_start or name.startswith(RECONSTRUCTION))
        self.in_warm_start = warm_start
        if self.opt['dist']:  # DDP looks once at what needs gradients
            self.net_g = self.model_to_device(net)
        self.trained = self.train_compute.network(self.net_g)

    # ------------------------------------------------------------------------------------------------ training

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Enter the phase of an iteration, counted from 1, and set its rate; `warmup_iter` is in the schedule."""
        self._enter_phase(current_iter)
        for group in self.optimizer_g.param_groups:
            group['lr'] = self.schedule.learning_rate(current_iter)
        self._log_stage(current_iter)

    def _log_stage(self, iteration: int) -> None:
        number = self.progression.index(iteration)
        if number == self.stage:
            return
        self.stage = number
        stage, rate = self.progression.stages[number], self.schedule.rates[number]
        patches = f'LQ patches of {stage.patch}, ' if stage.patch else ''
        get_root_logger().info(
            f'Iteration {iteration:,}: stage {number + 1} of {len(self.progression.stages)}: {patches}batches of '
            f'{stage.batch} in total, full learning rate {rate:.3e}.'
        )

    def _enter_phase(self, iteration: int) -> None:
        if self.in_warm_start and not self.schedule.in_warm_start(iteration):
            self._require_gradients(warm_start=False)
            self.setup_optimizers()
            get_root_logger().info('Warm start ended: a new optimiser trains the whole network.')

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        self._enter_phase(resume_state['iter'])  # whose optimiser was saved
        super().resume_training({**resume_state, 'schedulers': []})

    def optimize_parameters(self, current_iter: int) -> None:
        self.optimizer_g.zero_grad()
        parts = min(self.accumulate, len(self.lq))
        losses: dict[str, Tensor] = {}
        for i, (lq, gt) in enumerate(zip(self.lq.tensor_split(parts), self.gt.tensor_split(parts), strict=True)):
            share = len(lq) / len(self.lq)
            with self._synchronised(i == parts - 1):
                with self.train_compute.active():
                    output = self.trained(self.train_compute.image(lq)).float()
                terms = self._losses(output, gt)
                (share * torch.stack(list(terms.values())).sum()).backward()
            for name, value in terms.items():
                losses[name] = losses.get(name, 0) + share * value.detach()
        self.output = output.detach()
        limit = self.opt['train'].get('grad_clip_norm')
        if limit:
            nn.utils.clip_grad_norm_(self.net_g.parameters(), limit)
        self.optimizer_g.step()
        self._keep(losses, current_iter)
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def _losses(self, output: Tensor, gt: Tensor) -> dict[str, Tensor]:
        losses = {}
        if self.cri_pix:
            losses['l_pix'] = self.cri_pix(output, gt)
        if self.cri_perceptual:
            perceptual, style = self.cri_perceptual(output, gt)
            losses |= {k: v for k, v in {'l_percep': perceptual, 'l_style': style}.items() if v is not None}
        return losses

    def _synchronised(self, last: bool) -> AbstractContextManager:
        """Gradients are exchanged between processes with the last part of a batch only."""
        return self.net_g.no_sync() if isinstance(self.net_g, DistributedDataParallel) and not last else nullcontext()

    def _keep(self, losses: dict[str, Tensor], iteration: int) -> None:
        """Keep the losses where they were computed: reading them would make every iteration wait for a GPU."""
        self.losses = losses
        failed = ~torch.stack(list(losses.values())).sum().isfinite() & (self.failed_at == 0)
        self.failed_at = torch.where(failed, iteration, self.failed_at)

    def get_current_log(self) -> dict[str, float]:
        """The losses of the last iteration, the mean over all processes."""
        self._stop_unless_finite()
        self.log_dict = self.reduce_loss_dict(self.losses)
        return self.log_dict

    def save(self, epoch: int, current_iter: int) -> None:
        self._stop_unless_finite()
        super().save(epoch, current_iter)

    def _stop_unless_finite(self) -> None:
        if self.opt['dist']:
            torch.distributed.all_reduce(self.failed_at, torch.distributed.ReduceOp.MAX)  # all processes stop together
        iteration = int(self.failed_at)
        if iteration:
            states = self.opt['path']['training_states']
            raise UserError(
                f'the loss of iteration {iteration} is not finite; nothing was saved since.\n'
                f'Resume from {states} with a lower train.optim_g.lr or with train.grad_clip_norm'
            )

    # ---------------------------------------------------------------------------------------------- validation

    def test(self) -> None:
        # The bare network: a process that validates alone must not wait for the others.
        net = self.get_bare_model(getattr(self, 'net_g_ema', self.net_g))
        if self._val_network is None or self._val_network[0] is not net:
            if self.val_compute.channels_last:
                net.to(memory_format=torch.channels_last)
            self._val_network = net, self.val_compute.network(net)
        training = net.training
        net.eval()
        with torch.no_grad(), self.val_compute.active():
            self.output = self._val_network[1](self.val_compute.image(self.lq)).float()
        net.train(training)

    def validation(self, dataloader: DataLoader, current_iter: int, tb_logger: Any, save_img: bool = False) -> None:
        if self.is_train:
            self._stop_unless_finite()
        super().validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(
        self, dataloader: DataLoader, current_iter: int | str, tb_logger: Any, save_img: bool
    ) -> None:
        """Restore and score a set: BasicSR's log and images, and the scores of every image as CSV and JSON."""
        name = dataloader.dataset.opt['name']  # type: ignore[attr-defined]
        if self.is_train:  # BasicSR's loop counts on by one an epoch that it no longer trains
            current_iter = min(int(current_iter), int(self.opt['train']['total_iter']))
        metrics = self.opt['val'].get('metrics') or {}
        rows: list[dict[str, Any]] = []
        # None: on a terminal only
        progress = tqdm(
            dataloader,
            desc=f'Test {name}',
            unit='image',
            leave=False,
            disable=None if self.opt['val'].get('pbar', True) else True,
        )
        for data in progress:
            rows.append(self._restore_and_score(data, metrics, name, current_iter, save_img))
            if save_img and any(row['restored'] == rows[-1]['restored'] for row in rows[:-1]):
                raise UserError(f'{rows[-1]["restored"]}: two images of {name} are called so; rename one of them')
        if not metrics or not rows or 'gt' not in rows[0]:
            return
        self.metric_results = mean_scores(rows, list(metrics))
        if self.is_train:
            self._initialize_best_metric_results(name)
            for metric, value in self.metric_results.items():
                self._update_best_metric_result(name, metric, value, current_iter)
        self._log_validation_metric_values(current_iter, name, tb_logger)
        self._write_scores(dataloader.dataset.opt, rows, current_iter)  # type: ignore[attr-defined]

    def _restore_and_score(
        self, data: dict[str, Any], metrics: dict[str, Any], name: str, current_iter: int | str, save_img: bool
    ) -> dict[str, Any]:
        self.feed_data(data)
        self.test()
        restored = tensor2img(self.output)
        row: dict[str, Any] = {'image': Path(data.get('gt_path', data['lq_path'])[0]).stem, 'lq': data['lq_path'][0]}
        if 'gt' in data:
            row['gt'] = data.get('gt_path', data['lq_path'])[0]
            images = {'img': restored, 'img2': tensor2img(self.gt)}
            row |= {metric: float(calculate_metric(images, options)) for metric, options in metrics.items()}
            del self.gt
        del self.lq, self.output
        if save_img:
            path = str(self._image_path(Path(data['lq_path'][0]).stem, name, current_iter))
            imwrite(restored, path)
            row['restored'] = path
        return row

    def _image_path(self, image: str, name: str, current_iter: int | str) -> Path:
        folder = Path(self.opt['path']['visualization'])
        if self.is_train:
            return folder / name / image / f'{image}_{current_iter}.png'
        return folder / name / f'{image}_{self.opt["val"].get("suffix") or self.opt["name"]}.png'

    def _write_scores(self, section: dict[str, Any], rows: list[dict], current_iter: int | str) -> None:
        name = section['name']
        stem = f'{name}_{current_iter}' if self.is_train else name
        protocol = {
            'name': self.opt['name'],
            'dataset': name,
            'scale': self.opt.get('scale', 1),
            'iteration': current_iter if self.is_train else None,
            'checkpoint': None if self.is_train else self.opt['path'].get('pretrain_network_g'),
            'bf16': self.val_compute.bf16,
            'tf32': self.val_compute.tf32,
            'network_g': self.opt['network_g'],
            **describe(self.opt, section, getattr(self.get_bare_model(self.net_g), 'multiple', None)),
        }
        write_scores(Path(self.opt['path']['log'], 'scores', stem), protocol, rows, list(protocol['metrics']))
