"""Every op against its plain-torch formula in float64: values, gradients, shapes, strides, dtypes, extremes, order."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import pyflowk
from pyflowk import _cpu
from pyflowk.ops import modes
from tests.ops.cases import ALL_CASES, DTYPES, FEW_CASES, SMALL_CASES, OpCase, tensors_of


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """New memory is full of NaN, so that an element which a kernel forgets cannot pass for an old right value."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(4).isnan().all()
    _cpu._allocate_by(lambda sizes, strides, dtype: torch.empty_strided(sizes, strides, dtype=dtype))
    yield
    _cpu._allocate_by(modes.empty_on_cpu)
    torch.use_deterministic_algorithms(False)


def values_and_gradients(case: OpCase, inputs: tuple[Tensor, ...], cotangents: tuple[Tensor, ...]) -> list[Tensor]:
    inputs = tuple(t.detach().requires_grad_() for t in inputs)
    outputs = case.call(*inputs)
    return [*outputs, *torch.autograd.grad(outputs, inputs, cotangents)]


def cotangents_of(case: OpCase, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        return tuple(torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o)
                     for o in case.call(*inputs))  # fmt: skip


def assert_as_good_as_torch(case: OpCase, inputs: tuple[Tensor, ...]) -> None:
    """The kernel's error against float64 is at most twice that of the plain formula at the same dtype."""
    cotangents = cotangents_of(case, inputs)
    with pyflowk.backend("reference"):
        wide = tuple(t.double() for t in inputs)
        exact = values_and_gradients(case, wide, tuple(c.double() for c in cotangents))
        plain = values_and_gradients(case, inputs, cotangents)
    for kernel, formula, truth in zip(values_and_gradients(case, inputs, cotangents), plain, exact):
        assert kernel.shape == truth.shape and kernel.dtype == formula.dtype
        if truth.numel():
            scale = truth.abs().max().item() + 1
            error = (kernel.double() - truth).abs().max().item()
            rounding = 4 * torch.finfo(kernel.dtype).eps * scale
            if formula.dtype == truth.dtype:
                rounding *= case.summands**0.5
            if kernel.dtype in (torch.float32, torch.float64):  # 16-bit results are rounded too coarsely to show it
                rounding *= case.conditioning
            allowed = 2 * (formula.double() - truth).abs().max().item() + rounding
            assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"


@pytest.mark.parametrize("case", ALL_CASES, ids=str)
def test_values_and_gradients_as_good_as_torch(case: OpCase) -> None:
    for dtype in (torch.float32, torch.float64):
        assert_as_good_as_torch(case, case.inputs(9, dtype))


@pytest.mark.parametrize("state, params", DTYPES[2:], ids=str)
def test_narrow_dtypes(state: torch.dtype, params: torch.dtype) -> None:
    for case in ALL_CASES:
        if case.takes(state, params):
            assert_as_good_as_torch(case, case.inputs(4, state, params))


@pytest.mark.parametrize("rows", [0, 1, 2, 1000])
def test_row_counts(rows: int) -> None:
    for case in FEW_CASES:
        inputs = case.inputs(rows, torch.float32)
        with pyflowk.backend("reference"):
            expected = case.call(*inputs)
        for kernel, formula in zip(case.call(*inputs), expected):
            torch.testing.assert_close(kernel, formula)


@pytest.mark.parametrize("case", FEW_CASES, ids=str)
def test_strides(case: OpCase) -> None:
    inputs = case.inputs(6, torch.float32)
    expected = case.call(*inputs)

    def wider(t: Tensor) -> Tensor:  # rows cut out of a larger buffer
        if t.ndim == 1:
            return torch.stack([t, torch.full_like(t, math.nan)], 1)[:, 0]
        return torch.cat([t, torch.full_like(t, math.nan)], 1)[:, : t.shape[1]]

    def transposed(t: Tensor) -> Tensor:
        return t.movedim(0, -1).contiguous().movedim(-1, 0)

    def expanded(t: Tensor) -> Tensor:
        return t[:1].expand(6, *t.shape[1:])

    def spread(t: Tensor) -> Tensor:
        return torch.stack([t, t], -1)[..., 0]

    for view in (wider, transposed, lambda t: t.flip(0).flip(0), spread):
        views = (spread(t) if i in case.shared else view(t) for i, t in enumerate(inputs))
        for kernel, truth in zip(case.call(*views), expected):
            assert torch.equal(kernel, truth)
    repeated = case.of_rows(expanded, inputs)
    for kernel, truth in zip(case.call(*repeated), case.call(*(t.clone() for t in repeated))):
        assert torch.equal(kernel, truth)


@pytest.mark.parametrize("case", ALL_CASES, ids=str)
def test_rows_do_not_depend_on_their_mates(case: OpCase) -> None:
    inputs = case.inputs(37, torch.float32)
    cotangents = cotangents_of(case, inputs)
    together = values_and_gradients(case, inputs, cotangents)
    alone = values_and_gradients(case, case.of_rows(lambda t: t[20:21], inputs), tuple(c[20:21] for c in cotangents))
    checked = len(cotangents) if case.gradients_of_torch else len(together)
    for i, (whole, row) in enumerate(zip(together[:checked], alone)):
        if i - len(cotangents) not in case.shared:  # the gradient of what rows share is a sum over rows
            assert torch.equal(whole[20:21], row)


def test_bitwise_equal_for_any_number_of_threads() -> None:
    def outcome(case: OpCase, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        cotangents = cotangents_of(case, inputs)
        found = values_and_gradients(case, inputs, cotangents)
        return found[: len(cotangents)] if case.gradients_of_torch else found

    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append([t for case in FEW_CASES for t in outcome(case, case.inputs(20000, torch.float32))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_extreme_inputs(case: OpCase) -> None:
    """NaN and infinities come out where the formula has them; huge values neither crash nor turn into NaN elsewhere."""
    for value in (math.nan, math.inf, -math.inf, 1e30, -1e30, 200.0, -200.0, 1e-45, -0.0):
        for which in range(len(case.inputs(4))):
            inputs = list(case.inputs(4, torch.float32))
            if not inputs[which].numel() or not (case.extremes or math.isnan(value)):
                continue
            inputs[which][min(1, len(inputs[which]) - 1)] = value
            with pyflowk.backend("reference"):
                expected = case.call(*inputs)
            for kernel, formula in zip(case.call(*inputs), expected):
                if case.spreads_nan:
                    assert kernel.isnan().any() or kernel.ndim == 1 or not formula.isnan().any()
                    kernel = torch.where(formula.isnan(), formula, kernel)
                torch.testing.assert_close(kernel, formula, equal_nan=True)
                if math.isnan(value) and which == 0:
                    assert kernel[[0, 2, 3]].isfinite().all()


@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_first_and_second_derivatives(case: OpCase) -> None:
    inputs = tensors_of(case, 2)
    assert torch.autograd.gradcheck(case.call, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(case.call, inputs, fast_mode=True)


@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_taylor_remainder(case: OpCase) -> None:
    """Along a random direction the error of the value falls by 2 per halving, of value plus gradient by 4."""
    inputs = case.inputs(3)
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in inputs]
    weights = [torch.randn(o.shape, generator=generator, dtype=o.dtype) for o in case.call(*inputs)]

    def value(step: float) -> float:
        outputs = case.call(*(t + step * d for t, d in zip(inputs, direction)))
        return sum((w * o).sum() for w, o in zip(weights, outputs)).item()

    slope = sum(
        (g * d).sum().item()
        for g, d in zip(values_and_gradients(case, inputs, tuple(weights))[len(weights) :], direction)
    )
    steps = [1e-3, 5e-4]
    first = [abs(value(h) - value(0)) for h in steps]
    second = [abs(value(h) - value(0) - h * slope) for h in steps]
    assert first[0] / first[1] == pytest.approx(2, rel=0.05)
    if second[0] > 1e-11:  # a linear map has no remainder to measure
        assert second[0] / second[1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("case", [case for case in SMALL_CASES if case.inplace], ids=str)
def test_inplace(case: OpCase) -> None:
    x, *others = case.inputs(5, torch.float32)
    expected = case.call(x, *others)
    y, *rest = case.call(x, *others, inplace=True)
    assert y is x and all(torch.equal(a, b) for a, b in zip((y, *rest), expected))


def test_inplace_gradient_needs_only_the_output() -> None:
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    params = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)

    def loss(inplace: bool) -> list[Tensor]:
        y, ladj = pyflowk.ops.affine_coupling(x.clone(), params, inplace=inplace)
        return list(torch.autograd.grad((y**2).sum() + ladj.sum(), (x, params)))

    for a, b in zip(loss(True), loss(False)):
        assert torch.equal(a, b)
