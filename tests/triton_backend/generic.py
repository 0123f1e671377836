"""The generic op tests on the Triton kernels, at small sizes; test_interpreted.py runs this file in the interpreter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import pyflowk
from pyflowk.ops._triton import backend as kernels
from pyflowk.ops.random_numbers import RANDOM
from pyflowk.solvers import Adaptive, Solution, solve_ivp
from tests.ops import cases, test_kernels, test_random_numbers, test_rk_control
from tests.ops.cases import DTYPES, OpCase

SMALL_CASES, FEW_CASES = (
    [case for case in some if getattr(kernels, case.op, None)] for some in (cases.SMALL_CASES, cases.FEW_CASES)
)


@pytest.fixture(autouse=True)
def on_triton() -> Iterator[None]:
    with pyflowk.backend("triton"):
        yield


@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_values_and_gradients_as_good_as_torch(case: OpCase) -> None:
    for dtype in (torch.float32, torch.float64):
        test_kernels.assert_as_good_as_torch(case, case.inputs(3, dtype))


@pytest.mark.parametrize("case", FEW_CASES, ids=str)
def test_strides(case: OpCase) -> None:
    test_kernels.test_strides(case)


@pytest.mark.parametrize("state, params", DTYPES[2:], ids=str)
def test_narrow_dtypes(state: torch.dtype, params: torch.dtype) -> None:
    for case in FEW_CASES:
        if case.takes(state, params):
            test_kernels.assert_as_good_as_torch(case, case.inputs(3, state, params))


@pytest.mark.parametrize("rows", [0, 1, 2, 150])
def test_row_counts(rows: int) -> None:
    test_kernels.test_row_counts(rows)


@pytest.mark.parametrize("case", FEW_CASES, ids=str)
def test_extreme_inputs(case: OpCase) -> None:
    test_kernels.test_extreme_inputs(case)


@pytest.mark.parametrize("case", [case for case in FEW_CASES if case.inplace], ids=str)
def test_inplace(case: OpCase) -> None:
    test_kernels.test_inplace(case)


@pytest.mark.parametrize("case", FEW_CASES, ids=str)
def test_rows_do_not_depend_on_their_mates(case: OpCase) -> None:
    test_kernels.test_rows_do_not_depend_on_their_mates(case)


def test_rows_that_several_programs_share() -> None:
    x, params = torch.randn(2, 20001), torch.randn(2, 20002)
    y, ladj = pyflowk.ops.affine_coupling(x, params)
    with pyflowk.backend("reference"):
        exact = pyflowk.ops.affine_coupling(x.double(), params.double())
    torch.testing.assert_close(y.double(), exact[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ladj.double(), exact[1], rtol=1e-6, atol=1e-4)


def test_in_place_through_strides() -> None:
    x, params = torch.randn(6, 3).t(), torch.randn(3, 6)
    expected = pyflowk.ops.affine_coupling(x, params)
    y, ladj = pyflowk.ops.affine_coupling(x, params, inplace=True)
    assert y is x and torch.equal(y, expected[0]) and torch.equal(ladj, expected[1])


@pytest.mark.parametrize("n, event", [(2, (2,)), (9, (13,)), (5, (0,))])
def test_control(n: int, event: tuple[int, ...]) -> None:
    test_rk_control.test_kernel_against_formula(n, event, test_rk_control.PID, "triton")


def test_what_control_decides_and_refuses() -> None:
    test_rk_control.test_what_it_decides("triton")
    test_rk_control.test_bad_input_is_refused_in_words("triton")


@pytest.mark.parametrize("kind", RANDOM)
def test_random_numbers_are_the_formula_s(kind: str) -> None:
    for draws, size in ((1, 1), (3, 37), (2, 0)):
        test_random_numbers.test_kernel_and_formula_make_the_same_numbers(kind, draws, size, "triton")
    test_random_numbers.test_a_kernel_is_philox("triton")


def test_an_adaptive_solve() -> None:
    def solve() -> Solution:
        y0 = torch.tensor([[1.0, 0.5], [2.0, 8.0]])
        return solve_ivp(lambda t, y: -y * y * t, y0, [0.0, 0.4, 1.0], method="bosh3", stepping=Adaptive(1e-2, 1e-2))

    with pyflowk.backend("reference"):
        expected = solve()
    found = solve()
    torch.testing.assert_close(found.y, expected.y, rtol=1e-5, atol=1e-6)
    assert found.success and torch.equal(found.attempts, expected.attempts)


def test_bad_input_is_refused() -> None:
    x, params = torch.ones(2, 4), torch.ones(2, 4)
    with pytest.raises(ValueError, match="params must be"):
        pyflowk.ops.affine_coupling(x, params[:, :3])
    with pytest.raises(TypeError, match="float32, float64"):
        pyflowk.ops.affine_coupling(x.int(), params)
    with pytest.raises(ValueError, match="one device"):
        pyflowk.ops.affine_coupling(x, params.to("meta"))
