"""Progressive learning: what an iteration trains on, as a function of the iteration (paper, Appendix B).

Batch and patch size of every iteration, and with them the position in the stream of images, follow from the stages
alone. Nothing is counted along the way, so that resuming at any iteration lands where the run would have been.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from ramit_arch.errors import UserError


class Stage(NamedTuple):
    """Iterations with one batch and one patch size.

    Attributes:
        iterations: how long it lasts.
        batch: images of an iteration, in total over all processes.
        patch: side of the LQ patch in pixels; None leaves it to the data set.
    """

    iterations: int
    batch: int
    patch: int | None = None


class Progression:
    """Stages in a row; ordinary training has one.

    Args:
        stages: at least one.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self.ends = tuple(accumulate(stage.iterations for stage in self.stages))
        self.total = self.ends[-1]

    def index(self, iteration: int) -> int:
        """Number from 0 of the stage to which an iteration, counted from 1, belongs."""
        return min(bisect_left(self.ends, iteration), len(self.ends) - 1)

    def stage(self, iteration: int) -> Stage:
        """The stage of an iteration, counted from 1."""
        return self.stages[self.index(iteration)]

    def images_before(self, iteration: int) -> int:
        """Images that all earlier iterations have drawn."""
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
    """The stages of an option file: those of `train.progressive`, or one of `batch_size_per_gpu` images a process.

    Args:
        opt: the whole option dictionary, checked, with `dist`, `world_size` and a number for `num_gpu`.

    Raises:
        UserError: a batch does not divide among the processes.
    """
    section, total = opt['datasets']['train'], int(opt['train']['total_iter'])
    listed = opt['train'].get('progressive')
    if listed is None:
        return Progression([Stage(total, int(section['batch_size_per_gpu']) * processes(opt))])
    stages = [Stage(int(stage['iter']), int(stage['batch_size']), int(stage['lq_patch_size'])) for stage in listed]
    if opt['dist']:
        for i, stage in enumerate(stages, 1):
            if stage.batch % opt['world_size']:
                raise UserError(
                    f'train.progressive, stage {i}: batch_size {stage.batch}, a total, does not divide among '
                    f'{opt["world_size"]} processes'
                )
    return Progression(stages)


def training_section(opt: dict[str, Any]) -> dict[str, Any]:
    """`datasets.train` as its data set gets it: with progressive learning the largest patch, which every image must
    hold; each draw then names its own."""
    section = opt['datasets']['train']
    stages = (opt.get('train') or {}).get('progressive')
    return {**section, 'lq_patch_size': max(stage['lq_patch_size'] for stage in stages)} if stages else section
