"""rk_control: kernel against formula, the controller's decisions, rows by themselves, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import pyflowk
from pyflowk.ops import rk_control
from pyflowk.ops.rk_control import ACCEPTED, ATTEMPTS, GOOD, STATUS, STEP, TIME, Status, start_clock

D = torch.float64
WEIGHTS = [0.3, -0.7, 1.1, 0.05, -0.4, 0.9, -1.3, 0.6, 0.2]
TIMES = [0.0, 0.2, 0.5, 1.0, 1.0]
#: rtol, atol, safety, shrink, grow, three exponents, smallest and largest step, most steps
INTEGRAL = [1e-3, 1e-2, 0.9, 0.2, 10.0, -0.2, 0.0, 0.0, 1e-300, math.inf, 50.0]
PID = [*INTEGRAL[:5], -0.14, 0.08, -0.02, 1e-3, 0.4, 50.0]


def inputs(rows: int, event: tuple[int, ...], n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, list[Tensor]]:
    """States with slopes, clocks of every kind, and slopes of the error from far too small to far too large."""
    generator = torch.Generator().manual_seed(rows + 31 * math.prod(event) + n)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=D)

    size = 10 ** (3 * normal(rows) - 2).reshape(-1, *[1] * len(event))
    states = torch.stack([normal(rows, *event) for _ in range(4)]).to(dtype)
    slopes = [(size * normal(rows, *event)).to(dtype) for _ in range(n)]
    clock = start_clock(normal(rows), normal(rows), 3 * normal(rows))
    clock[:, 3:5] = torch.rand(rows, 2, generator=generator, dtype=D) + 1e-4
    clock[:, ATTEMPTS] = torch.arange(rows) % 60
    clock[::7, STATUS] = 3.0
    clock[::7, STEP] = 0.0
    return states, clock, slopes


@pytest.mark.parametrize("numbers", [INTEGRAL, PID], ids=["I", "PID"])
@pytest.mark.parametrize("n, event", [(1, ()), (2, (2,)), (6, (3, 5)), (4, (64,)), (9, (13,)), (3, (700,)), (5, (0,))])
def test_kernel_against_formula(n: int, event: tuple[int, ...], numbers: list[float], name: str = "cpu") -> None:
    for dtype in (torch.float32, D, torch.bfloat16):
        states, clock, slopes = inputs(37, event, n, dtype)
        arguments = (*states, clock, slopes, WEIGHTS[:n], numbers, TIMES)
        with pyflowk.backend("reference"):
            expected = rk_control(*arguments)
        with pyflowk.backend(name):
            found = rk_control(*arguments)
            alone = rk_control(*(a[20:21] for a in (*states, clock)), [k[20:21] for k in slopes], *arguments[6:])
            ragged = torch.cat([clock, clock], 1)[:, :10]
            assert all(torch.equal(a, b) for a, b in zip(found, rk_control(*states, ragged, slopes, *arguments[6:])))
        for part, truth, row in zip(found, expected, alone):
            assert part.dtype == truth.dtype
            torch.testing.assert_close(part, truth, rtol=1e-5 if dtype != D else 1e-12, atol=1e-12)
            assert torch.equal(part[20:21], row)
        if event != (0,):
            assert set(found[2][:, GOOD].tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_what_it_decides(name: str) -> None:
    """A step that is good, one that is not, one that lands, NaN at an ordinary and at the smallest step, one too many,
    and a row that has ended."""
    step = torch.tensor([0.1, 0.1, 0.5, 0.1, 1e-17, 0.1, 0.1], dtype=D)
    clock = start_clock(torch.full_like(step, 0.5), step, torch.ones_like(step))
    clock[5, ATTEMPTS], clock[6, STATUS], clock[6, STEP] = 49, float(Status.EVENT), 0.0
    error = torch.tensor([1e-4, 1.0, 1e-9, math.nan, math.inf, 1e-3, 1e-9], dtype=D)
    y0, y1 = torch.zeros(7, 3, dtype=D), torch.ones(7, 3, dtype=D)
    numbers = [0.0, 1e-5, *INTEGRAL[2:]]
    with pyflowk.backend(name):
        y, k, after, times = rk_control(y0, y1, -y1, y1, clock, [error[:, None].expand(7, 3)], [1.0], numbers, TIMES)
    good = [1, 0, 1, 0, 0, 0, 0]
    good[5] = 0  # its error is ten times what is tolerated
    assert after[:, GOOD].tolist() == good and after[:, ACCEPTED].tolist() == good
    assert torch.equal(y, y0 + after[:, GOOD, None]) and torch.equal(k, 2 * y - 1)
    assert after[:, STATUS].tolist() == [-1, -1, 0, -1, Status.NON_FINITE, Status.MAX_STEPS, Status.EVENT]
    assert after[:, TIME].tolist() == [0.6, 0.5, 1.0, 0.5, 0.5, 0.5, 0.5]
    e = torch.tensor([1.0, 1e4], dtype=D)
    factor = (0.9 * e**-0.2).clamp(0.2, 0.9)
    torch.testing.assert_close(after[:2, STEP], 0.1 * factor, rtol=1e-14, atol=0)
    assert after[2:, STEP].tolist() == [0.0, pytest.approx(0.02), 0.0, 0.0, 0.0]
    assert torch.equal(times[:, -1], after[:, STEP])
    torch.testing.assert_close(times[:, 1], after[:, TIME] + 0.2 * after[:, STEP])
    assert torch.equal(times[:, 3], after[:, TIME] + after[:, STEP]) and torch.equal(times[:, 3], times[:, 4])


def test_empty_and_threads() -> None:
    states, clock, slopes = inputs(0, (3,), 2, torch.float32)
    assert [t.shape[0] for t in rk_control(*states, clock, slopes, WEIGHTS[:2], PID, TIMES)] == [0] * 4
    states, clock, slopes = inputs(9000, (3,), 2, torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(rk_control(*states, clock, slopes, WEIGHTS[:2], PID, TIMES))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_bad_input_is_refused_in_words(name: str) -> None:
    states, clock, slopes = inputs(4, (3,), 2, torch.float32)
    y0, y1, k0, k1 = states
    good = {"states": (y0, y1, k0, k1), "clock": clock, "ks": slopes, "control": PID, "c": TIMES}
    for change, error, words in [
        ({"states": (y0, y1[:, :2], k0, k1)}, ValueError, r"must have the shape of y0?, \(4, 3\); got \(4, 2\)"),
        ({"states": (y0, y1, k0, k1.double())}, TypeError, "float32; got"),
        ({"clock": clock[:, :9]}, ValueError, r"clock must be \(4, 10\); got \(4, 9\)"),
        ({"clock": clock.float()}, TypeError, "clock must be .*float64; got"),
        ({"control": PID[:-1]}, ValueError, "control must be 11 numbers; got 10"),
        ({"c": []}, ValueError, "c must be 1 to 14 numbers; got 0"),
    ]:
        a = {**good, **change}
        with pyflowk.backend(name), pytest.raises(error, match=words):
            rk_control(*a["states"], a["clock"], a["ks"], WEIGHTS[:2], a["control"], a["c"])
