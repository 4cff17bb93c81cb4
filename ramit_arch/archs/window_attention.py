"""Cosine attention in windows (Eq. 3): in PyTorch, and as a native kernel for CPUs, compiled on first use and cached.

The kernel is several times as fast, forward and backward: what lies between query and output stays in registers, and
is computed again for the gradient instead of being kept. It needs a C++ compiler.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
DTYPES = {torch.float32: 'float32', torch.bfloat16: 'bfloat16'}


def window_attention(
    qkv: Tensor, helper: Tensor | None, bias: Tensor, inverse_tau: Tensor, window_size: int, dropout: float = 0.0
) -> Tensor:
    """softmax(cos(Q, K) / tau + B) (V * helper) in windows (Eq. 3), in PyTorch.

    Args:
        qkv: (N, H, W, heads * 3 * D); H and W are multiples of `window_size`.
        helper: (N, H, W, D), or none.
        bias: (heads, M^2, M^2).
        inverse_tau: (heads,).
        window_size: M.
        dropout: rate for the attention maps.

    Returns:
        (N, H, W, heads * D).
    """
    n, h, w, _ = qkv.shape
    m, heads = window_size, len(inverse_tau)

    def windows(x: Tensor, parts: int) -> Tensor:  # (parts, B, heads or 1, M^2, D), B windows in total
        x = x.view(n, h // m, m, w // m, m, -1, parts, qkv.shape[-1] // (3 * heads))
        return x.permute(6, 0, 1, 3, 5, 2, 4, 7).flatten(1, 3).flatten(3, 4)

    q, k, v = windows(qkv, 3)
    if helper is not None:
        v = v * windows(helper, 1)[0]
    scale, bias = inverse_tau[:, None, None], bias.to(v.dtype)
    q, k = (F.normalize(q, dim=-1) * scale).to(v.dtype), F.normalize(k, dim=-1).to(v.dtype)
    if q.is_cuda:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None], dropout_p=dropout, scale=1.0)
    else:  # faster than the fused kernel, which has no gradient of the bias here, as long as the scores fit a cache
        cosine = (q.flatten(0, 1) @ k.flatten(0, 1).mT).view(-1, heads, m * m, m * m)
        attention = F.dropout(cosine.add_(bias).softmax(-1), dropout)
        out = attention.flatten(0, 1) @ v.flatten(0, 1)
    out = out.view(n, h // m, w // m, heads, m, m, -1).permute(0, 1, 4, 2, 5, 3, 6)
    return out.reshape(n, h, w, -1)


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


def takes(qkv: Tensor) -> bool:
    """Whether the kernel is for this device and dtype."""
    return qkv.device.type == 'cpu' and qkv.dtype in DTYPES


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


@torch.inference_mode(False)
@torch.enable_grad()
@torch.autocast('cpu', enabled=False)
def _is_right(library: ctypes.CDLL, window_size: int, width: int) -> bool:
    """Whether it agrees with PyTorch on two small images, forward and backward."""
    generator = torch.Generator().manual_seed(0)
    heads, side = 2, 2 * window_size
    qkv = torch.randn(2, side, side, heads * 3 * width, generator=generator)
    helper = torch.randn(2, side, side, width, generator=generator)
    bias = torch.randn(heads, window_size**2, window_size**2, generator=generator)
    gradient = torch.randn(2, side, side, heads * width, generator=generator)
    inverse_tau = torch.tensor([5.0, 20.0])
    inputs = [x.requires_grad_() for x in (qkv, helper, bias, inverse_tau)]
    out = window_attention(qkv, helper, bias, inverse_tau, window_size)
    expected = [out, *torch.autograd.grad(out, inputs, gradient)]
    for dtype, tolerance in ((torch.float32, TOLERANCE), (torch.bfloat16, 0.1)):
        q, h = qkv.detach().to(dtype), helper.detach().to(dtype)
        found = [_attend(library, q, h, bias, inverse_tau)]
        found += _differentiate(library, gradient.to(dtype), q, h, bias, inverse_tau)
        if not all(_close(a, b, tolerance) for a, b in zip(found, expected, strict=True)):
            return False
    return True


def _close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def _call(library: ctypes.CDLL, function: str, tensors: Sequence[Tensor | None], *sizes: int) -> None:
    # Outputs are contiguous; copies of inputs live until the call returns.
    tensors = [x if x is None else x.contiguous() for x in tensors]
    dtype = next(DTYPES[x.dtype] for x in tensors if x is not None)
    pointers = [ctypes.c_void_p(x if x is None else x.data_ptr()) for x in tensors]
    getattr(library, f'{function}_{dtype}')(*pointers, *map(ctypes.c_int64, sizes))


def _attend(library: ctypes.CDLL, qkv: Tensor, helper: Tensor | None, bias: Tensor, inverse_tau: Tensor) -> Tensor:
    n, h, w, c = qkv.shape
    out = qkv.new_empty(n, h, w, c // 3)
    sizes = (n, h, w, len(inverse_tau), torch.get_num_threads())
    _call(library, 'attend', [qkv, helper, bias, inverse_tau, out], *sizes)
    return out


def _differentiate(
    library: ctypes.CDLL, gradient: Tensor, qkv: Tensor, helper: Tensor | None, bias: Tensor, inverse_tau: Tensor
) -> list[Tensor]:
    """The gradients of qkv, helper (empty without), bias and inverse_tau."""
    threads = torch.get_num_threads()
    to_qkv = qkv.new_empty(qkv.shape)
    to_helper = None if helper is None else helper.new_empty(helper.shape)
    to_bias, to_inverse_tau = bias.new_zeros(threads, *bias.shape), inverse_tau.new_zeros(threads, len(inverse_tau))
    inputs = [gradient, qkv, helper, bias, inverse_tau]
    outputs = [to_qkv, to_helper, to_bias, to_inverse_tau]
    _call(library, 'differentiate', [*inputs, *outputs], *qkv.shape[:3], len(inverse_tau), threads)
    return [to_qkv, qkv.new_empty(0) if to_helper is None else to_helper, to_bias.sum(0), to_inverse_tau.sum(0)]


def _kernel(qkv: Tensor, inverse_tau: Tensor, window_size: int) -> ctypes.CDLL:
    library = _load(window_size, qkv.shape[-1] // (3 * len(inverse_tau)))
    if isinstance(library, str):
        raise RuntimeError(f'the native window attention is not available: {library}')
    return library


def native_window_attention(
    qkv: Tensor, helper: Tensor | None, bias: Tensor, inverse_tau: Tensor, window_size: int
) -> Tensor:
    """`window_attention` by the native kernel, where `available`, of what it `takes`."""
    helper = None if helper is None else helper.to(qkv.dtype)
    return _forward(qkv, helper, bias.float(), inverse_tau.float(), window_size)


@torch.library.custom_op('ramit_arch::window_attention', mutates_args=(), device_types='cpu')
def _forward(qkv: Tensor, helper: Tensor | None, bias: Tensor, inverse_tau: Tensor, window_size: int) -> Tensor:
    return _attend(_kernel(qkv, inverse_tau, window_size), qkv, helper, bias, inverse_tau)


@_forward.register_fake
def _(qkv: Tensor, helper: Tensor | None, bias: Tensor, inverse_tau: Tensor, window_size: int) -> Tensor:
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)


@torch.library.custom_op('ramit_arch::window_attention_backward', mutates_args=(), device_types='cpu')
def _backward(
    gradient: Tensor, qkv: Tensor, helper: Tensor | None, bias: Tensor, inverse_tau: Tensor, window_size: int
) -> list[Tensor]:
    return _differentiate(_kernel(qkv, inverse_tau, window_size), gradient, qkv, helper, bias, inverse_tau)


@_backward.register_fake
def _(
    gradient: Tensor, qkv: Tensor, helper: Tensor | None, bias: Tensor, inverse_tau: Tensor, window_size: int
) -> list[Tensor]:
    helper = qkv.new_empty(0) if helper is None else helper
    return [x.new_empty(x.shape) for x in (qkv, helper, bias, inverse_tau)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.window_size = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # to be read once only, for activation checkpointing
    to_qkv, to_helper, to_bias, to_inverse_tau = _backward(gradient, *saved, ctx.window_size)
    return to_qkv, None if saved[1] is None else to_helper, to_bias, to_inverse_tau, None


_forward.register_autograd(_gradients, setup_context=_save)
