"""Training states: found, read without executing anything in them, and resumed from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from basicsr.utils import check_resume

from ramit_arch.errors import UserError
from ramit_arch.inference.checkpoints import load_data, read_weights


def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """BasicSR's contract on any device: with `auto_resume` the newest state that can be read with its networks; without
    it, or where there is no state yet, `path.resume_state`; else None.

    Args:
        opt: the whole option dictionary; `path.resume_state`, the networks' `path.pretrain_*`, `manual_seed` and
            `resumed` (the state's `iter` and `epoch`) are set in it.

    Raises:
        UserError: a state that was asked for cannot be read, no state can be read, or the run is past its end.
    """
    if opt.get('dist'):  # without manual_seed in the file every process has chosen its own
        seeds = [opt['manual_seed']]
        torch.distributed.broadcast_object_list(seeds, src=0)
        opt['manual_seed'] = seeds[0]
    found = _find_state(opt)
    if found is None:
        if opt['auto_resume']:
            print(f'No training state of {opt["name"]} to resume from; starting at iteration 0.', flush=True)
        return None
    path, state = found
    if state['iter'] > opt['train']['total_iter']:
        raise UserError(f'{path}: already at iteration {state["iter"]}; train.total_iter must be higher')
    opt['path']['resume_state'] = str(path)
    opt['resumed'] = {'iter': state['iter'], 'epoch': state['epoch']}
    seed = state.get('manual_seed', opt.get('manual_seed'))
    if seed != opt.get('manual_seed'):
        print(f'manual_seed: {seed}, as the run began', flush=True)  # BasicSR's logger does not exist yet
    opt['manual_seed'] = seed
    check_resume(opt, state['iter'])
    if not Path(opt['path']['models']).is_dir():
        raise UserError(f'{path}: a state is resumed in its own experiment, but {opt["path"]["models"]} is missing')
    return state


def _find_state(opt: dict[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """The newest state of the experiment that can be read, or the one that was asked for."""
    states = Path('experiments', opt['name'], 'training_states').glob('*.state') if opt['auto_resume'] else ()
    found = sorted((p for p in states if p.stem.isdigit()), key=lambda p: int(p.stem), reverse=True)
    given = opt['path'].get('resume_state')
    error: UserError | None = None
    for path in found or ([Path(given).expanduser()] if given else []):
        try:
            state = read_state(path)
            if path in found:
                _check_networks(path, state['iter'], opt)
        except UserError as unreadable:
            error = unreadable
            print(f'Skipping {error}', flush=True)
        else:
            return path, state
    if error:
        raise UserError(f'no state to resume from, last {error}') from error
    return None


def _check_networks(path: Path, iteration: int, opt: dict[str, Any]) -> None:
    """Whether the networks of a state can be read, too."""
    ignored = opt['path'].get('ignore_resume_networks') or []
    for key in opt:
        if key.startswith('network_') and key not in ignored:
            label = key.removeprefix('network_')
            try:
                read_weights(str(path.parents[1] / 'models' / f'net_{label}_{iteration}.pth'))
            except UserError as error:
                raise UserError(f'{path}: its {key} cannot be read: {error}') from error


def read_state(path: Path) -> dict[str, Any]:
    """Read a training state without executing anything in it.

    Raises:
        UserError: it is missing, damaged, or no training state.
    """
    if not path.is_file():
        raise UserError(f'{path}: no such training state')
    try:
        state = load_data(path)
    except Exception as error:  # whatever a damaged file leads to
        raise UserError(f'{path}: damaged or no training state ({type(error).__name__}); remove it') from error
    if not _is_state(state):
        raise UserError(f'{path}: not a training state; those are in experiments/NAME/training_states')
    return state


def _is_state(state: Any) -> bool:
    """Whether it has the keys of a state, BasicSR's or ours, with what belongs there."""
    if not isinstance(state, dict) or not all(_is_count(state.get(key)) for key in ('iter', 'epoch')):
        return False
    optimizers, best, validated = state.get('optimizers'), state.get('best', {}), state.get('validated', [])
    if not isinstance(optimizers, list) or not all(isinstance(optimizer, dict) for optimizer in optimizers):
        return False
    if not isinstance(validated, list) or not isinstance(best, dict) or not _is_count(state.get('manual_seed', 0)):
        return False
    records = [
        record for scores in best.values() for record in (scores.values() if isinstance(scores, dict) else [None])
    ]
    return all(isinstance(record, dict) and {'better', 'val', 'iter'} <= record.keys() for record in records)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
