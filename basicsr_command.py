"""The `basicsr` command: restore pictures; prepare data, check, train, test and compare from BasicSR option files.

Parsing needs only the standard library, so that help and version answer at once; a verb's module, and with it torch,
is imported when the verb runs.
"""

from __future__ import annotations

import argparse
import ctypes
import difflib
import importlib
import math
import multiprocessing
import os
import re
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

if multiprocessing.current_process().name != 'MainProcess':
    if 'BASICSR_DEFERS_SIGNALS' in os.environ:  # the signals are for the training process; importing takes seconds
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A spawned worker of a data loader (macOS) imports this module first; it needs BasicSR, and the user's classes
    # registered, before it unpickles its dataset.
    importlib.import_module('ramit_arch')
    importlib.import_module('ramit_arch.cli.user_code').load_inherited()

EXAMPLES = {
    'init': 'basicsr init sr --data photographs --hours 2\n'
    '  basicsr init denoise --data photographs --sigma 25 --name at25\n'
    '  basicsr init sr --data photographs --network MyNet --import my_net.py --store datasets/mine --name other\n'
    '  basicsr init pairs --data clean --lq noisy --name camera',
    'train': 'basicsr train -opt options/train_RAMiT_SRx2.yml\n'
    '  basicsr train -opt options/train_RAMiT_SRx2.yml --auto_resume\n'
    '  basicsr train -opt options/train_RAMiT_SRx2.yml --force_yml train:ema_decay=0.999 name=with_ema\n'
    '  basicsr train -opt mine.yml --import my_network.py',
    'test': 'basicsr test -opt options/test_RAMiT_SRx2.yml\n'
    '  basicsr test -opt options/test_RAMiT_SRx2.yml --only Set5 Set14\n'
    '  basicsr test -opt options/test_RAMiT_SRx2.yml -m my.pth\n'
    '  basicsr test -m experiments/mine',
    'compare': 'basicsr compare -opt options/test_quickstart_RAMiT_SRx2.yml\n'
    '  basicsr compare -opt options/test_RAMiT_SRx2.yml -m RAMiT-tiny_SRx2 RAMiT-slimSR_X2.pth --order psnr\n'
    '  basicsr compare -m experiments/a experiments/b --pictures swinir --figure crops.pdf --difference\n'
    '  basicsr compare -m experiments/a --images baby bird --crops 60,40,64,48 auto --figure crops.png',
    'table': 'basicsr table results/RAMiT_SRx2 results/RAMiT_CDN\n'
    '  basicsr table results --tables 2 5a --format markdown > scores.md',
    'runs': 'basicsr runs experiments/a experiments/b\n'
    '  basicsr runs experiments/* --plot curves.png --sheet sheet.png',
    'check': 'basicsr check -opt options/train_RAMiT_SRx2.yml\n'
    '  basicsr check -opt options/train_RAMiT_SRx2.yml --force_yml train:ema_decay=0.999',
    'options': 'basicsr options\n'
    '  basicsr options train_RAMiT_SRx2 > mine.yml\n'
    '  basicsr options mine.yml --force_yml train:ema_decay=0.999',
    'restore': 'basicsr restore photo.jpg\n'
    '  basicsr restore scan.png --task CDN\n'
    '  basicsr restore photo.jpg -m RAMiT-slimSR_X2.pth\n'
    '  basicsr restore photos -o enlarged -m experiments/mine\n'
    '  basicsr restore old.png -m RAMiT-1_CDN.pth --task CDN\n'
    '  basicsr restore clip.mp4 -o out.mp4 --codec libx265 --crf 20',
    'web': 'basicsr web\n'
    '  basicsr web -m experiments/mine RAMiT-slimSR_X2.pth --port 8000\n'
    '  basicsr web --host 0.0.0.0 --max_megapixels 4',
    'models': 'basicsr models',
    'export': 'basicsr export -m experiments/mine --to mine.safetensors\n'
    '  basicsr export -m experiments/mine --to mine.onnx --fp16\n'
    '  basicsr export -m RAMiT-1_CDN.pth --task CDN --to cdn.pt2',
    'prepare': 'basicsr prepare\n'
    '  basicsr prepare DIV2K --from ~/downloads/DIV2K_train_HR --to datasets\n'
    '  basicsr prepare Set5 Set14 BSD100 --from ~/downloads/benchmark --to datasets --dry_run\n'
    '  basicsr prepare own --from photographs --to datasets/mine --scale 2 --format lmdb raw',
    'verify': 'basicsr verify datasets\n'
    '  basicsr verify datasets --only DIV2K Set5\n'
    '  basicsr verify --gt datasets/mine/HR.lmdb --lq datasets/mine/LRx2.lmdb --scale 2',
    'statistics': 'basicsr statistics datasets/DIV2K/LRx2.lmdb\n'
    '  basicsr statistics datasets/DIV2K/HR.lmdb datasets/Flickr2K/HR.lmdb --color gray',
    'complexity': 'basicsr complexity -opt options/test_RAMiT_SRx2.yml options/test_RAMiT_SRx4.yml\n'
    '  basicsr complexity -opt options/test_RAMiT*_SRx[34].yml --counts --plot tradeoff.png',
    'attribute': 'basicsr attribute -m RAMiT-tiny_SRx2 --image photo.png --box 60,40,8 -o lam.png\n'
    '  basicsr attribute -m experiments/a experiments/b --names A B --image photo.png --box 60,40,8 -o lam.pdf',
    'features': 'basicsr features -m RAMiT-tiny_SRx2 --image photo.png -o maps.png\n'
    '  basicsr features -m experiments/mine --image photo.png --block stage1.blocks.block0 --token 60,40 -o maps.pdf',
}


MODEL = 'checkpoint, experiment folder (its best network, or else the latest), or packaged network'
TASK = 'for raw checkpoints of scale 1, which do not say what they restore'
OPTION_FILE = 'option file (YAML), or the name of one that comes with the package'
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
CPU_LIMIT = Path('/sys/fs/cgroup/cpu.max')
TASKS = ['SR', 'CDN', 'GDN', 'LLE', 'DR', 'DB', 'DH', 'RDN']
DATA_VERBS = {
    'prepare': 'prepare',
    'verify': 'verify',
    'statistics': 'image_statistics',
}  # and their modules in ramit_arch.preparation
BY_FILE = ('train', 'test', 'compare', 'check', 'options')
TAKES_CODE = (*BY_FILE, 'complexity', 'runs', 'export', 'init', 'restore', 'web', 'attribute', 'features')  # of users


class Parser(argparse.ArgumentParser):
    """Answers a misspelt verb or choice with the nearest one."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '?(.+?)'? \(choose from (.+)\)", message)
        near = difflib.get_close_matches(wrong[1], re.findall(r"[^\s',]+", wrong[2]), 1) if wrong else []
        super().error(f'{message}; did you mean {near[0]}?' if near else message)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(
        prog='basicsr', allow_abbrev=False, description='Train and test restoration networks with BasicSR and RAMiT.'
    )
    parser.add_argument('--version', action='version', version=_versions())
    verbs = parser.add_subparsers(dest='verb', metavar='VERB', required=True)

    _add_init(verbs)
    _add_file_verbs(verbs)
    _add_result_verbs(verbs)
    _add_complexity(verbs)
    _add_attribute(verbs)
    _add_features(verbs)
    _add_restore(verbs)
    _add_web(verbs)
    _add_verb(verbs, 'models', 'list the packaged networks with their scores')
    _add_export(verbs)
    _add_data_verbs(verbs)
    for name in TAKES_CODE:
        verbs.choices[name].add_argument(
            '--import',
            dest='imports',
            nargs='+',
            action='extend',
            default=[],
            metavar='PATH',
            help='register your own networks, datasets, losses or models: Python files, folders, or modules',
        )
    for name in (*BY_FILE, 'complexity'):
        verbs.choices[name].add_argument(
            '--force_yml',
            nargs='+',
            action='extend',
            default=[],
            metavar='KEY:KEY=VALUE',
            help='change options; values are YAML',
        )
    for verb in verbs.choices.values():
        verb.add_argument('--traceback', action='store_true', help='show the traceback of an error')
    return parser


def _add_file_verbs(verbs: argparse._SubParsersAction) -> None:
    """What works on an option file."""
    train = _add_verb(verbs, 'train', 'train a network; writes experiments/ and tb_logger/ in the current folder')
    test = _add_verb(verbs, 'test', 'restore and score the test sets; writes results/ in the current folder')
    compare = _add_verb(
        verbs, 'compare', 'compare networks and baselines on the test sets: scores, crops, figures, tables for a paper'
    )
    check = _add_verb(verbs, 'check', 'report all errors in an option file and its data, and a summary of the run')
    options = _add_verb(
        verbs, 'options', 'print an option file with its bases merged; without FILE, list the packaged ones'
    )
    for verb in (train, check, options):
        _add_option_file(verb, OPTION_FILE, required=verb is not options)
    for verb in (test, compare):
        text = 'with a training file or experiment folder, its validation sets are tested with its best network'
        _add_option_file(verb, f'{OPTION_FILE}; {text}', required=False)
        verb.add_argument('--task', choices=TASKS, help=TASK)
        verb.add_argument(
            '-o', '--output', default='results', metavar='DIR', help='folder above NAME/ (default: results)'
        )
        archived = '; earlier results of the same name are archived' if verb is test else ''
        verb.add_argument(
            '--only', nargs='+', action='extend', metavar='NAME', help=f'run only these datasets{archived}'
        )
    test.add_argument('-m', '--model', metavar='PATH', help=MODEL)
    _add_methods(compare)
    for verb in (train, test):
        verb.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='job launcher')
        verb.add_argument('--auto_resume', action='store_true', help='resume from the newest training state')
        verb.add_argument('--debug', action='store_true', help='validate and save every 8 iterations, log every one')
        verb.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by the launcher')
    check.add_argument('--decode', action='store_true', help='also decode every image once')
    check.set_defaults(launcher='none', auto_resume=False, debug=False)


def _add_methods(compare: argparse.ArgumentParser) -> None:
    """Who is compared, and what is drawn."""
    compare.add_argument(
        '-m', '--model', nargs='+', action='extend', metavar='PATH',
        help=f'{MODEL}; each restores the test sets now (default: the results that `basicsr test` has kept)',
    )  # fmt: skip
    compare.add_argument(
        '--pictures', nargs='+', action='extend', default=[], metavar='DIR',
        help='outputs of other programs: DIR/IMAGE.png or IMAGE_*.png, or the same in DIR/SET',
    )  # fmt: skip
    compare.add_argument(
        '--names', nargs='+', action='extend', metavar='NAME', help='titles, one for each -m and then --pictures'
    )
    compare.add_argument(
        '--order', default='given', metavar='METRIC',
        help='put the best beside the ground truth, by the mean of a metric such as psnr (default: as given)',
    )  # fmt: skip
    compare.add_argument(
        '--images', nargs='+', action='extend', metavar='NAME',
        help='draw these images of the sets (default: the first, and in the figure the hardest for the baseline)',
    )  # fmt: skip
    compare.add_argument(
        '--crops', nargs='+', type=_crop, default=[None], metavar='BOX',
        help='X,Y,W,H in pixels of the ground truth, or auto; one for all, or one for each of --images (default: auto)',
    )  # fmt: skip
    compare.add_argument('--figure', metavar='FILE', help='draw the crops for a paper: .png, .pdf or .svg')
    compare.add_argument('--difference', action='store_true', help='with --figure: maps of |output - ground truth|')
    compare.add_argument('--device', metavar='NAME', help='cpu, cuda, cuda:1 (default: a GPU if there is one)')


def _add_result_verbs(verbs: argparse._SubParsersAction) -> None:
    table = _add_verb(verbs, 'table', "print your scores beside the paper's, table by table")
    table.add_argument('results', nargs='+', metavar='PATH', help='folders of results, or score files (JSON)')
    table.add_argument(
        '--tables', nargs='+', metavar='NUMBER', help="only these of the paper's tables, such as 2 5a Ca"
    )
    runs = _add_verb(verbs, 'runs', 'compare training runs: options that differ, size, speed, scores; curves and crops')
    runs.add_argument('experiments', nargs='+', metavar='FOLDER', help='experiments/NAME, one column each')
    runs.add_argument('--plot', metavar='FILE', help='loss and scores over iterations and hours, as PNG, PDF or SVG')
    runs.add_argument('--sheet', metavar='FILE', help='the same crops by every network, as PNG')
    for verb in (table, runs):
        verb.add_argument('--format', choices=['text', 'markdown', 'csv'], default='text', help='default: text')


def _add_complexity(verbs: argparse._SubParsersAction) -> None:
    complexity = _add_verb(verbs, 'complexity', 'measure parameters, Mult-Adds, time and memory for a 1280x720 output')
    complexity.add_argument('-opt', nargs='+', default=[], metavar='FILE', help='option files, one row each')
    complexity.add_argument('-m', '--model', nargs='+', default=[], metavar='PATH', help='checkpoints, one row each')
    complexity.add_argument('--task', choices=TASKS, help=TASK)
    complexity.add_argument('--counts', action='store_true', help='count only, without running the networks')
    complexity.add_argument(
        '--repeats', type=_positive, default=3, metavar='N', help='timed runs per network (default: 3)'
    )
    complexity.add_argument('--plot', metavar='FILE', help="the paper's trade-off figure (Fig. F) as PNG, PDF or SVG")


def _add_attribute(verbs: argparse._SubParsersAction) -> None:
    attribute = _add_verb(
        verbs, 'attribute', 'draw which pixels of an image a detail of its restoration depends on (LAM)'
    )
    attribute.add_argument(
        '-m', '--model', nargs='+', action='extend', required=True, metavar='PATH', help=f'{MODEL}; one column each'
    )
    attribute.add_argument('--task', choices=TASKS, help=TASK)
    attribute.add_argument('--names', nargs='+', action='extend', metavar='NAME', help='titles, one for each -m')
    attribute.add_argument('--image', required=True, metavar='FILE', help='the input picture')
    attribute.add_argument(
        '--box', type=_box, required=True, metavar='X,Y,SIZE',
        help='left, top and side of the detail, in pixels of the input picture; the output is examined there',
    )  # fmt: skip
    attribute.add_argument('-o', '--output', required=True, metavar='FILE', help='the figure: .png, .pdf or .svg')
    attribute.add_argument('--steps', type=_positive, default=50, metavar='N', help='of the path (default: 50)')
    attribute.add_argument(
        '--sigma', type=_blur, default=1.2, metavar='N',
        help='standard deviation of the Gaussian blur where the path starts, in pixels; it ends at 0 (default: 1.2)',
    )  # fmt: skip
    attribute.add_argument('--device', metavar='NAME', help='cpu, cuda, cuda:1 (default: a GPU if there is one)')


def _add_features(verbs: argparse._SubParsersAction) -> None:
    features = _add_verb(verbs, 'features', 'draw the feature maps of a network for an image, and its attention')
    features.add_argument('-m', '--model', required=True, metavar='PATH', help=MODEL)
    features.add_argument('--task', choices=TASKS, help=TASK)
    features.add_argument('--image', required=True, metavar='FILE', help='the input picture')
    features.add_argument('-o', '--output', required=True, metavar='FILE', help='the figure: .png, .pdf or .svg')
    features.add_argument(
        '--pool', choices=['max', 'mean'], default='max', help='over the channels of a map (default: max)'
    )
    features.add_argument('--block', metavar='NAME', help='also the attention of this block: stage1.blocks.block0')
    features.add_argument(
        '--token',
        type=_token,
        metavar='X,Y',
        help='with --block: whose attention, in pixels of the input (default: centre)',
    )
    features.add_argument(
        '--head', type=_count, metavar='N', help='with --block: this head alone, from 0 up, spatial heads first'
    )
    features.add_argument('--device', metavar='NAME', help='cpu, cuda, cuda:1 (default: a GPU if there is one)')


def _integers(text: str, form: str) -> list[int]:
    parts = text.split(',')
    if len(parts) != form.count(',') + 1 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f'{text} is not {form}: integers from 0 up, without spaces')
    return [int(part) for part in parts]


def _box(text: str) -> list[int]:
    box = _integers(text, 'X,Y,SIZE')
    if box[2] < 2:
        raise argparse.ArgumentTypeError(f'{text}: SIZE is {box[2]}; it must be 2 or more')
    return box


def _crop(text: str) -> list[int] | None:
    if text == 'auto':
        return None
    box = _integers(text, 'X,Y,W,H')
    if min(box[2:]) < 2:
        raise argparse.ArgumentTypeError(f'{text}: W and H must be 2 or more')
    return box


def _token(text: str) -> list[int]:
    return _integers(text, 'X,Y')


def _count(text: str) -> int:
    return _integers(text, 'N')[0]


def _add_export(verbs: argparse._SubParsersAction) -> None:
    export = _add_verb(verbs, 'export', 'export a network to one file for other programs')
    export.add_argument('-m', '--model', required=True, metavar='PATH', help=MODEL)
    export.add_argument('--task', choices=TASKS, help=TASK)
    export.add_argument('--to', required=True, metavar='FILE', help='the file to write: .safetensors, .onnx or .pt2')
    export.add_argument('--fp16', action='store_true', help='store the weights in float16')


def _add_restore(verbs: argparse._SubParsersAction) -> None:
    restore = _add_verb(verbs, 'restore', 'restore pictures, folders of pictures, or a video with a network')
    restore.add_argument('pictures', nargs='+', metavar='PATH', help='pictures; folders, read recursively; or a video')
    restore.add_argument('-m', '--model', metavar='PATH', help=f'{MODEL} (default: that for --task and --scale)')
    restore.add_argument('--task', choices=TASKS, help=f'chooses a packaged network (default: SR); with -m, {TASK}')
    restore.add_argument('--scale', type=_positive, metavar='N', help='chooses a packaged network (default: 2 for SR)')
    restore.add_argument('-o', '--output', metavar='PATH', help='folder, or file for one source (default: beside it)')
    restore.add_argument('--format', choices=['png', 'jpg', 'webp', 'tif', 'bmp'], help='default: png')
    restore.add_argument('--quality', type=_percentage, metavar='N', help='JPEG and WebP quality (default: 95)')
    restore.add_argument('--codec', metavar='NAME', help='video codec (default: libx264; libvpx-vp9 in .webm)')
    restore.add_argument('--crf', type=_crf, metavar='N', help='video quality, lower is better (default: 16 to 20)')
    restore.add_argument(
        '--suffix', metavar='TEXT', help='appended to file names (default: _x2 and the like; none with -o)'
    )
    restore.add_argument('--overwrite', action='store_true', help='replace existing results')
    restore.add_argument(
        '--tile', type=_tile, default='auto', metavar='N', help='tile size in pixels, auto or off (default: auto)'
    )
    restore.add_argument('--overlap', type=_overlap, default=32, metavar='N', help='overlap of tiles (default: 32)')
    restore.add_argument('--ensemble', action='store_true', help='average 8 flips and rotations; 8 times slower')
    restore.add_argument('--bf16', action='store_true', help='compute in bfloat16: faster, slightly less accurate')
    restore.add_argument('--device', metavar='NAME', help='cpu, cuda, cuda:1 (default: a GPU if there is one)')
    restore.add_argument('--threads', type=_positive, metavar='N', help='CPU threads (default: all cores)')


def _add_web(verbs: argparse._SubParsersAction) -> None:
    web = _add_verb(verbs, 'web', 'serve a web page on this machine that restores pictures')
    web.add_argument(
        '-m', '--model', nargs='+', action='extend', default=[], metavar='PATH', help=f'{MODEL}; besides the packaged'
    )
    web.add_argument('--task', choices=TASKS, help=f'with -m, {TASK}')
    web.add_argument('--host', default='127.0.0.1', metavar='NAME', help='address to listen on (default: 127.0.0.1)')
    web.add_argument('--port', type=_port, default=7860, metavar='N', help='default: 7860; 0 chooses a free one')
    web.add_argument(
        '--allow_host',
        nargs='+',
        action='extend',
        default=[],
        metavar='NAME',
        help="names under which the page may be opened, besides this machine's",
    )
    web.add_argument('--max_mb', type=_positive, default=32, metavar='N', help='largest file in MB (default: 32)')
    web.add_argument(
        '--max_megapixels', type=_positive, default=24, metavar='N', help='largest picture in megapixels (default: 24)'
    )
    web.add_argument('--device', metavar='NAME', help='cpu, cuda, cuda:1 (default: a GPU if there is one)')
    web.add_argument('--threads', type=_positive, metavar='N', help='CPU threads (default: all cores)')


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f'{text} is not an integer from 0 to 65535')
    return int(text)


def _add_init(verbs: argparse._SubParsersAction) -> None:
    init = _add_verb(verbs, 'init', 'prepare your own pictures, and write an option file to train on them')
    init.add_argument(
        'kind', choices=['sr', 'denoise', 'pairs'], help='super-resolution, Gaussian noise, or your pairs'
    )
    init.add_argument('--data', required=True, metavar='DIR', help='pictures; for pairs, the ground truth')
    init.add_argument('--lq', metavar='DIR', help='pairs: the LQ images')
    init.add_argument(
        '--scale', type=int, choices=[2, 3, 4], help='super-resolution factor (default: 2 for sr, none for pairs)'
    )
    init.add_argument(
        '--sigma',
        type=_sigma,
        nargs='+',
        metavar='N',
        help='denoise: level, or range (default: 0 50)',
    )
    init.add_argument('--gray', action='store_true', help='gray instead of RGB')
    init.add_argument(
        '--hours',
        type=_hours,
        default=2.0,
        metavar='N',
        help='training time in hours (default: 2)',
    )
    init.add_argument(
        '--network', metavar='NAME', help='tiny, slim, full or any registered network (default: tiny; slim on a GPU)'
    )
    init.add_argument(
        '--name',
        type=_name,
        default='mine',
        metavar='NAME',
        help='name of the option file and the experiment (default: mine)',
    )
    init.add_argument(
        '--store', metavar='DIR', help='folder of the prepared images, which runs may share (default: datasets/NAME)'
    )


def _number(low: float, high: float, words: str, above: bool = False) -> Callable[[str], float]:
    """A parser of numbers from `low`, or above it, to `high`; the message says what is accepted in these words."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high or (above and number == low):
            raise argparse.ArgumentTypeError(f'{text} is not {words}')
        return number

    return parse


_blur = _number(0, 100, 'a number above 0 and up to 100', above=True)
_sigma = _number(0, 255, 'a number from 0 to 255')
_hours = _number(0, 10000, 'a number of hours above 0', above=True)


def _name(text: str) -> str:
    if not re.fullmatch(r'\w[\w.-]*', text) or 'debug' in text:
        raise argparse.ArgumentTypeError(f'{text} is not a name of letters, digits, dots, - and _, without debug')
    return text


def _add_option_file(verb: argparse.ArgumentParser, text: str, required: bool) -> None:
    """An option file as -opt FILE or FILE alone."""
    one = verb.add_mutually_exclusive_group(required=required)
    one.add_argument('-opt', metavar='FILE', help=text)
    one.add_argument('opt', nargs='?', default=argparse.SUPPRESS, metavar='FILE', help='the same as -opt FILE')


def _tile(text: str) -> int | str:
    if text not in ('auto', 'off') and not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f'{text} is not auto, off, or an integer from 1 up')
    return int(text) if text.isdecimal() else text


def _overlap(text: str) -> int:
    if not text.isdecimal() or int(text) > 256:
        raise argparse.ArgumentTypeError(f'{text} is not an integer from 0 to 256')
    return int(text)


def _crf(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text} is not an integer from 0 up')
    return int(text)


def _percentage(text: str) -> int:
    if _positive(text) > 100:
        raise argparse.ArgumentTypeError(f'{text} is above 100')
    return int(text)


def _add_data_verbs(verbs: argparse._SubParsersAction) -> None:
    prepare = _add_verb(
        verbs, 'prepare', 'convert an unpacked archive to LMDBs and test folders; without NAME, list the datasets'
    )
    verify = _add_verb(verbs, 'verify', 'check prepared data: counts, pairs, damage, duplicates, leaks, checksums')
    statistics = _add_verb(
        verbs, 'statistics', 'compute mean and standard deviation of the channels, for an option file'
    )

    prepare.add_argument('names', nargs='*', metavar='NAME', help='datasets, or own for your own images')
    prepare.add_argument('--from', dest='source', metavar='DIR', help='the unpacked archive, or a folder above it')
    prepare.add_argument('--to', dest='target', metavar='DIR', help='where to write; the option files expect datasets')
    prepare.add_argument('--lq', metavar='DIR', help='own: the LQ images')
    prepare.add_argument(
        '--scale',
        nargs='+',
        action='extend',
        type=int,
        choices=[2, 3, 4],
        metavar='N',
        help='make only the LR images of these scales',
    )
    prepare.add_argument(
        '--format',
        nargs='+',
        action='extend',
        choices=['lmdb', 'raw', 'png'],
        help='LMDB (default for training sets), raw store without encoding, PNG folder (default for test sets)',
    )
    prepare.add_argument(
        '--subimages',
        nargs=3,
        type=int,
        metavar=('SIZE', 'STEP', 'THRESHOLD'),
        help="cut images (if any are for training, only those) into sub-images; BasicSR's crop_size, step, thresh_size",
    )
    prepare.add_argument('--convert', action='store_true', help='convert 16-bit, palette, alpha and CMYK images')
    prepare.add_argument(
        '--any_count', action='store_true', help='accept a number of images other than the published one'
    )
    prepare.add_argument('--dry_run', action='store_true', help='report what would be written, write nothing')
    verify.add_argument('root', nargs='?', metavar='DIR', help='where `prepare` wrote the datasets')
    verify.add_argument(
        '--only', nargs='+', action='extend', metavar='NAME', help='only these datasets, which must exist'
    )
    verify.add_argument('--gt', metavar='PATH', help='instead of DIR: ground truth images, a folder, LMDB or raw store')
    verify.add_argument('--lq', metavar='PATH', help='with --gt: their LQ images')
    verify.add_argument('--scale', type=_positive, metavar='N', help='with --lq: GT size / LQ size (default: 1)')
    verify.add_argument('--any_count', action='store_true', help='accept sub-images and parts of a dataset')
    verify.add_argument('--renew', action='store_true', help='regenerate the checksums')
    statistics.add_argument('roots', nargs='+', metavar='PATH', help='folders, LMDBs or raw stores, as one dataset')
    statistics.add_argument('--color', choices=['rgb', 'gray'], default='rgb', help='default: rgb')
    for verb in (prepare, verify, statistics):
        verb.add_argument(
            '--workers', type=_positive, metavar='N', help='images processed at once (default: all cores)'
        )


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


def main(argv: list[str] | None = None) -> int:
    """Run one verb; 0 only on success, 130 after Ctrl-C, 1 after an error, 2 for an invalid command line."""
    args = build_parser().parse_args(argv)
    with ExitStack() as args.until_reported:  # what a verb enters here is left once its error is printed
        return _run_and_report(args)


def _run_and_report(args: argparse.Namespace) -> int:
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
    if sys.platform == 'linux' and multiprocessing.get_start_method(allow_none=True) is None:
        # The default before Python 3.14. With its forkserver, every worker of a loader takes seconds to import PyTorch.
        multiprocessing.set_start_method('fork')
    keep_freed_memory()
    configure_threads()
    with _interruptible():
        importlib.import_module('ramit_arch')  # checks and repairs what the verb's modules import
    if getattr(args, 'imports', None):
        importlib.import_module('ramit_arch.cli.user_code').load(args.imports)
    if getattr(args, 'opt', None):
        find = importlib.import_module('ramit_arch.options.packaged').find
        args.opt = find(args.opt) if isinstance(args.opt, str) else [find(name) for name in args.opt]
    module = f'preparation.{DATA_VERBS[args.verb]}' if args.verb in DATA_VERBS else f'cli.{args.verb}'
    importlib.import_module(f'ramit_arch.{module}').run(args)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory, instead of returning it to the system and requesting it again in every operator."""
    if sys.platform != 'linux':
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, 'gnu_get_libc_version'):
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def configure_threads() -> None:
    """Let PyTorch start no more threads than the control group (a container) has CPUs; it looks at the machine's.

    OpenMP's waiting threads spin for milliseconds, which stalls other processes, such as a second training; let them
    sleep sooner.
    """
    os.environ.setdefault('GOMP_SPINCOUNT', '1000')
    if sys.platform != 'linux' or 'OMP_NUM_THREADS' in os.environ:
        return
    try:
        quota, period = CPU_LIMIT.read_text().split()
    except (OSError, ValueError):
        return
    if quota != 'max' and int(quota) // int(period) < len(os.sched_getaffinity(0)):
        os.environ['OMP_NUM_THREADS'] = str(max(int(quota) // int(period), 1))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Exit at once on Ctrl-C while importing, where other packages may swallow a KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    former = signal.signal(signal.SIGINT, _exit_interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def _exit_interrupted(*_: object) -> None:
    os.write(2, b'interrupted\n')
    os._exit(130)


def _describe(error: Exception) -> str:
    """One or two lines. An error that is not ours is named with the place that raised it."""
    if 'Original Traceback' in str(error):  # from a worker of the data loader, as text; its last line is the error
        lines = str(error).strip().splitlines()
        kind, _, text = lines[-1].partition(': ')
        if kind.endswith('UserError'):
            return text
        frames = re.findall(r'^  File "(.+)", line (\d+), in (.+)$', str(error), re.MULTILINE)
        return f'{lines[-1]}\n{_place(frames)}'
    # By its name: where an import failed, the package and its class are not there.
    if type(error).__name__ == 'UserError':
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f'{error.filename}: {error.strerror}'
    frames = [(frame.filename, str(frame.lineno), frame.name) for frame in traceback.extract_tb(error.__traceback__)]
    text = f'no key {error}' if isinstance(error, KeyError) else str(error).strip().partition('\n')[0]
    return f'{type(error).__name__}: {text}\n{_place(frames)}'


def _place(frames: list[tuple[str, str, str]]) -> str:
    """Deepest frame (file, line, function) of an error; of the user's own code, if any of it was involved."""
    root = Path(__file__).resolve().parent
    others = [Path(sysconfig.get_path(name)) for name in ('stdlib', 'purelib', 'platlib')]
    others += [root / 'ramit_arch', root / Path(__file__).name]
    own = [
        frame
        for frame in frames
        if Path(frame[0]).is_file() and not any(Path(frame[0]).is_relative_to(other) for other in others)
    ]
    file, line, function = (own or frames)[-1]
    return f'({file}:{line} in {function}; --traceback shows more)'


if __name__ == '__main__':
    sys.exit(main())
