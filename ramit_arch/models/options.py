"""Option files with `model_type: RAMiTModel`, which `RAMiTModel` and `ScoringModel` read."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import BeforeValidator, ConfigDict, model_validator

from ramit_arch.archs.arguments import LARGEST
from ramit_arch.data.progression import ProgressiveTraining
from ramit_arch.errors import suggestion
from ramit_arch.evaluation.protocols import ALL, PROTOCOLS, standard_metrics
from ramit_arch.options import basicsr
from ramit_arch.options.section import (
    Conflict,
    Count,
    Fraction,
    Natural,
    OwnSection,
    Positive,
    Section,
    Text,
    in_iterations,
    whole,
)

Milestone = Annotated[Natural, BeforeValidator(whole)]
Warmup = Annotated[int, Ge(-1), Le(LARGEST)]


class Paths(basicsr.Paths):
    model_config = ConfigDict(extra='forbid')

    param_key_g: Literal['params', 'params_ema'] = 'params'
    """Weights of the checkpoint: the trained ones, or their moving average."""
    ignore_resume_networks: list[Text] | None = None
    """Networks that a resumed run takes from `pretrain_network_*` instead."""


class TestPaths(Paths):
    __test__ = False

    pretrain_network_g: Text
    """Pretrained checkpoint."""


class Metric(basicsr.Metric):
    model_config = ConfigDict(extra='allow')

    input_order: Literal['HWC'] = 'HWC'
    """Order of the images' axes."""


class Optimiser(basicsr.Call):
    type: Literal['Adam']
    """Adam; the other keys are arguments of `torch.optim.Adam`: betas, eps, weight_decay and so on."""
    lr: Positive
    """Peak learning rate, for a total batch size of `lr_batch_size` if that is set."""


class Scheduler(OwnSection):
    type: Literal['MultiStepLR'] = 'MultiStepLR'
    """Step decay (SRModel has other schedules)."""
    milestones: Annotated[list[Milestone | Fraction], 'a list of iterations, or of fractions below 1'] = []
    """Iterations after which the rate is multiplied by `gamma`, counted from the end of a warm start; below 1, as a
    fraction of the iterations after it."""
    gamma: Positive = 0.1
    """Factor applied at every milestone."""


class WarmStart(OwnSection):
    iter: Milestone
    """Iterations that train the reconstruction head alone, at constant rate."""


class ComputeOptions(Section):
    """How the network is computed; `models.compute` has the defaults."""

    bf16: bool | None = None
    """bfloat16 autocast, off by default; weights stay float32."""
    tf32: bool | None = None
    """TF32 for float32 products on a GPU, on by default in training."""
    channels_last: bool | None = None
    """Channels-last memory format, on by default on a GPU."""
    compile: bool | None = None
    """Compilation, off by default: on a CPU the network's native kernels if it has any; otherwise `torch.compile`."""


class Training(ComputeOptions, ProgressiveTraining, basicsr.Training):
    model_config = ConfigDict(extra='forbid')

    optim_g: Optimiser
    """Optimiser."""
    warmup_iter: Annotated[Warmup | Fraction, 'a number of iterations, -1 for none, or a fraction below 1'] = -1  # type: ignore[assignment]
    """Iterations of linear warm-up of the learning rate, counted from the end of a warm start, or a fraction of the
    iterations after it; -1 for none."""
    scheduler: Scheduler = Scheduler()
    """Learning rate schedule; constant by default."""
    pixel_opt: basicsr.Loss | None = None
    """Registered pixel loss with its arguments; the paper uses {type: L1Loss}. Required without `perceptual_opt`."""
    perceptual_opt: basicsr.Call | None = None
    """A second loss, such as BasicSR's PerceptualLoss, with its arguments."""
    lr_batch_size: Count | None = None
    """Total batch for which `optim_g.lr` is meant; the rate is scaled to the actual one of every stage."""
    lr_rule: Literal['linear', 'inverse'] = 'linear'
    """linear: lr * batch / lr_batch_size; inverse: lr * lr_batch_size / batch, as the paper prints it."""
    warm_start: WarmStart | None = None
    """Initialise all but the reconstruction head from `path.pretrain_network_g`, and train the head alone first."""
    accumulate: Count = 1
    """Gradient accumulation steps; the effective batch size does not change."""
    grad_clip_norm: Positive | None = None
    """Clip the gradient to this L2 norm."""
    checkpointing: bool | None = None
    """Activation checkpointing, off by default: less memory, slower."""

    @model_validator(mode='before')
    @classmethod
    def _count_schedule(cls, values: Any) -> Any:
        """Fractions as numbers of iterations."""
        total = whole(values.get('total_iter')) if isinstance(values, dict) else None
        if not isinstance(total, int):
            return values
        alone = whole(values['warm_start'].get('iter')) if isinstance(values.get('warm_start'), dict) else 0
        left = max(total - (alone if isinstance(alone, int) else 0), 0)
        counted = {**values}
        if 'warmup_iter' in values:
            counted['warmup_iter'] = in_iterations(values['warmup_iter'], left)
        scheduler = values.get('scheduler')
        if isinstance(scheduler, dict) and isinstance(scheduler.get('milestones'), list):
            milestones = [in_iterations(milestone, left) for milestone in scheduler['milestones']]
            counted['scheduler'] = {**scheduler, 'milestones': milestones}
        return counted

    def conflicts(self) -> Iterator[Conflict]:
        yield from super().conflicts()
        if self.pixel_opt is None and self.perceptual_opt is None:
            yield 'pixel_opt', 'is missing; the paper uses {type: L1Loss}'
        if 'lr_rule' in self.model_fields_set and self.lr_batch_size is None:
            yield 'lr_rule', 'needs train.lr_batch_size, the batch for which optim_g.lr is meant'
        if self.accumulate > 1 and self.pixel_opt is not None and self.pixel_opt.reduction != 'mean':
            yield 'accumulate', 'weights its parts for a mean; set train.pixel_opt.reduction to mean'
        alone = self.warm_start.iter if self.warm_start else 0
        last = max(self.scheduler.milestones, default=0)
        if alone >= self.total_iter:
            text = f'trains the reconstruction head for {alone} iterations, but train.total_iter is {self.total_iter}'
            yield 'warm_start', text
        elif last > self.total_iter - alone:
            after = f' less the {alone} of the warm start' if alone else ''
            text = f'reach {last}, beyond train.total_iter {self.total_iter}{after}; change either'
            yield ('scheduler', 'milestones'), text


class Validation(ComputeOptions, basicsr.Validation):
    model_config = ConfigDict(extra='forbid')

    metrics: dict[str, Metric] | None = None  # type: ignore[assignment]
    """Registered metrics with their arguments, keyed by their name in score files."""
    protocol: Literal['SR', 'CDN', 'GDN', 'LLE', 'DR', 'DB', 'DH', 'RDN', 'RGB', 'Y'] | None = None
    """Metrics of a task as the paper computes them (SR to DR) or as is usual (DB motion deblurring, DH dehazing, RDN
    real denoising), or of RGB (or gray) or Y for anything else; `metrics` may add others."""
    size_multiple: Count = 1
    """Pad images to multiples of this and crop the outputs; for networks that need it (SwinIR: its window size, 8)."""

    strips: Natural = 0
    """Number of images per validation set for which visualization/SET/IMAGE/strip.png shows the same crop at every
    validation. Training."""

    def all_metrics(self, scale: int) -> dict[str, dict[str, Any]]:
        """BasicSR's metrics of the protocol, and those that `metrics` adds."""
        standard = standard_metrics(self.protocol, scale)
        own = {name: metric.model_dump(exclude_unset=True) for name, metric in (self.metrics or {}).items()}
        return {**standard, **{name: metric for name, metric in own.items() if name not in standard}}


class Wandb(OwnSection):
    project: Text | None = None
    """Project at Weights & Biases; unset, nothing is sent."""
    resume_id: Text | None = None
    """Run to resume there."""


class DistParams(OwnSection):
    backend: Literal['nccl', 'gloo'] = 'nccl'
    """`torch.distributed` backend."""
    port: Annotated[int, Ge(1), Le(65535)] | None = None
    """Port of the first process, under SLURM."""


class Logging(basicsr.Logging):
    model_config = ConfigDict(extra='forbid')

    keep_checkpoints: Count | None = None
    """Number of most recent checkpoints and states to keep; all by default."""
    keep_best: Text | None = None
    """Metric, or dataset/metric such as Set5/psnr, by which the best network is kept as `net_g_best.pth`."""
    wandb: Wandb | None = None  # type: ignore[assignment]
    """Weights & Biases."""

    def conflicts(self) -> Iterator[Conflict]:
        if self.wandb is not None and self.wandb.project is not None:
            if not self.use_tb_logger:
                yield 'wandb', 'needs logger.use_tb_logger: true, from which it gets its values'
            if importlib.util.find_spec('wandb') is None:
                yield 'wandb', 'needs a package that is not installed: pip install wandb'


class CommonFile(basicsr.OptionFile):
    model_config = ConfigDict(extra='forbid')

    network_g: Annotated[dict[str, Any], MinLen(1), 'a section with keys of its own']
    """Network: `type` and its arguments."""
    path: Paths
    """Checkpoints and states to start from."""
    val: Validation | None = None
    """Validation and tests."""
    dist_params: DistParams | None = None
    """Distributed training and tests."""
    find_unused_parameters: bool = False
    """For networks with parameters that a training step may leave unused."""

    def conflicts(self) -> Iterator[Conflict]:
        yield from super().conflicts()
        val = self.val
        if val is None or val.protocol is None:
            return
        protocol = ALL[val.protocol]
        if val.protocol in PROTOCOLS and (self.scale > 1) != protocol.crops_scale:
            text = f'{val.protocol} is {protocol.task}, which does not go with scale {self.scale}'
            yield ('val', 'protocol'), text
        standard = standard_metrics(val.protocol, self.scale)
        for name in standard.keys() & (val.metrics or {}).keys():
            for key, value in (val.metrics or {})[name].model_dump(exclude_unset=True).items():
                if value != standard[name].get(key):
                    text = f'is {value!r}, but protocol {val.protocol} has {standard[name].get(key)!r}'
                    yield ('val', 'metrics', name, key), f'{text}; remove the metric or the protocol'


class TrainFile(CommonFile, basicsr.TrainFile):
    """An option file that trains."""

    model_config = ConfigDict(extra='forbid')

    train: Training
    """Training."""
    logger: Logging = Logging()
    """Logging and checkpointing."""

    def conflicts(self) -> Iterator[Conflict]:
        yield from super().conflicts()
        names = [section.get('name') for phase, section in self.datasets.items() if phase.startswith('val')]
        if names and self.val is None:
            yield 'val', 'is missing, so that no validation set would be restored or scored'
        if self.train.warm_start is not None and self.path.pretrain_network_g is None:
            yield ('train', 'warm_start'), 'needs path.pretrain_network_g, the checkpoint to start from'
        if self.logger.keep_best is not None:
            dataset, slash, metric = self.logger.keep_best.rpartition('/')
            metrics = self.val.all_metrics(self.scale) if self.val else {}
            if metric not in metrics:
                yield ('logger', 'keep_best'), f'names {metric!r:.80}, no metric of val{suggestion(metric, metrics)}'
            if (slash and dataset not in names) or not names:
                text = f'names {dataset!r:.80}, no validation set{suggestion(dataset, map(str, names))}'
                yield ('logger', 'keep_best'), text
        train_set = self.datasets.get('train', {})
        if self.train.progressive is None and train_set.get('batch_size_per_gpu') is None:
            yield ('datasets', 'train', 'batch_size_per_gpu'), 'is missing'
        for key in ('batch_size_per_gpu', 'lq_patch_size', 'gt_size') if self.train.progressive else ():
            if train_set.get(key) is not None:
                yield ('datasets', 'train', key), 'contradicts train.progressive; remove either'


class TestFile(CommonFile, basicsr.TestFile):
    """An option file that tests."""

    model_config = ConfigDict(extra='forbid')

    path: TestPaths
    """Checkpoint to test."""
    val: Validation
    """What to score, and how to compute."""
    train: Annotated[dict[str, Any] | None, 'ignored'] = None
    """Ignored."""
    logger: Annotated[dict[str, Any] | None, 'ignored'] = None
    """Ignored."""

    def conflicts(self) -> Iterator[Conflict]:
        yield from super().conflicts()
        if self.val.strips:
            yield ('val', 'strips'), 'is for training; set val.save_img for the whole images'
