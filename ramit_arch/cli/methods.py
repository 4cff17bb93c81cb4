"""What `basicsr compare` compares: networks, kept results and pictures of other programs, on test sets."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from basicsr.data import build_dataset
from basicsr.utils import tensor2img

from ramit_arch.cli.checks import registered
from ramit_arch.cli.figures import choose_titles
from ramit_arch.cli.model import check_scale
from ramit_arch.data.pixels import convert_color, to_tensor
from ramit_arch.data.restoration_dataset import RestorationDataset
from ramit_arch.data.stores import FolderStore
from ramit_arch.errors import UserError
from ramit_arch.evaluation import comparison, tables
from ramit_arch.evaluation.comparison import BICUBIC, GT, LQ, Method, Metrics
from ramit_arch.evaluation.comparison_sheet import Box
from ramit_arch.evaluation.comparison_tables import Cost
from ramit_arch.inference.compute import Compute
from ramit_arch.inference.networks import Loaded
from ramit_arch.inference.restorer import find_device, is_out_of_memory, restore_whole
from ramit_arch.models.compute import read_compute
from ramit_arch.models.options import Validation
from ramit_arch.options.section import parse


@dataclass
class TestSet:
    """A test set, and what to draw of it.

    Attributes:
        name: of the set.
        dataset: as BasicSR builds it.
        methods: by title, without the baseline.
        box: of all images that are drawn; None chooses one for each.
        chosen: what to draw by index: positions in the figure, and boxes; None: the first, and the hardest.
    """

    name: str
    dataset: Any
    methods: dict[str, Method] = field(default_factory=dict)
    box: Box | None = None
    chosen: dict[int, list[tuple[int, Box | None]]] | None = None


class Setup(NamedTuple):
    """What is compared, on what and how.

    Attributes:
        sets: the test sets, with their methods.
        metrics: of all of them.
        costs: of the methods but the baseline.
        scale: factor of super-resolution, or 1.
        channels: of the images.
    """

    sets: list[TestSet]
    metrics: Metrics
    costs: dict[str, Cost]
    scale: int
    channels: int


def check_networks(opt: dict[str, Any], paths: Sequence[str], networks: Sequence[Loaded]) -> None:
    """As far as the option file tells.

    Raises:
        UserError: a network is of another scale than the test sets, or for other channels.
    """
    for path, network in zip(paths, networks, strict=True):
        check_scale(opt, network)
        datasets = opt.get('datasets')
        for section in datasets.values() if isinstance(datasets, dict) else ():
            if not isinstance(section, dict):
                continue  # reported by the checks
            kind = registered(section.get('type'), 'dataset') or object
            color = section.get('color', 'rgb' if issubclass(kind, RestorationDataset) else None)
            if color in ('rgb', 'gray'):
                _check_channels(path, network, 1 if color == 'gray' else 3)


def _check_channels(path: str, network: Loaded, channels: int) -> None:
    if network.channels != channels:
        kinds = {1: 'gray', 3: 'colour'}
        text = f'a network for {kinds[network.channels]} images, but the test sets are {kinds[channels]}'
        raise UserError(f'{path}: {text}; leave it out, or give an option file of its task by -opt')


def of_networks(
    args: argparse.Namespace, opt: dict[str, Any], paths: Sequence[str], networks: Sequence[Loaded]
) -> Setup:
    """Networks that restore the test sets now, as a test does.

    Raises:
        UserError: a network or a folder of pictures does not fit the test sets.
    """
    known = {key: value for key, value in (opt.get('val') or {}).items() if key in Validation.model_fields}
    scoring = parse(Validation, known, 'val')
    metrics = scoring.all_metrics(opt.get('scale', 1))
    if not metrics:
        raise UserError(f'{args.opt}: val has no metrics to compare by; set val.protocol or val.metrics')
    device = find_device(args.device or ('cpu' if opt.get('num_gpu') == 0 else None))
    compute, _ = read_compute(scoring, 'val', device)
    setup = _open(args, opt, paths, metrics, [network.network_g for network in networks])
    for path, network, title in zip(paths, networks, setup.costs, strict=False):
        _check_channels(path, network, setup.channels)
        multiple = math.lcm(scoring.size_multiple, network.size_multiple)
        method = _restoring(path, network, compute, multiple)
        for test_set in setup.sets:
            test_set.methods[title] = method
    return _with_pictures(args, setup)


def of_results(args: argparse.Namespace, opt: dict[str, Any], folder: Path) -> Setup:
    """The outputs that a test has kept.

    Raises:
        UserError: there are none, or a folder of pictures does not fit the test sets.
    """
    results = {name: comparison.read_results(folder, name) for name in _names(opt)}
    first = next(iter(results.values()))
    network_g = first['network_g']
    setup = _open(args, opt, [network_g['type']], first['metrics'], [network_g])
    title = next(iter(setup.costs))
    for test_set in setup.sets:
        method = comparison.kept_outputs(test_set.name, results[test_set.name], len(test_set.dataset))
        test_set.methods[title] = method
    return _with_pictures(args, setup)


def _names(opt: dict[str, Any]) -> list[str]:
    return [section['name'] for _, section in sorted(opt['datasets'].items())]


def _open(
    args: argparse.Namespace, opt: dict[str, Any], paths: Sequence[str], metrics: Metrics, networks: list[dict]
) -> Setup:
    """The test sets, still without methods, and their titles.

    Raises:
        UserError: a set has no ground truth, or two methods have one name.
    """
    scale = opt.get('scale', 1)
    titles = choose_titles(paths, args.names, args.pictures)
    reserved = {GT, LQ, BICUBIC} if scale > 1 else {GT, LQ}
    for title in titles:
        if title in reserved:
            raise UserError(f'{title} is the name of a column that is always there; give another one by --names')
    known = [Cost(*tables.cost(json.dumps(network), scale)) for network in networks]
    costs = dict(zip(titles, [*known, *[Cost()] * len(args.pictures)], strict=True))
    sets = []
    for phase, section in sorted(opt['datasets'].items()):
        dataset = build_dataset({**section, 'phase': phase.split('_')[0], 'scale': scale})
        sets.append(TestSet(section['name'], dataset))
        if 'gt' not in dataset[0]:
            raise UserError(f'{section["name"]}: no ground truth to compare with; leave the set out by --only')
    return Setup(sets, metrics, costs, scale, sets[0].dataset[0]['gt'].shape[0])


def _restoring(path: str, loaded: Loaded, compute: Compute, multiple: int) -> Method:
    """A network as a method, computed as in a test."""
    network = loaded.network.to(compute.device)
    if compute.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    call = compute.network(network)

    def restore(_: int, item: dict[str, Any]) -> np.ndarray:
        try:
            with torch.no_grad(), compute.active():
                lq = compute.image(item['lq'][None].to(compute.device))
                return tensor2img(restore_whole(call, lq, loaded.scale, multiple))
        except Exception as error:
            size = f'{item["lq_path"]}, {item["lq"].shape[-1]}x{item["lq"].shape[-2]}'
            if is_out_of_memory(error):
                raise UserError(f'{path}: out of memory with {size}; try --device cpu') from error
            advice = 'for a network that needs multiples of a size, set val.size_multiple'
            print(f'{path} failed on {size}; {advice}', file=sys.stderr)
            raise

    return restore


def _with_pictures(args: argparse.Namespace, setup: Setup) -> Setup:
    """With the outputs of other programs as further methods."""
    titles = list(setup.costs)[-len(args.pictures) :] if args.pictures else []
    for title, folder in zip(titles, args.pictures, strict=True):
        for test_set in setup.sets:
            test_set.methods[title] = _pictures(folder, test_set, setup.channels)
    return setup


def _pictures(folder: str, test_set: TestSet, channels: int) -> Method:
    """The files of a folder, or of its subfolder named after the set, as a method.

    Raises:
        UserError: an image has none or several, or one is of another size.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f'--pictures {folder}: no such folder')
    own = root / test_set.name
    store = FolderStore(str(own if own.is_dir() else root))
    names = []
    for image, (height, width) in comparison.ground_truths(test_set.dataset):
        found = [name for name in store.names() if name == image]
        found = found or [name for name in store.names() if name.startswith(f'{image}_')]
        if not found:
            text = f'no picture of {image} ({test_set.name}), named {image}.png or {image}_*.png'
            raise UserError(f'--pictures {store.root}: {text}')
        files = [store.path(name) for name in found]
        if len(found) > 1:
            raise UserError(f'--pictures {store.root}: {files[0]} and {files[1]} are both named after {image}')
        size = store.size(found[0])
        if size != (height, width):
            raise UserError(f'{files[0]}: {size[1]}x{size[0]} pixels; {image} of {test_set.name} has {width}x{height}')
        names += found

    def read(index: int, _: dict[str, Any]) -> np.ndarray:
        pixels = convert_color(store.pixels(names[index]), 'gray' if channels == 1 else 'rgb')
        return tensor2img(to_tensor(pixels))

    return read
