"""The `basicsr` command: train, test and compare from BasicSR option files.

Parsing needs only the standard library, so that help and version answer at once; a verb's module, and with it torch,
is imported when the verb runs.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version

if multiprocessing.current_process().name != 'MainProcess':
    # A spawned worker of a data loader (macOS) starts by importing this module; it needs BasicSR importable before it
    # unpickles its data set.
    importlib.import_module('ramit_arch')

EXAMPLES = {
    'train': 'basicsr train -opt options/train_RAMiT_SRx2.yml\n'
    '  basicsr train -opt options/train_RAMiT_SRx2.yml --auto_resume\n'
    '  basicsr train -opt options/train_RAMiT_SRx2.yml --force_yml train:ema_decay=0.999 name=with_ema',
    'test': 'basicsr test -opt options/test_RAMiT_SRx2.yml\n'
    '  basicsr test -opt options/test_RAMiT_SRx2.yml --only Set5 Set14\n'
    '  basicsr test -opt options/test_RAMiT_SRx2.yml --force_yml path:pretrain_network_g=my.pth',
    'compare': 'basicsr compare -opt options/test_quickstart_RAMiT_SRx2.yml',
    'table': 'basicsr table results/RAMiT_SRx2 results/RAMiT_CDN\n'
    '  basicsr table results --tables 2 5a --format markdown > scores.md',
    'options': 'basicsr options -opt options/ablations/train_RAMiT_CDN_pure_CHSA.yml',
    'complexity': 'basicsr complexity -opt options/test_RAMiT_SRx2.yml options/test_RAMiT_SRx4.yml\n'
    '  basicsr complexity -opt options/test_RAMiT*_SRx[34].yml --counts --plot tradeoff.png',
}


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog='basicsr', allow_abbrev=False, description='Train and test restoration networks with BasicSR and RAMiT.'
    )
    parser.add_argument('--version', action='version', version=_versions())
    verbs = parser.add_subparsers(dest='verb', metavar='VERB', required=True)

    train = _add_verb(verbs, 'train', 'train a network; writes experiments/ and tb_logger/ in the current folder')
    test = _add_verb(verbs, 'test', 'restore and score the test sets; writes results/ in the current folder')
    compare = _add_verb(verbs, 'compare', 'after a test: a table beside bicubic interpolation, and a sheet of crops')
    table = _add_verb(verbs, 'table', "our scores beside the paper's, table by table")
    options = _add_verb(verbs, 'options', 'print an option file in full: its bases merged, --force_yml applied')
    complexity = _add_verb(verbs, 'complexity', 'parameters, Mult-Adds, time and memory for a 1280x720 output')
    for verb in (train, test, compare, options):
        verb.add_argument('-opt', required=True, metavar='FILE', help='option file (YAML)')
    for verb in (train, test):
        verb.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='job launcher')
        verb.add_argument('--auto_resume', action='store_true', help='go on from the newest state of this experiment')
        verb.add_argument('--debug', action='store_true', help='validate and save every 8 iterations, log every one')
        verb.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by the launcher')
    for verb in (test, compare):
        verb.add_argument(
            '--only',
            nargs='+',
            action='extend',
            metavar='NAME',
            help='run these data sets of the file alone; earlier results of its name are archived as ever',
        )
    table.add_argument('results', nargs='+', metavar='PATH', help='folders of results, or score files (JSON)')
    table.add_argument(
        '--tables', nargs='+', metavar='NUMBER', help="only these of the paper's tables, such as 2 5a Ca"
    )
    table.add_argument('--format', choices=['text', 'markdown', 'csv'], default='text')
    complexity.add_argument('-opt', required=True, nargs='+', metavar='FILE', help='option files, one row each')
    complexity.add_argument('--counts', action='store_true', help='count only; do not run the networks')
    complexity.add_argument(
        '--repeats', type=_positive, default=3, metavar='N', help='timed runs a network (default: 3)'
    )
    complexity.add_argument('--plot', metavar='FILE', help="the paper's trade-off figure (Fig. F) as PNG, PDF or SVG")
    for verb in (train, test, compare, options, complexity):
        verb.add_argument(
            '--force_yml',
            nargs='+',
            action='extend',
            default=[],
            metavar='KEY:KEY=VALUE',
            help='change options; values are YAML',
        )
    for verb in verbs.choices.values():
        verb.add_argument('--traceback', action='store_true', help='show the whole traceback of an error')
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text} is not an integer from 1 up')
    return int(text)


def _add_verb(verbs: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + '.',
        epilog=f'example:\n  {EXAMPLES[name]}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _versions() -> str:
    found = []
    for distribution in ('ramit-arch', 'basicsr', 'torch'):
        try:
            found.append(f'{distribution} {version(distribution)}')
        except PackageNotFoundError:
            found.append(f'{distribution} not installed')
    return ', '.join(found)


def main() -> int:
    """Run one verb; 0 only on success, 130 after Ctrl-C, 1 after an error, 2 after a wrong command line."""
    args = build_parser().parse_args()
    try:
        run(args)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if args.traceback:
            traceback.print_exc()
        print(f'error: {_describe(error)}', file=sys.stderr)
        return 1
    return 0


def run(args: argparse.Namespace) -> None:
    """Run one verb; its errors are raised."""
    importlib.import_module(f'ramit_arch.cli.{args.verb}').run(args)


def _describe(error: Exception) -> str:
    """One or two lines. An error that is not ours is named with the place that raised it."""
    if 'Original Traceback' in str(error):  # from a worker of the data loader; the last line is the worker's error
        kind, _, text = str(error).strip().rpartition('\n')[2].partition(': ')
        return text if kind.endswith('UserError') else f'{kind}: {text}; --traceback shows more'
    # By its name: where an import failed, the package and its class are not there.
    if type(error).__name__ == 'UserError':
        return str(error)
    if isinstance(error, ImportError) and 'libGL' in str(error):
        return f'{error}\nOpenCV needs it: install the system package libgl1, or opencv-python-headless'
    if isinstance(error, OSError) and error.filename is not None:
        return f'{error.filename}: {error.strerror}'
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = f'no key {error}' if isinstance(error, KeyError) else str(error).strip().partition('\n')[0]
    return f'{type(error).__name__}: {text}\n({frame.filename}:{frame.lineno} in {frame.name}; --traceback shows more)'


if __name__ == '__main__':
    sys.exit(main())
