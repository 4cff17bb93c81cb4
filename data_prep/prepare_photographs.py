"""Make the training data of the packaged networks: tiles of free photographs, with rendered text and patterns.

    python data_prep/prepare_photographs.py --work photographs
    basicsr prepare own --from photographs/tiles --to datasets/photographs --scale 2 4 --format raw

Downloads the Debian packages of photographs.yml into WORK (75 MB), checks their SHA-256, reduces the photographs, and
keeps the tiles that have texture. It needs dpkg-deb (Debian's dpkg). Packages that are there are not downloaded again.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

SOURCES = Path(__file__).with_name('photographs.yml')
TILE = 256
TEXTURE = 8.0  # the least that a tile has
SYNTHETIC = 0.1  # the share of tiles that are rendered
LETTERS = 'abcdefghijklmnopqrstuvwxyz' * 4 + 'ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?()-&%/äöüßéèñçåøÄÖÜ'


def read_package(package: dict[str, Any], mirror: str, work: Path) -> dict[str, bytes]:
    """The files of a Debian package that are listed, by path; downloaded if it is not in `work`."""
    file = work / Path(package['package']).name
    if not file.is_file():
        with urllib.request.urlopen(f'{mirror}/{package["package"]}') as response:
            temporary = file.with_suffix('.part')
            temporary.write_bytes(response.read())
            temporary.replace(file)
    if hashlib.sha256(file.read_bytes()).hexdigest() != package['sha256']:
        sys.exit(f'{file}: not the package of {SOURCES.name}; delete it')
    archive = subprocess.run(['dpkg-deb', '--fsys-tarfile', str(file)], capture_output=True, check=True).stdout
    wanted = {f'./{listed["path"]}' for listed in package['files']}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = {member.name[2:]: tar.extractfile(member) for member in tar if member.name in wanted}
    return {path: content.read() for path, content in found.items() if content is not None}


def tiles_of(photograph: bytes, scale: float) -> Iterator[np.ndarray]:
    """The tiles of a photograph, reduced by `scale` and again by 0.6, that have texture, RGB."""
    image = Image.open(io.BytesIO(photograph)).convert('RGB')
    for factor in (scale, 0.6 * scale):
        size = round(image.width * factor), round(image.height * factor)
        pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
        for y in range(0, size[1] - TILE + 1, TILE):
            for x in range(0, size[0] - TILE + 1, TILE):
                tile = pixels[y : y + TILE, x : x + TILE]
                if texture(tile) >= TEXTURE:
                    yield tile


def texture(tile: np.ndarray) -> float:
    """Mean of the absolute differences between neighbours, of 255, at half the size: noise hardly counts."""
    gray = cv2.resize(tile.astype(np.float32).mean(-1), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return float(np.abs(np.diff(gray, axis=0)).mean() + np.abs(np.diff(gray, axis=1)).mean())


def text(rng: np.random.Generator, fonts: list[bytes], background: np.ndarray) -> np.ndarray:
    """Lines of text in one font, on a plain ground or on a photograph."""
    ground = background if rng.random() < 0.3 else np.full((TILE, TILE, 3), rng.integers(0, 256, 3), np.uint8)
    image = Image.fromarray(ground)
    draw = ImageDraw.Draw(image)
    size = int(rng.integers(9, 48))
    font = ImageFont.truetype(io.BytesIO(fonts[rng.integers(len(fonts))]), size)
    colour = tuple((np.asarray(ground).mean((0, 1)) + rng.integers(80, 176, 3)).astype(int) % 256)
    y = int(rng.integers(-size // 2, size))
    while y < TILE:
        words = [''.join(rng.choice(list(LETTERS), rng.integers(1, 11))) for _ in range(40)]
        draw.text((int(rng.integers(-size, size)), y), ' '.join(words), fill=colour, font=font)
        y += int(size * 1.3)
    return np.asarray(image)


def pattern(rng: np.random.Generator) -> np.ndarray:
    """Stripes, checks or rings of some direction, period and curvature; smooth or with sharp edges."""
    factor = 4  # supersampling
    axis = np.arange(TILE * factor) / factor
    x, y = np.meshgrid(axis - rng.uniform(0, TILE), axis - rng.uniform(0, TILE))
    angle, period = rng.uniform(0, np.pi), rng.uniform(3, 32)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kind = rng.choice(['stripes', 'checks', 'rings', 'fan'])
    wave = np.sin(2 * np.pi / period * (np.hypot(x, y) if kind == 'rings' else along))
    if kind == 'checks':
        wave = wave * np.sin(2 * np.pi / period * across)
    elif kind == 'fan':
        wave = np.sin(np.arctan2(across, along) * rng.integers(8, 60))
    if rng.random() < 0.6:
        wave = np.sign(wave)
    low, high = rng.integers(0, 256, (2, 3))
    image = low + (high - low) * (wave[..., None] + 1) / 2
    return cv2.resize(image.astype(np.float32), (TILE, TILE), interpolation=cv2.INTER_AREA).round().astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work', type=Path, required=True, help='where packages and tiles are kept')
    parser.add_argument('--mirror', help="of Debian (default: photographs.yml's)")
    parser.add_argument('--synthetic', type=float, default=SYNTHETIC, help='share of rendered tiles (default: 0.1)')
    args = parser.parse_args()
    sources = yaml.safe_load(SOURCES.read_text(encoding='utf-8'))
    mirror = args.mirror or sources['mirror']
    folder = args.work / 'tiles'
    folder.mkdir(parents=True, exist_ok=True)
    tiles = []
    for package in tqdm(sources['photographs'], unit='package', disable=None):
        contents = read_package(package, mirror, args.work)
        for listed in package['files']:
            found = list(tiles_of(contents[listed['path']], listed['scale']))
            tiles += found
            for i, tile in enumerate(found):
                write(folder / f'{Path(listed["path"]).stem}_{i:02}.png', tile)
    fonts = [content for package in sources['fonts'] for content in read_package(package, mirror, args.work).values()]
    rng = np.random.default_rng(0)
    photographed = len(tiles)
    for i in range(round(photographed * args.synthetic / (1 - args.synthetic))):
        rendered = pattern(rng) if i % 3 == 2 else text(rng, fonts, tiles[rng.integers(photographed)])
        write(folder / f'rendered_{i:03}.png', rendered)
        tiles.append(rendered)
    print(f'{folder}: {photographed} tiles of photographs, {len(tiles) - photographed} rendered')


def write(file: Path, tile: np.ndarray) -> None:
    cv2.imwrite(str(file), np.ascontiguousarray(tile[..., ::-1]))


if __name__ == '__main__':
    main()
