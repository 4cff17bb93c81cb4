"""`basicsr attribute`"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from tqdm import tqdm

from ramit_arch.cli.figures import check_figure, choose_titles, drawable, image_for, open_differentiable, read_image
from ramit_arch.errors import UserError
from ramit_arch.evaluation import figures
from ramit_arch.evaluation.attribution import Attribution, Box, attribute, diffusion_index, share_beyond
from ramit_arch.evaluation.attribution_figure import figure
from ramit_arch.evaluation.text import aligned
from ramit_arch.inference.restorer import Restorer, is_out_of_memory, restore_whole

LARGEST_ERROR = 0.05  # of the integration, that is not remarked on
FAR = 32  # pixels of the input


def run(args: argparse.Namespace) -> None:
    """Print the diffusion index of every network for a box of an image, and draw their attribution maps.

    Raises:
        UserError: an argument does not fit, or a network cannot be used.
    """
    file = check_figure('-o', args.output, [args.image])
    image = read_image(args.image)
    height, width = image.shape[:2]
    box = Box(*args.box)
    if not box.inside(height, width):
        raise UserError(f'--box {",".join(map(str, box))}: not inside {args.image}, which has {width}x{height} pixels')
    names = choose_titles(args.model, args.names)
    restorers = [open_differentiable(path, args.task, args.device) for path in args.model]
    found: dict[str, Attribution] = {}
    for path, name, restorer in zip(args.model, names, restorers, strict=True):
        found[name] = _attribute(path, name, restorer, image, box, args)
    print(aligned([['network', 'scale', 'DI', f'beyond {FAR}', 'detector', 'blurred', 'integration error'], *(
        [name, f'x{restorer.scale}', f'{diffusion_index(each.map):.2f}', f'{share_beyond(each.map, box, FAR):.3%}',
         f'{each.sharp:.3f}', f'{each.blurred:.3f}', f'{each.error:.1%}']
        for (name, each), restorer in zip(found.items(), restorers, strict=True)
    )]))  # fmt: skip
    if any(each.error > LARGEST_ERROR for each in found.values()):
        print(f'An integration error above {LARGEST_ERROR:.0%}: more --steps make it smaller.')
    maps = {name: each.map for name, each in found.items()}
    figures.save(lambda: figure(drawable(image), box, maps), file)
    print(f'Attribution maps: {file}')


def _attribute(
    path: str, name: str, restorer: Restorer, image: np.ndarray, box: Box, args: argparse.Namespace
) -> Attribution:
    network = partial(restore_whole, restorer.network, scale=restorer.scale, size_multiple=restorer.size_multiple)
    tensor, output_box = image_for(restorer, image), box.scaled(restorer.scale)
    try:
        with (
            tqdm(total=args.steps, desc=name, unit='step', leave=False, disable=None) as bar,
            restorer.compute.active(),
        ):
            found = attribute(network, tensor, output_box, args.steps, args.sigma, bar.update)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        size = f'{image.shape[1]}x{image.shape[0]}'
        raise UserError(
            f'{path}: out of memory with the gradients of {size} pixels; give a crop of the image'
        ) from error
    if not found.map.any():
        raise UserError(f'{path}: the box of its output does not change along the path; choose a box with some detail')
    return found
