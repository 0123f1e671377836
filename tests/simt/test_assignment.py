"""assignment, which is no op of the generic tests: its CUDA kernel on the CPU, under the checker."""

from __future__ import annotations

import pytest
import torch
from simt import backend, build

import pyflowk
from pyflowk.ops import assignment, assignment_of_points
from tests.ops import test_assignment
from tests.ops.test_assignment import assert_optimal, degenerate, distances, noise

pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable())


def test_small_and_degenerate_problems() -> None:
    bench = backend.register("checker")
    for n, dims in ((0, 2), (1, 1), (2, 3), (33, 2), (40, 5)):
        test_assignment.test_small_problems(n, dims, "simt")
    with pyflowk.backend("simt"):
        for x0, x1 in degenerate(20, 2).values():
            assert_optimal(assignment_of_points(x0, x1), distances(x0, x1))
        for cost in (noise(24, 24).bfloat16(), noise(24, 24).half(), noise(24, 24).double()):
            assert_optimal(assignment(cost), cost)
    assert bench.reports() == []


def test_more_columns_than_threads() -> None:
    bench = backend.register("checker")
    x0, x1 = noise(270, 2), noise(270, 2, seed=1)
    x1[:250] = x0[torch.arange(250).roll(1)]  # so that few rows have a way to go
    with pyflowk.backend("simt"):
        assert_optimal(assignment_of_points(x0, x1), distances(x0, x1))
    assert bench.reports() == []


def test_what_is_kept() -> None:
    bench = backend.register("checker")
    test_assignment.test_a_problem_depends_on_nothing_beside_it("simt")
    test_assignment.test_what_does_not_fit_is_named(lambda: assignment(noise(2, 3)), r"must be \(G, B, B\)", "simt")
    for value in (float("nan"), float("inf"), 1e301):
        test_assignment.test_what_is_not_finite_is_refused(value, "simt")
    assert bench.reports() == []
