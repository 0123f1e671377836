"""The generic op tests, unchanged, on the CUDA kernels compiled for the CPU, every access under the checker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from simt import backend, build
from simt.bench import Bench

import pyflowk
from tests.ops import test_kernels
from tests.ops.cases import ALL_CASES, FEW_CASES, OpCase
from tests.ops.test_kernels import (  # collected here again, under the fixture below
    test_extreme_inputs,
    test_first_and_second_derivatives,
    test_narrow_dtypes,
    test_row_counts,
    test_rows_do_not_depend_on_their_mates,
    test_strides,
    test_taylor_remainder,
    test_values_and_gradients_as_good_as_torch,
)

__all__ = [
    "test_extreme_inputs",
    "test_first_and_second_derivatives",
    "test_narrow_dtypes",
    "test_row_counts",
    "test_rows_do_not_depend_on_their_mates",
    "test_strides",
    "test_taylor_remainder",
    "test_values_and_gradients_as_good_as_torch",
]
pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable())


@pytest.fixture(scope="module")
def bench() -> Bench:
    return backend.register("checker")


@pytest.fixture(autouse=True)
def on_the_bench(bench: Bench) -> Iterator[None]:
    with pyflowk.backend("simt"):
        yield
    assert bench.reports() == []
