"""How much memory there is, and how much a network needs."""

from __future__ import annotations

import copy
import os
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PROBE = 128  # side of the image that a network's memory is estimated with
UNKNOWN = 16_384.0  # bytes for each pixel
WORKSPACE = 1.3  # what libraries hold beside the tensors


def available(device: torch.device) -> int:
    """Bytes that this process can allocate, if those started with it by torchrun take as much.

    They are of the GPU, or of the machine and the process's control group.
    """
    return _free(device) // int(os.environ.get('LOCAL_WORLD_SIZE', '1'))


def _free(device: torch.device) -> int:
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith('MemAvailable:'))
    except (OSError, StopIteration):  # macOS
        free = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2
    return min([free, *_control_group_limits()])


def _control_group_limits() -> list[int]:
    limits = []
    for limit, usage in [('memory.max', 'memory.current'),
                         ('memory/memory.limit_in_bytes', 'memory/memory.usage_in_bytes')]:  # fmt: skip
        try:
            texts = [Path('/sys/fs/cgroup', name).read_text().strip() for name in (limit, usage)]
        except OSError:
            continue
        if texts[0] != 'max':
            limits.append(max(int(texts[0]) - int(texts[1]), 0))
    return limits


def bytes_per_pixel(network: nn.Module, channels: int) -> float:
    """Peak memory of a forward pass for each pixel of its input, from its tensors' sizes; nothing is computed.

    Of a network whose sizes depend on values, `UNKNOWN`; of one that says it itself, `network.bytes_per_pixel`.
    """
    known = getattr(network, 'bytes_per_pixel', None)
    if isinstance(known, float):
        return known
    device = next((parameter.device for parameter in network.parameters()), torch.device('cpu'))
    try:
        probed = copy.deepcopy(network)  # it may keep tensors
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), _PeakMemory() as memory:
            probed(torch.empty(1, channels, PROBE, PROBE, device=device))
    except Exception:  # whatever a network raises that needs real tensors, or cannot be copied
        return UNKNOWN
    return WORKSPACE * memory.peak / PROBE**2


class _PeakMemory(TorchDispatchMode):
    """Adds up what operators return, until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage not in self.alive:
                    self.alive[storage] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _free(self, count: int) -> None:
        self.now -= count
