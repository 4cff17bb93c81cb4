"""Users' own networks, datasets, models and losses: `--import` registers them before an option file is checked."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from ramit_arch.errors import UserError

PATTERNS = ('*_arch.py', '*_dataset.py', '*_loss.py', '*_model.py')
# Processes that are started afresh (spawned workers of a data loader) read from it what to import.
VARIABLE = 'BASICSR_IMPORT'


def load(items: Iterable[str]) -> None:
    """Import files, folders and modules; what is in them registers itself.

    Args:
        items: a Python file; a folder, of which all files of `PATTERNS` are imported, as a package if it is one; or the
            name of a module.

    Raises:
        UserError: there is no such thing, its name is taken by another module, or it raises an error.
    """
    items = [str(Path(item).resolve()) if Path(item).exists() else item for item in items]
    for item in items:
        root, names = _modules(item)
        sys.path.insert(0, str(root))
        for name in names:
            _import(item, root, name)
    os.environ[VARIABLE] = os.pathsep.join(items)


def load_inherited() -> None:
    """In a process that is started afresh: import what its parent has imported."""
    if os.environ.get(VARIABLE):
        load(os.environ[VARIABLE].split(os.pathsep))


def _modules(item: str) -> tuple[Path, list[str]]:
    """The folder to import from, and the modules to import."""
    path = Path(item)
    if path.is_file() and path.suffix == '.py':
        return path.parent, [path.stem]
    if path.is_dir():
        stems = sorted(file.stem for pattern in PATTERNS for file in path.glob(pattern))
        if not stems:
            raise UserError(f'--import {item}: the folder has no {", ".join(PATTERNS)}')
        is_package = (path / '__init__.py').is_file()
        return (path.parent, [f'{path.name}.{stem}' for stem in stems]) if is_package else (path, stems)
    if not all(part.isidentifier() for part in item.split('.')):
        raise UserError(f'--import {item}: no such Python file, folder or module')
    return Path.cwd(), [item]


def _import(item: str, root: Path, name: str) -> None:
    former = sys.modules.get(name)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name in (name, name.partition('.')[0]):
            raise UserError(f'--import {item}: no such Python file, folder or module') from error
        raise UserError(f'--import {item}: {error} ({_place(error, root)})') from error
    except UserError:
        raise
    except Exception as error:  # whatever a user's module raises
        raise UserError(f'--import {item}: {type(error).__name__}: {error} ({_place(error, root)})') from error
    file = Path(module.__file__ or '')
    if former is module and Path(item).exists() and not file.is_relative_to(root):
        raise UserError(f'--import {item}: a module {name} is loaded already, from {file}; rename yours')


def _place(error: Exception, root: Path) -> str:
    """Deepest file and line of the user's code; a syntax error names its own."""
    if isinstance(error, SyntaxError):
        return f'{error.filename}:{error.lineno}'
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(root)] or frames
    return f'{own[-1].filename}:{own[-1].lineno}'
