"""Repairs of what is broken elsewhere, applied once on `import ramit_arch`.

Every repair looks for its fault first and leaves a healthy installation as it is. Nothing else in the package knows
of these faults. `repair` must run before anything imports BasicSR.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch

# Schemas live as long as the library object that defined them.
_libraries: list[torch.library.Library] = []


def repair() -> None:
    """Make BasicSR importable, trainable and resumable on this machine."""
    repair_torchvision_operators()
    repair_functional_tensor()
    repair_resume_without_cuda()
    repair_replayed_augmentation()


def repair_torchvision_operators() -> None:
    """torchvision from PyPI beside a CPU-only torch: its compiled operators do not load, and its import fails because
    `torchvision::nms` and `qnms` do not exist. The schemas alone let it import; BasicSR never calls the operators."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if 'torchvision::' not in str(error):
            raise
        for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
            del sys.modules[name]  # half-imported
        library = torch.library.Library('torchvision', 'DEF')
        for operator in ('nms', 'qnms'):
            library.define(f'{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        _libraries.append(library)
        importlib.import_module('torchvision')


def repair_functional_tensor() -> None:
    """torchvision 0.17 removed `transforms.functional_tensor`, which BasicSR's `data/degradations.py` imports."""
    name = 'torchvision.transforms.functional_tensor'
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        sys.modules[name] = importlib.import_module('torchvision.transforms._functional_tensor')


def repair_resume_without_cuda() -> None:
    """BasicSR's `load_resume_state` asks for the current CUDA device, so that a CPU-only machine cannot resume."""
    import basicsr.train

    needs_cuda = 'current_device' in basicsr.train.load_resume_state.__code__.co_names
    if needs_cuda and not torch.cuda.is_available():
        basicsr.train.load_resume_state = load_resume_state


def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """BasicSR's contract on any device: the newest state with `auto_resume`, else `path.resume_state`, else None.

    Args:
        opt: the whole option dictionary; `path.resume_state` and the networks' `path.pretrain_*` are set in it.

    Raises:
        OSError: the state file cannot be read.
    """
    from basicsr.utils import check_resume

    if opt['auto_resume']:
        folder = Path('experiments', opt['name'], 'training_states')
        states = [path for path in folder.glob('*.state') if path.stem.isdigit()]
        if states:
            opt['path']['resume_state'] = str(max(states, key=lambda path: int(path.stem)))
    if not opt['path'].get('resume_state'):
        return None
    state = torch.load(opt['path']['resume_state'], map_location='cpu', weights_only=True)
    check_resume(opt, state['iter'])
    return state


def repair_replayed_augmentation() -> None:
    """BasicSR reseeds its workers with the same constants every epoch, so that every epoch replays its crops and
    flips. Our sampler gives every draw a seed of its own; it hands plain integers to any other data set."""
    import basicsr.train
    from basicsr.data.data_sampler import EnlargedSampler

    from ramit_arch.data.draws import DrawSampler

    if basicsr.train.EnlargedSampler is EnlargedSampler:
        basicsr.train.EnlargedSampler = DrawSampler
