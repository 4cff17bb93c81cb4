"""The checks before a run starts, because BasicSR begins by archiving the previous experiment.

Three passes, each of which reports everything it finds: keys and values; contradictions, if all values are right; then
building everything: network, loss, optimiser, datasets, checkpoint. Of models that are not ours only what BasicSR's own
loop reads is checked.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from basicsr.losses.basic_loss import PerceptualLoss
from basicsr.utils import registry
from torch import nn

from ramit_arch.data.progression import read_progression, training_section
from ramit_arch.data.restoration_dataset import RestorationDataset, RestorationOptions
from ramit_arch.errors import UserError, suggestion
from ramit_arch.evaluation.protocols import image_conflicts
from ramit_arch.evaluation.scores import ROW_KEYS
from ramit_arch.inference.checkpoints import fitting_weights, read_weights
from ramit_arch.models import options as ours
from ramit_arch.models.compute import check_checkpointing, read_compute
from ramit_arch.models.ramit_model import head_prefix
from ramit_arch.models.states import read_state
from ramit_arch.options import FLOAT_AS_TEXT, basicsr
from ramit_arch.options.lines import raise_problems
from ramit_arch.options.section import (
    SECTION,
    KeyPath,
    Problem,
    contradictions,
    dotted,
    validate,
    validate_arguments,
    with_text_keys,
    wrong_value,
)

SAME_NAME = 0.8  # how near a class's name must be to be the one that was meant; most end alike
TEXTS = frozenset('name project resume_id suffix'.split())  # where 12e3 is a good name


class Options(NamedTuple):
    """An option file whose values are right.

    Attributes:
        raw: as loaded.
        file: parsed.
        datasets: parsed sections by phase.
    """

    raw: dict[str, Any]
    file: basicsr.OptionFile
    datasets: dict[str, basicsr.DatasetOptions]

    @property
    def ours(self) -> bool:
        """Whether its model reads it by a class of ours, with every key known."""
        return hasattr(registered(self.file.model_type, 'model'), 'option_files')


class Built(NamedTuple):
    """What the third pass has built.

    Attributes:
        network: on the meta device if that was possible; None if the model is not ours.
        datasets: those of ours, by phase.
    """

    network: nn.Module | None
    datasets: dict[str, RestorationDataset]


def check(opt: dict[str, Any], args: argparse.Namespace, training: bool) -> Built:
    """Run all passes over the options as the pipeline will get them.

    Raises:
        UserError: everything that a pass has found: file and line, the key, and what to do.
    """
    continuing = training and args.auto_resume and _has_states(opt, args.debug)
    options, problems = check_values(opt, training)
    raise_problems(problems, args.opt, args.force_yml, testing=not training)
    assert options is not None
    missing = missing_files(opt, checkpoints=not continuing)
    contradicting = [*find_contradictions(options, training), *missing]
    raise_problems(contradicting, args.opt, args.force_yml, testing=not training)
    network, problems = build_called(options, training)
    with noting(problems, ('num_gpu',)):
        _check_hardware({**opt, **launch_info(opt, args.launcher)}, options, training, problems)
    datasets: dict[str, RestorationDataset] = {}
    for phase in options.datasets:
        with noting(problems, ('datasets', phase)):
            dataset = _build_dataset(opt, phase)
            datasets |= {phase: dataset} if dataset else {}
    state = options.file.path.resume_state if training else None
    if state is not None and not continuing:
        with noting(problems, ('path', 'resume_state')):
            read_state(Path(state).expanduser())
    elif network is not None and not continuing:
        with noting(problems, ('path', 'pretrain_network_g')):
            _fit_checkpoint(network, options.file, getattr(options.file, 'train', None) if training else None)
    raise_problems(problems, args.opt, args.force_yml, testing=not training)
    return Built(network, datasets)


def find_problems(opt: dict[str, Any], training: bool) -> list[Problem]:
    """What the first pass that finds anything finds, as far as the file alone tells."""
    options, problems = check_values(opt, training)
    if options is None:
        return problems
    return list(find_contradictions(options, training)) or build_called(options, training)[1]


def network_problems(opt: dict[str, Any]) -> list[Problem]:
    """The same of `network_g` and `scale` alone."""
    section, scale = opt.get('network_g'), opt.get('scale', 1)
    if not isinstance(section, dict):
        return [Problem(('network_g',), 'network_g is missing or empty')]
    if type(scale) is not int or scale < 1:
        return [wrong_value(('scale',), scale, 'an integer from 1 up')]
    problems = check_call(('network_g',), with_text_keys(section), 'arch')
    if not problems:
        with noting_network(problems, section):
            network = build(section)
    return problems or disagreements(network, scale, {})


@contextmanager
def noting(problems: list[Problem], path: KeyPath) -> Iterator[None]:
    """Go on after a UserError, which becomes a problem at this place."""
    try:
        yield
    except UserError as error:
        problems.append(Problem(path, str(error)))


# ------------------------------------------------------------------------------------------- first pass: keys, values


def check_values(opt: dict[str, Any], training: bool) -> tuple[Options | None, list[Problem]]:
    """Parse an option file; None with all wrong keys and values."""
    opt = with_text_keys(opt)
    kinds = getattr(registered(opt.get('model_type'), 'model'), 'option_files', (basicsr.TrainFile, basicsr.TestFile))
    file, problems = validate(kinds[0] if training else kinds[1], opt)
    problems += unregistered(('model_type',), opt.get('model_type'), 'model')
    datasets = {}
    for phase, section in _section(opt, 'datasets').items():
        options, found = _check_dataset(phase, section, opt.get('scale'), training)
        datasets[phase] = options
        problems += found
    if training and 'train' not in datasets and not any(p.path[0] == 'datasets' for p in problems):
        problems.append(Problem(('datasets', 'train'), 'datasets.train is missing'))
    problems += _check_calls(opt)
    for path, value in _leaves(opt):
        if isinstance(value, str) and FLOAT_AS_TEXT.fullmatch(value) and path[-1] not in TEXTS:
            text = f'{dotted(path)}: YAML reads {value} as text; write {float(value)!r} or !!float {value}'
            problems = [*(p for p in problems if p.path != path), Problem(path, text)]
    if problems or file is None:
        return None, list({problem.path: problem for problem in problems}.values())
    return Options(opt, file, datasets), []


def _check_dataset(phase: str, section: Any, scale: Any, training: bool) -> tuple[Any, list[Problem]]:
    path: KeyPath = ('datasets', phase)
    kind, allowed = phase.split('_')[0], ('train', 'val') if training else ('test', 'val')
    if kind == 'train' and not training:
        return None, [Problem(path, f'{dotted(path)} is for training; give an option file for tests')]
    if kind not in allowed:
        near = suggestion(phase, allowed)
        return None, [Problem(path, f'{dotted(path)} begins with none of {" and ".join(allowed)}{near}')]
    if kind == 'train' and phase != 'train':
        return None, [Problem(path, f'{dotted(path)} is a second training set; give the first several roots')]
    if not isinstance(section, dict):
        return None, [wrong_value(path, section, SECTION)]
    added = {'phase': kind, 'scale': scale if type(scale) is int and scale > 0 else 1}
    options, problems = validate(_dataset_options(section.get('type')), {**section, **added}, path)
    for key in section.keys() & added.keys():
        text = 'cannot be set per dataset; BasicSR takes scale from the top of the file'
        problems.append(Problem((*path, key), f'{dotted((*path, key))} {text}'))
    return options, [*problems, *unregistered((*path, 'type'), section.get('type'), 'dataset')]


def _dataset_options(name: Any) -> type[basicsr.DatasetOptions]:
    """What a dataset of that name reads, as far as we know."""
    kind: Any = registered(name, 'dataset') or object
    if issubclass(kind, RestorationDataset):
        return kind.section
    return basicsr.StockDatasetOptions if kind.__module__.startswith('basicsr.') else basicsr.DatasetOptions


def _check_calls(opt: dict[str, Any]) -> Iterator[Problem]:
    """Sections that become arguments. BasicSR's metrics swallow unknown keys, and its losses fail late."""
    for name, section in opt.items():
        if name.startswith('network_') and isinstance(section, dict):
            yield from check_call((name,), section, 'arch')
    for name, section in _section(opt, 'val', 'metrics').items():
        path: KeyPath = ('val', 'metrics', name)
        if name in ('', *ROW_KEYS):
            yield Problem(path, f'{dotted(path)}: this name is reserved for a column of score files; rename the metric')
        if isinstance(section, dict):
            yield from check_call(path, section, 'metric', given=('img', 'img2'), others=('better',))
    for name in ('pixel_opt', 'perceptual_opt'):
        if loss := _section(opt, 'train', name):
            yield from check_call(('train', name), loss, 'loss')
    optimiser = _section(opt, 'train', 'optim_g')
    if optimiser.get('type') == 'Adam':
        arguments = {key: value for key, value in optimiser.items() if key != 'type'}
        yield from validate_arguments(torch.optim.Adam, arguments, ('train', 'optim_g'), given=('params',))


def check_call(
    path: KeyPath, section: dict[str, Any], kind: str, given: tuple[str, ...] = (), others: tuple[str, ...] = ()
) -> list[Problem]:
    """Check the arguments of what a section names by its `type`; `others` are keys that something else reads."""
    if section.get('type') is None:
        return [Problem((*path, 'type'), f'{dotted((*path, "type"))} is missing')]
    target = registered(section['type'], kind)
    if target is None:
        return unregistered((*path, 'type'), section['type'], kind)
    closed = kind != 'arch' and target.__module__.startswith('basicsr.')
    arguments = {key: value for key, value in section.items() if key not in ('type', *others)}
    return validate_arguments(target, arguments, path, given, closed)


def unregistered(path: KeyPath, name: Any, kind: str) -> list[Problem]:
    """The problem of a name that is not registered, if it is one."""
    if name is None or registered(name, kind) is not None:
        return []
    known = getattr(registry, f'{kind.upper()}_REGISTRY').keys()
    near = suggestion(str(name), known, SAME_NAME) or '; --import FILE registers your own'
    return [Problem(path, f'{dotted(path)} is {name!r:.80}, but no {kind} of that name is registered{near}')]


def registered(name: Any, kind: str) -> Any:
    """The class or function of that name, or None. BasicSR registers some of its own under a suffix."""
    known = getattr(registry, f'{kind.upper()}_REGISTRY')
    found = (each for each in (name, f'{name}_basicsr') if isinstance(name, str) and each in known)
    return next((known.get(each) for each in found), None)


def _leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, (*path, key))
    elif path:
        yield path, value


def _section(opt: dict[str, Any], *keys: str) -> dict[str, Any]:
    """A section of raw options, empty if it is none."""
    value: Any = opt
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


# ------------------------------------------------------------------------------------------ second pass: contradictions


def find_contradictions(options: Options, training: bool) -> Iterator[Problem]:
    """What does not go together in the file, or with this machine."""
    file, datasets = options.file, options.datasets
    yield from contradictions(file)
    if file.num_gpu not in ('auto', 0) and not torch.cuda.is_available():
        text = f'num_gpu is {file.num_gpu}, but torch finds no CUDA device here; set num_gpu: auto or 0'
        yield Problem(('num_gpu',), text)
    names: set[str] = set()
    for phase, section in datasets.items():
        path: KeyPath = ('datasets', phase)
        yield from contradictions(section, path)
        if section.prefetch_mode == 'cuda' and not torch.cuda.is_available():
            text = f'datasets.{phase}.prefetch_mode is cuda, but torch finds no CUDA device here; remove it'
            yield Problem((*path, 'prefetch_mode'), text)
        if section.phase == 'train':
            continue
        if section.name in names:
            text = f'datasets.{phase}.name is {section.name}, the name of another dataset; rename either'
            yield Problem((*path, 'name'), text)
        names.add(section.name)
        protocol = getattr(file.val, 'protocol', None)
        if protocol and isinstance(section, RestorationOptions):
            for key, text in image_conflicts(protocol, section):
                yield Problem((*path, key), f'datasets.{phase}.{key} {text}')
    if training:
        yield from _training_contradictions(options)
    if not options.ours:
        yield from _foreign_keys(options)


def _training_contradictions(options: Options) -> Iterator[Problem]:
    section = options.datasets['train']
    progressive = _section(options.raw, 'train').get('progressive')
    if section.num_worker_per_gpu is None:
        yield Problem(('datasets', 'train', 'num_worker_per_gpu'), 'datasets.train.num_worker_per_gpu is missing')
    if isinstance(section, RestorationOptions):
        if not progressive and section.lq_patch_size is None and section.gt_size is None:
            yield Problem(('datasets', 'train', 'lq_patch_size'), 'datasets.train.lq_patch_size is missing')
    elif progressive:
        text = f'does not go with {section.type}, which has one patch size; use one of our datasets'
        yield Problem(('train', 'progressive'), f'train.progressive {text}')
    elif section.type == 'PairedImageDataset' and getattr(section, 'gt_size', None) is None:
        yield Problem(('datasets', 'train', 'gt_size'), 'datasets.train.gt_size is missing')


def _foreign_keys(options: Options) -> Iterator[Problem]:
    """Keys of RAMiTModel's that another model does not read."""
    model = options.file.model_type
    keys: dict[str, set[str]] = {'train': {'progressive'}, 'val': {'protocol'}}
    if model == 'SRModel':
        known = basicsr.Training.model_fields.keys() | {'optim_g', 'scheduler', 'pixel_opt', 'perceptual_opt'}
        keys = {
            'train': ours.Training.model_fields.keys() - known,
            'val': ours.Validation.model_fields.keys() - basicsr.Validation.model_fields.keys(),
            'logger': ours.Logging.model_fields.keys() - basicsr.Logging.model_fields.keys(),
        }
    for name, unread in keys.items():
        for key, value in _section(options.raw, name).items():
            if key in unread and value is not None:
                yield Problem((name, key), f'{name}.{key}: {model} does not read it; set model_type to RAMiTModel')
    milestones = _section(_section(options.raw, 'train'), 'scheduler').get('milestones')
    if model == 'SRModel' and isinstance(milestones, list) and any(type(m) is float and m < 1 for m in milestones):
        text = 'train.scheduler.milestones: SRModel knows no fractions of total_iter; give iterations'
        yield Problem(('train', 'scheduler', 'milestones'), f'{text}, or set model_type to RAMiTModel')


def missing_files(opt: dict[str, Any], checkpoints: bool) -> Iterator[Problem]:
    """Data roots, and with `checkpoints` also weights and states, that do not exist."""
    for path, value in _leaves(opt):
        key = str(path[-1])
        is_data = key.startswith('dataroot_') or key == 'meta_info_file'
        is_weights = path[0] == 'path' and (key.startswith('pretrain_network_') or key == 'resume_state')
        asked = isinstance(value, str) and (is_data or (checkpoints and is_weights))
        if asked and not Path(value).expanduser().exists():
            yield Problem(path, f'{dotted(path)} is {value}, which does not exist')


# ------------------------------------------------------------------------------------------------ third pass: building


def build_called(options: Options, training: bool) -> tuple[nn.Module | None, list[Problem]]:
    """Build and try what a file for our model calls: the network, the losses, the optimiser."""
    problems: list[Problem] = []
    if not options.ours:
        return None, problems
    network = None
    section = options.raw['network_g']
    with noting_network(problems, section):
        network = build(section)
    if network is not None:
        problems += disagreements(network, options.file.scale, options.datasets) or wrong_output(network, options.file)
    if training:
        train = options.raw['train']
        for key in ('pixel_opt', 'perceptual_opt'):
            if train.get(key):
                with noting(problems, ('train', key)):
                    _try_loss(train[key], key)
        with noting(problems, ('train', 'optim_g')):
            device = 'cuda' if torch.cuda.is_available() and options.file.num_gpu != 0 else 'cpu'
            _try_adam({key: value for key, value in train['optim_g'].items() if key != 'type'}, device)
        if network is not None and train.get('checkpointing'):
            with noting(problems, ('train', 'checkpointing')):
                check_checkpointing(network)
        if network is not None and train.get('warm_start'):
            with noting(problems, ('train', 'warm_start')):
                head_prefix(network)
    return network, problems


@contextmanager
def noting_network(problems: list[Problem], section: dict[str, Any]) -> Iterator[None]:
    """Report why a network cannot be built, at the key with which its error begins, if it does."""
    try:
        yield
    except Exception as error:  # whatever a network raises
        text = first_line(error)
        key = text.partition(' ')[0]
        if key in section:
            problems.append(Problem(('network_g', key), f'network_g.{text}'))
        else:
            text = f'network_g: {section["type"]} cannot be built with these arguments ({type(error).__name__}: {text})'
            problems.append(Problem(('network_g',), text))


def build(section: dict[str, Any]) -> nn.Module:
    """A network on the meta device, or on the CPU if its constructor computes with tensors."""
    network, arguments = registered(section['type'], 'arch'), {k: v for k, v in section.items() if k != 'type'}
    try:
        with torch.device('meta'):
            return network(**copy.deepcopy(arguments))
    except Exception:  # it may need real tensors; otherwise it fails again, and that error is reported
        return network(**copy.deepcopy(arguments))


def disagreements(network: nn.Module, scale: int, datasets: dict[str, basicsr.DatasetOptions]) -> list[Problem]:
    """Where a network that says its factor and its channels differs from the file and the datasets."""
    upscale, channels = getattr(network, 'upscale', None), getattr(network, 'in_chans', None)
    problems = []
    if isinstance(upscale, int) and upscale != scale:
        text = f'scale is {scale}, but network_g.upscale is {upscale}; they must agree'
        problems.append(Problem(('scale',), text))
    for phase, section in datasets.items():
        color = getattr(section, 'color', None)
        if isinstance(channels, int) and color is not None and channels != (1 if color == 'gray' else 3):
            text = f'color {color} gives {1 if color == "gray" else 3} channels, but network_g.in_chans is {channels}'
            problems.append(Problem(('datasets', phase, 'color'), f'datasets.{phase}: {text}'))
    return problems


def wrong_output(network: nn.Module, file: basicsr.OptionFile) -> list[Problem]:
    """Whether a network returns another size than the scale needs, as far as it runs on the meta device."""
    side, needed = 64, 64 * file.scale
    if any(parameter.device.type != 'meta' for parameter in network.parameters()):
        return []
    try:
        output = network(torch.empty(1, getattr(network, 'in_chans', 3), side, side, device='meta'))
    except Exception:  # it may need real tensors; what is wrong with it shows when it trains
        return []
    if isinstance(output, torch.Tensor) and output.shape[-2:] == (needed, needed):
        return []
    returned = f'{output.shape[-1]}x{output.shape[-2]}' if isinstance(output, torch.Tensor) else type(output).__name__
    text = f'returns {returned} for an image of {side}x{side}; scale {file.scale} needs {needed}x{needed}'
    return [Problem(('network_g',), f'network_g: {type(network).__name__} {text}')]


def _try_loss(section: dict[str, Any], key: str) -> None:
    """Whether a loss of BasicSR's takes its arguments and two images, and returns what the model expects."""
    kind = registered(section['type'], 'loss')
    perceptual = inspect.isclass(kind) and issubclass(kind, PerceptualLoss)
    if not kind.__module__.startswith('basicsr.') or (perceptual and key == 'perceptual_opt'):
        return  # whose weights would have to be downloaded
    if perceptual or key == 'perceptual_opt':
        expected = {'pixel_opt': 'pixel', 'perceptual_opt': 'perceptual'}[key]
        raise UserError(f'train.{key}: {section["type"]} is not a {expected} loss')
    try:
        loss = kind(**{name: value for name, value in section.items() if name != 'type'})
        value = loss(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8))
    except Exception as error:  # whatever it is, the training would end by it
        text = f'{section["type"]} fails with these arguments ({first_line(error)})'
        raise UserError(f'train.{key}: {text}') from error
    if not isinstance(value, torch.Tensor) or value.dim() != 0:
        raise UserError(f'train.{key}: {section["type"]} is not a pixel loss')


def _try_adam(arguments: dict[str, Any], device: str) -> None:
    """Whether Adam takes its arguments, and a step with them."""
    parameter = torch.zeros(1, requires_grad=True, device=device)
    parameter.grad = torch.ones_like(parameter)
    try:
        torch.optim.Adam([parameter], **arguments).step()
    except Exception as error:  # as above
        raise UserError(f'train.optim_g: Adam does not take {arguments} ({first_line(error)})') from error


def first_line(error: Exception) -> str:
    """What another package's error says, in a line."""
    return (str(error).strip().partition('\n')[0] or type(error).__name__)[:200]


def launch_info(opt: dict[str, Any], launcher: str) -> dict[str, Any]:
    """Processes and GPUs of the run, before any process has met another."""
    gpus = torch.cuda.device_count() if opt['num_gpu'] == 'auto' else opt['num_gpu']
    if launcher != 'none' and gpus == 0 and torch.cuda.is_available():
        raise UserError(f'num_gpu is 0, but --launcher {launcher} takes the CUDA devices; set num_gpu: auto')
    size = os.environ.get({'pytorch': 'WORLD_SIZE', 'slurm': 'SLURM_NTASKS'}.get(launcher, ''), '1')
    return {'dist': launcher != 'none', 'world_size': int(size), 'num_gpu': gpus}


def _check_hardware(opt: dict[str, Any], options: Options, training: bool, problems: list[Problem]) -> None:
    """Whether this machine and its processes can do what is asked for."""
    if not options.ours:
        return
    device = torch.device('cuda' if opt['num_gpu'] != 0 else 'cpu')  # as BasicSR's model chooses it
    for name in ('train', 'val') if training else ('val',):
        with noting(problems, (name,)):
            read_compute(getattr(options.file, name), name, device)
    if training:
        with noting(problems, ('train', 'progressive')):
            read_progression(opt)


def _build_dataset(opt: dict[str, Any], phase: str) -> RestorationDataset | None:
    """The dataset, if it is one of ours."""
    section = training_section(opt) if phase == 'train' else opt['datasets'][phase]
    kind = registered(section['type'], 'dataset')
    if not issubclass(kind, RestorationDataset):
        return None
    return kind({**copy.deepcopy(section), 'phase': phase.split('_')[0], 'scale': opt.get('scale', 1)})


def _fit_checkpoint(network: nn.Module, file: basicsr.OptionFile, train: ours.Training | None) -> None:
    """Whether the checkpoint can be read and fits."""
    path = file.path.pretrain_network_g
    if path is not None:
        skip = head_prefix(network) if train is not None and train.warm_start else None
        weights = read_weights(path, getattr(file.path, 'param_key_g', 'params'))
        fitting_weights(network, weights, path, file.path.strict_load_g, skip)


def _has_states(opt: dict[str, Any], debug: bool) -> bool:
    name = str(opt.get('name'))
    name = name if not debug or name.startswith('debug') else f'debug_{name}'
    return any(Path('experiments', name, 'training_states').glob('*.state'))
