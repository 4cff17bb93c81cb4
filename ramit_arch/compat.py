"""Repairs of what is broken elsewhere, applied once on `import ramit_arch`.

Repairs of installations look for their fault first and leave a healthy one as it is; where BasicSR's own functions are
at fault, ours take their place. Nothing else in the package knows of these faults. `repair` must run before anything
imports BasicSR.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import packages_distributions, version
from itertools import count
from logging import Logger
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ramit_arch.errors import UserError

# torchvision imports PyTorch's compiler, and BasicSR all distributions of SciPy, for a function that they rarely call.
UNUSED = {'torch._dynamo.utils': 'is_compile_supported', 'scipy.stats': 'multivariate_normal'}

# Schemas live as long as the library object that defined them.
_libraries: list[torch.library.Library] = []


def repair() -> None:
    """Make BasicSR importable, trainable and resumable on this machine."""
    check_opencv()
    import_without_unused()
    repair_archiving()
    repair_resume()
    repair_training_loader()
    repair_lmdb()
    repair_launch_without_cuda()


def check_opencv() -> None:
    """OpenCV's wheel needs X11 and OpenGL libraries, which servers and containers often lack.

    Raises:
        UserError: they are missing; gives the command that installs the headless build of the same release.
    """
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        packages = packages_distributions().get('cv2')
        if 'cannot open shared object file' not in str(error) or not packages:
            raise
        replacement = f'{packages[0].removesuffix("-headless")}-headless=={version(packages[0])}'
        raise UserError(
            f'OpenCV cannot be imported: {error}\n'
            f'Install the headless build instead: pip install --no-deps --force-reinstall {replacement}'
        ) from error


def import_without_unused() -> None:
    """Import torchvision and BasicSR without the modules in `UNUSED`, which take 2 of 4.6 s (docs/speed.md)."""
    before = set(sys.modules)
    try:
        with stand_ins():
            import_basicsr()
    except ImportError:  # other versions import more of these modules
        for name in set(sys.modules) - before:
            if name.split('.')[0] in ('torchvision', 'basicsr'):
                del sys.modules[name]
        import_basicsr()


def import_basicsr() -> None:
    """Import torchvision and all of BasicSR that trains and tests."""
    repair_torchvision_operators()
    repair_functional_tensor()
    importlib.import_module('basicsr.train')


@contextmanager
def stand_ins() -> Iterator[None]:
    """Let each function in `UNUSED` be imported without its module, which is imported when the function is called."""
    made = {name: ModuleType(name) for name in UNUSED if name not in sys.modules}
    for name, module in made.items():
        setattr(module, UNUSED[name], partial(_call_function, name, UNUSED[name]))
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, module in made.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _call_function(module: str, function: str, *arguments: Any, **options: Any) -> Any:
    return getattr(importlib.import_module(module), function)(*arguments, **options)


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


def repair_archiving() -> None:
    """BasicSR archives an earlier run under the time in seconds, and fails where that name is taken: at the second
    start within a second."""
    import basicsr.train
    import basicsr.utils.misc

    basicsr.utils.misc.mkdir_and_rename = basicsr.train.mkdir_and_rename = mkdir_and_rename


def mkdir_and_rename(path: str) -> None:
    """Make an empty folder; one that is there gets a name of its own."""
    from basicsr.utils import get_time_str

    if Path(path).exists():
        archived = Path(f'{path}_archived_{get_time_str()}')
        for number in count(2):
            if not archived.exists():
                break
            archived = Path(f'{path}_archived_{get_time_str()}_{number}')
        Path(path).rename(archived)
        print(f'Path already exists. Renamed it to {archived}', flush=True)
    Path(path).mkdir(parents=True, exist_ok=True)


def repair_resume() -> None:
    """BasicSR's `load_resume_state` asks for the current CUDA device, so that a CPU-only machine cannot resume, and
    with `--auto_resume` takes the newest state even where a crash left it broken. Ours also tells the loader where to
    resume."""
    import basicsr.train

    from ramit_arch.models.states import load_resume_state

    basicsr.train.load_resume_state = load_resume_state


def repair_training_loader() -> None:
    """BasicSR counts the iterations of an epoch by rounding up and without `num_gpu`, but its loader drops the last
    batch and multiplies the batch by `num_gpu`: a run ended long before `total_iter`, without a word. It reseeds its
    workers with the same constants every epoch, so that every epoch replays its crops and flips."""
    import basicsr.data
    import basicsr.train

    from ramit_arch.data.samplers import seed_worker

    basicsr.train.create_train_val_dataloader = partial(
        create_train_val_dataloader, basicsr.train.create_train_val_dataloader
    )
    if 'num_workers' in inspect.signature(basicsr.data.worker_init_fn).parameters:
        basicsr.data.worker_init_fn = seed_worker


def create_train_val_dataloader(original: Callable, opt: dict[str, Any], logger: Logger) -> tuple:
    """BasicSR's `create_train_val_dataloader` in full length, and ours if the model or the training dataset is ours.

    Raises:
        UserError: the training set has no whole batch.
    """
    from basicsr.utils.registry import DATASET_REGISTRY, MODEL_REGISTRY

    from ramit_arch import stopping
    from ramit_arch.data.loaders import create_train_val_dataloader as create_ours
    from ramit_arch.data.restoration_dataset import RestorationDataset
    from ramit_arch.models.ramit_model import RAMiTModel

    model, dataset = MODEL_REGISTRY.get(opt['model_type']), DATASET_REGISTRY.get(opt['datasets']['train']['type'])
    ours = issubclass(model, RAMiTModel) or issubclass(dataset, RestorationDataset)
    loader, sampler, val_loaders, epochs, total = (create_ours if ours else original)(opt, logger)
    if not ours:
        if not len(loader):
            raise UserError(
                f'datasets.train: fewer images than a batch of {loader.batch_size}; lower batch_size_per_gpu or set '
                'dataset_enlarge_ratio'
            )
        epochs = max(epochs, -(-total // len(loader)))
    loader.worker_init_fn = stopping.worker_init(loader.worker_init_fn)
    return loader, sampler, val_loaders, epochs, total


def repair_lmdb() -> None:
    """BasicSR opens an LMDB for every dataset that reads it, which lmdb refuses within one process."""
    from basicsr.utils.file_client import FileClient, LmdbBackend

    from ramit_arch.data.stores import open_lmdb

    class SharingLmdbBackend(LmdbBackend):
        """BasicSR's backend, with one handle for all datasets of this process; opened for reading, as by default."""

        def __init__(self, db_paths: str | list[str], client_keys: str | list[str] = 'default', **options: Any) -> None:
            if options:
                super().__init__(db_paths, client_keys, **options)
                return
            super().__init__([], [])
            self.db_paths = [str(path) for path in (db_paths if isinstance(db_paths, list) else [db_paths])]
            keys = client_keys if isinstance(client_keys, list) else [client_keys]
            self._client = {key: open_lmdb(path) for key, path in zip(keys, self.db_paths, strict=True)}

    FileClient._backends['lmdb'] = SharingLmdbBackend


def repair_launch_without_cuda() -> None:
    """BasicSR's launcher and models ask for CUDA devices; processes that train on the CPU talk through gloo."""
    import basicsr.utils.options
    from basicsr.models.base_model import BaseModel

    if not torch.cuda.is_available():
        basicsr.utils.options.init_dist = init_dist_on_cpu
        BaseModel.model_to_device = model_to_device_on_cpu


def model_to_device_on_cpu(model: Any, net: torch.nn.Module) -> torch.nn.Module:
    """`BaseModel.model_to_device` where there is no device to move to."""
    if not model.opt['dist']:
        return net
    unused = model.opt.get('find_unused_parameters', False)
    return torch.nn.parallel.DistributedDataParallel(net, find_unused_parameters=unused)


def init_dist_on_cpu(launcher: str, **_: Any) -> None:
    """Join the processes that torchrun has started.

    Raises:
        UserError: they were started in another way.
    """
    if launcher != 'pytorch':
        raise UserError(f'--launcher {launcher} needs CUDA; without it start by torchrun, with --launcher pytorch')
    torch.distributed.init_process_group('gloo')
