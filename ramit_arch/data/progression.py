"""Progressive learning: what an iteration trains on, as a function of the iteration (paper, Appendix B).

Batch and patch size of every iteration, and with them the position in the stream of images, follow from the stages
alone. Nothing is counted along the way, so that resuming at any iteration lands where the run would have been.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Annotated, Any, NamedTuple

from annotated_types import MinLen
from pydantic import model_validator

from ramit_arch.errors import UserError
from ramit_arch.options.basicsr import DatasetOptions
from ramit_arch.options.section import Conflict, Count, Fraction, Iterations, OwnSection, Section, whole


class ProgressiveStage(OwnSection):
    iter: Annotated[Iterations | Fraction, 'a number of iterations, or a fraction of them below 1']
    """Iterations of the stage; below 1, as a fraction of `train.total_iter`."""
    lq_patch_size: Count
    """Side of the LQ patch in pixels."""
    batch_size: Count
    """Images per iteration, in total over all processes."""


class ProgressiveTraining(Section):
    """Progressive learning."""

    total_iter: Iterations
    """Iterations in total, a warm start included."""
    progressive: Annotated[list[ProgressiveStage], MinLen(1), 'a list of sections'] | None = None
    """Progressive learning: stages {iter, lq_patch_size, batch_size}, one after the other (Appendix B)."""

    @model_validator(mode='before')
    @classmethod
    def _count_stages(cls, values: Any) -> Any:
        """Fractions as iterations that add up to the total."""
        stages = values.get('progressive') if isinstance(values, dict) else None
        total = whole(values.get('total_iter')) if isinstance(stages, list) else None
        if not isinstance(total, int) or not all(isinstance(stage, dict) for stage in stages or ()):
            return values
        lengths = [stage.get('iter') for stage in stages or ()]
        if not all(isinstance(length, float) and 0 < length < 1 for length in lengths):
            return values
        ends = [0, *(round(end * total) for end in accumulate(lengths))]
        counted = [{**stage, 'iter': ends[i + 1] - ends[i]} for i, stage in enumerate(stages or ())]
        return {**values, 'progressive': counted}

    def conflicts(self) -> Iterator[Conflict]:
        length = sum(stage.iter for stage in self.progressive or [])
        if self.progressive and length != self.total_iter:
            yield 'progressive', f'lasts {length} iterations, but train.total_iter is {self.total_iter}'


class TrainingStage(NamedTuple):
    """Iterations with one batch and one patch size.

    Attributes:
        iterations: how long it lasts.
        batch: images of an iteration, in total over all processes.
        patch: side of the LQ patch in pixels; None leaves it to the dataset.
    """

    iterations: int
    batch: int
    patch: int | None = None


class Progression:
    """Stages in a row; ordinary training has one.

    Args:
        stages: at least one.
    """

    def __init__(self, stages: Sequence[TrainingStage]) -> None:
        self.stages = tuple(stages)
        self.ends = tuple(accumulate(stage.iterations for stage in self.stages))
        self.total = self.ends[-1]

    def index(self, iteration: int) -> int:
        """Number from 0 of the stage to which an iteration, counted from 1, belongs."""
        return min(bisect_left(self.ends, iteration), len(self.ends) - 1)

    def stage(self, iteration: int) -> TrainingStage:
        """The stage of an iteration, counted from 1."""
        return self.stages[self.index(iteration)]

    def images_before(self, iteration: int) -> int:
        """Images that all earlier iterations have used."""
        number = self.index(iteration)
        earlier = self.stages[:number]
        started = self.ends[number - 1] if number else 0
        return sum(s.iterations * s.batch for s in earlier) + (iteration - 1 - started) * self.stages[number].batch

    def last_iteration(self, images: int) -> int:
        """The last iteration whose batch begins within the first `images` images; at most `total`."""
        done = 0
        for stage in self.stages:
            fitting = -(-images // stage.batch)
            if fitting <= stage.iterations:
                return done + fitting
            done += stage.iterations
            images -= stage.iterations * stage.batch
        return self.total


def processes(opt: dict[str, Any]) -> int:
    """Processes and GPUs that share a batch."""
    return opt['world_size'] if opt['dist'] else max(1, opt['num_gpu'])


def read_progression(opt: dict[str, Any]) -> Progression:
    """The stages of an option file: those of `train.progressive`, or one of `batch_size_per_gpu` images per process.

    Args:
        opt: the whole option dictionary, checked, with `dist`, `world_size` and a number for `num_gpu`.

    Raises:
        UserError: a batch does not divide among the processes.
    """
    train = ProgressiveTraining.model_validate(opt['train'])
    if train.progressive is None:
        batch = DatasetOptions.model_validate(opt['datasets']['train']).batch_size_per_gpu
        if batch is None:
            raise UserError('datasets.train.batch_size_per_gpu is missing')
        return Progression([TrainingStage(train.total_iter, batch * processes(opt))])
    stages = [TrainingStage(int(stage.iter), stage.batch_size, stage.lq_patch_size) for stage in train.progressive]
    if opt['dist']:
        for i, stage in enumerate(stages, 1):
            if stage.batch % opt['world_size']:
                raise UserError(
                    f'train.progressive, stage {i}: batch_size {stage.batch}, a total, does not divide among '
                    f'{opt["world_size"]} processes'
                )
    return Progression(stages)


def training_section(opt: dict[str, Any]) -> dict[str, Any]:
    """`datasets.train` as its dataset gets it: with progressive learning the largest patch, which every image must
    hold; each sample index then names its own."""
    section = opt['datasets']['train']
    stages = ProgressiveTraining.model_validate(opt['train']).progressive
    return {**section, 'lq_patch_size': max(stage.lq_patch_size for stage in stages)} if stages else section
