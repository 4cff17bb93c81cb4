"""How each task is scored (paper, Sec. 4.1 and Appendix B), said once; option files name it by `val.protocol`.

Common to all: the output is clamped to [0, 1] and rounded to 8 bits, PSNR and SSIM compare it with the 8-bit target,
and the network pads its input symmetrically at the right and bottom and crops its output back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ramit_arch.data.gaussian_denoising_dataset import NOISE_SEED
from ramit_arch.options.schema import GaussianDenoising, Loader, OptionFile, Problem, Restoration


@dataclass(frozen=True)
class Protocol:
    """What is compared with what.

    Attributes:
        task: in words.
        channel: Y (of YCbCr), RGB or gray.
        sets: the paper's test sets and their numbers of images.
        crops_scale: whether a border of `scale` pixels is left out.
        sigmas: levels of the noise that is added to clean images, in units of [0, 255]; empty where LQ images exist.
    """

    task: str
    channel: str
    sets: Mapping[str, int]
    crops_scale: bool = False
    sigmas: tuple[int, ...] = ()

    def metrics(self, scale: int) -> dict[str, dict[str, Any]]:
        """BasicSR's metrics that compute it."""
        settings = {'crop_border': scale if self.crops_scale else 0, 'test_y_channel': self.channel == 'Y'}
        return {name: {'type': f'calculate_{name}', **settings} for name in ('psnr', 'ssim')}


PROTOCOLS = {
    'SR': Protocol(
        'super-resolution',
        'Y',
        {'Set5': 5, 'Set14': 14, 'BSD100': 100, 'Urban100': 100, 'Manga109': 109},
        crops_scale=True,
    ),
    'CDN': Protocol(
        'colour denoising', 'RGB', {'CBSD68': 68, 'Kodak24': 24, 'McMaster': 18, 'Urban100': 100}, sigmas=(15, 25, 50)
    ),
    'GDN': Protocol('grayscale denoising', 'gray', {'Set12': 12, 'BSD68': 68, 'Urban100': 100}, sigmas=(15, 25, 50)),
    'LLE': Protocol('low-light enhancement', 'RGB', {'LOL': 15, 'VE-LOL-cap': 100}),
    'DR': Protocol('deraining', 'Y', {'Test100': 100, 'Rain100H': 100}),
}


def validation_metrics(opt: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The metrics of a run: those of `val.protocol`, and what `val.metrics` adds to them.

    Where both have a metric, it is that of the protocol, which `protocol_problems` finds if they differ.
    """
    val = opt.get('val') or {}
    standard, own = standard_metrics(val.get('protocol'), opt.get('scale', 1)), val.get('metrics') or {}
    return {**standard, **{key: metric for key, metric in own.items() if key not in standard}}


def standard_metrics(name: str | None, scale: int) -> dict[str, dict[str, Any]]:
    """The metrics of a protocol, or none."""
    return PROTOCOLS[name].metrics(scale) if name in PROTOCOLS else {}


def protocol_problems(file: OptionFile, sets: Mapping[str, Loader]) -> Iterator[Problem]:
    """Where metrics, scale, validation and test sets of an option file are not those of its protocol.

    Args:
        file: the file.
        sets: its data sets by phase.
    """
    name, place = getattr(file.val, 'protocol', None), ('val', 'protocol')
    if file.val is None or name is None:
        return
    protocol = PROTOCOLS[name]
    if (file.scale > 1) != protocol.crops_scale:
        text = f'val.protocol {name} is {protocol.task}, which does not go with scale {file.scale}'
        yield Problem(place, text, (('scale',),))
    yield from _other_metrics(name, file)
    for phase, section in sets.items():
        if isinstance(section, Restoration) and not phase.startswith('train'):
            for key, text in _other_images(name, protocol, section):
                yield Problem(('datasets', phase, key), f'datasets.{phase}.{key} {text}', (place,))


def _other_metrics(name: str, file: OptionFile) -> Iterator[Problem]:
    standard, own = standard_metrics(name, file.scale), file.val.metrics if file.val else None
    for key in standard.keys() & (own or {}).keys():
        for setting, value in (own or {})[key].given().items():
            expected = standard[key].get(setting)
            if value != expected:
                place = ('val', 'metrics', key, setting)
                text = f'is {value!r}, but protocol {name} has {expected!r}; remove the metric or the protocol'
                yield Problem(place, f'{".".join(place)} {text}', (('scale',), ('val', 'protocol')))


def _other_images(name: str, protocol: Protocol, section: Restoration) -> Iterator[tuple[str, str]]:
    needed = 'gray' if protocol.channel == 'gray' else 'rgb'
    if section.color != needed:
        yield 'color', f'is {section.color}; val.protocol {name} scores {needed} images'
    if isinstance(section, GaussianDenoising) != bool(protocol.sigmas):
        yield 'type', f'is {section.type}; val.protocol {name} is {protocol.task}'
    _, suffix, level = str(section.name).partition('_sigma')
    sigma = getattr(section, 'sigma', None)
    if suffix and level.isdecimal() and isinstance(sigma, float) and sigma != int(level):
        yield 'sigma', f'is {sigma:g}, but the set is called {section.name}'


def describe(opt: dict[str, Any], section: dict[str, Any], multiple: int | None) -> dict[str, Any]:
    """What a score file says of how it was made.

    Args:
        opt: the whole option dictionary.
        section: that of the data set.
        multiple: the network pads both sides to multiples of it; None if it is not known.
    """
    name = (opt.get('val') or {}).get('protocol')
    sigma = section.get('sigma')
    return {
        'protocol': name,
        'channel': PROTOCOLS[name].channel if name else None,
        'noise': None if sigma is None else {'sigma': sigma, 'seed': NOISE_SEED, 'clipped': False},
        'padding': None if multiple is None else f'symmetric, right and bottom, to multiples of {multiple}',
        'metrics': validation_metrics(opt),
    }
