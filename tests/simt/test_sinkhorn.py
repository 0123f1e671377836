"""sinkhorn and nearest, which are no ops of the generic tests: their CUDA kernels on the CPU, under the checker."""

from __future__ import annotations

import importlib

import pytest
import torch
from simt import backend, build

import pyflowk
from pyflowk.ops import sinkhorn, sinkhorn_plan
from tests.ops import test_nearest
from tests.ops import test_sinkhorn as tests_of

op = importlib.import_module("pyflowk.ops.sinkhorn")  # whose name in the package is the function's
pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable())


@pytest.fixture(autouse=True)
def few_steps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a card makes them, whose state is looked at in between."""
    monkeypatch.setitem(op._AT_ONCE, "cpu", 12)


def test_sinkhorn() -> None:
    bench = backend.register("checker")
    tests_of.test_marginals(2, 16, 33, 2, torch.bfloat16, "simt")
    tests_of.test_an_unbalanced_plan_is_the_best("simt")
    tests_of.test_nan_and_infinite_costs("simt")
    tests_of.test_bad_input_is_refused("simt")
    assert bench.reports() == []


def test_it_cools_and_mixes_as_the_formula_does() -> None:
    bench = backend.register("checker")
    x0, x1 = tests_of.normal(20, 2), 4 * tests_of.normal(17, 2, seed=1)
    found = []
    for name in ("reference", "simt"):
        with pyflowk.backend(name):
            found.append(sinkhorn(x0, x1, 0.2, tolerance=1e-6))
    torch.testing.assert_close(*(sinkhorn_plan(x0, x1, f, 0.2) for f in found), rtol=1e-3, atol=1e-6)
    assert all(f.converged and 10 < f.iterations < 200 for f in found)
    assert bench.reports() == []


def test_draws() -> None:
    bench = backend.register("checker")
    for dtype in (torch.float32, torch.float64):
        tests_of.test_draws_of_kernel_and_formula(dtype, "simt")
    tests_of.test_empty(0, 3, "simt")
    assert bench.reports() == []


def test_nearest_targets() -> None:
    bench = backend.register("checker")
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        test_nearest.test_against_the_whole_matrix(37, 130, 2, dtype, "simt")
    test_nearest.test_ties_and_targets_that_are_left_out("simt")
    test_nearest.test_nan_gives_nan("simt")
    test_nearest.test_rows_by_themselves_strides_and_threads("simt")
    test_nearest.test_bad_input_is_refused("simt")
    assert bench.reports() == []
