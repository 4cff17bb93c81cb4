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
from ramit_arch.inference.checkpoints import load_weights, pick_weights, read_content

FORMAT = 1  # of the description in a checkpoint


@dataclass(frozen=True)
class Loaded:
    """A network, and what its checkpoint says of it.

    Attributes:
        file: the checkpoint.
        network: on the CPU, in evaluation mode.
        network_g: its `type` and arguments, as in an option file.
        scale: factor of super-resolution, 1 for all other tasks.
        task: SR, CDN, GDN, LLE or DR if it is one of the paper's, else None.
        color: rgb or gray, or None where only the network's `in_chans` may tell.
    """

    file: Path
    network: nn.Module
    network_g: dict[str, Any]
    scale: int
    task: str | None
    color: str | None


def describe(
    network_g: dict[str, Any], scale: int, task: str | None = None, color: str | None = None
) -> dict[str, Any]:
    """What a checkpoint says of its network: plain data, with the defaults of today written out."""
    parameters = inspect.signature(ARCH_REGISTRY.get(network_g['type'])).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    written = {key: value for key, value in defaults.items() if _is_plain(value)}
    network_g = {'type': network_g['type'], **json.loads(json.dumps(written)), **network_g}
    return {'format': FORMAT, 'network_g': network_g, 'scale': scale, 'task': task, 'color': color}


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def load_network(path: str | Path, task: str | None = None) -> nn.Module:
    """The network of a checkpoint, on the CPU, in evaluation mode.

    Args:
        path: a checkpoint of this package; an experiment folder, of which the best network is taken, or else the
            latest; or a raw checkpoint of the paper's networks, recognised by its shapes.
        task: CDN, LLE or DR, for raw checkpoints of scale 1, whose shapes do not tell.

    Raises:
        UserError: there is no checkpoint that can be read, its network is unknown, or a task is needed or wrong.
    """
    return load(path, task).network


def load(path: str | Path, task: str | None = None) -> Loaded:
    """The same, with what is known of it."""
    file = find_checkpoint(path)
    content = read_content(str(file))
    weights = pick_weights(content, 'params_ema' if 'params_ema' in content else 'params', str(file))
    known = _described(content, file) or _of_experiment(file) or _recognise(weights, task, file)
    if task is not None and known['task'] not in (None, task):
        raise UserError(f'--task {task}, but {file} is a network for {known["task"]}; remove the option')
    network = build(known['network_g'], str(file))
    load_weights(network, weights, str(file))
    return Loaded(
        file, network.eval(), known['network_g'], known['scale'], known['task'] or task, known.get('color')
    )  # fmt: skip


def find_checkpoint(path: str | Path) -> Path:
    """A checkpoint file; of an experiment folder the best network, or else the latest.

    Raises:
        UserError: there is none.
    """
    found = Path(path).expanduser()
    if not found.exists():
        raise UserError(f'{path}: no such checkpoint or experiment{suggestion(found.name, _neighbours(found), 0.7)}')
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
    texts = isinstance(task, (str, type(None))) and color in (None, 'rgb', 'gray')
    if not (isinstance(known.get('network_g'), dict) and type(scale) is int and scale > 0 and texts):
        raise UserError(f'{file}: its description of the network is damaged')
    return known


def _of_experiment(file: Path) -> dict[str, Any] | None:
    """The network in the option file that BasicSR has archived in the checkpoint's experiment."""
    models = file.resolve().parent
    for archived in sorted(models.parent.glob('*.yml')) if models.name == 'models' else ():
        try:
            opt = options.load(archived)
        except UserError:  # of another program
            continue
        if isinstance(opt.get('network_g'), dict) and 'type' in opt['network_g']:
            val = opt.get('val')
            task = val.get('protocol') if isinstance(val, dict) else None
            return {'network_g': opt['network_g'], 'scale': opt.get('scale', 1), 'task': task}
    return None


def _recognise(weights: dict[str, Tensor], task: str | None, file: Path) -> dict[str, Any]:
    """A network whose shapes are those of a checkpoint without description."""
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    for name, network in ARCH_REGISTRY:
        try:
            tasks = network.tasks_of(weights)
            found = network.options_from(weights, tasks[0])
            with torch.device('meta'):
                own = {key: tensor.shape for key, tensor in network(**found).state_dict().items()}
        except (AttributeError, LookupError, ValueError, TypeError, ZeroDivisionError):
            continue  # another network's
        if own != shapes:
            continue
        if task is None and len(tasks) > 1:
            raise UserError(
                f'{file}: a {name} for {", ".join(tasks[:-1])} or {tasks[-1]}; its weights do not tell which, but its '
                f'normalisation depends on it: add --task {tasks[0]}'
            )
        if task is not None and task not in tasks:
            raise UserError(f'--task {task}, but {file} is a network for {" or ".join(tasks)}')
        found = network.options_from(weights, task or tasks[0])
        return {'network_g': {'type': name, **found}, 'scale': found.get('upscale', 1), 'task': task or tasks[0]}
    some = ', '.join(list(weights)[:2])
    raise UserError(
        f'{file}: no network of this package has its weights ({some}, ...), and it does not say which has; '
        'for a network of your own add --import FILE and give its experiment folder'
    )


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
