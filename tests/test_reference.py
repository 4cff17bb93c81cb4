"""The references of options and commands and the JSON Schema: current, complete, and true of the option files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import fastjsonschema
import pytest
from helpers import ROOT, tiny_options
from test_checks import FOREIGN, put

import basicsr_command
from ramit_arch import options
from ramit_arch.cli import reference
from ramit_arch.options import rows

FILES = sorted((ROOT / 'options').rglob('*.yml'))


def test_the_files_in_docs_are_current() -> None:
    advice = 'run `make reference`'
    assert (ROOT / 'docs' / reference.MARKDOWN).read_text() == reference.markdown(), advice
    assert (ROOT / 'docs' / reference.COMMANDS).read_text() == reference.command_line(), advice
    assert json.loads((ROOT / 'docs' / reference.JSON).read_text()) == reference.json_schema(), advice


def test_the_reference_says_what_every_key_means() -> None:
    rows = [line for line in reference.markdown().splitlines() if line.startswith('| `')]
    assert len(rows) > 90
    assert all(line.endswith('|') for line in reference.markdown().splitlines() if line.startswith('|'))
    assert all(len(row.split(' | ')) == 4 and row.split(' | ')[-1] not in ('', ' |') for row in rows)
    for key in ('progressive[].batch_size', 'metrics.NAME.crop_border', 'sigma', 'keep_best', 'io_backend.type'):
        assert any(row.startswith(f'| `{key}` |') for row in rows)


def test_the_reference_of_commands_has_every_argument_of_every_verb() -> None:
    verbs = dict(re.findall(r'^## (\w+)\n(.+?)(?=^## |\Z)', reference.command_line(), re.MULTILINE | re.DOTALL))
    assert verbs.keys() == basicsr_command.EXAMPLES.keys()
    assert '| `--sigma N ...` | denoise: level, or range (default: 0 50) |' in verbs['init']
    assert '| `-m PATH`, `--model PATH` |' in verbs['restore']
    assert '| `--launcher {none,pytorch,slurm}` | job launcher |' in verbs['train']
    assert '| `--ensemble` |' in verbs['restore']
    for verb, text in verbs.items():
        assert f'    basicsr {verb}' in text
        assert not [line for line in text.splitlines() if line.endswith('|  |')], verb


@pytest.fixture(scope='module')
def validate() -> Callable[[dict], dict]:
    return fastjsonschema.compile(json.loads((ROOT / 'docs' / reference.JSON).read_text()), use_default=False)


@pytest.mark.parametrize('file', FILES, ids=[file.stem for file in FILES])
def test_editors_take_our_option_files(file: Path, validate: Callable[[dict], dict]) -> None:
    validate(options.read(file))
    content = options.read(file)
    found = rows.rows(content) if rows.has_rows(content) else {}
    names = {row.variant: f'{file}::{name}' for name, row in found.items()}  # one of each section
    for name in names.values() or [file]:
        validate(options.load(name))


def test_editors_take_files_of_other_networks_and_keys_without_a_value(validate: Callable[[dict], dict]) -> None:
    validate(FOREIGN)
    for place in [('train', 'ema_decay'), ('network_g', 'window_size'), ('datasets', 'train', 'io_backend'), ('val',)]:
        validate(put(tiny_options(Path('gt'), Path('lq')), place, None))


@pytest.mark.parametrize(('place', 'value'), [
    (('train', 'ema_dcay'), 0.9), (('train', 'ema_decay'), 1), (('train', 'total_iter'), 0), (('nam',), 'x'),
    (('name',), 'a/b'), (('network_g', 'dims'), 64), (('network_g', 'dim'), 60), (('network_g', 'depths'), [1]),
    (('datasets', 'train', 'color'), 'grey'), (('datasets', 'val', 'sigma'), 25), (('val', 'protocol'), 'RS'),
    (('val', 'metrics', 'psnr', 'crop_border'), -1), (('train', 'progressive'), [{'itr': 1}]),
    (('logger', 'keep_checkpoints'), 'all'), (('datasets', 'train', 'io_backend', 'type'), 'lmbd'),
])  # fmt: skip
def test_editors_mark_what_the_check_refuses(place: tuple, value: object, validate: Callable[[dict], dict]) -> None:
    with pytest.raises(fastjsonschema.JsonSchemaException):
        validate(put(tiny_options(Path('gt'), Path('lq')), place, value))
