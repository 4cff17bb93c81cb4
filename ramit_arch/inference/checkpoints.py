"""Checkpoints: read without executing anything in them, written atomically, and old ones removed.

BasicSR's files, plain state dicts and safetensors can be read. Those written here hold, beside the weights, the network
that they are for (`network`, see `networks.describe`); in safetensors as JSON in the metadata.
"""

from __future__ import annotations

import inspect
import io
import json
import logging
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ramit_arch.errors import UserError
from ramit_arch.files import atomic_write

logger = logging.getLogger('basicsr')

# An entry of exported safetensors beside the weights: the description as JSON in bytes, for programs that see the
# tensors alone and not the metadata.
DESCRIPTION = 'network_description'


def read_weights(path: str, key: str | None = 'params') -> dict[str, Tensor]:
    """Read a state dict on the CPU.

    Args:
        path: a .safetensors file, or a .pth file that holds the state dict itself, or dictionaries `params` and
            `params_ema` as BasicSR writes them.
        key: which of the two to take; where it is absent the other serves, and the log says so.

    Raises:
        UserError: the file is missing, damaged, of another kind, or holds more than tensors and plain values.
    """
    return pick_weights(read_content(path), key, path)


def read_content(path: str) -> dict[str, Any]:
    """All that a checkpoint file holds, on the CPU, as BasicSR lays it out: `params`, `params_ema`, `network`.

    Raises:
        UserError: as `read_weights`.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f'{path}: {"a folder, not a checkpoint" if file.is_dir() else "no such checkpoint"}')
    if file.suffix == '.pt2':
        raise UserError(f'{path}: a program of torch.export, which runs by itself; give the checkpoint or an ONNX file')
    try:
        content = _load_safetensors(file) if file.suffix == '.safetensors' else load_data(file)
    except pickle.UnpicklingError as error:
        raise UserError(f'{path}: refused; it is damaged or holds more than tensors and plain values') from error
    except Exception as error:  # whatever a damaged file leads to
        raise UserError(f'{path}: not a checkpoint that can be read; it may be damaged ({_brief(error)})') from error
    if isinstance(content, dict) and content and all(isinstance(value, Tensor) for value in content.values()):
        return {'params': content}
    return content if isinstance(content, dict) else {}


def _load_safetensors(file: Path) -> dict[str, Any]:
    with safe_open(file, 'pt') as stored:
        network = (stored.metadata() or {}).get('network')
        described = {} if network is None else {'network': json.loads(network)}
        names = [name for name in stored.keys() if name != DESCRIPTION]  # noqa: SIM118
        return {'params': {name: stored.get_tensor(name) for name in names}, **described}


def pack_description(network: dict[str, Any]) -> Tensor:
    """The description of a network as a uint8 tensor."""
    return torch.frombuffer(bytearray(json.dumps(network).encode()), dtype=torch.uint8)


def unpack_description(packed: Tensor) -> dict[str, Any]:
    """Inverse of `pack_description`."""
    return json.loads(bytes(packed.tolist()))


def _brief(error: Exception) -> str:
    return str(error) if str(error).startswith(('checksum', 'compressed')) else type(error).__name__


def load_data(file: Path) -> Any:
    """`torch.load` of tensors and plain values alone, whose checksums are right.

    Raises:
        pickle.UnpicklingError: it holds more.
        ValueError: a checksum is wrong; torch does not look.
        Exception: whatever damage leads to.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
                raise ValueError('compressed, which no checkpoint is')  # and could grow a thousandfold
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f'checksum of {damaged}')
    return torch.load(file, map_location='cpu', weights_only=True)


def pick_weights(content: dict[str, Any], key: str | None, path: str) -> dict[str, Tensor]:
    """The state dict in what `read_content` returned; see `read_weights`.

    Raises:
        UserError: there is none.
    """
    for candidate in (key, 'params', 'params_ema'):
        weights = content.get(candidate) if candidate is not None else None
        if isinstance(weights, dict) and weights and all(isinstance(value, Tensor) for value in weights.values()):
            if candidate != key:
                logger.info(f'{path} has no {key}; taking {candidate}.')
            return {name.removeprefix('module.'): tensor for name, tensor in weights.items()}
    if 'optimizers' in content:
        raise UserError(f'{path}: a training state, not a network; those are in experiments/NAME/models')
    raise UserError(f'{path}: no weights in it; expected a state dict, or one under params or params_ema')


def load_weights(
    network: nn.Module, weights: dict[str, Tensor], path: str, strict: bool = True, skip: str | None = None
) -> None:
    """Copy weights into a network.

    Raises:
        UserError: as `fitting_weights`; nothing has been loaded then.
    """
    network.load_state_dict(fitting_weights(network, weights, path, strict, skip), strict=False)


def fitting_weights(
    network: nn.Module, weights: dict[str, Tensor], path: str, strict: bool = True, skip: str | None = None
) -> dict[str, Tensor]:
    """The weights that fit a network.

    Args:
        network: their target, which may be on the meta device; it is not changed.
        weights: what `read_weights` returned.
        path: the file's name for messages.
        strict: whether every name and shape must fit; otherwise what fits is taken and the rest logged.
        skip: prefix of names that are left as they are in the network.

    Raises:
        UserError: with `strict`, if not all fit.
    """
    adapt = getattr(network, 'adapt_state_dict', None)
    if inspect.ismethod(adapt):
        weights = adapt(weights)
    own = network.state_dict()
    if skip is not None:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(skip)}
        own = {name: tensor for name, tensor in own.items() if not name.startswith(skip)}
    missing = [name for name in own if name not in weights]
    surplus = [name for name in weights if name not in own]
    differing = [name for name in own if name in weights and weights[name].shape != own[name].shape]
    problems = [
        f'{len(names)} {what} (first {names[0]})'
        for names, what in [(missing, 'missing'), (surplus, 'unknown'), (differing, 'of another shape')]
        if names
    ]
    if problems and strict:
        name = type(network).__name__
        raise UserError(f'{path} does not fit {name}: parameters {", ".join(problems)}; compare it with network_g')
    for problem in problems:
        logger.warning(f'{path}: not loaded: {problem}.')
    return {name: weights[name] for name in own if name in weights and name not in differing}


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values atomically.

    Args:
        content: as `read_content` returns it. In a .safetensors file one set of weights has room: `params_ema` if there
            is one, else `params`.
        path: the file.

    Raises:
        UserError: as `atomic_write`.
    """
    if path.suffix == '.safetensors':
        metadata = {'format': 'pt', 'network': json.dumps(content['network'])} if 'network' in content else None
        weights = content['params_ema'] if 'params_ema' in content else content['params']
        atomic_write(path, save({name: tensor.contiguous() for name, tensor in weights.items()}, metadata))
        return
    buffer = io.BytesIO()
    torch.save(content, buffer)
    atomic_write(path, buffer.getbuffer())


def remove_old(models: Path, states: Path, newest: int, keep: int) -> None:
    """Remove the networks and states of all iterations before `newest` but the last `keep - 1`.

    Those above `newest` stay: a run that went on from an earlier state will write them again.
    """
    files: dict[int, list[Path]] = {}
    for path in [*states.glob('*.state'), *models.glob('net_g_*.pth')]:  # a network without its state does no harm
        digits = path.stem.removeprefix('net_g_')
        if digits.isdecimal() and int(digits) < newest:
            files.setdefault(int(digits), []).append(path)
    for number in sorted(files, reverse=True)[keep - 1 :]:
        for path in files[number]:
            path.unlink(missing_ok=True)
