"""Restoring a picture from file to file, beside the network alone on its tiles, and SwinIR-light in hard tiles.

    python benchmarks/restore.py
    python benchmarks/restore.py --sizes 0.25 1 2 12

The network alone computes as many tiles of the same size, without reading, blending and writing. SwinIR-light is tiled
by the usual loop: tiles of 512 with 32 pixels more on all sides, which are cut off. --sizes measures peak memory
instead, of pictures of so many megapixels, each in a process of its own. Freed memory is kept, as the command does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from side_by_side import DEVICE, Report, arguments, interleaved, peak_memory, swinir_light, work_folder
from skimage import data
from torch import nn

from ramit_arch import RAMiT, Restorer
from ramit_arch.inference.folders import Job, restore_all
from ramit_arch.inference.restorer import restore_whole
from ramit_arch.inference.tiles import grid

TILE, PADDING = 512, 32


def write_picture(folder: Path, megapixels: float) -> Path:
    """A JPEG of 4:3, made of a photograph."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    size = (round(height * 4 / 3), height)
    path = folder / f'{megapixels}.jpg'
    Image.fromarray(data.coffee()).resize(size, Image.Resampling.BICUBIC).save(path, quality=95)
    return path


def from_file_to_file(restorer: Restorer, source: Path) -> None:
    [outcome] = restore_all(restorer, [Job(source, source.with_suffix('.png'))], 95)
    assert outcome.error is None, outcome.error


def network_alone(restorer: Restorer, source: Path) -> Callable[[], None]:
    with Image.open(source) as image:
        width, height = image.size
    side = restorer._tile(height, width)
    rows, columns = (grid(length, side, restorer.overlap, 32) for length in (height, width))
    tile = torch.rand(1, 3, rows.size, columns.size, device=DEVICE)
    restorer._choose_kernels(height * width)

    def run() -> None:
        for _ in range(len(rows.starts) * len(columns.starts)):
            restorer.restore_tensor(tile)

    return run


def hard_tiles(network: nn.Module, source: Path) -> Callable[[], None]:
    def run() -> None:
        image = torch.from_numpy(np.asarray(Image.open(source)).copy()).permute(2, 0, 1)[None].float().to(DEVICE) / 255
        height, width = image.shape[-2:]
        output = torch.empty(1, 3, 2 * height, 2 * width)
        with torch.no_grad():
            for top in range(0, height, TILE):
                for left in range(0, width, TILE):
                    above, before = min(top, PADDING), min(left, PADDING)
                    part = image[..., top - above : top + TILE + PADDING, left - before : left + TILE + PADDING]
                    restored = restore_whole(network, part, 2, 8)[..., 2 * above :, 2 * before :]
                    restored = restored[..., : 2 * TILE, : 2 * TILE]
                    output[..., 2 * top : 2 * top + 2 * TILE, 2 * left : 2 * left + 2 * TILE] = restored
        pixels = (output[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(source.with_suffix('.png'))

    return run


def restore_one(megapixels: float, begin: Callable[[], None]) -> None:
    torch.manual_seed(0)
    restorer = Restorer(RAMiT().eval())
    restorer.restore(np.zeros((8, 8, 3), np.uint8))
    with work_folder() as folder:
        source = write_picture(Path(folder), megapixels)
        begin()
        from_file_to_file(restorer, source)


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument('--megapixels', type=float, default=2.0, help='of the picture (default: 2)')
    parser.add_argument('--sizes', type=float, nargs='+', default=[], help='megapixels whose memory is measured')
    args = parser.parse_args()
    report = Report(args)
    if args.sizes:
        peaks = {f'{size} MP': peak_memory(restore_one, size) for size in args.sizes}
        report.table('peak memory, RAMiT x2', ['peak'], [[k, f'{v / 2**20:,.0f} MiB'] for k, v in peaks.items()])
        return
    torch.manual_seed(0)
    restorer = Restorer(RAMiT().eval())
    with work_folder() as folder:
        source = write_picture(Path(folder), args.megapixels)
        contestants = {
            'from file to file': lambda: from_file_to_file(restorer, source),
            'the network alone': network_alone(restorer, source),
            'SwinIR-light, hard tiles': hard_tiles(swinir_light(2).eval(), source),
        }
        timings = interleaved(args.rounds, contestants)
    title = f'{args.megapixels} megapixels, x2'
    report.timings(title, timings, 'the network alone', ('MP/s', args.megapixels))


if __name__ == '__main__':
    main()
