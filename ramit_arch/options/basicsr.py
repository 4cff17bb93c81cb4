"""What BasicSR's own loop and loaders read of any option file, whatever its model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import Field

from ramit_arch.archs.arguments import LARGEST
from ramit_arch.options.section import Conflict, Count, Iterations, Natural, Positive, Section, Share, Text

Name = Annotated[
    str,
    Field(max_length=200, pattern=r'^[^/\\\x00-\x1f\x7f]*[^/\\\x00-\x1f\x7f .][^/\\\x00-\x1f\x7f]*$'),
    'a name for files and folders, without slashes, of up to 200 characters',
]
Phase = Literal['train', 'val', 'test']


class DatasetOptions(Section):
    """Keys of any dataset. BasicSR adds `phase` and the file's `scale` for its constructor."""

    phase: Annotated[Phase, Field(exclude=True)] = 'train'
    scale: Annotated[Count, Field(exclude=True)] = 1

    name: Name
    """Name of the dataset in logs, folders and score files."""
    type: Text
    """Registered dataset class."""
    batch_size_per_gpu: Count | None = None
    """Images per iteration on each GPU or process. Training; or set `train.progressive`."""
    num_worker_per_gpu: Natural | None = None
    """Data-loading processes per GPU; 0 loads in the training process. Required for training."""
    dataset_enlarge_ratio: Positive = 1
    """BasicSR's `repeat`: number of times the dataset is repeated per epoch. Training."""
    prefetch_mode: Literal['cpu', 'cuda'] | None = None
    """Prefetching: cpu uses a thread, cuda a stream. Training."""
    num_prefetch_queue: Count = 1
    """Number of batches that `prefetch_mode: cpu` holds."""
    pin_memory: bool = False
    """Load into page-locked memory, which is copied faster to a GPU."""
    persistent_workers: bool = False
    """Keep the data-loading processes between epochs. Training."""
    use_shuffle: bool | None = None
    """Accepted for compatibility, ignored: training sets are shuffled, others are not."""

    def conflicts(self) -> Iterator[Conflict]:
        if self.phase != 'train':
            if self.persistent_workers:
                yield 'persistent_workers', 'is for training; remove it here'
        elif self.persistent_workers and not self.num_worker_per_gpu:
            yield 'persistent_workers', 'needs num_worker_per_gpu from 1 up'
        elif self.prefetch_mode == 'cuda' and not self.pin_memory:
            yield 'prefetch_mode', 'is cuda, which needs pin_memory: true'


class StockDatasetOptions(DatasetOptions):
    """One of BasicSR's own datasets, with the keys that most of them read."""

    dataroot_gt: Text | None = None
    dataroot_lq: Text | None = None
    meta_info_file: Text | None = None
    filename_tmpl: Text | None = None
    io_backend: dict[str, Any] | None = None
    gt_size: Count | None = None
    use_hflip: bool | None = None
    use_rot: bool | None = None


class Call(Section):
    """What is called with the section's other keys as arguments."""

    type: Text
    """Registered name."""


class Loss(Call):
    loss_weight: float = 1.0
    """Weight of the loss."""
    reduction: Literal['mean', 'sum'] = 'mean'
    """Loss reduction."""


class Metric(Call):
    crop_border: Natural | None = None
    """Pixels cropped at every side before comparing."""
    test_y_channel: bool = False
    """Compare Y (of YCbCr) instead of RGB."""
    better: Literal['higher', 'lower'] = 'higher'
    """Whether higher or lower scores are better."""


class Paths(Section):
    """Checkpoints and states."""

    pretrain_network_g: Text | None = None
    """Pretrained checkpoint, or the name of a packaged network, for testing or initialisation."""
    strict_load_g: bool = True
    """Whether all parameters of checkpoint and network must match."""
    resume_state: Text | None = None
    """Training state to resume from; `--auto_resume` takes the newest of the experiment."""


class Training(Section):
    """The training loop."""

    total_iter: Iterations
    """Iterations in total, a warm start included."""
    warmup_iter: Annotated[int, Ge(-1), Le(LARGEST)] = -1
    """Iterations of linear warm-up of the learning rate, counted from the end of a warm start; -1 for none."""
    ema_decay: Share = 0.0
    """Decay of an exponential moving average of the weights, which is validated instead of them; 0 for none."""


class Validation(Section):
    """Validation and tests."""

    save_img: bool = False
    """Write the restored images."""
    val_freq: Iterations | None = None
    """Iterations between validations; a hundredth of `train.total_iter` by default."""
    pbar: bool = True
    """Show a progress bar on a terminal."""
    suffix: Name | None = None
    """Suffix of restored images' names; the experiment's name by default. Tests."""
    metrics: dict[str, Metric] | None = None
    """Registered metrics with their arguments, keyed by their name in score files."""


class Logging(Section):
    """Logging and checkpointing."""

    print_freq: Iterations | None = None
    """Iterations between log lines; a thousandth of `train.total_iter` by default."""
    save_checkpoint_freq: Iterations | None = None
    """Iterations between checkpoints; a hundredth of `train.total_iter` by default."""
    use_tb_logger: bool = False
    """Write losses and scores for TensorBoard too."""
    wandb: dict[str, Any] | None = None
    """Weights & Biases: `project` and `resume_id`."""


class OptionFile(Section):
    """Keys of any option file."""

    name: Name
    """Experiment: the folder under `experiments/` or `results/`. With `debug` in it, BasicSR validates and saves every
    8 iterations, logs every one, and writes nothing for TensorBoard."""
    model_type: Text
    """Registered model: RAMiTModel, one of BasicSR's, or your own."""
    scale: Count = 1
    """Super-resolution factor, equal to the network's `upscale`; 1 for all other tasks."""
    num_gpu: Annotated[Literal['auto'] | Natural, 'auto or a number, 0 for the CPU']
    """Number of GPUs; auto uses all, 0 the CPU."""
    manual_seed: Annotated[int, Ge(0), Le(2**31)] | None = None
    """Random seed; chosen at random if unset."""
    datasets: Annotated[dict[str, dict[str, Any]], MinLen(1), 'a section with datasets']
    """Datasets by phase: `train`, and `val`, `val_2` and so on; a test has `test_1`, `test_2` and so on."""
    path: Paths
    """Checkpoints and states to start from."""
    val: Validation | None = None
    """Validation and tests."""


class TrainFile(OptionFile):
    """Keys of any option file that trains."""

    train: Training
    """Training."""
    logger: Logging = Logging()
    """Logging and checkpointing."""


class TestFile(OptionFile):
    """Keys of any option file that tests."""

    __test__ = False  # no test class of pytest's

    val: Validation
    """Validation and tests."""
