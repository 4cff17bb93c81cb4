"""Restoring pictures of any size with a network: `Restorer`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from ramit_arch.archs.layers import symmetric_pad
from ramit_arch.errors import UserError
from ramit_arch.inference import memory
from ramit_arch.inference.compute import Compute
from ramit_arch.inference.networks import load
from ramit_arch.inference.tiles import grid, restore_tiled

logger = logging.getLogger('basicsr')

BUDGET = 2**30  # bytes that `auto` lets a tile take, if half of the free memory is more
SMALLEST_TILE = 64
LARGEST_OVERLAP = 256
LARGE = 2**18  # pixels of a picture for which native kernels are compiled
OVERLAP = 32
DTYPES = (np.uint8, np.uint16, np.float32)


class Restorer:
    """Restores pictures of any size with one network.

    Args:
        network: the path of a checkpoint, as for `load_network`, or a network for images (N, C, H, W) in [0, 1]; the
            latter is moved to the device and set to evaluation mode.
        task: as for `load_network`.
        device: by default a GPU if there is one.
        tile: largest side of a tile, in pixels of the input. `auto` restores the picture whole if that takes at most
            1 GiB and half of the free memory, and otherwise in the largest tiles that do. None never uses tiles.
        overlap: of neighbouring tiles, in pixels of the input; blended linearly.
        precision: `bfloat16` is faster on hardware that supports it, and less accurate.
        ensemble: average the results of the eight flips and rotations of every tile: better, eight times slower.
        scale: super-resolution factor; by default that of the checkpoint or the network's `upscale`, or else 1.
        channels: of the network's images, 3 or 1; by default from the checkpoint or `in_chans`, or else 3.
        size_multiple: pad sides to multiples of this, for a network that does not pad its input; by default from the
            checkpoint, or else 1.

    Attributes:
        scale, channels, size_multiple: as above.
        file: the checkpoint, or None.
        task: SR, CDN and so on, if it is known.

    Raises:
        UserError: as `load_network`, or the device is not available.
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        network: nn.Module | str | Path,
        *,
        task: str | None = None,
        device: str | torch.device | None = None,
        tile: int | Literal['auto'] | None = 'auto',
        overlap: int = OVERLAP,
        precision: Literal['float32', 'bfloat16'] = 'float32',
        ensemble: bool = False,
        scale: int | None = None,
        channels: Literal[1, 3] | None = None,
        size_multiple: int | None = None,
    ) -> None:
        if overlap not in range(LARGEST_OVERLAP + 1):
            raise ValueError(f'overlap is {overlap!r}; it must be an integer from 0 to {LARGEST_OVERLAP}')
        if tile not in ('auto', None) and tile not in range(overlap + 1, 2**20):
            raise ValueError(
                f"tile is {tile!r}; it must be 'auto', None or an integer above overlap, which is {overlap}"
            )
        if precision not in ('float32', 'bfloat16'):
            raise ValueError(f"precision is {precision!r}; it must be 'float32' or 'bfloat16'")
        self.file: Path | None = None
        self.task = task
        if not isinstance(network, nn.Module):
            loaded = load(network, task)
            network, self.file, self.task = loaded.network, loaded.file, loaded.task
            scale, size_multiple = scale or loaded.scale, size_multiple or loaded.size_multiple
            channels = channels or loaded.channels  # type: ignore[assignment]
        upscale = getattr(network, 'upscale', None)  # of a network of one's own it may be a module
        self.scale: int = scale or (upscale if isinstance(upscale, int) else 1)
        self.channels: int = channels or getattr(network, 'in_chans', None) or 3
        self.size_multiple = size_multiple or 1
        self.device = find_device(device)
        self.network = network.eval().to(self.device)
        self.tile, self.overlap, self.ensemble = tile, overlap, ensemble
        gpu = self.device.type == 'cuda'
        self.compute = Compute(self.device, bf16=precision == 'bfloat16', channels_last=gpu)
        if gpu:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._call: Any = None  # chosen with the first picture
        self._bytes_per_pixel: float | None = None

    def restore(self, picture: np.ndarray, progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Restore a picture.

        Args:
            picture: (H, W) or (H, W, 1) gray, (H, W, 3) RGB, (H, W, 2) or (H, W, 4) with alpha; uint8, uint16, or
                float32 in [0, 1]. A network for colour restores gray as three equal channels, a network for gray the
                channels of a colour picture one by one. Alpha is resized; transparent pixels take the nearest opaque
                colour first, which avoids fringes at edges.
            progress: called with the number of input pixels that are done since the last call.

        Returns:
            (H * scale, W * scale) or (H * scale, W * scale, C), of the same dtype, clipped to its range.

        Raises:
            ValueError: the array has another shape or dtype, or is empty.
            UserError: it does not fit into memory, and tiles are off or cannot be smaller.
        """
        _check(picture)
        gray = picture.ndim == 2
        pixels = picture[..., None] if gray else picture
        if pixels.shape[2] in (2, 4):
            colour, alpha = pixels[..., :-1], pixels[..., -1]
            restored = self._restore(_extend_opaque(colour, alpha), progress)
            return np.concatenate([restored, _resize(alpha, self.scale)[..., None]], axis=2)
        restored = self._restore(pixels, progress)
        return restored[..., 0] if gray else restored

    def restore_tensor(self, image: Tensor) -> Tensor:
        """Restore images (N, C, H, W) in [0, 1], whole: (N, C, H * scale, W * scale) in float32, not clipped."""
        with torch.no_grad(), self.compute.active():
            if self._call is None:
                self._choose_kernels(image.shape[-2] * image.shape[-1])
            image = self.compute.image(image.to(self.device))
            if not self.ensemble:
                return restore_whole(self._call, image, self.scale, self.size_multiple)
            total: Tensor | None = None
            for turns in range(4):
                for flip in (False, True):
                    turned = image.rot90(turns, (2, 3))
                    turned = self.compute.image((turned.flip(3) if flip else turned).contiguous())
                    output = restore_whole(self._call, turned, self.scale, self.size_multiple)
                    output = (output.flip(3) if flip else output).rot90(-turns, (2, 3))
                    total = output if total is None else total + output
            assert total is not None
            return total / 8

    def _choose_kernels(self, pixels: int) -> None:
        """Use native kernels on a CPU, from the first picture on that is large enough to repay compiling them."""
        if self._call is not None and (self.compute.compile or pixels < LARGE):
            return
        native = self.device.type == 'cpu' and hasattr(self.network, 'set_compiled') and pixels >= LARGE
        self.compute = replace(self.compute, compile=native)
        self._call = self.compute.network(self.network)

    # ---------------------------------------------------------------------------------------------------- tiles

    def _restore(self, pixels: np.ndarray, progress: Callable[[int], None] | None) -> np.ndarray:
        """(H, W, C) -> (H * scale, W * scale, C), in smaller tiles if memory runs out and they are automatic."""
        height, width = pixels.shape[:2]
        self._choose_kernels(height * width)
        tile = self._tile(height, width)
        output = np.empty((height * self.scale, width * self.scale, pixels.shape[2]), pixels.dtype)
        while True:
            try:
                self._restore_tiles(pixels, output, tile, progress)
                return output
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                side = min(max(height, width), tile)
                if self.tile != 'auto' or side <= SMALLEST_TILE:
                    advice = 'use tiles' if self.tile is None else 'choose smaller tiles'
                    raise UserError(
                        f'out of memory with {width}x{height} pixels in tiles of {side}; {advice}'
                    ) from error
            if self.device.type == 'cuda':
                torch.cuda.empty_cache()
            tile = max(side // 2, SMALLEST_TILE)
            logger.warning(f'Out of memory with tiles of {side}; going on with tiles of {tile}.')

    def _tile(self, height: int, width: int) -> int:
        """The largest side of a tile."""
        if self.tile is None:
            return max(height, width)
        if self.tile != 'auto':
            return self.tile
        budget = min(memory.available(self.device) // 2, BUDGET)
        if height * width <= 2**16:  # estimating would take longer than restoring
            return max(height, width)
        if self._bytes_per_pixel is None:
            self._bytes_per_pixel = memory.bytes_per_pixel(self.network, self.channels)
        pixels = budget / self._bytes_per_pixel
        if height * width <= pixels:
            return max(height, width)
        multiple = getattr(self.network, 'size_multiple', self.size_multiple)
        return max(int(pixels**0.5) // multiple * multiple, SMALLEST_TILE, self.overlap + multiple)

    def _restore_tiles(
        self, pixels: np.ndarray, output: np.ndarray, tile: int, progress: Callable[[int], None] | None
    ) -> None:
        height, width = pixels.shape[:2]
        multiple = getattr(self.network, 'size_multiple', self.size_multiple)
        rows, columns = (grid(side, tile, min(self.overlap, tile - 1), multiple) for side in (height, width))
        share = height * width // (len(rows.starts) * len(columns.starts))

        def restore(top: int, bottom: int, left: int, right: int) -> Tensor:
            restored = self._restore_one(pixels[top:bottom, left:right])
            if progress is not None:
                progress(share)
            return restored

        def write(row: int, finished: Tensor) -> None:
            output[row : row + finished.shape[1]] = _to_pixels(finished, pixels.dtype)

        restore_tiled(restore, write, rows, columns, self.scale)

    def _restore_one(self, pixels: np.ndarray) -> Tensor:
        """A tile (h, w, C) -> (C, h * scale, w * scale) on the CPU."""
        image = to_tensor(pixels)
        if self.channels == 1:
            return torch.cat([self.restore_tensor(channel[None, None])[0].cpu() for channel in image])
        restored = self.restore_tensor(image.expand(3, -1, -1)[None])[0]
        return (restored.mean(0, keepdim=True) if image.shape[0] == 1 else restored).cpu()


def restore_whole(network: Callable[[Tensor], Any], image: Tensor, scale: int, size_multiple: int = 1) -> Tensor:
    """Pad images (N, C, H, W), restore and crop them: (N, C, H * scale, W * scale) in float32.

    Raises:
        UserError: the network returns something else.
    """
    height, width = (size * scale for size in image.shape[-2:])
    padded = symmetric_pad(image, size_multiple)
    output = network(padded)
    check_output(output)
    if output.shape[-2:] != tuple(size * scale for size in padded.shape[-2:]):
        sizes = [f'{x.shape[-1]}x{x.shape[-2]}' for x in (output, padded)]
        raise UserError(f'{_name(network)} returned {sizes[0]} for an image of {sizes[1]}; the scale is {scale}')
    return output[..., :height, :width].float()


def _name(network: Any) -> str:
    return type(network).__name__ if isinstance(network, nn.Module) else 'the network'


def check_output(output: Any, gt: Tensor | None = None) -> None:
    """Raises UserError if a network's output is no tensor (N, C, H, W), or not of the size of its ground truth."""
    if not isinstance(output, Tensor):
        raise UserError(f'network_g returned {type(output).__name__}; it must be one tensor (N, C, H, W)')
    if gt is not None and output.shape != gt.shape:
        sizes = [f'{x.shape[-1]}x{x.shape[-2]}' for x in (output, gt)]
        if sizes[0] == sizes[1]:
            sizes = [f'{x.shape[1]} channels' for x in (output, gt)]
        raise UserError(f'network_g returned {sizes[0]} for a target of {sizes[1]}')


# ---------------------------------------------------------------------------------------------------------- pixels


def _check(picture: np.ndarray) -> None:
    if picture.dtype not in DTYPES:
        raise ValueError(f'the picture is of {picture.dtype}; it must be uint8, uint16 or float32')
    if picture.ndim not in (2, 3) or (picture.ndim == 3 and not 1 <= picture.shape[2] <= 4):
        raise ValueError(f'the picture has the shape {picture.shape}; it must be (H, W) or (H, W, 1 to 4)')
    if picture.size == 0:
        raise ValueError(f'the picture is empty: {picture.shape}')


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, C) -> (C, H, W) in [0, 1]."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    largest = np.float32(1 if planes.dtype == np.float32 else np.iinfo(planes.dtype).max)
    return torch.from_numpy(np.divide(planes, largest, dtype=np.float32))


def _to_pixels(image: Tensor, dtype: np.dtype) -> np.ndarray:
    """(C, H, W) -> (H, W, C), clipped and rounded."""
    image = image.clamp(0, 1)
    if dtype != np.float32:
        image = (image * np.iinfo(dtype).max).round()
    return image.permute(1, 2, 0).numpy().astype(dtype)


def _extend_opaque(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Give transparent pixels, whose colour is arbitrary, that of the nearest pixel that is not."""
    if alpha.all() or not alpha.any():
        return colour
    rows, columns = distance_transform_edt(alpha == 0, return_distances=False, return_indices=True)
    return colour[rows, columns]


def _resize(alpha: np.ndarray, scale: int) -> np.ndarray:
    """(H, W) -> (H * scale, W * scale), bicubic."""
    if scale == 1:
        return alpha
    resized = cv2.resize(alpha, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return np.clip(resized, 0, 1) if alpha.dtype == np.float32 else resized


def find_device(device: str | torch.device | None) -> torch.device:
    """A device by name, or a GPU if there is one.

    Raises:
        UserError: it is not available.
    """
    if device is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'device {device}: not available here ({str(error).partition(chr(10))[0]})') from error
    return found


def is_out_of_memory(error: Exception) -> bool:
    texts = ('out of memory', "can't allocate memory", 'not enough memory')  # of CUDA, and of the CPU's allocator
    return isinstance(error, MemoryError) or any(text in str(error) for text in texts)
