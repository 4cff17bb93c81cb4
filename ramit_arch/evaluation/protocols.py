"""How each task is scored; option files select it by `val.protocol`.

`PAPER` are the tasks of the paper (Sec. 4.1 and Appendix B). `FURTHER` are tasks of its relatives, scored by
the usual protocol of the field: PSNR and SSIM of RGB images, no border.
- DB: GoPro (Nah et al., CVPR 2017) and HIDE (Shen et al., ICCV 2019), as MPRNet (CVPR 2021), Restormer and NAFNet.
- DH: SOTS (Li et al., TIP 2019), as FFA-Net (AAAI 2020). DehazeFormer (TIP 2023) computes SSIM on downscaled
  images, so its SSIM is not comparable.
- RDN: the 1,280 validation blocks of SIDD (Abdelhamed et al., CVPR 2018), as MPRNet, Restormer and NAFNet: the average
  over blocks.
SSIM is BasicSR's, the average over the channels. MPRNet and Restormer use MATLAB's on the RGB array, NAFNet a
three-dimensional window; their SSIM is not comparable.

Common to all: the output is clamped to [0, 1] and rounded to 8 bits, PSNR and SSIM compare it with the 8-bit target,
and the network pads its input symmetrically at the right and bottom and crops its output back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ramit_arch.data.gaussian_denoising_dataset import NOISE_SEED, GaussianDenoisingOptions
from ramit_arch.data.restoration_dataset import RestorationOptions


@dataclass(frozen=True)
class Protocol:
    """What is compared with what.

    Attributes:
        task: in words.
        channel: Y (of YCbCr), RGB or gray.
        sets: the test sets and their numbers of images.
        crops_scale: whether a border of `scale` pixels is left out in super-resolution.
        sigmas: levels of the noise that is added to clean images, in units of [0, 255]; empty where LQ images exist.
    """

    task: str
    channel: str
    sets: Mapping[str, int]
    crops_scale: bool = False
    sigmas: tuple[int, ...] = ()

    def metrics(self, scale: int) -> dict[str, dict[str, Any]]:
        """BasicSR's metrics that compute it."""
        border = scale if self.crops_scale and scale > 1 else 0
        settings = {'crop_border': border, 'test_y_channel': self.channel == 'Y'}
        return {name: {'type': f'calculate_{name}', **settings} for name in ('psnr', 'ssim')}


PAPER = {
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
FURTHER = {
    'DB': Protocol('motion deblurring', 'RGB', {'GoPro': 1111, 'HIDE': 2025}),
    'DH': Protocol('dehazing', 'RGB', {'SOTS-indoor': 500, 'SOTS-outdoor': 500}),
    'RDN': Protocol('real denoising', 'RGB', {'SIDD': 1280}),
}
PROTOCOLS = {**PAPER, **FURTHER}
NEUTRAL = {  # for what the paper does not restore: any images, scale and degradation
    'RGB': Protocol('restoration of any kind', 'RGB', {}, crops_scale=True),
    'Y': Protocol('restoration of any kind', 'Y', {}, crops_scale=True),
}
ALL = {**PROTOCOLS, **NEUTRAL}


def task_of(protocol: Any) -> str | None:
    """The task that a protocol scores; None for a neutral one."""
    return protocol if isinstance(protocol, str) and protocol in PROTOCOLS else None


def standard_metrics(name: str | None, scale: int) -> dict[str, dict[str, Any]]:
    """The metrics of a protocol, or none."""
    return ALL[name].metrics(scale) if name in ALL else {}


def image_conflicts(name: str, section: RestorationOptions) -> Iterator[tuple[str, str]]:
    """Where a dataset's images are not those of a protocol: the key, and the rest of a sentence."""
    if name in NEUTRAL:
        return
    protocol = PROTOCOLS[name]
    needed = 'gray' if protocol.channel == 'gray' else 'rgb'
    if section.color != needed:
        yield 'color', f'is {section.color}; val.protocol {name} scores {needed} images'
    if isinstance(section, GaussianDenoisingOptions) != bool(protocol.sigmas):
        yield 'type', f'is {section.type}; val.protocol {name} is {protocol.task}'
    _, suffix, level = section.name.partition('_sigma')
    sigma = getattr(section, 'sigma', None)
    if suffix and level.isdecimal() and isinstance(sigma, (int, float)) and sigma != int(level):
        yield 'sigma', f'is {sigma:g}, but the dataset is named {section.name}'


def describe(name: str | None, metrics: dict[str, Any], sigma: Any, multiple: int | None) -> dict[str, Any]:
    """What a score file says of how it was made.

    Args:
        name: the protocol, or None.
        metrics: all metrics with their settings.
        sigma: level of the noise that was added, or None.
        multiple: the network pads both sides to multiples of it; None if it is not known.
    """
    return {
        'protocol': name,
        'channel': ALL[name].channel if name else None,
        'noise': None if sigma is None else {'sigma': sigma, 'seed': NOISE_SEED, 'clipped': False},
        'padding': None if multiple is None else f'symmetric, right and bottom, to multiples of {multiple}',
        'metrics': metrics,
    }
