"""How each task is scored (paper, Sec. 4.1 and Appendix B), said once; option files name it by `val.protocol`.

Common to all: the output is clamped to [0, 1] and rounded to 8 bits, PSNR and SSIM compare it with the 8-bit target,
and the network pads its input symmetrically at the right and bottom and crops its output back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ramit_arch.data.gaussian_denoising_dataset import NOISE_SEED
from ramit_arch.errors import UserError, suggestion

OUR_SETS = ('PairedRestorationDataset', 'GaussianDenoisingDataset')  # of others we do not know what they make


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

    Raises:
        UserError: there is no such protocol, or `val.metrics` contradicts it.
    """
    val = opt.get('val') or {}
    own, name = val.get('metrics') or {}, val.get('protocol')
    if name is None:
        return own
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise UserError(f'val.protocol: {name!r} is none of {", ".join(PROTOCOLS)}{suggestion(str(name), PROTOCOLS)}')
    standard = PROTOCOLS[name].metrics(opt.get('scale', 1))
    for key in standard.keys() & own.keys():
        for setting, value in own[key].items():
            if value != standard[key].get(setting):
                raise UserError(
                    f'val.metrics.{key}.{setting} is {value!r}, but protocol {name} has '
                    f'{standard[key].get(setting)!r}; remove the metric or the protocol'
                )
    return {**standard, **{key: metric for key, metric in own.items() if key not in standard}}


def check_protocol(opt: dict[str, Any]) -> None:
    """Check that scale, validation and test sets of an option file are those that its protocol scores.

    Raises:
        UserError: names the key that contradicts the protocol.
    """
    validation_metrics(opt)
    name = (opt.get('val') or {}).get('protocol')
    if name is None:
        return
    protocol, scale = PROTOCOLS[name], opt.get('scale', 1)
    if (scale > 1) != protocol.crops_scale:
        raise UserError(f'val.protocol {name} is {protocol.task}, which does not go with scale {scale}')
    for phase, section in _test_sets(opt):
        color, needed = section.get('color', 'rgb'), 'gray' if protocol.channel == 'gray' else 'rgb'
        if color != needed:
            raise UserError(f'datasets.{phase}.color is {color}; val.protocol {name} scores {needed} images')
        _, suffix, level = str(section['name']).partition('_sigma')
        if suffix and level.isdecimal() and section.get('sigma') not in (None, int(level)):
            raise UserError(f'datasets.{phase}: it is called {section["name"]}, but its sigma is {section["sigma"]}')
        if (section['type'] == 'GaussianDenoisingDataset') != bool(protocol.sigmas):
            raise UserError(f'datasets.{phase}.type is {section["type"]}; val.protocol {name} is {protocol.task}')


def _test_sets(opt: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for phase, section in opt['datasets'].items():
        if not str(phase).startswith('train') and section['type'] in OUR_SETS:
            yield phase, section


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
