"""The option files that come with the package. In a clone they are in `options/`, in a wheel beside this module."""

from __future__ import annotations

from pathlib import Path

from ramit_arch.errors import UserError, suggestion

CLONE = Path(__file__).parents[2] / 'options'
FOLDER = CLONE if CLONE.with_name('setup.py').is_file() else Path(__file__).with_name('files')


def files() -> dict[str, Path]:
    """Packaged option files by name, such as train_RAMiT_SRx2."""
    return {file.stem: file for file in sorted(FOLDER.rglob('*.yml'))}


def find(name: str) -> str:
    """Path of an option file: `name` itself, or else the packaged file of this name; ::ROW at its end stays.

    Raises:
        UserError: there is neither.
    """
    name, separator, row = name.partition('::')
    if Path(name).exists():
        return name + separator + row
    packaged = files()
    bare = Path(name).name.removesuffix('.yml')
    if bare in packaged and Path(name).parent == Path():
        return str(packaged[bare]) + separator + row
    near = f' (did you mean {bare}, the packaged one?)' if bare in packaged else suggestion(bare, packaged, 0.8)
    raise UserError(f'{name}: no such file{near}; basicsr options lists the option files that come with the package')


def describe(file: Path) -> str:
    """First sentence of the comment at the head of an option file."""
    return head(file).partition('\n')[0].removeprefix('# ')


def head(file: Path) -> str:
    """The comment at the head of an option file, its lines as they are."""
    lines = file.read_text(encoding='utf-8').splitlines(keepends=True)
    count = next((i for i, line in enumerate(lines) if not line.startswith('#')), len(lines))
    return ''.join(lines[:count])
