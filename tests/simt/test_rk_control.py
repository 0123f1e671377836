"""rk_control, which is no op of the generic tests: its CUDA kernel on the CPU, under the checker."""

from __future__ import annotations

import pytest
from simt import backend, build

from tests.ops import test_rk_control

pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable())


@pytest.mark.parametrize("n, event", [(2, (2,)), (4, (64,)), (9, (13,)), (3, (700,)), (5, (0,)), (1, (4100,))])
def test_kernel_against_formula(n: int, event: tuple[int, ...]) -> None:
    bench = backend.register("checker")
    test_rk_control.test_kernel_against_formula(n, event, test_rk_control.PID, "simt")
    assert bench.reports() == []
