"""Parts of the benchmarks that can be wrong without being noticed."""

from pathlib import Path

import numpy as np
import pytest


def test_motion_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / 'benchmarks'))
    from relatives_data import KERNEL, motion_kernel

    axis = np.arange(KERNEL) - KERNEL // 2
    for seed in range(100):
        kernel = motion_kernel(np.random.default_rng(seed))
        assert kernel.shape == (KERNEL, KERNEL)
        assert kernel.min() >= 0
        np.testing.assert_allclose([kernel.sum(), axis @ kernel.sum(1), axis @ kernel.sum(0)], [1, 0, 0], atol=1e-9)
        np.testing.assert_array_equal(kernel, motion_kernel(np.random.default_rng(seed)))
    assert not np.array_equal(kernel, motion_kernel(np.random.default_rng(0)))
