"""Cosine attention in windows as a native kernel for CPUs, compiled on first use and cached.

It computes what `SpatialAttention` does in PyTorch, without gradients, several times as fast: what lies between query
and output stays in registers. It needs a C++ compiler.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

SOURCE = Path(__file__).with_name('window_attention.cpp')
FLAGS = ['-O3', '-std=c++17', '-fopenmp', '-shared', '-fPIC']
# What vectorising sums needs. -ffast-math would also flush denormals to zero in the whole process.
FLAGS += [f'-f{flag}' for flag in ('associative-math', 'reciprocal-math', 'finite-math-only')]
FLAGS += [f'-fno-{flag}' for flag in ('math-errno', 'trapping-math', 'signed-zeros')]
LANES = 16
TOLERANCE = 1e-4  # of the check after loading
DTYPES = {torch.float32: 'attend_float32', torch.bfloat16: 'attend_bfloat16'}


def available(window_size: int, width: int) -> str | None:
    """Why the kernel cannot be used for windows of this side and heads of this many channels; None if it can.

    The first call compiles it, in a few seconds.
    """
    if sys.platform != 'linux':
        return 'it is for Linux'
    if window_size**2 % LANES:
        return f'it is for windows whose side is a multiple of 4, not {window_size}'
    loaded = _load(window_size, width)
    return loaded if isinstance(loaded, str) else None


def compiler() -> str | None:
    """The C++ compiler: what CXX names, or g++ or clang++."""
    return next(filter(None, map(shutil.which, [os.environ.get('CXX', ''), 'g++', 'clang++'])), None)


@functools.cache
def _load(window_size: int, width: int) -> ctypes.CDLL | str:
    """Compile and load the kernel; if that fails, return the reason."""
    command = compiler()
    if command is None:
        return 'no C++ compiler was found (g++, clang++, or what CXX names)'
    native = '-mcpu=native' if platform.machine() in ('aarch64', 'arm64') else '-march=native'
    flags = [*FLAGS, native, f'-DWINDOW={window_size}', f'-DWIDTH={width}']
    try:
        version = subprocess.run([command, '--version'], capture_output=True, text=True, check=True).stdout
        processor = [line for line in Path('/proc/cpuinfo').read_text().splitlines() if line.startswith(('model name',
                     'flags', 'Features'))][:2]  # fmt: skip
        key = hashlib.sha256('\n'.join([SOURCE.read_text(), version, *processor, *flags]).encode()).hexdigest()[:16]
        file = _cache() / f'window_attention_{key}.so'
        if not file.is_file():
            with tempfile.TemporaryDirectory(dir=file.parent) as folder:
                built = Path(folder, file.name)
                subprocess.run(
                    [command, *flags, str(SOURCE), '-o', str(built)], capture_output=True, text=True, check=True
                )
                built.replace(file)
        library = ctypes.CDLL(str(file))
    except subprocess.CalledProcessError as error:
        return f'{command} failed: {(error.stderr.strip() or str(error)).splitlines()[0]}'
    except OSError as error:
        return f'it cannot be compiled or loaded ({error})'
    return library if _is_right(library, window_size, width) else f'what {command} compiled computes wrongly'


def _cache() -> Path:
    """The folder for compiled kernels: in the user's cache, or else a temporary one."""
    folder = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache', 'ramit_arch')
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(_temporary_folder().name)


@functools.cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix='ramit_arch_')


def _is_right(library: ctypes.CDLL, window_size: int, width: int) -> bool:
    """Whether it agrees with PyTorch on two small images."""
    generator = torch.Generator().manual_seed(0)
    heads, side = 2, 2 * window_size
    qkv = torch.randn(2, side, side, heads * 3 * width, generator=generator)
    helper = torch.randn(2, side, side, width, generator=generator)
    bias = torch.randn(heads, window_size**2, window_size**2, generator=generator)
    inverse_tau = torch.tensor([5.0, 20.0])
    expected = _reference(qkv, helper, bias, inverse_tau, window_size)
    for dtype, tolerance in ((torch.float32, TOLERANCE), (torch.bfloat16, 0.2)):
        found = _call(library, qkv.to(dtype), helper.to(dtype), bias, inverse_tau)
        if not (found - expected).abs().max() <= tolerance:
            return False
    return True


def _reference(qkv: Tensor, helper: Tensor, bias: Tensor, inverse_tau: Tensor, m: int) -> Tensor:
    n, h, w, _ = qkv.shape
    heads = len(inverse_tau)

    def windows(x: Tensor, parts: int) -> Tensor:  # (parts, windows, heads or 1, M^2, D)
        x = x.view(n, h // m, m, w // m, m, -1, parts, helper.shape[-1]).permute(6, 0, 1, 3, 5, 2, 4, 7)
        return x.flatten(1, 3).flatten(3, 4)

    q, k, v = windows(qkv, 3)
    cosine = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
    out = (cosine * inverse_tau[:, None, None] + bias).softmax(-1) @ (v * windows(helper, 1)[0])
    out = out.view(n, h // m, w // m, heads, m, m, -1).permute(0, 1, 4, 2, 5, 3, 6)
    return out.reshape(n, h, w, -1)


def _call(library: ctypes.CDLL, qkv: Tensor, helper: Tensor | None, bias: Tensor, inverse_tau: Tensor) -> Tensor:
    n, h, w, c = qkv.shape
    out = qkv.new_empty(n, h, w, c // 3)
    pointers = [ctypes.c_void_p(None if x is None else x.data_ptr()) for x in (qkv, helper, bias, inverse_tau, out)]
    getattr(library, DTYPES[qkv.dtype])(*pointers, *map(ctypes.c_int64, (n, h, w, len(inverse_tau))))
    return out


@torch.library.custom_op('ramit_arch::window_attention', mutates_args=(), device_types='cpu')
def window_attention(qkv: Tensor, helper: Tensor | None, bias: Tensor, inverse_tau: Tensor, window_size: int) -> Tensor:
    """softmax(cos(Q, K) / tau + B) (V * helper) in windows (Eq. 3), where `available`.

    Args:
        qkv: (N, H, W, heads * 3 * D), float32 or bfloat16; H and W are multiples of `window_size`.
        helper: (N, H, W, D) of the same dtype, or none.
        bias: (heads, M^2, M^2), float32.
        inverse_tau: (heads,), float32.
        window_size: M.

    Returns:
        (N, H, W, heads * D).
    """
    library = _load(window_size, qkv.shape[-1] // (3 * len(inverse_tau)))
    if isinstance(library, str):
        raise RuntimeError(f'the native window attention is not available: {library}')
    helper = None if helper is None else helper.to(qkv.dtype).contiguous()
    return _call(library, qkv.contiguous(), helper, bias.contiguous(), inverse_tau.contiguous())


@window_attention.register_fake
def _(qkv: Tensor, helper: Tensor | None, bias: Tensor, inverse_tau: Tensor, window_size: int) -> Tensor:
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
