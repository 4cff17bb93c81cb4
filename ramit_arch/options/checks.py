"""Everything that is wrong with what an option file says, found before anything starts or any folder is made.

`schema` knows the values; here are added what is needed, what must be registered, the arguments of what a section
calls, and what does not go together in different sections. Other projects' models, data sets and networks are left
alone, but for what BasicSR's own loop reads.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from basicsr.losses.basic_loss import PerceptualLoss
from basicsr.utils import registry

from ramit_arch.archs.ramit_arch import contradictions
from ramit_arch.data.restoration_dataset import RestorationDataset
from ramit_arch.errors import UserError, nearest, suggestion
from ramit_arch.evaluation.protocols import protocol_problems, standard_metrics
from ramit_arch.evaluation.scores import ROW_KEYS
from ramit_arch.options import FLOAT_AS_TEXT
from ramit_arch.options.schema import (
    NEEDED,
    Examined,
    Loader,
    Logging,
    OptionFile,
    Place,
    Problem,
    RAMiTLogging,
    RAMiTNetwork,
    RAMiTOptionFile,
    RAMiTPaths,
    RAMiTTraining,
    RAMiTValidation,
    Restoration,
    StockData,
    Training,
    Validation,
    Wandb,
    dotted,
    examine,
    rests_on,
    shown,
    unknown,
    with_names,
)

# What BasicSR adds to the options of a run, and we.
ADDED = frozenset('dist rank world_size auto_resume is_train root_path resumed running'.split())
SAME_NAME = 0.8  # how near a class's name must be to be the one that was meant; most end alike
TEXTS = frozenset('name project resume_id suffix'.split())  # where 12e3 is a good name


class Parsed(NamedTuple):
    """An option file as far as its values are right.

    Attributes:
        raw: all that it says.
        file: the same by the schema, without the data sets and the network.
        sets: the data sets by phase.
        network: network_g, if it is a RAMiT.
        ours: whether RAMiTModel reads the file.
        training: whether it trains.
    """

    raw: dict[str, Any]
    file: OptionFile
    sets: dict[str, Loader]
    network: RAMiTNetwork | None
    ours: bool
    training: bool


def check(opt: dict[str, Any], training: bool) -> list[Problem]:
    """Find all that would stop a run, or be ignored by it, and can be seen in the file alone."""
    opt = with_names(opt)
    ours = opt.get('model_type') == 'RAMiTModel' or _means_ours(opt.get('model_type'))
    file = examine(RAMiTOptionFile if ours else OptionFile, opt)
    sets = {
        phase: _examine_set(phase, values, file.section.scale)
        for phase, values in _section(opt, 'datasets').items()
        if isinstance(values, dict)
    }
    network = _examine_network(opt)
    examined = [file, *sets.values(), *([network] if network else [])]
    parsed = Parsed(
        raw=opt,
        file=file.section,
        sets={phase: found.section for phase, found in sets.items()},
        network=network.section if network else None,
        ours=ours,
        training=training,
    )
    wrong = {problem.place: problem for found in examined for problem in found.wrong}
    for problem in (*_numbers_as_text(opt), *_unregistered(parsed), *_phases(parsed)):
        wrong[problem.place] = problem
    wrong |= {problem.place: problem for problem in _arguments(parsed) if not rests_on(problem, wrong.values())}
    of_another_type = [
        p for p in wrong.values() if p.meant and p.place[-1] != 'type' and (*p.place[:-1], 'type') in wrong
    ]
    for problem in of_another_type:  # keys of what was meant
        del wrong[problem.place]
    conflicts = [problem for found in examined for problem in found.conflicts]
    conflicts += [*_missing(parsed), *_names(parsed), *_machine(parsed), *_across(parsed)]
    found = [*wrong.values(), *(problem for problem in conflicts if not rests_on(problem, wrong.values()))]
    return list({(problem.place, problem.text): problem for problem in found}.values())


def check_network(opt: dict[str, Any]) -> list[Problem]:
    """The same for network_g and scale alone."""
    if not isinstance(opt.get('network_g'), dict):
        return [Problem(('network_g',), 'network_g is missing or empty')]
    opt = with_names({key: opt[key] for key in ('scale', 'network_g') if key in opt})
    if opt['network_g'].get('type') is None:
        return [Problem(('network_g', 'type'), 'network_g.type is missing')]
    file, network = examine(OptionFile, opt), _examine_network(opt)
    parsed = Parsed(opt, file.section, {}, network.section if network else None, ours=False, training=False)
    wrong = [*file.wrong, *(network.wrong if network else ()), *_unregistered(parsed)]
    conflicts = [*(network.conflicts if network else ()), *_scales(parsed)]
    return [*wrong, *(problem for problem in conflicts if not rests_on(problem, wrong))]


def _means_ours(name: Any) -> bool:
    """Whether a model that nobody registered is RAMiTModel, misspelt."""
    models = registry.MODEL_REGISTRY.keys()
    return isinstance(name, str) and name not in models and nearest(name, models, SAME_NAME) == 'RAMiTModel'


def check_running(opt: dict[str, Any]) -> None:
    """Check the options that BasicSR gives to a model, which hold more than the file does.

    Raises:
        UserError: all that is wrong.
    """
    known = {key: value for key, value in opt.items() if key not in ADDED}
    known['path'] = {key: value for key, value in opt['path'].items() if key in RAMiTPaths.model_fields}
    known['datasets'] = {
        phase: {key: value for key, value in section.items() if key not in ('phase', 'scale')}
        for phase, section in opt['datasets'].items()
    }
    problems = check(known, opt['is_train'])
    if problems:
        raise UserError('\n'.join(problem.text for problem in problems))


def missing_files(opt: dict[str, Any], checkpoints: bool) -> Iterator[Problem]:
    """Data roots, and with `checkpoints` also weights and states, that do not exist."""
    for place, value in _leaves(opt):
        key = str(place[-1])
        is_data = key.startswith('dataroot_') or key == 'meta_info_file'
        is_weights = place[0] == 'path' and (key.startswith('pretrain_network_') or key == 'resume_state')
        asked = isinstance(value, str) and (is_data or (checkpoints and is_weights))
        if asked and not Path(value).expanduser().exists():
            yield Problem(place, f'{dotted(place)} is {value}, which does not exist')


# ------------------------------------------------------------------------------------------------------------- values


def _examine_set(phase: str, values: dict[str, Any], scale: int) -> Examined[Any]:
    place: Place = ('datasets', phase)
    added = {'phase': _kind(phase) if _kind(phase) in ('train', 'val', 'test') else 'train', 'scale': scale}
    given = {key: value for key, value in values.items() if key not in added}
    found = examine(_section_of(values.get('type')), {**given, **added}, place)
    for key in values.keys() - given.keys():
        text = 'is not for a data set to say; BasicSR takes scale from the top of the file'
        found.wrong.append(Problem((*place, key), f'{dotted((*place, key))} {text}'))
    top: dict[Place, Place] = {(*place, 'scale'): ('scale',)}
    conflicts = [p._replace(reads=tuple(top.get(other, other) for other in p.reads)) for p in found.conflicts]
    return replace(found, conflicts=conflicts)


def _section_of(name: Any) -> type[Loader]:
    """What a data set of that name reads, as far as we know."""
    kind: Any = _registered(name, 'dataset') or object
    if issubclass(kind, RestorationDataset):
        return kind.section
    return StockData if kind.__module__.startswith('basicsr.') else Loader


def _kind(phase: str) -> str:
    """train, val or test, as BasicSR takes it from val_2."""
    return phase.split('_')[0]


def _examine_network(opt: dict[str, Any]) -> Examined[RAMiTNetwork] | None:
    values = opt.get('network_g')
    if not isinstance(values, dict) or values.get('type') != 'RAMiT':
        return None
    found = examine(RAMiTNetwork, values, ('network_g',))
    for key, allowed, reads in contradictions(found.section.model_dump()):
        place = ('network_g', key)
        text = f'{dotted(place)} is {shown(getattr(found.section, key))}; it must be {allowed}'
        problem = Problem(place, text, tuple(('network_g', other) for other in reads))
        if not rests_on(problem, found.wrong):
            found.conflicts.append(problem)
    return found


def _numbers_as_text(opt: dict[str, Any]) -> Iterator[Problem]:
    for place, value in _leaves(opt):
        if isinstance(value, str) and FLOAT_AS_TEXT.fullmatch(value) and place[-1] not in TEXTS:
            yield Problem(
                place, f'{dotted(place)}: YAML reads {value} as text; write {float(value)!r} or !!float {value}'
            )


def _leaves(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*place, str(key)))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _leaves(inner, (*place, i))
    elif place:
        yield place, value


def _section(opt: dict[str, Any], *keys: str) -> dict[str, Any]:
    """A section of raw options, empty if it is none."""
    value: Any = opt
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


# ------------------------------------------------------------------------------------- what must be there, registered


def _missing(parsed: Parsed) -> Iterator[Problem]:
    unless = set()
    if _section(parsed.raw, 'train').get('progressive') is not None:
        unless |= {'datasets.train.batch_size_per_gpu', 'datasets.train.lq_patch_size'}
    if not isinstance(parsed.sets.get('train'), Restoration):
        unless |= {'datasets.train.lq_patch_size'}
    if _section(parsed.raw, 'datasets', 'train').get('gt_size') is not None:
        unless |= {'datasets.train.lq_patch_size'}
    networks = [key for key in parsed.raw if key.startswith('network_')]
    if not parsed.ours and networks and 'network_g' not in networks:  # another model's, which has its own names
        unless |= {name for name in NEEDED if name.startswith(('network_g', 'train.optim_g'))}
    if not parsed.ours:  # which would score random weights, but that is theirs to say
        unless |= {'path.pretrain_network_g'}
    when = ('always', 'to train' if parsed.training else 'to test')
    needed: list[Place] = [tuple(name.split('.')) for name, c in NEEDED.items() if c in when and name not in unless]
    needed += [('datasets', phase, key) for phase in parsed.sets for key in ('name', 'type')]
    instead = (('train', 'progressive'), ('datasets', 'train', 'gt_size'))
    for place in needed:
        section: Any = parsed.raw
        for key in place[:-1]:
            section = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict) and section.get(place[-1]) is None:
            reads = instead if place[-1] in ('batch_size_per_gpu', 'lq_patch_size') else ()
            yield Problem(place, f'{dotted(place)} is missing', reads)
    train = parsed.file.train
    if isinstance(train, RAMiTTraining) and parsed.training and train.pixel_opt is None and not train.perceptual_opt:
        text = 'train.pixel_opt is missing; the paper takes {type: L1Loss}'
        yield Problem(('train', 'pixel_opt'), text, (('train', 'perceptual_opt'),))


def _phases(parsed: Parsed) -> Iterator[Problem]:
    sets = _section(parsed.raw, 'datasets')
    allowed = ('train', 'val') if parsed.training else ('test', 'val')
    if not parsed.training and not sets:
        yield Problem(('datasets',), 'datasets has no set to test')
    for phase, values in sets.items():
        place = ('datasets', phase)
        if not isinstance(values, dict):
            yield Problem(place, f'{dotted(place)} is {shown(values)}; it must be a section with keys of its own')
        elif _kind(phase) not in allowed:
            text = f'begins with none of {" and ".join(allowed)}{suggestion(phase, allowed)}'
            near = nearest(phase, allowed)
            yield Problem(place, f'{dotted(place)} {text}', meant=None if near is None else ('datasets', near))
        elif _kind(phase) == 'train' and phase != 'train':
            yield Problem(place, f'{dotted(place)} is a second training set; give the first several roots')


def _names(parsed: Parsed) -> Iterator[Problem]:
    names: list[str] = []
    for phase, section in parsed.sets.items():
        place = ('datasets', phase, 'name')
        if _kind(phase) != 'train' and section.name is not None:
            if section.name in names:
                text = f'is {section.name}, as another set is called; its results would overwrite the other'
                yield Problem(place, f'{dotted(place)} {text}')
            names.append(section.name)
    if parsed.training and names and parsed.ours and parsed.raw.get('val') is None:
        yield Problem(('val',), 'val is missing, so that no validation set would be restored or scored')


def _unregistered(parsed: Parsed) -> Iterator[Problem]:
    yield from _unregistered_name(('model_type',), parsed.raw.get('model_type'), 'model')
    for key in map(str, parsed.raw):
        if key.startswith('network_'):
            yield from _unregistered_name((key, 'type'), _section(parsed.raw, key).get('type'), 'arch')
    for phase in map(str, _section(parsed.raw, 'datasets')):
        name = _section(parsed.raw, 'datasets', phase).get('type')
        yield from _unregistered_name(('datasets', phase, 'type'), name, 'dataset')


def _unregistered_name(place: Place, name: Any, kind: str) -> Iterator[Problem]:
    if name is not None and _registered(name, kind) is None:
        known = getattr(registry, f'{kind.upper()}_REGISTRY').keys()
        near = suggestion(str(name), known, SAME_NAME) or '; --import FILE registers your own'
        yield Problem(place, f'{dotted(place)} is {shown(name)}, but no {kind} of that name is registered{near}')


def _registered(name: Any, kind: str) -> Any:
    """The class or function of that name, or None. BasicSR registers some of its own with a suffix to leave away."""
    known = getattr(registry, f'{kind.upper()}_REGISTRY')
    found = (each for each in (name, f'{name}_basicsr') if isinstance(name, str) and each in known)
    return next((known.get(each) for each in found), None)


# --------------------------------------------------------------------------------------- sections that become arguments


def _arguments(parsed: Parsed) -> Iterator[Problem]:
    """BasicSR's metrics swallow unknown keys, and its losses fail late."""
    for name, section in _section(parsed.raw, 'val', 'metrics').items():
        place = ('val', 'metrics', str(name))
        if not isinstance(name, str) or name in ('', *ROW_KEYS):
            yield Problem(place, f'{dotted(place)}: score files have a column of that name; call the metric otherwise')
        if isinstance(section, dict):
            yield from _call(place, section, 'metric', given=('img', 'img2'), extra=('better',))
    for name in ('pixel_opt', 'perceptual_opt'):
        if loss := _section(parsed.raw, 'train', name):
            problems = list(_call(('train', name), loss, 'loss'))
            yield from problems or (_loss(('train', name), loss) if parsed.ours else ())
    for key in (
        key for key in parsed.raw if key.startswith('network_') and not (key == 'network_g' and parsed.network)
    ):
        if _section(parsed.raw, key).get('type') is not None:
            yield from _call((key,), _section(parsed.raw, key), 'arch')
    optimiser = _section(parsed.raw, 'train', 'optim_g')
    if optimiser.get('type') == 'Adam':
        device = 'cuda' if torch.cuda.is_available() and parsed.file.num_gpu != 0 else 'cpu'
        given = {key: value for key, value in optimiser.items() if key not in ('type', 'lr')}
        yield from _adam(('train', 'optim_g'), given, device)


def _call(
    place: Place, section: dict[str, Any], kind: str, given: tuple[str, ...] = (), extra: tuple[str, ...] = ()
) -> Iterator[Problem]:
    at = (*place, 'type')
    if section.get('type') is None:
        yield Problem(at, f'{dotted(at)} is missing')
    yield from _unregistered_name(at, section.get('type'), kind)
    target = _registered(section.get('type'), kind)
    if target is not None:
        strict = kind != 'arch' and target.__module__.startswith('basicsr.')
        yield from _call_arguments(place, section, target, given, ('type', *extra), strict)


def _call_arguments(
    place: Place,
    section: dict[str, Any],
    target: Any,
    given: tuple[str, ...],
    extra: tuple[str, ...],
    strict: bool = False,
) -> Iterator[Problem]:
    """Keys that are no arguments, and arguments that are missing.

    Args:
        place: where the section stands.
        section: what stands there.
        target: what is called.
        given: arguments that it gets from elsewhere.
        extra: keys that are for others.
        strict: whether further keys, and null for what is needed, are mistakes although the target takes them.
    """
    parameters = inspect.signature(target).parameters
    named = {key: p for key, p in parameters.items() if p.kind is not p.VAR_KEYWORD and key not in given}
    open_ended = len(named) + len([key for key in given if key in parameters]) < len(parameters)
    known = {*named, *extra}
    if not open_ended or strict:
        yield from (unknown((*place, str(key)), known) for key in section if key not in known)
    for key, parameter in named.items():
        needed = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
        if needed and (key not in section or (strict and section[key] is None)):
            yield Problem((*place, key), f'{dotted((*place, key))} is missing')


def _loss(place: tuple[str, str], section: dict[str, Any]) -> Iterator[Problem]:
    """Whether a loss of BasicSR's takes its arguments and two images, and gives what the model expects."""
    kind = _registered(section['type'], 'loss')
    perceptual = issubclass(kind, PerceptualLoss) if inspect.isclass(kind) else False
    if not kind.__module__.startswith('basicsr.') or (perceptual and place[-1] == 'perceptual_opt'):
        return  # whose weights would have to be downloaded
    expected = {'pixel_opt': 'a loss on pixels', 'perceptual_opt': 'a perceptual loss'}[place[-1]]
    images = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    text = f'{dotted(place)}: {section["type"]}'
    if perceptual or place[-1] == 'perceptual_opt':
        yield Problem(place, f'{text} is not {expected}')
        return
    try:
        value = kind(**{key: value for key, value in section.items() if key != 'type'})(*images)
    except Exception as error:  # whatever it is, the training would end by it
        yield Problem(place, f'{text} fails with these arguments ({_told(error)})')
    else:
        if not isinstance(value, torch.Tensor) or value.dim() != 0:
            yield Problem(place, f'{text} is not {expected}')


def _adam(place: Place, options: dict[str, Any], device: str) -> Iterator[Problem]:
    """Whether Adam takes its arguments, and a step with them."""
    found = list(_call_arguments(place, options, torch.optim.Adam, ('params', 'lr'), ()))
    yield from found
    known = {key: value for key, value in options.items() if not any(p.place[-1] == key for p in found)}
    parameter = torch.zeros(1, requires_grad=True, device=device)
    parameter.grad = torch.ones_like(parameter)
    try:
        torch.optim.Adam([parameter], **known).step()
    except Exception as error:  # as above
        yield Problem(place, f'{dotted(place)}: Adam does not take {shown(known)} ({_told(error)})')


def _told(error: Exception) -> str:
    """What another package's error says, in a line."""
    return (str(error).strip().partition('\n')[0] or type(error).__name__)[:200]


# -------------------------------------------------------------------------------- what different sections say together


def _machine(parsed: Parsed) -> Iterator[Problem]:
    wandb = getattr(parsed.file.logger, 'wandb', None)
    if isinstance(wandb, Wandb) and wandb.project is not None and importlib.util.find_spec('wandb') is None:
        yield Problem(('logger', 'wandb'), 'logger.wandb needs a package that is not there: pip install wandb')
    gpus = parsed.file.num_gpu
    if gpus not in (None, 'auto', 0) and not torch.cuda.is_available():
        yield Problem(('num_gpu',), f'num_gpu is {gpus}, but torch finds no CUDA device here; set num_gpu: auto or 0')
    for phase, section in parsed.sets.items():
        if section.prefetch_mode == 'cuda' and not torch.cuda.is_available():
            place = ('datasets', phase, 'prefetch_mode')
            yield Problem(place, f'{dotted(place)} is cuda, but torch finds no CUDA device here; remove it')


def _across(parsed: Parsed) -> Iterator[Problem]:
    yield from _scales(parsed)
    yield from _channels(parsed)
    if not parsed.ours:
        yield from _foreign(parsed)
    else:
        yield from protocol_problems(parsed.file, parsed.sets)
        if parsed.training:
            yield from _stages(parsed)
            yield from _best(parsed)
            yield from _starts(parsed)


def _scales(parsed: Parsed) -> Iterator[Problem]:
    scale, network = parsed.file.scale, parsed.network
    if network is not None and network.upscale != scale:
        text = f'scale is {scale}, but network_g.upscale is {network.upscale}; they must agree'
        yield Problem(('scale',), text, (('network_g', 'upscale'),))


def _channels(parsed: Parsed) -> Iterator[Problem]:
    for phase, section in parsed.sets.items():
        if parsed.network is not None and isinstance(section, Restoration):
            channels = 1 if section.color == 'gray' else 3
            if channels != parsed.network.in_chans:
                text = f'color {section.color} gives {channels} channels, but network_g.in_chans is'
                reads = (('datasets', phase, 'color'), ('network_g', 'in_chans'))
                yield Problem(
                    ('datasets', phase, 'color'), f'datasets.{phase}: {text} {parsed.network.in_chans}', reads
                )


def _stages(parsed: Parsed) -> Iterator[Problem]:
    train, section = parsed.file.train, parsed.sets.get('train')
    if not isinstance(train, RAMiTTraining) or train.progressive is None or section is None:
        return
    for key in ('batch_size_per_gpu', 'lq_patch_size', 'gt_size'):
        if key in section.model_fields_set:
            place = ('datasets', 'train', key)
            text = 'and train.progressive contradict each other; remove the former'
            yield Problem(place, f'{dotted(place)} {text}', (('train', 'progressive'),))
    if section.type is not None and not isinstance(section, Restoration):
        text = f'does not go with {section.type}, which has one patch size; take one of our data sets'
        yield Problem(('train', 'progressive'), f'train.progressive {text}', (('datasets', 'train', 'type'),))


def _best(parsed: Parsed) -> Iterator[Problem]:
    best = getattr(parsed.file.logger, 'keep_best', None)
    if best is None:
        return
    dataset, slash, metric = best.rpartition('/')
    val = parsed.file.val
    metrics = (
        [*(val.metrics or {}), *standard_metrics(getattr(val, 'protocol', None), parsed.file.scale)] if val else []
    )
    place, reads = ('logger', 'keep_best'), (('val', 'metrics'), ('val', 'protocol'))
    if metric not in metrics:
        yield Problem(
            place, f'logger.keep_best: {shown(metric)} is no metric of val{suggestion(metric, metrics)}', reads
        )
    names = [str(section.name) for phase, section in parsed.sets.items() if phase.split('_')[0] == 'val']
    if (slash and dataset not in names) or not names:
        text = f'logger.keep_best: no validation set is called {shown(dataset)}{suggestion(dataset, names)}'
        yield Problem(place, text, tuple(('datasets', phase, 'name') for phase in parsed.sets))


def _starts(parsed: Parsed) -> Iterator[Problem]:
    train, paths = parsed.file.train, parsed.file.path
    if not isinstance(train, RAMiTTraining):
        return
    if train.warm_start is not None and (paths is None or paths.pretrain_network_g is None):
        text = 'train.warm_start needs path.pretrain_network_g, the checkpoint to start from'
        yield Problem(('train', 'warm_start'), text, (('path', 'pretrain_network_g'),))
    if train.checkpointing and parsed.network is None:
        text = 'train.checkpointing is for RAMiT; other networks cannot compute their activations again'
        yield Problem(('train', 'checkpointing'), text, (('network_g', 'type'),))


def _foreign(parsed: Parsed) -> Iterator[Problem]:
    """Keys of ours that another model does not read."""
    model = parsed.raw.get('model_type')
    if _registered(model, 'model') is None:
        return
    ours: list[tuple[str, Iterable[str]]] = [('train', ['progressive']), ('val', ['protocol'])]
    if model == 'SRModel':
        ours = [
            ('train', RAMiTTraining.model_fields.keys() - Training.model_fields.keys()),
            ('val', RAMiTValidation.model_fields.keys() - Validation.model_fields.keys()),
            ('logger', RAMiTLogging.model_fields.keys() - Logging.model_fields.keys()),
        ]
    for name, keys in ours:
        for key in set(keys) & _section(parsed.raw, name).keys():
            if _section(parsed.raw, name)[key] is not None:
                place = (name, key)
                yield Problem(place, f'{dotted(place)}: {model} does not know it; set model_type to RAMiTModel')
