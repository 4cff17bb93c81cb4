"""What an option file may say: every key, what it may be, and what it means, each said once.

Checks (`checks`), data sets and models read it, and `reference` makes the documentation and a JSON Schema of it. It
looks at nothing but the values: whether a file, a GPU or a registered class is there is for others to see.
"""

from __future__ import annotations

import re
import types
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from ramit_arch.errors import UserError, nearest, suggestion

Place = tuple[str | int, ...]  # the keys and list positions that lead to a value in a file


class Problem(NamedTuple):
    """What is wrong in an option file.

    Attributes:
        place: where.
        text: what, and what to do, in a line that names the place.
        reads: the places on whose values it depends besides; where one is wrong itself, this is not known.
        meant: of an unknown key, what is probably meant by it.
    """

    place: Place
    text: str
    reads: tuple[Place, ...] = ()
    meant: Place | None = None


# In a section: the key, or the keys to one further down; the rest of the sentence; other keys on which it depends.
Conflict = tuple[str | Place, str, tuple[str, ...]]


def dotted(place: Place) -> str:
    """train.progressive[1].iter"""
    return ''.join(f'[{key}]' if isinstance(key, int) else f'.{key}' for key in place).lstrip('.')


# ------------------------------------------------------------------------------------------------------ kinds of value


@dataclass(frozen=True)
class Kind:
    """How messages and the reference call what a key takes."""

    words: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: Any, inner: Any) -> Any:
            try:
                return inner(value)
            except ValidationError:
                raise PydanticCustomError('kind', '{words}', {'words': self.words}) from None

        return core_schema.no_info_wrap_validator_function(check, handler(source))


def _whole(value: Any) -> Any:
    """BasicSR's own files write 5e3 as !!float 5e3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _range(levels: Any) -> Any:
    """Low before high; each level has been looked at before."""
    if isinstance(levels, list) and levels != sorted(levels):
        raise ValueError
    return levels


def _integer(value: Any) -> Any:
    """A Literal takes True and 1.0 for 1."""
    if type(value) is not int:
        raise ValueError
    return value


MOST = 2**53  # no number of anything, but a slip

Seed = Annotated[int, Field(strict=True, ge=0, le=2**31), Kind('an integer from 0 to 2,147,483,648')]
Port = Annotated[int, Field(strict=True, ge=1, le=65535), Kind('a port, from 1 to 65535')]
Count = Annotated[int, Field(strict=True, ge=1, le=MOST), Kind('an integer from 1 up')]
Natural = Annotated[int, Field(strict=True, ge=0, le=MOST), Kind('an integer from 0 up')]
Steps = Annotated[int, Field(strict=True, ge=1, le=MOST), BeforeValidator(_whole), Kind('an integer from 1 up')]
Flag = Annotated[bool, Field(strict=True), Kind('true or false')]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False), Kind('a number')]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False), Kind('a positive number')]
Factor = Annotated[float, Field(strict=True, gt=0, le=1000), Kind('a positive number, up to 1000')]
Share = Annotated[float, Field(strict=True, ge=0, lt=1), Kind('a number from 0 to below 1')]
Ratio = Annotated[float, Field(strict=True, ge=0, le=1), Kind('a number from 0 to 1')]
Text = Annotated[str, Field(strict=True, min_length=1), Kind('text')]
Name = Annotated[
    str,
    Field(strict=True, max_length=200, pattern=r'^[^/\\\x00-\x1f\x7f]*[^/\\\x00-\x1f\x7f .][^/\\\x00-\x1f\x7f]*$'),
    Kind('a name for files and folders, without slashes, of up to 200 characters'),
]
Devices = Annotated[Literal['auto'] | Natural, Kind('auto or a number, 0 for the CPU')]
Milestone = Annotated[int, Field(strict=True, ge=0, le=MOST), BeforeValidator(_whole), Kind('an integer from 0 up')]
Iterations = Annotated[list[Milestone], Kind('a list of iterations')]
Few = Annotated[int, Field(strict=True, ge=1, le=1000)]
Stages = Annotated[list[Few], Field(min_length=4, max_length=4), Kind('four integers from 1 to 1000, one a stage')]
Channels = Annotated[list[Number], Field(min_length=1, max_length=3), Kind('a list of numbers, one a channel')]
Template = Annotated[
    str, Field(strict=True, pattern=r'^[^{}]*\{\}[^{}]*$'), Kind("text that holds {} once, as in '{}x2'")
]
Level = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Sigma = Annotated[
    Level | Annotated[list[Level], Field(min_length=2, max_length=2)],
    AfterValidator(_range),
    Kind('a noise level from 0 up, or [low, high]'),
]
WarmUp = Annotated[
    int, Field(strict=True, ge=-1, le=MOST), BeforeValidator(_whole), Kind('an integer; -1 is no warm-up')
]


# ------------------------------------------------------------------------------------------------------------ sections


class Section(BaseModel):
    """Keys of a section. None has to be there: what is needed depends on whether a file trains or tests."""

    # Others may read more of a section than we know.
    model_config = ConfigDict(extra='ignore', use_attribute_docstrings=True, protected_namespaces=())

    @model_validator(mode='before')
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        """A key without a value means what a missing key means."""
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values

    def given(self) -> dict[str, Any]:
        """The keys that were there."""
        return {key: value for key, value in self if key in self.model_fields_set}

    def conflicts(self) -> Iterator[Conflict]:
        """What does not go together in this section."""
        yield from ()


class OwnSection(Section):
    """A section of which we know every key that is read."""

    model_config = ConfigDict(extra='forbid')


class Backend(OwnSection):
    type: Literal['disk', 'lmdb', 'raw'] = 'disk'
    """A folder of images, BasicSR's LMDB, or pixels without encoding; `basicsr prepare` writes all three."""


class Loader(Section):
    """What BasicSR's loop and loaders read of any data set.

    BasicSR adds `phase` and the file's `scale` to what a data set gets.
    """

    phase: Annotated[Literal['train', 'val', 'test'], Field(exclude=True)] = 'train'
    scale: Annotated[Count, Field(exclude=True)] = 1

    name: Name | None = None
    """The set's name in logs, folders and score files."""
    type: Text | None = None
    """The registered class."""
    batch_size_per_gpu: Count | None = None
    """Images of an iteration on each GPU or process. Training; instead of it `train.progressive`."""
    num_worker_per_gpu: Natural | None = None
    """Worker processes of the loader for each GPU; 0 loads in the process that trains. Training."""
    dataset_enlarge_ratio: Positive = 1
    """BasicSR's `repeat`: an epoch holds the set so often. Training."""
    prefetch_mode: Literal['cpu', 'cuda'] | None = None
    """BasicSR's prefetching: cpu takes a thread, cuda a stream of its own. Training."""
    num_prefetch_queue: Count = 1
    """How many batches `prefetch_mode: cpu` holds."""
    pin_memory: Flag = False
    """Copy to a GPU from page-locked memory."""
    persistent_workers: Flag = False
    """Keep the workers from one epoch to the next. Training."""
    use_shuffle: Flag | None = None
    """Stands in BasicSR's files; nothing reads it: training sets are shuffled, others are not."""

    def conflicts(self) -> Iterator[Conflict]:
        if self.phase != 'train':
            if self.persistent_workers:
                yield 'persistent_workers', 'is for training; remove it here', ()
        elif self.persistent_workers and not self.num_worker_per_gpu:
            yield 'persistent_workers', 'needs num_worker_per_gpu from 1 up', ('num_worker_per_gpu',)
        elif self.prefetch_mode == 'cuda' and not self.pin_memory:
            yield 'prefetch_mode', 'is cuda, which needs pin_memory: true', ('pin_memory',)


class StockData(Loader):
    """One of BasicSR's own data sets, with the keys that most of them know."""

    dataroot_gt: Text | None = None
    dataroot_lq: Text | None = None
    meta_info_file: Text | None = None
    filename_tmpl: Text | None = None
    io_backend: Section | None = None
    gt_size: Count | None = None
    use_hflip: Flag | None = None
    use_rot: Flag | None = None


class Root(OwnSection):
    """One of several roots of a data set; what it leaves out is taken from the set."""

    dataroot_gt: Text | None = None
    """A folder, LMDB or raw store of high-quality images. Needed, here or in `roots`."""
    meta_info_file: Text | None = None
    """Text file with the GT file names, one a line. With `io_backend: {type: disk}` only."""
    repeat: Positive = 1
    """How often an epoch holds the images; 18.551 takes each 18 times and draws the rest at random. Training."""


class PairedRoot(Root):
    dataroot_lq: Text | None = None
    """A folder, LMDB or raw store of low-quality images. Needed, here or in `roots`."""
    filename_tmpl: Template = '{}'
    """LQ name from the GT name, both without suffix: '{}x2' finds babyx2.png for baby.png."""


_FOR_TRAINING = (
    'lq_patch_size gt_size use_hflip use_rot repeat batch_size_per_gpu num_worker_per_gpu dataset_enlarge_ratio '
    'prefetch_mode num_prefetch_queue'
).split()


class Restoration(Root, Loader):
    """What our data sets have in common."""

    model_config = ConfigDict(extra='forbid')

    roots: Annotated[list[Root], Field(min_length=1)] | None = None
    """Instead of one root several in one set: a list of sections with `dataroot_gt` and, if they differ from those of
    the set, `dataroot_lq`, `filename_tmpl`, `meta_info_file` and `repeat`."""
    io_backend: Backend = Backend()
    """How the roots are stored."""
    color: Literal['rgb', 'gray'] = 'rgb'
    """rgb, or gray by OpenCV's conversion."""
    lq_patch_size: Count | None = None
    """Side of the random crop in LQ pixels. Training; with `train.progressive` every stage has its own."""
    gt_size: Count | None = None
    """BasicSR's way to say it: the side in GT pixels, `scale` times as large. Training."""
    use_hflip: Flag = True
    """Random horizontal flips. Training."""
    use_rot: Flag = True
    """Random rotations by quarter turns, which includes vertical flips. Training."""

    def conflicts(self) -> Iterator[Conflict]:
        given, training = self.model_fields_set, self.phase == 'train'
        yield from super().conflicts()
        for key in _FOR_TRAINING if not training else ():
            if key in given and not (key == 'repeat' and self.repeat == 1):
                yield key, 'is for training; remove it here', ()
        for i, root in enumerate(self.roots or []):
            if root.repeat != 1 and not training:
                yield ('roots', i, 'repeat'), 'is for training; remove it here', ()
        patch, size = self.lq_patch_size, self.gt_size
        if size is not None and size % self.scale:
            yield 'gt_size', f'is {size}, no multiple of scale {self.scale}', ('scale',)
        elif size is not None and patch is not None and size != patch * self.scale:
            text = f'is {size}, which is not lq_patch_size {patch} * scale {self.scale}'
            yield 'gt_size', text, ('lq_patch_size', 'scale')
        roots = [key for key in type(self).model_fields if key.startswith('dataroot_')]
        for key in roots:
            if self.roots is not None and key in given:
                yield key, f'contradicts roots; give either roots or {" and ".join(roots)}', ('roots',)
            elif self.roots is None and key not in given:
                yield key, 'is missing; give a folder or a store (several: see roots)', ('roots',)
            for i, root in enumerate(self.roots or []):
                if getattr(root, key, None) is None:
                    yield ('roots', i, key), 'is missing; give a folder or a store', ()
        for place, root in [((), self), *((('roots', i), root) for i, root in enumerate(self.roots or []))]:
            if root.meta_info_file is not None and self.io_backend.type != 'disk':
                text = 'is for io_backend disk; a store has its own meta_info.txt'
                yield (*place, 'meta_info_file'), text, ('io_backend',)


class PairedRestoration(PairedRoot, Restoration):
    """`type: PairedRestorationDataset`: LQ/HQ pairs, for super-resolution, low-light enhancement and deraining."""

    roots: Annotated[list[PairedRoot], Field(min_length=1)] | None = None  # type: ignore[assignment]
    """See `Restoration`."""


class GaussianDenoising(Restoration):
    """`type: GaussianDenoisingDataset`: Clean images, which get noise on the fly."""

    sigma: Sigma | None = None
    """Standard deviation of the noise for values in [0, 255]; of [low, high] every training image draws one. Needed."""

    def conflicts(self) -> Iterator[Conflict]:
        yield from super().conflicts()
        if self.sigma is None:
            yield 'sigma', 'is missing; give a noise level, such as 25 or [0, 50]', ()
        if isinstance(self.sigma, list) and self.sigma[0] != self.sigma[1] and self.phase != 'train':
            yield 'sigma', f'is {self.sigma}; a range is for training, give one level here', ()
        if self.scale != 1:
            yield 'type', f'is denoising, which keeps the size, but scale is {self.scale}; it must be 1', ('scale',)


class RAMiTNetwork(OwnSection):
    """`type: RAMiT`: the arguments of the network (paper, Tab. H)."""

    type: Text = 'RAMiT'
    """The registered class."""
    upscale: Annotated[int, Field(strict=True, ge=1, le=64), Kind('an integer from 1 to 64')] = 2
    """Factor of super-resolution, the `scale` of the file; 1 keeps the size and adds the input back."""
    in_chans: Annotated[Literal[1, 3], BeforeValidator(_integer), Kind('1 or 3')] = 3
    """Channels of input and output: 3 for RGB, 1 for gray."""
    dim: Annotated[int, Field(strict=True, ge=16, le=8192, multiple_of=16), Kind('a multiple of 16, up to 8192')] = 64
    """Channels C of the features."""
    depths: Stages = [6, 4, 4, 6]
    """D-RAMiT blocks in stages 1 to 4."""
    num_heads: Stages = [4, 4, 4, 4]
    """Heads L in stages 1 to 4; each divides `dim`."""
    block: Literal['d_ramit', 'davit_core', 'davit_full'] = 'd_ramit'
    """d_ramit has both attentions in every block; the two of Tab. A have them in turn."""
    chsa_head_ratio: Ratio = 0.25
    """Share of channel heads, rounded down; 0 is spatial self-attention alone, 1 channel self-attention alone."""
    window_size: Annotated[
        int, Field(strict=True, ge=2, le=256, multiple_of=2), Kind('an even number from 2 to 256')
    ] = 8
    """Side M of the attention windows."""
    hidden_ratio: Factor = 2.0
    """Width of the feed-forward network in units of `dim`."""
    qkv_bias: Flag = True
    """Whether query, key and value have a bias."""
    mobivari_version: Annotated[Literal[1, 2], BeforeValidator(_integer), Kind('1 or 2')] = 2
    """1 is for the published RAMiT-1 checkpoints."""
    mobivari_act: Literal['leaky_relu', 'relu6', 'relu', 'gelu', 'silu'] = 'leaky_relu'
    """Activation of a MobiVari (Tab. 4c)."""
    exp_factor: Factor = 1.2
    """Expansion of a MobiVari, version 2."""
    expand_groups: Count = 4
    """Groups of its expanding convolution, version 2."""
    mixer_exp_factor: Factor | None = None
    """The same in bottleneck and H-RAMi; unset, it is `exp_factor` (Appendix A.6)."""
    mixer_expand_groups: Count | None = None
    """The same in bottleneck and H-RAMi; unset, it is `expand_groups`."""
    reciprocal_helper: Flag = True
    """Whether the attentions of a block weight the values of the next (Tabs. 4b and B)."""
    hrami: Flag = True
    """Whether H-RAMi weights the output of stage 4 (Tab. 4a)."""
    tail_mobivari: Annotated[int, Field(strict=True, ge=0, le=100), Kind('an integer from 0 to 100')] = 2
    """MobiVari layers in the reconstruction module (Fig. Ba)."""
    attn_drop: Share = 0.0
    """Dropout rate of the attention maps."""
    proj_drop: Share = 0.0
    """Dropout rate after the projection of the attentions."""
    drop_path: Share = 0.0
    """Stochastic depth rate of the last block; it grows linearly from 0 in the first."""
    img_mean: Channels = [0.4485, 0.4375, 0.4045]
    """Mean of the training images by channel, of values in [0, 1] (Appendix B); see `basicsr statistics`."""
    img_std: Annotated[list[Positive], Kind('a list of positive numbers, one a channel')] = [0.2397, 0.2290, 0.2389]
    """Their standard deviation."""


class Paths(Section):
    pretrain_network_g: Text | None = None
    """Checkpoint: what a test restores with, where a warm start or another training begins."""
    strict_load_g: Flag = True
    """Whether every parameter must be in the checkpoint, and no other."""
    param_key_g: Text | None = None
    resume_state: Text | None = None
    """Training state to go on from; `--auto_resume` takes the newest of the experiment."""


class RAMiTPaths(Paths):
    model_config = ConfigDict(extra='forbid')

    param_key_g: Literal['params', 'params_ema'] = 'params'
    """Which weights of the checkpoint: the trained ones, or their moving average."""
    ignore_resume_networks: Annotated[list[Text], Kind('a list of network names')] | None = None
    """BasicSR's: networks that a resumed run takes from `pretrain_network_*` instead."""


class Call(Section):
    """What is called with the section's other keys as arguments."""

    type: Text | None = None
    """The registered name. Needed."""


class Metric(Call):
    model_config = ConfigDict(extra='allow')

    crop_border: Natural | None = None
    """Pixels that are left out at every side."""
    test_y_channel: Flag = False
    """Whether Y (of YCbCr) is compared instead of RGB."""
    better: Literal['higher', 'lower'] = 'higher'
    """Which scores count as the best."""


class Loss(Call):
    loss_weight: Number = 1.0
    """Factor of the loss."""
    reduction: Literal['mean', 'sum'] = 'mean'
    """How pixels are taken together."""


class RAMiTMetric(Metric):
    input_order: Literal['HWC'] = 'HWC'
    """Of the images' axes; BasicSR's metrics know CHW too, which no image has here."""


class Optimiser(Call):
    type: Literal['Adam'] = 'Adam'
    """Adam; the other keys are arguments of `torch.optim.Adam`: betas, eps, weight_decay and so on."""
    lr: Positive | None = None
    """Full learning rate, for a total batch of `lr_batch_size` if that is given."""


class Scheduler(OwnSection):
    type: Literal['MultiStepLR'] = 'MultiStepLR'
    """Step decay (SRModel knows other schedules)."""
    milestones: Iterations = []
    """Iterations after which the rate is multiplied by `gamma`, counted from the end of a warm start."""
    gamma: Positive = 0.1
    """See `milestones`."""


class Stage(OwnSection):
    iter: Steps | None = None
    """Iterations that it lasts. Needed."""
    lq_patch_size: Count | None = None
    """Side of the LQ patch in pixels. Needed."""
    batch_size: Count | None = None
    """Images of an iteration, in total over all processes. Needed."""

    def conflicts(self) -> Iterator[Conflict]:
        for key in type(self).model_fields.keys() - self.model_fields_set:
            yield key, 'is missing', ()


class WarmStart(OwnSection):
    iter: Milestone | None = None
    """Iterations that train the reconstruction module alone, at constant rate. Needed."""

    def conflicts(self) -> Iterator[Conflict]:
        if self.iter is None:
            yield 'iter', 'is missing', ()


class Training(Section):
    total_iter: Steps | None = None
    """Iterations of the whole run, a warm start included."""
    warmup_iter: WarmUp = -1
    """Iterations over which the rate grows linearly from 0, counted from the end of a warm start; -1 for none."""
    optim_g: Section | None = None
    scheduler: Section | None = None
    pixel_opt: Section | None = None
    perceptual_opt: Section | None = None
    ema_decay: Share = 0.0
    """Decay of a moving average of the weights, which is validated instead of them; 0 for none."""


class RAMiTTraining(Training):
    model_config = ConfigDict(extra='forbid')

    optim_g: Optimiser | None = None
    """The optimiser and its rate."""
    scheduler: Scheduler = Scheduler()
    """When the rate falls; by default never."""
    pixel_opt: Loss | None = None
    """The loss on pixels, a registered one with its arguments; the paper takes {type: L1Loss}. Needed, or the next."""
    perceptual_opt: Call | None = None
    """A second loss, such as BasicSR's PerceptualLoss, with its arguments."""
    progressive: Annotated[list[Stage], Field(min_length=1)] | None = None
    """Progressive learning: stages {iter, lq_patch_size, batch_size} that follow one another (Appendix B)."""
    lr_batch_size: Count | None = None
    """Total batch for which `optim_g.lr` is meant; the rate is scaled to the real one of every stage."""
    lr_rule: Literal['linear', 'inverse'] | None = None
    """linear, lr * batch / lr_batch_size, which is the default; or inverse, lr * lr_batch_size / batch, as printed."""
    warm_start: WarmStart | None = None
    """Start with `path.pretrain_network_g` in all but the reconstruction module, which is trained alone first."""
    accumulate: Count = 1
    """A batch passes in so many parts, with the gradient of the whole: less memory, nothing else changes."""
    grad_clip_norm: Positive | None = None
    """Largest norm of the gradient."""
    bf16: Flag = False
    """bfloat16 autocast; weights stay float32."""
    tf32: Flag | None = None
    """Float32 products of a GPU on its TF32 units; by default on in training on a GPU."""
    channels_last: Flag | None = None
    """Channels-last memory format; by default on on a GPU."""
    compile: Flag = False
    """`torch.compile`: on a CPU of the attentions, for all sizes; on a GPU of the whole network, by size."""
    checkpointing: Flag = False
    """Compute the activations of a block again in the backward pass: less memory, more time."""

    def conflicts(self) -> Iterator[Conflict]:
        if self.lr_rule is not None and self.lr_batch_size is None:
            yield 'lr_rule', 'needs train.lr_batch_size, the batch for which optim_g.lr is meant', ('lr_batch_size',)
        if self.accumulate > 1 and self.pixel_opt is not None and self.pixel_opt.reduction != 'mean':
            text = 'weights its parts for a mean; set train.pixel_opt.reduction to mean'
            yield 'accumulate', text, ('pixel_opt',)
        if self.total_iter is None:
            return
        if self.progressive is not None:
            length = sum(stage.iter or 0 for stage in self.progressive)
            if length != self.total_iter and all(stage.iter for stage in self.progressive):
                text = f'lasts {length} iterations, but train.total_iter is {self.total_iter}'
                yield 'progressive', text, ('total_iter',)
        alone = (self.warm_start.iter or 0) if self.warm_start else 0
        if alone >= self.total_iter:
            text = f'trains the reconstruction module for {alone} iterations, but train.total_iter is {self.total_iter}'
            yield 'warm_start', text, ('total_iter',)
        elif (last := max(self.scheduler.milestones, default=0)) > self.total_iter - alone:
            after = f' less the {alone} of the warm start' if alone else ''
            text = f'go on to {last}, beyond train.total_iter {self.total_iter}{after}; change either'
            yield ('scheduler', 'milestones'), text, ('total_iter', 'warm_start')


class Validation(Section):
    val_freq: Steps | None = None
    """Iterations from one validation to the next. Training."""
    save_img: Flag | None = None
    """Whether restored images are written."""
    pbar: Flag = True
    """Whether a terminal shows a progress bar."""
    suffix: Name | None = None
    """Ending of the restored images' names; by default the experiment's name. Tests."""
    metrics: dict[str, Metric] | None = None
    """Registered metrics with their arguments, under the names that score files give them."""


class RAMiTValidation(Validation):
    model_config = ConfigDict(extra='forbid')

    metrics: dict[str, RAMiTMetric] | None = None  # type: ignore[assignment]
    """Registered metrics with their arguments, under the names that score files give them."""
    protocol: Literal['SR', 'CDN', 'GDN', 'LLE', 'DR'] | None = None
    """The metrics of a task as the paper computes them; `metrics` may add others."""
    size_multiple: Count | None = None
    """Pad images to multiples of this and crop the outputs; for networks that need it (SwinIR: its window size, 8)."""
    bf16: Flag = False
    """As in `train`; scores are those of float32 by default."""
    tf32: Flag = False
    """As in `train`."""
    channels_last: Flag | None = None
    """As in `train`."""
    compile: Flag = False
    """As in `train`."""


class Wandb(OwnSection):
    project: Text | None = None
    """Name of the project at Weights & Biases; unset, nothing is sent."""
    resume_id: Text | None = None
    """Its run to go on with."""


class DistParams(OwnSection):
    backend: Literal['nccl', 'gloo'] = 'nccl'
    """What processes talk by."""
    port: Port | None = None
    """Port of the first process, under SLURM."""


class Logging(Section):
    print_freq: Steps | None = None
    """Iterations from one line of the log to the next."""
    save_checkpoint_freq: Steps | None = None
    """Iterations from one checkpoint and training state to the next."""
    use_tb_logger: Flag | None = None
    """Whether losses and scores go to TensorBoard files too."""
    wandb: Section | None = None


class RAMiTLogging(Logging):
    model_config = ConfigDict(extra='forbid')

    keep_checkpoints: Count | None = None
    """How many of the last checkpoints and states stay; by default all."""
    keep_best: Text | None = None
    """Metric, or set/metric such as Set5/psnr, by which the best network is kept as `net_g_best.pth`."""
    wandb: Wandb | None = None
    """Weights & Biases."""

    def conflicts(self) -> Iterator[Conflict]:
        if self.wandb is not None and self.wandb.project is not None and not self.use_tb_logger:
            yield 'wandb', 'needs logger.use_tb_logger: true, from which it gets its values', ('use_tb_logger',)


class OptionFile(Section):
    """What BasicSR's loop reads of any option file."""

    name: Name | None = None
    """The experiment: the folder under `experiments/` or `results/`. One that holds `debug` makes BasicSR validate and
    save every 8 iterations, log every one, and write nothing for TensorBoard."""
    model_type: Text | None = None
    """The registered model: RAMiTModel, or one of BasicSR's."""
    scale: Count = 1
    """Factor of super-resolution, the `upscale` of the network; 1 for all other tasks."""
    num_gpu: Devices | None = None
    """Number of GPUs of this machine; auto takes all, 0 is the CPU."""
    manual_seed: Seed | None = None
    """Seed of everything that is drawn; unset, it is drawn itself."""
    datasets: Section | None = None
    """Sets by phase: `train`, and `val`, `val_2` and so on; a test has `test_1`, `test_2` and so on."""
    network_g: Section | None = None
    """The network: `type` and its arguments."""
    path: Paths | None = None
    train: Training | None = None
    val: Validation | None = None
    logger: Logging | None = None


class RAMiTOptionFile(OptionFile):
    """An option file with `model_type: RAMiTModel`."""

    model_config = ConfigDict(extra='forbid')

    path: RAMiTPaths | None = None
    """Checkpoints and states to start from."""
    train: RAMiTTraining | None = None
    """The training."""
    val: RAMiTValidation | None = None
    """Validation and tests."""
    logger: RAMiTLogging | None = None
    """What is told and kept while training."""
    dist_params: DistParams | None = None
    """BasicSR's, for several processes."""
    find_unused_parameters: Flag = False
    """BasicSR's: for networks of which a training step may leave parameters out."""


# What must be there, but for what stands in other sections: always, to train, or to test with RAMiTModel.
NEEDED = {
    **dict.fromkeys('name model_type num_gpu datasets network_g network_g.type path'.split(), 'always'),
    **dict.fromkeys('train train.total_iter train.optim_g train.optim_g.type train.optim_g.lr'.split(), 'to train'),
    **dict.fromkeys('logger logger.print_freq logger.save_checkpoint_freq logger.use_tb_logger'.split(), 'to train'),
    **dict.fromkeys('datasets.train datasets.train.num_worker_per_gpu val.val_freq'.split(), 'to train'),
    **dict.fromkeys('datasets.train.batch_size_per_gpu datasets.train.lq_patch_size'.split(), 'to train'),
    **dict.fromkeys('val path.pretrain_network_g'.split(), 'to test'),
    'val.save_img': 'always',
}


# ----------------------------------------------------------------------------------------------------------- examining

S = TypeVar('S', bound=Section)


@dataclass(frozen=True)
class Examined(Generic[S]):
    """A section as far as it is right.

    Attributes:
        section: without what is wrong.
        wrong: values and keys.
        conflicts: right values that do not go together.
    """

    section: S
    wrong: list[Problem]
    conflicts: list[Problem]


def examine(kind: type[S], values: Any, place: Place = ()) -> Examined[S]:
    """Look at a section.

    Args:
        kind: what it should be.
        values: what stands in the file.
        place: where it stands.
    """
    values = with_names(values)
    try:
        section, wrong = kind.model_validate(values), []
    except ValidationError as error:
        details = error.errors(include_url=False)
        wrong = [_problem(kind, detail, place) for detail in details]
        section = kind.model_validate(_without(values, [detail['loc'] for detail in details]))
    return Examined(section, wrong, [problem for problem in _conflicts(section, place) if not rests_on(problem, wrong)])


def require(kind: type[S], values: Any, where: str) -> S:
    """The section as the caller can use it.

    Raises:
        UserError: all that is wrong in it, behind `where`.
    """
    found = examine(kind, values)
    problems = [*found.wrong, *found.conflicts]
    if problems:
        raise UserError(f'{where}: {"; ".join(problem.text for problem in problems)}')
    return found.section


def with_names(values: Any) -> Any:
    """A copy of options whose keys are all text; YAML has others."""
    if isinstance(values, dict):
        return {str(key): with_names(value) for key, value in values.items()}
    return [with_names(value) for value in values] if isinstance(values, list) else values


def rests_on(problem: Problem, wrong: Iterable[Problem]) -> bool:
    """Whether a problem speaks of values that are wrong themselves, or stand under a misspelt key."""
    doubtful = [place for other in wrong for place in (other.place, other.meant) if place is not None]
    return any(
        place[: len(other)] == other or other[: len(place)] == place
        for place in (problem.place, *problem.reads)
        for other in doubtful
    )


def unknown(place: Place, known: Iterable[str]) -> Problem:
    """A key that nothing reads."""
    near = nearest(str(place[-1]), known)
    meant = place if near is None else (*place[:-1], near)
    return Problem(place, f'{dotted(place)} is unknown{suggestion(str(place[-1]), known)}', meant=meant)


def shown(value: Any) -> str:
    """A value as messages show it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'


def _problem(kind: type[Section], detail: Any, above: Place) -> Problem:
    place, expected = (*above, *detail['loc']), detail.get('ctx', {}).get('expected', '')
    if detail['type'] == 'extra_forbidden':
        return unknown(place, _section_at(kind, detail['loc'][:-1]).model_fields)
    known = {
        'kind': detail['msg'],
        'literal_error': expected + suggestion(detail['input'], re.findall("'(.+?)'", expected)),
        'list_type': 'a list',
        'too_short': 'a list with something in it',
        'model_type': 'a section with keys of its own',
        'dict_type': 'a section with keys of its own',
    }
    words = known.get(detail['type'], detail['msg'].removeprefix('Input should be '))
    return Problem(place, f'{dotted(place) or "the section"} is {shown(detail["input"])}; it must be {words}')


def _section_at(kind: type[Section], loc: Place) -> type[Section]:
    for key in loc:
        if isinstance(key, str):
            kind = next((k for k in kinds_of(kind.model_fields[key].annotation) if issubclass(k, Section)), kind)
    return kind


def kinds_of(annotation: Any) -> Iterator[type]:
    """The classes in an annotation such as `list[Stage] | None`."""
    if get_origin(annotation) in (Annotated, list, dict, Union, types.UnionType):
        for part in get_args(annotation):
            yield from kinds_of(part)
    elif isinstance(annotation, type):
        yield annotation


def _without(values: Any, places: Collection[Place]) -> Any:
    """What is left without these values; a list goes as a whole if one of its items is wrong itself."""
    if () in places:  # not a section at all
        return {}
    for place in places:
        place = place[: max(i for i, key in enumerate(place) if isinstance(key, str)) + 1]
        section: Any = values
        for key in place[:-1]:
            section = section.get(key, {}) if isinstance(section, dict) else section[key]
        section.pop(place[-1], None)
    return values


def _conflicts(section: Section, place: Place) -> Iterator[Problem]:
    """Those of a section and of all in it."""
    for key, text, reads in section.conflicts():
        at = (*place, *(key if isinstance(key, tuple) else (key,)))
        yield Problem(at, f'{dotted(at)} {text}', tuple((*place, other) for other in reads))
    for key, value in section:
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for steps, part in [((), value), *(((step,), part) for step, part in inner)]:
            if isinstance(part, Section):
                yield from _conflicts(part, (*place, key, *steps))
