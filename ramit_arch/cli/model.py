"""`-m PATH` and experiment folders in place of option files for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ramit_arch.errors import UserError
from ramit_arch.inference.networks import Loaded, find_checkpoint, load, option_file_of


def choose_option_file(opt: str | None, model: str | None) -> tuple[str, str | None]:
    """The option file, as given by `-opt` or of the experiment that it or else `-m` names, and the checkpoint.

    Raises:
        UserError: there is none.
    """
    given = opt or model
    if given is None:
        raise UserError('give an option file by -opt FILE, or an experiment folder by -m')
    path = Path(given).expanduser()
    if opt is not None and not path.is_dir():
        return opt, model
    checkpoint = find_checkpoint(path)  # it says what is near a wrong path
    file = option_file_of(path)
    if file is None:
        text = 'no option file of an experiment beside it, which would say what to test; add -opt FILE'
        raise UserError(f'{"-opt" if opt else "-m"} {given}: {text}')
    return str(file), model or str(checkpoint)


def options_of_test(opt: dict[str, Any], file: str) -> dict[str, Any]:
    """The options of a training as those of a test: its validation sets, with its own network.

    Raises:
        UserError: it has no validation sets.
    """
    val = opt.get('val')
    sections = [section for phase, section in opt['datasets'].items() if str(phase).startswith('val')]
    if not sections or not isinstance(val, dict):
        raise UserError(f'{file}: a training without validation sets; there is nothing to test')
    kept = {key: value for key, value in opt.items() if key not in ('train', 'logger', 'datasets', 'path', 'val')}
    return {
        **kept,
        'datasets': {f'test_{i}': section for i, section in enumerate(sections, 1)},
        'path': {},
        'val': {**{key: value for key, value in val.items() if key not in ('val_freq', 'strips')}, 'save_img': True},
    }


def set_model(opt: dict[str, Any], model: str, task: str | None) -> None:
    """Let a test restore with the network of a checkpoint, its moving average if it has one; in place.

    A network of another type than the option file's gets results under the name of its own experiment.

    Raises:
        UserError: the checkpoint cannot be used, or is of another scale than the test sets.
    """
    loaded = load(model, task)
    if loaded.file.suffix == '.onnx':
        raise UserError(f'{loaded.file}: ONNX files restore pictures; to test, use the original checkpoint')
    own = opt.get('network_g')
    set_network(opt, loaded)
    if isinstance(own, dict) and own.get('type') != loaded.network_g.get('type'):
        opt['name'] = _name_of(loaded.file)


def set_network(opt: dict[str, Any], loaded: Loaded) -> None:
    """The same with a network that is loaded, under the option file's name.

    Raises:
        UserError: it is of another scale than the test sets.
    """
    check_scale(opt, loaded)
    if loaded.network_g:
        opt['network_g'] = loaded.network_g
    path = {key: value for key, value in (opt.get('path') or {}).items() if key != 'strict_load_g'}
    opt['path'] = {**path, 'pretrain_network_g': str(loaded.file), 'param_key_g': loaded.key}


def check_scale(opt: dict[str, Any], loaded: Loaded) -> None:
    """Raises UserError if a network is of another scale than an option file."""
    scale = opt.get('scale', 1)
    if loaded.scale != scale:
        text = f'a network for scale {loaded.scale}, but the option file has scale {scale}'
        raise UserError(f'{loaded.title}: {text}; give a network and an option file of one scale')


def _name_of(file: Path) -> str:
    """The name of a checkpoint's experiment, or else of the file."""
    folder = file.resolve().parent
    return folder.parent.name if folder.name == 'models' else file.stem
