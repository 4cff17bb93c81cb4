"""From a path to a network that is ready to restore: `load_network`."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from ramit_arch import options
from ramit_arch.errors import UserError, suggestion
from ramit_arch.evaluation.protocols import PROTOCOLS, task_of
from ramit_arch.inference.checkpoints import load_weights, pick_weights, read_content
from ramit_arch.inference.onnx import OnnxNetwork
from ramit_arch.inference.packaged import networks

FORMAT = 1  # of the description in a checkpoint


@dataclass(frozen=True)
class Loaded:
    """A network and the description in its checkpoint.

    Attributes:
        file: the checkpoint.
        key: of its weights, `params` or `params_ema`.
        network: on the CPU, in evaluation mode.
        network_g: its `type` and arguments, as in an option file.
        scale: factor of super-resolution, 1 for all other tasks.
        task: one of `PROTOCOLS` (SR, CDN, ...), or None.
        color: rgb or gray, or None where only the network's `in_chans` may tell.
        size_multiple: of which its images' sides must be, if it does not pad them itself.
    """

    file: Path
    key: str
    network: nn.Module
    network_g: dict[str, Any]
    scale: int
    task: str | None
    color: str | None
    size_multiple: int

    @property
    def title(self) -> str:
        """What a user would call it: the name of a packaged network, else the path of its file."""
        name = self.file.stem
        return name if name in networks() and networks()[name].file == self.file else str(self.file)

    @property
    def channels(self) -> int:
        """Of its images: 3, or 1 for gray."""
        if self.color is not None:
            return 1 if self.color == 'gray' else 3
        return getattr(self.network, 'in_chans', None) or self.network_g.get('num_in_ch', 3)


def describe(
    network_g: dict[str, Any], scale: int, task: str | None = None, color: str | None = None, size_multiple: int = 1
) -> dict[str, Any]:
    """The description of a network for its checkpoint: plain data, with the arguments' defaults written out."""
    parameters = inspect.signature(ARCH_REGISTRY.get(network_g['type'])).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    written = {key: value for key, value in defaults.items() if _is_plain(value)}
    network_g = {'type': network_g['type'], **json.loads(json.dumps(written)), **network_g}
    known = {'format': FORMAT, 'network_g': network_g, 'scale': scale, 'task': task, 'color': color}
    return known if size_multiple == 1 else {**known, 'size_multiple': size_multiple}


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def load_network(path: str | Path, task: str | None = None) -> nn.Module:
    """Load the network of a checkpoint, on the CPU, in evaluation mode.

    Args:
        path: a checkpoint of this package; an experiment folder, for its best network, or else the latest; a raw
            checkpoint of the paper's networks, recognised by its shapes; an ONNX file; or the name of a packaged
            network (`basicsr models`).
        task: CDN, LLE or DR, for raw checkpoints of scale 1, whose shapes do not determine it.

    Raises:
        UserError: there is no checkpoint that can be read, its network is unknown, or a task is needed or wrong.
    """
    return load(path, task).network


def load(path: str | Path, task: str | None = None) -> Loaded:
    """Load a network as `load_network` does, with its description."""
    if task not in (None, *PROTOCOLS):
        raise UserError(f'task {task}: unknown; the tasks are {", ".join(PROTOCOLS)}')
    file = find_checkpoint(path)
    if file.suffix == '.onnx':
        return _load_onnx(file, task)
    content = read_content(str(file))
    key = 'params_ema' if 'params_ema' in content else 'params'
    weights = pick_weights(content, key, str(file))
    known = _described(content, file) or _of_experiment(file) or _recognise(weights, task, file)
    _check_task(task, known, file)
    network = build(known['network_g'], str(file))
    load_weights(network, weights, str(file))
    return Loaded(
        file, key, network.eval(), known['network_g'], known['scale'], known['task'] or task, known.get('color'),
        known.get('size_multiple', 1),
    )  # fmt: skip


def _load_onnx(file: Path, task: str | None) -> Loaded:
    network = OnnxNetwork(file)
    known = _described({'network': network.description}, file) or {'scale': network.upscale}
    _check_task(task, known, file)
    return Loaded(
        file, 'params', network, known.get('network_g', {}), known['scale'], known.get('task') or task,
        known.get('color'), 1,
    )  # fmt: skip


def _check_task(task: str | None, known: dict[str, Any], file: Path) -> None:
    """Raises UserError if a network is for another task than the one that was given."""
    if task is not None and (known.get('task') not in (None, task) or (known['scale'] > 1) != (task == 'SR')):
        purpose = known.get('task') or f'scale {known["scale"]}'
        raise UserError(f'task {task}: {file} is a network for {purpose}; leave it out')


def find_checkpoint(path: str | Path) -> Path:
    """The path itself if it is a file; of an experiment folder the best network, or else the latest; a packaged network
    by its name.

    Raises:
        UserError: there is none.
    """
    if not str(path):
        raise UserError('the path of a checkpoint is empty')
    found = Path(path).expanduser()
    if not found.exists():
        if str(path) in networks():
            return networks()[str(path)].file
        near = suggestion(found.name, [*_neighbours(found), *networks()], 0.7)
        raise UserError(f'{path}: no such checkpoint, experiment or packaged network{near}')
    if not found.is_dir():
        return found
    models = found if found.name == 'models' else found / 'models'
    for name in ('net_g_best.pth', 'net_g_latest.pth'):
        if (models / name).is_file():
            return models / name
    numbered = {int(file.stem[6:]): file for file in models.glob('net_g_*.pth') if file.stem[6:].isdecimal()}
    if not numbered:
        raise UserError(f'{path}: no experiment with a network (models/net_g_*.pth) in this folder')
    return numbered[max(numbered)]


def _neighbours(path: Path) -> list[str]:
    return [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []


def _described(content: dict[str, Any], file: Path) -> dict[str, Any] | None:
    """The description in a checkpoint of this package."""
    known = content.get('network')
    if known is None:
        return None
    if not isinstance(known, dict) or not isinstance(known.get('format'), int):
        raise UserError(f'{file}: its description of the network is damaged')
    if known['format'] > FORMAT:
        raise UserError(f'{file}: written by a newer version of ramit-arch (format {known["format"]}); update it')
    scale, task, color = known.get('scale'), known.get('task'), known.get('color')
    multiple = known.get('size_multiple', 1)
    numbers = all(type(number) is int and number > 0 for number in (scale, multiple))
    texts = isinstance(task, (str, type(None))) and color in (None, 'rgb', 'gray')
    if not (isinstance(known.get('network_g'), dict) and numbers and texts):
        raise UserError(f'{file}: its description of the network is damaged')
    return known


def _of_experiment(file: Path) -> dict[str, Any] | None:
    """The network in the option file of the checkpoint's experiment."""
    archived = option_file_of(file) if file.stem.startswith('net_g_') else None
    if archived is None:
        return None
    try:
        opt = options.load(archived)
    except UserError:  # of another program
        return None
    network_g, val = opt.get('network_g'), opt.get('val') or {}
    if not isinstance(network_g, dict) or not isinstance(val, dict):
        return None
    return {
        'network_g': network_g,
        'scale': opt.get('scale', 1),
        'task': task_of(val.get('protocol')),
        'size_multiple': val.get('size_multiple', 1),
    }


def option_file_of(path: Path) -> Path | None:
    """The newest option file that BasicSR has archived in an experiment.

    Args:
        path: the experiment's folder, its `models`, or a checkpoint in it.
    """
    folder = path.resolve()
    folder = folder.parent if folder.is_file() else folder
    folder = folder.parent if folder.name == 'models' else folder
    files = sorted(folder.glob('*.yml'), key=lambda file: file.stat().st_mtime) if (folder / 'models').is_dir() else []
    return files[-1] if files else None


def _recognise(weights: dict[str, Tensor], task: str | None, file: Path) -> dict[str, Any]:
    """A network whose shapes are those of a checkpoint without description."""
    for name, network in ARCH_REGISTRY:
        tasks = matching_tasks(network, weights)
        if not tasks:
            continue
        if task is None and len(tasks) > 1:
            either = f'{", ".join(tasks[:-1])} or {tasks[-1]}'
            text = 'the weights do not tell for which, and the normalisation depends on it'
            raise UserError(f'{file}: a {name} for {either}; {text}: give its task, --task {either}')
        if task is not None and task not in tasks:
            raise UserError(f'task {task}: {file} is a network for {" or ".join(tasks)}; leave it out')
        found = network.options_from(weights, task or tasks[0])
        return {'network_g': {'type': name, **found}, 'scale': found.get('upscale', 1), 'task': task or tasks[0]}
    some = ', '.join(list(weights)[:2])
    raise UserError(
        f'{file}: its weights ({some}, ...) do not tell the network, and it does not say which; give the checkpoint '
        'that a training wrote, or for a network of your own add --import FILE and give its experiment folder'
    )


def matching_tasks(network: Any, weights: dict[str, Any]) -> list[str]:
    """The tasks for which a registered network may have these weights; none if they are another network's."""
    try:
        tasks = network.tasks_of(weights)
        options = network.options_from(weights, tasks[0])
        with torch.device('meta'):
            own = {key: tensor.shape for key, tensor in network(**options).state_dict().items()}
    except (AttributeError, LookupError, ValueError, TypeError, ZeroDivisionError):
        return []
    return tasks if own == {name: getattr(value, 'shape', None) for name, value in weights.items()} else []


def build(network_g: dict[str, Any], where: str) -> nn.Module:
    """A network from its `type` and arguments.

    Raises:
        UserError: its type is not registered, or it does not take these arguments.
    """
    arguments = {key: value for key, value in network_g.items() if key != 'type'}
    name = network_g.get('type')
    if not isinstance(name, str) or name not in ARCH_REGISTRY:
        raise UserError(f'{where}: its network is {name!r:.80}, which is not registered; --import FILE registers it')
    try:
        return ARCH_REGISTRY.get(name)(**arguments)
    except Exception as error:  # whatever a network raises
        text = str(error).partition('\n')[0]
        raise UserError(f'{where}: {name} cannot be built with its arguments ({text})') from error
