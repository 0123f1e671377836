"""The generic op tests, unchanged, on the CUDA kernels compiled for the CPU, every access under the checker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from simt import backend, build
from simt.bench import Bench

import pyflowk
from tests.ops import test_kernels
from tests.ops.cases import BENCH_CASES, DTYPES, MODULES, OpCase, skip_without_kernel
from tests.ops.test_kernels import (  # collected here again, under the fixture below
    test_extreme_inputs,
    test_inplace,
    test_inplace_gradient_needs_only_the_output,
    test_row_counts,
    test_strides,
)

__all__ = [
    "test_extreme_inputs",
    "test_inplace",
    "test_inplace_gradient_needs_only_the_output",
    "test_row_counts",
    "test_strides",
]
pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable())

#: every third case: coprime to the two- and fourfold options, so each of them and each event still comes.
SOME_CASES = BENCH_CASES[::3]
SCHEDULES = [{"order": "reversed"}] + [{"order": "shuffled", "seed": s, "preempt": 3, "fuzz": True} for s in range(3)]


@pytest.fixture(scope="module")
def bench() -> Bench:
    return backend.register("checker")


@pytest.fixture(autouse=True)
def on_the_bench(bench: Bench, request: pytest.FixtureRequest) -> Iterator[None]:
    skip_without_kernel(request)
    with pyflowk.backend("simt"):
        yield
    assert bench.reports() == []


@pytest.mark.parametrize("case", BENCH_CASES, ids=str)
def test_values_and_gradients_as_good_as_torch(case: OpCase) -> None:
    test_kernels.test_values_and_gradients_as_good_as_torch(case)


@pytest.mark.parametrize("state, params", DTYPES[2:], ids=str)
def test_narrow_dtypes(state: torch.dtype, params: torch.dtype) -> None:
    for case in SOME_CASES:
        if case.takes(state, params):
            test_kernels.assert_as_good_as_torch(case, case.inputs(4, state, params))


@pytest.mark.parametrize("case", SOME_CASES, ids=str)
def test_rows_do_not_depend_on_their_mates(case: OpCase) -> None:
    test_kernels.test_rows_do_not_depend_on_their_mates(case)


def test_every_schedule_gives_the_same_bits(bench: Bench) -> None:
    for case in SOME_CASES:
        inputs = case.inputs(5, torch.float32)
        cotangents = test_kernels.cotangents_of(case, inputs)
        expected = test_kernels.values_and_gradients(case, inputs, cotangents)
        for schedule in SCHEDULES:
            with bench.options(**schedule):
                found = test_kernels.values_and_gradients(case, inputs, cotangents)
            assert all(torch.equal(a, b) for a, b in zip(found, expected)), f"{case} {schedule}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(8, 1024), (4, 12, 16, 16)], ids=str)
def test_vector_path_moves_every_sector_once(bench: Bench, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Global traffic is the size of the tensors, up to the rows' sums; banks serve a wavefront an access."""
    x = torch.randn(shape, dtype=dtype)
    params = torch.randn(shape, dtype=dtype).requires_grad_()
    with bench.options(count=True):
        y, ladj = pyflowk.ops.affine_coupling(x, params)
        forward = bench.traffic()
        (y.float().sum() + ladj.sum()).backward()
        backward = bench.traffic()
    sectors = x.numel() * x.element_size() // 32
    for rows, tensors in ((forward, 3), (backward, 4.5)):  # the backward leaves the identity half of y alone
        assert all(row.units == row.minimum for row in rows)
        large = [row for row in rows if not row.shared and row.units > row.requests]  # not the sums and their gradients
        assert sum(row.units for row in large) == tensors * sectors


def test_the_kernels_really_ran_here(bench: Bench) -> None:
    x = torch.randn(3, 8)
    with bench.options(count=True):
        pyflowk.ops.affine_coupling(x, torch.randn(3, 8))
    arrays = {row.array.split(" (")[0] for row in bench.traffic()}
    assert arrays == {"input 0", "input 1", "output 2", "output 3"}


def test_launches_are_logged_with_what_their_blocks_did(bench: Bench) -> None:
    x, params = torch.randn(64, 2048), torch.randn(64, 2048)
    logged = {}
    for blocks in ((0, 0), (0, 1), (0, 2)):  # that run
        with bench.options(log=True, count=True, blocks=blocks):
            pyflowk.ops.affine_coupling(x, params)
        (logged[blocks[1]],) = bench.launches()
    none, one, two = (logged[n] for n in range(3))
    assert "forward" in none.kernel and none.block == (256, 1, 1) and none.grid[0] * 8 >= 64
    assert (none.loads, none.stores, none.sectors, none.instructions) == (0, 0, 0, 0)
    assert one.loads and one.stores and one.sectors >= 4 * one.loads
    assert (two.loads, two.sectors) == (2 * one.loads, 2 * one.sectors)
    with bench.options(count=True):
        pyflowk.ops.affine_coupling(x, params)
    assert bench.launches() == []
    bench.traffic()


@pytest.mark.parametrize(
    "case, blocks", [module.PANELS for module in MODULES.values() if "PANELS" in vars(module)], ids=str
)
def test_a_block_takes_several_panels(case: OpCase, blocks: int) -> None:
    """More samples than that many blocks have lanes."""
    test_kernels.assert_as_good_as_torch(case, case.inputs(blocks * 32 + 1, torch.float32))
