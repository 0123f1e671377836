"""random_numbers, which is no op of the generic tests: its CUDA kernel on the CPU, under the checker."""

from __future__ import annotations

import pytest
from simt import backend, build

from pyflowk.ops.random_numbers import RANDOM
from tests.ops import test_random_numbers

pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable())


@pytest.mark.parametrize("kind", RANDOM)
def test_the_same_numbers(kind: str) -> None:
    bench = backend.register("checker")
    for draws, size in ((1, 1), (3, 37), (2, 300), (2, 0)):
        test_random_numbers.test_kernel_and_formula_make_the_same_numbers(kind, draws, size, "simt")
    test_random_numbers.test_a_number_depends_on_its_key_and_place_alone(kind, "simt")
    test_random_numbers.test_a_kernel_is_philox("simt")
    test_random_numbers.test_bad_input_is_refused("simt")
    assert bench.reports() == []
