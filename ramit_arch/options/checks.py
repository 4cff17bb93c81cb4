"""Everything that is wrong with what an option file says, found before anything starts or any folder is made.

`schema` knows the values; here are added what is needed, what must be registered, the arguments of what a section
calls, and what does not go together in different sections. Other projects' models, data sets and networks are left
alone, but for what BasicSR's own loop reads.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from basicsr.utils import registry

from ramit_arch.archs.ramit_arch import contradictions
from ramit_arch.data.restoration_dataset import RestorationDataset
from ramit_arch.errors import UserError, suggestion
from ramit_arch.evaluation.protocols import protocol_problems, standard_metrics
from ramit_arch.evaluation.scores import ROW_KEYS
from ramit_arch.options import FLOAT_AS_TEXT
from ramit_arch.options.schema import (
    NEEDED,
    Loader,
    OptionFile,
    OtherData,
    Place,
    Problem,
    RAMiTNetwork,
    RAMiTOptionFile,
    RAMiTPaths,
    RAMiTTraining,
    RAMiTValidation,
    Restoration,
    Training,
    Validation,
    dotted,
    examine,
    rests_on,
    shown,
    unknown,
    with_names,
)


class Read(NamedTuple):
    """An option file as far as its values are right.

    Attributes:
        opt: all that it says.
        file: the same as the schema has it.
        sets: the data sets by phase.
        network: network_g, if it is a RAMiT.
        ours: whether RAMiTModel reads the file.
        training: whether it trains.
    """

    opt: dict[str, Any]
    file: OptionFile
    sets: dict[str, Loader]
    network: RAMiTNetwork | None
    ours: bool
    training: bool


def check(opt: dict[str, Any], training: bool) -> list[Problem]:
    """Find all that would stop a run, or be ignored by it, and can be seen in the file alone."""
    opt = with_names(opt)
    ours = opt.get('model_type') == 'RAMiTModel'
    wrong = list(_numbers_as_text(opt))
    file, found = examine(RAMiTOptionFile if ours else OptionFile, opt)
    wrong += found
    sets, found = _examine_sets(opt, file.scale)
    wrong += found
    network, found = _examine_network(opt)
    wrong += found
    read = Read(opt, file, sets, network, ours, training)
    rest = [*_missing(read), *_phases(read), *_unregistered(read), *_arguments(read), *_machine(read)]
    rest += [*_across(read), *(_foreign(read) if not ours else ())]
    values = [problem for problem in wrong if not problem.reads]
    told: dict[Place, Problem] = {}
    for problem in [*values, *(p for p in [*wrong, *rest] if p not in values and not rests_on(p, values))]:
        told.setdefault(problem.place, problem)
    return list(told.values())


def check_network(opt: dict[str, Any]) -> list[Problem]:
    """The same for network_g and scale alone."""
    file, wrong = examine(OptionFile, {key: opt[key] for key in ('scale', 'network_g') if key in opt})
    if not isinstance(opt.get('network_g'), dict):
        return [Problem(('network_g',), 'network_g is missing or empty')]
    if opt['network_g'].get('type') is None:
        return [Problem(('network_g', 'type'), 'network_g.type is missing')]
    network, found = _examine_network(opt)
    read = Read({'network_g': opt['network_g']}, file, {}, network, ours=False, training=False)
    return [*wrong, *found, *_unregistered(read), *_scales(read)]


def check_running(opt: dict[str, Any]) -> None:
    """Check the options that BasicSR gives to a model, which hold more than the file.

    Raises:
        UserError: all that is wrong.
    """
    known = {key: value for key, value in opt.items() if key in RAMiTOptionFile.model_fields}
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


def _examine_sets(opt: dict[str, Any], scale: int) -> tuple[dict[str, Loader], list[Problem]]:
    sets: dict[str, Loader] = {}
    wrong: list[Problem] = []
    for phase, values in _section(opt, 'datasets').items():
        place = ('datasets', str(phase))
        if not isinstance(values, dict):
            text = f'is {shown(values)}; it must be a section with keys of its own'
            wrong.append(Problem(place, f'{dotted(place)} {text}'))
            continue
        given = {key: value for key, value in values.items() if key not in ('scale', 'phase')}
        for key in values.keys() - given.keys():
            at = (*place, key)
            text = 'is not for a data set to say; BasicSR takes scale from the top of the file'
            wrong.append(Problem(at, f'{dotted(at)} {text}'))
        kind = registry.DATASET_REGISTRY.get(values['type']) if _registered(values.get('type'), 'dataset') else object
        if issubclass(kind, RestorationDataset):
            given |= {'phase': place[1].split('_')[0], 'scale': scale}
        sets[place[1]], found = examine(getattr(kind, 'section', OtherData), given, place)
        # The scale is that of the file.
        wrong += [p._replace(reads=tuple(('scale',) if r[-1] == 'scale' else r for r in p.reads)) for p in found]
    return sets, wrong


def _examine_network(opt: dict[str, Any]) -> tuple[RAMiTNetwork | None, list[Problem]]:
    values = opt.get('network_g')
    if not isinstance(values, dict) or values.get('type') != 'RAMiT':
        return None, []
    network, wrong = examine(RAMiTNetwork, values, ('network_g',))
    found = []
    for key, allowed, reads in contradictions(network.model_dump()):
        place = ('network_g', key)
        text = f'{dotted(place)} is {shown(values.get(key))}; it must be {allowed}'
        found.append(Problem(place, text, tuple(('network_g', other) for other in reads)))
    return network, [*wrong, *(problem for problem in found if not rests_on(problem, wrong))]


def _numbers_as_text(opt: dict[str, Any]) -> Iterator[Problem]:
    for place, value in _leaves(opt):
        if isinstance(value, str) and FLOAT_AS_TEXT.fullmatch(value):
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


def _missing(read: Read) -> Iterator[Problem]:
    unless = set()
    if _section(read.opt, 'train').get('progressive') is not None:
        unless |= {'datasets.train.batch_size_per_gpu', 'datasets.train.lq_patch_size'}
    own = isinstance(read.sets.get('train'), Restoration)
    if not own or _section(read.opt, 'datasets', 'train').get('gt_size') is not None:
        unless |= {'datasets.train.lq_patch_size'}
    if not read.ours:  # which would score random weights, but that is theirs to say
        unless |= {'path.pretrain_network_g'}
    when = ('always', 'to train' if read.training else 'to test')
    needed = [name for name, cause in NEEDED.items() if cause in when and name not in unless]
    needed += [f'datasets.{phase}.{key}' for phase in read.sets for key in ('name', 'type')]
    for name in needed:
        *above, key = name.split('.')
        section: Any = read.opt
        for part in above:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict) and section.get(key) is None:
            yield Problem((*above, key), f'{name} is missing')


def _phases(read: Read) -> Iterator[Problem]:
    allowed = ('train', 'val') if read.training else ('test', 'val')
    names: list[str] = []
    if not read.training and not read.sets:
        yield Problem(('datasets',), 'datasets has no set to test')
    for phase, section in read.sets.items():
        place = ('datasets', phase)
        kind = phase.split('_')[0]
        if kind not in allowed:
            yield Problem(place, f'{dotted(place)}: the name must begin with {" or ".join(allowed)}')
        if kind != 'train' and section.name in names and section.name is not None:
            text = f'is {section.name}, as another set is called; its results would overwrite the other'
            yield Problem((*place, 'name'), f'{dotted(place)}.name {text}')
        names += [section.name] if kind != 'train' and section.name else []
        if section.persistent_workers and kind != 'train':
            yield Problem((*place, 'persistent_workers'), f'{dotted(place)}.persistent_workers is for the training set')


def _unregistered(read: Read) -> Iterator[Problem]:
    yield from _unregistered_name(('model_type',), read.opt.get('model_type'), 'model')
    for key in map(str, read.opt):
        if key.startswith('network_'):
            yield from _unregistered_name((key, 'type'), _section(read.opt, key).get('type'), 'arch')
    for phase in map(str, _section(read.opt, 'datasets')):
        name = _section(read.opt, 'datasets', phase).get('type')
        yield from _unregistered_name(('datasets', phase, 'type'), name, 'dataset')


def _unregistered_name(place: Place, name: Any, kind: str) -> Iterator[Problem]:
    if name is not None and not _registered(name, kind):
        known = getattr(registry, f'{kind.upper()}_REGISTRY').keys()
        text = f'is {shown(name)}, but no {kind} of that name is registered{suggestion(str(name), known)}'
        yield Problem(place, f'{dotted(place)} {text}')


def _registered(name: Any, kind: str) -> bool:
    return isinstance(name, str) and name in getattr(registry, f'{kind.upper()}_REGISTRY')


# --------------------------------------------------------------------------------------- sections that become arguments


def _arguments(read: Read) -> Iterator[Problem]:
    """BasicSR's metrics swallow unknown keys, and its losses fail late."""
    for name, section in _section(read.opt, 'val', 'metrics').items():
        place = ('val', 'metrics', str(name))
        if not isinstance(name, str) or name in ('', *ROW_KEYS):
            yield Problem(place, f'{dotted(place)}: score files have a column of that name; call the metric otherwise')
        if isinstance(section, dict):
            given, extra = ('img', 'img2'), ('better',)
            yield from _call(place, section, 'metric', given, extra)
    for name in ('pixel_opt', 'perceptual_opt'):
        if loss := _section(read.opt, 'train', name):
            yield from _call(('train', name), loss, 'loss')
    optimiser = _section(read.opt, 'train', 'optim_g')
    if optimiser.get('type') == 'Adam':
        yield from _adam(('train', 'optim_g'), {k: v for k, v in optimiser.items() if k not in ('type', 'lr')})


def _call(
    place: Place, section: dict[str, Any], kind: str, given: tuple[str, ...] = (), extra: tuple[str, ...] = ()
) -> Iterator[Problem]:
    at = (*place, 'type')
    if section.get('type') is None:
        yield Problem(at, f'{dotted(at)} is missing')
    yield from _unregistered_name(at, section.get('type'), kind)
    if _registered(section.get('type'), kind):
        target = getattr(registry, f'{kind.upper()}_REGISTRY').get(section['type'])
        yield from _call_arguments(place, section, target, given, ('type', *extra))


def _call_arguments(
    place: Place, section: dict[str, Any], target: Any, given: tuple[str, ...], extra: tuple[str, ...]
) -> Iterator[Problem]:
    parameters = inspect.signature(target).parameters
    named = {key: p for key, p in parameters.items() if p.kind is not p.VAR_KEYWORD and key not in given}
    open_ended = len(named) + len([key for key in given if key in parameters]) < len(parameters)
    stock = target.__module__.startswith('basicsr.')
    known = {*named, *extra}
    if not open_ended or stock:
        yield from (unknown((*place, str(key)), known) for key in section if key not in known)
    for key, parameter in named.items():
        needed = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
        if needed and (key not in section or (stock and section[key] is None)):
            yield Problem((*place, key), f'{dotted((*place, key))} is missing')


def _adam(place: Place, options: dict[str, Any]) -> Iterator[Problem]:
    found = list(_call_arguments(place, options, torch.optim.Adam, ('params', 'lr'), ()))
    yield from found
    known = {key: value for key, value in options.items() if not any(p.place[-1] == key for p in found)}
    try:
        torch.optim.Adam([torch.zeros(1)], **known)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        yield Problem(place, f'{dotted(place)}: Adam does not take {shown(known)} ({error})')


# -------------------------------------------------------------------------------- what different sections say together


def _machine(read: Read) -> Iterator[Problem]:
    gpus = read.file.num_gpu
    if gpus not in (None, 'auto', 0) and not torch.cuda.is_available():
        yield Problem(('num_gpu',), f'num_gpu is {gpus}, but torch finds no CUDA device here; set num_gpu: auto or 0')
    for phase, section in read.sets.items():
        if section.prefetch_mode == 'cuda' and not torch.cuda.is_available():
            place = ('datasets', phase, 'prefetch_mode')
            yield Problem(place, f'{dotted(place)} is cuda, but torch finds no CUDA device here; remove it')


def _across(read: Read) -> Iterator[Problem]:
    yield from _scales(read)
    yield from _channels(read)
    if read.ours:
        yield from protocol_problems(read.file, read.sets)
        if read.training:
            yield from _stages(read)
            yield from _best(read)
            yield from _starts(read)


def _scales(read: Read) -> Iterator[Problem]:
    scale, network = read.file.scale, read.network
    if network is not None and network.upscale != scale:
        text = f'scale is {scale}, but network_g.upscale is {network.upscale}; they must agree'
        yield Problem(('scale',), text, (('network_g', 'upscale'),))


def _channels(read: Read) -> Iterator[Problem]:
    for phase, section in read.sets.items():
        if read.network is not None and isinstance(section, Restoration):
            channels = 1 if section.color == 'gray' else 3
            if channels != read.network.in_chans:
                text = f'color {section.color} gives {channels} channels, but network_g.in_chans is'
                reads = (('datasets', phase, 'color'), ('network_g', 'in_chans'))
                yield Problem(('datasets', phase, 'color'), f'datasets.{phase}: {text} {read.network.in_chans}', reads)


def _stages(read: Read) -> Iterator[Problem]:
    train, section = read.file.train, read.sets.get('train')
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


def _best(read: Read) -> Iterator[Problem]:
    best = getattr(read.file.logger, 'keep_best', None)
    if best is None:
        return
    dataset, slash, metric = best.rpartition('/')
    val = read.file.val
    metrics = [*(val.metrics or {}), *standard_metrics(getattr(val, 'protocol', None), read.file.scale)] if val else []
    place, reads = ('logger', 'keep_best'), (('val', 'metrics'), ('val', 'protocol'))
    if metric not in metrics:
        yield Problem(
            place, f'logger.keep_best: {shown(metric)} is no metric of val{suggestion(metric, metrics)}', reads
        )
    names = [str(section.name) for phase, section in read.sets.items() if phase.split('_')[0] == 'val']
    if (slash and dataset not in names) or not names:
        text = f'logger.keep_best: no validation set is called {shown(dataset)}{suggestion(dataset, names)}'
        yield Problem(place, text, tuple(('datasets', phase, 'name') for phase in read.sets))


def _starts(read: Read) -> Iterator[Problem]:
    train, paths = read.file.train, read.file.path
    if not isinstance(train, RAMiTTraining):
        return
    if train.warm_start is not None and (paths is None or paths.pretrain_network_g is None):
        text = 'train.warm_start needs path.pretrain_network_g, the checkpoint to start from'
        yield Problem(('train', 'warm_start'), text, (('path', 'pretrain_network_g'),))
    if train.checkpointing and read.network is None:
        text = 'train.checkpointing is for RAMiT; other networks cannot compute their activations again'
        yield Problem(('train', 'checkpointing'), text, (('network_g', 'type'),))


def _foreign(read: Read) -> Iterator[Problem]:
    """Keys of ours that another model does not read."""
    model = read.opt.get('model_type')
    if not _registered(model, 'model'):
        return
    ours: list[tuple[str, Iterable[str]]] = [('train', ['progressive']), ('val', ['protocol'])]
    if model == 'SRModel':
        ours = [
            ('train', RAMiTTraining.model_fields.keys() - Training.model_fields.keys()),
            ('val', RAMiTValidation.model_fields.keys() - Validation.model_fields.keys()),
        ]
    for name, keys in ours:
        for key in set(keys) & _section(read.opt, name).keys():
            if _section(read.opt, name)[key] is not None:
                place = (name, key)
                yield Problem(place, f'{dotted(place)}: {model} does not know it; set model_type to RAMiTModel')
