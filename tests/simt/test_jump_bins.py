"""jump_bins, which is no op of the generic tests: its CUDA kernel on the CPU, under the checker."""

from __future__ import annotations

import pytest
import torch
from simt import backend, build

from tests.ops import test_jump_bins

pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable())


def test_jump_bins_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = backend.register("checker")
    monkeypatch.setattr(test_jump_bins, "BACKENDS", ["reference", "simt"])
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        test_jump_bins.test_kernel_formula_and_the_sum_of_the_masses(dtype)
    test_jump_bins.test_golden_numbers("simt")
    test_jump_bins.test_at_the_end_jumps_land_on_the_data("simt")
    test_jump_bins.test_rows_by_themselves_strides_nan("simt")
    test_jump_bins.test_bad_input_is_refused("simt")
    assert bench.reports() == []
