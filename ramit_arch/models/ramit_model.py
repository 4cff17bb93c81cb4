"""The L1 model: the training of the paper's Appendix B, stopping and resuming."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import get_dist_info, master_only
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ramit_arch import stopping
from ramit_arch.data.loaders import RunState
from ramit_arch.data.progression import read_progression
from ramit_arch.data.samplers import derive_seed
from ramit_arch.errors import UserError
from ramit_arch.evaluation.protocols import task_of
from ramit_arch.inference.checkpoints import load_weights, read_weights, remove_old, write_checkpoint
from ramit_arch.inference.networks import describe
from ramit_arch.inference.restorer import check_output
from ramit_arch.models.compute import check_checkpointing, read_compute
from ramit_arch.models.schedule import explain_rate, make_schedule
from ramit_arch.models.scoring_model import ScoringModel
from ramit_arch.options import without_nulls


def head_prefix(network: nn.Module) -> str:
    """Prefix of the parameters that a warm start trains alone and that no x2 checkpoint fills.

    Raises:
        UserError: the network does not say.
    """
    head = getattr(network, 'reconstruction_head', None)
    if head is None:
        raise UserError(
            f'train.warm_start: {type(network).__name__} has no attribute reconstruction_head, the name of the '
            'submodule that is trained alone first; add it to the class, or remove warm_start'
        )
    return f'{head}.'


@MODEL_REGISTRY.register()
class RAMiTModel(ScoringModel):
    """SRModel with progressive learning, warm start and bit-exact resuming, for any network.

    Its options are `models.options.TrainFile` and `TestFile`. Checkpoints may be plain state dicts, BasicSR's `params`
    and `params_ema`, or safetensors.

    Raises:
        UserError: for unknown or wrong options, checkpoints that do not fit, and when a loss was not finite, which is
            seen where it is read back: every `logger.print_freq` iterations, and before a checkpoint or a validation.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        opt = without_nulls(opt)
        self.stage: int | None = None  # the last one whose start was logged
        super().__init__(opt)

    # -------------------------------------------------------------------------------------------------- set-up

    def init_training_settings(self) -> None:
        self.progression = read_progression(self.opt)
        self.schedule = make_schedule(self.training, self.progression)
        self.train_compute, line = read_compute(self.training, 'train', self.device)
        get_root_logger().info(line)
        net = self.get_bare_model(self.net_g)
        if self.train_compute.checkpointing:
            check_checkpointing(net)
            net.set_grad_checkpointing()
        if self.train_compute.channels_last:
            net.to(memory_format=torch.channels_last)
        self.losses: dict[str, Tensor] = {}
        self.failed_at = torch.zeros((), dtype=torch.int64, device=self.device)  # first iteration without finite loss
        self.saved: dict[str, Any] = {'iter': None}  # the last state: its epoch, iter, and the sets validated since
        self._require_gradients(warm_start=self.schedule.in_warm_start(1))
        super().init_training_settings()
        if hasattr(self, 'net_g_ema') and self._fresh_warm_start():
            self.model_ema(0)  # copies the random reconstruction head of net_g

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
        skip = head_prefix(self.get_bare_model(net)) if self._fresh_warm_start() else None
        load_weights(self.get_bare_model(net), read_weights(load_path, param_key), load_path, strict, skip)
        what = 'all but the reconstruction head' if skip else 'all parameters'
        get_root_logger().info(f'Loaded {what} from {load_path}.')

    def _fresh_warm_start(self) -> bool:
        return self.is_train and self.training.warm_start is not None and not self.opt['path'].get('resume_state')

    def _require_gradients(self, warm_start: bool) -> None:
        net = self.get_bare_model(self.net_g)
        prefix = head_prefix(net) if warm_start else ''
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name.startswith(prefix))
        self.in_warm_start = warm_start
        if self.opt['dist']:  # DDP inspects requires_grad once
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
        stage = self.progression.stages[number]
        patches = f'LQ patches of {stage.patch}, ' if stage.patch else ''
        get_root_logger().info(
            f'Iteration {iteration:,}: stage {number + 1} of {len(self.progression.stages)}: {patches}batches of '
            f'{stage.batch} in total, full learning rate {explain_rate(self.training, stage.batch)}.'
        )

    def _enter_phase(self, iteration: int) -> None:
        if self.in_warm_start and not self.schedule.in_warm_start(iteration):
            self._require_gradients(warm_start=False)
            self.setup_optimizers()
            get_root_logger().info('Warm start ended: a new optimiser trains the whole network.')

    def optimize_parameters(self, current_iter: int) -> None:
        # Dropout and stochastic depth are seeded by the iteration, so that a resumed run repeats them.
        torch.manual_seed(derive_seed(self.opt['manual_seed'], current_iter, get_dist_info()[0]))
        self.optimizer_g.zero_grad()
        if not hasattr(self, 'gt'):
            raise UserError('datasets.train: its items have no ground truth, gt')
        parts = min(self.training.accumulate, len(self.lq))
        losses: dict[str, Tensor] = {}
        for i, (lq, gt) in enumerate(zip(self.lq.tensor_split(parts), self.gt.tensor_split(parts), strict=True)):
            share = len(lq) / len(self.lq)
            with self._synchronised(i == parts - 1):
                with self.train_compute.active():
                    output = self.trained(self.train_compute.image(lq))
                check_output(output, gt)
                output = output.float()
                terms = self._losses(output, gt)
                (share * torch.stack(list(terms.values())).sum()).backward()
            for name, value in terms.items():
                losses[name] = losses.get(name, 0) + share * value.detach()
        self.output = output.detach()
        if self.training.grad_clip_norm:
            nn.utils.clip_grad_norm_(self.net_g.parameters(), self.training.grad_clip_norm)
        self.optimizer_g.step()
        self._keep(losses, current_iter)
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)
        number = stopping.received(self.control if self.opt['dist'] else None)
        if number:
            self._stop_unless_finite()
            self.leave(current_iter, number)

    def _losses(self, output: Tensor, gt: Tensor) -> dict[str, Tensor]:
        losses = {}
        if self.cri_pix:
            losses['l_pix'] = self.cri_pix(output, gt)
            if not isinstance(losses['l_pix'], Tensor) or losses['l_pix'].dim():
                returned = getattr(losses['l_pix'], 'shape', type(losses['l_pix']).__name__)
                raise UserError(f'train.pixel_opt returned {returned}; a loss must be a tensor with one value')
        if self.cri_perceptual:
            perceptual, style = self.cri_perceptual(output, gt)
            losses |= {k: v for k, v in {'l_percep': perceptual, 'l_style': style}.items() if v is not None}
        return losses

    def _synchronised(self, last: bool) -> AbstractContextManager:
        """Gradients are exchanged between processes with the last part of a batch only."""
        return self.net_g.no_sync() if isinstance(self.net_g, DistributedDataParallel) and not last else nullcontext()

    def _keep(self, losses: dict[str, Tensor], iteration: int) -> None:
        """Keep the losses on their device, which avoids a GPU synchronisation in every iteration."""
        self.losses = losses
        failed = ~torch.stack(list(losses.values())).sum().isfinite() & (self.failed_at == 0)
        self.failed_at = torch.where(failed, iteration, self.failed_at)

    def get_current_log(self) -> dict[str, float]:
        """The losses of the last iteration, the mean over all processes."""
        self._stop_unless_finite()
        self.log_dict = self.reduce_loss_dict(self.losses)
        return self.log_dict

    def _stop_unless_finite(self) -> None:
        if self.opt['dist']:
            torch.distributed.all_reduce(self.failed_at, torch.distributed.ReduceOp.MAX)  # all processes stop together
        iteration = int(self.failed_at)
        if iteration:
            saved = any(Path(self.opt['path']['training_states']).glob('*.state'))
            start = 'Resume with --auto_resume' if saved else 'Start again'
            raise UserError(
                f'the loss of iteration {iteration} is not finite; nothing was saved since.\n'
                f'{start}, and a lower train.optim_g.lr or train.grad_clip_norm'
            )

    # ------------------------------------------------------------------------------ saving, resuming, stopping

    def save(self, epoch: int, current_iter: int) -> None:
        """Save the network, then the training state; `current_iter` -1 is the final network.

        Its state is saved too, so that a longer `total_iter` continues.

        Raises:
            UserError: a loss was not finite, or the disk is full; earlier files are as they were.
        """
        self._stop_unless_finite()
        if current_iter == -1 and self.saved['iter'] != self.training.total_iter:
            self._write(self._epoch(), self.training.total_iter)
        self._write(epoch, current_iter)

    def _epoch(self) -> int:
        run: RunState | None = self.opt.get('run_state')
        return (run.sampler.epoch or 0) if run else 0

    def _write(self, epoch: int, current_iter: int) -> None:
        if current_iter != -1:
            self.saved = {'epoch': epoch, 'iter': current_iter, 'validated': []}
        self._save_networks(current_iter)
        self.save_training_state(epoch, current_iter)
        keep = self.logging.keep_checkpoints
        if keep and current_iter != -1 and get_dist_info()[0] == 0:
            remove_old(Path(self.opt['path']['models']), Path(self.opt['path']['training_states']), current_iter, keep)

    @master_only
    def save_network(
        self, net: Any, net_label: str, current_iter: int | str, param_key: str | list[str] = 'params'
    ) -> None:
        """As BasicSR's, but atomically, and with an error if it fails."""
        nets = net if isinstance(net, list) else [net]
        keys = param_key if isinstance(param_key, list) else [param_key]
        content: dict[str, Any] = {
            key: {name: tensor.cpu() for name, tensor in self.get_bare_model(each).state_dict().items()}
            for key, each in zip(keys, nets, strict=True)
        }
        color = self.options.datasets['train'].get('color')
        opt, multiple = self.options, self.scoring.size_multiple
        content['network'] = describe(opt.network_g, opt.scale, task_of(self.scoring.protocol), color, multiple)
        name = 'latest' if current_iter == -1 else current_iter
        write_checkpoint(content, Path(self.opt['path']['models'], f'{net_label}_{name}.pth'))

    def _save_networks(self, name: int | str) -> None:
        if hasattr(self, 'net_g_ema'):
            self.save_network([self.net_g, self.net_g_ema], 'net_g', name, ['params', 'params_ema'])
        else:
            self.save_network(self.net_g, 'net_g', name)

    @master_only
    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """Everything but the network that a resumed run needs, as tensors and plain values."""
        if current_iter == -1:
            return
        state = {
            **self.saved,
            'manual_seed': self.opt['manual_seed'],
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [],
            'best': getattr(self, 'best_metric_results', {}),
        }
        write_checkpoint(state, Path(self.opt['path']['training_states'], f'{current_iter}.state'))

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Resume; a validation that was due and did not finish comes first.

        Raises:
            UserError: the state is of another optimiser or network.
        """
        self._enter_phase(resume_state['iter'])  # whose optimiser was saved
        try:
            super().resume_training({**resume_state, 'schedulers': []})
        except (AssertionError, ValueError, KeyError, TypeError) as error:
            state = self.opt['path']['resume_state']
            raise UserError(f'{state} does not fit: it is of another network or optimiser ({error})') from error
        self.saved = {key: resume_state.get(key, []) for key in ('epoch', 'iter', 'validated')}
        val = self.options.val
        if not val:
            return
        metrics = self.metrics.keys()
        best = resume_state.get('best', {})
        self.best_metric_results = {name: record for name, record in best.items() if record.keys() == metrics}
        if 'validated' in resume_state and resume_state['iter'] % val.val_freq == 0:
            run: RunState | None = self.opt.get('run_state')
            for loader in run.val_loaders if run else []:
                if loader.dataset.opt['name'] not in self.saved['validated']:  # type: ignore[attr-defined]
                    self.validation(loader, resume_state['iter'], None, val.save_img)

    def can_save(self, iteration: int) -> bool:
        """Whether the optimiser is still that of a finished iteration, and not of a phase that begins after it."""
        return self.in_warm_start == self.schedule.in_warm_start(iteration)

    def asked_to_stop(self) -> int:
        return stopping.received() if self.is_train else 0

    def leave(self, iteration: int, number: int) -> NoReturn:
        """Save this iteration, unless it is saved, and exit."""
        if self.saved['iter'] != iteration:
            self._write(self._epoch(), iteration)
        name = signal.Signals(number).name
        get_root_logger().info(f'Stopped by {name} after iteration {iteration:,}, which is saved; see --auto_resume.')
        raise SystemExit(128 + number)

    # ---------------------------------------------------------------------------------------------- validation

    def validation(self, dataloader: DataLoader, current_iter: int, tb_logger: Any, save_img: bool = False) -> None:
        if self.is_train:
            self._stop_unless_finite()
            current_iter = min(current_iter, self.training.total_iter)  # BasicSR calls the last with total_iter + 1
        super().validation(dataloader, current_iter, tb_logger, save_img)
        if self.is_train and self.saved['iter'] == current_iter:
            # Update the state with the best scores, and with this dataset as validated.
            name = dataloader.dataset.opt['name']  # type: ignore[attr-defined]
            self.saved['validated'] += [name] if name not in self.saved['validated'] else []
            self.save_training_state(self.saved['epoch'], current_iter)

    def scored(self, dataset: str, current_iter: int) -> None:
        """Keep the network if it is the best by `logger.keep_best`."""
        wanted, _, metric = (self.logging.keep_best or '').rpartition('/')
        first = next(o['name'] for phase, o in self.options.datasets.items() if phase.split('_')[0] == 'val')
        if not metric or dataset != (wanted or first):
            return
        if self.best_metric_results[dataset][metric]['iter'] == current_iter:
            self._save_networks('best')
