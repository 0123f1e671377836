"""Exact assignment: the optimum of scipy, the proof by prices, easy and degenerate data, and what is refused."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import pyflowk
from pyflowk.ops import Assignment, assignment, assignment_of_points

linear_sum_assignment = pytest.importorskip("scipy.optimize", reason="scipy is the oracle").linear_sum_assignment
BACKENDS = ["reference", "cpu"]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def distances(x0: Tensor, x1: Tensor) -> Tensor:
    return (x0.double()[:, None] - x1.double()[None]).square().sum(2)


def assert_optimal(found: Assignment, cost: Tensor) -> None:
    """By the prices, and as scipy has it."""
    n, scale = len(cost), float(cost.abs().max()) if cost.numel() else 1.0
    tolerance = 1e-12 * max(n, 100) * scale
    assert found.columns.sort().values.tolist() == list(range(n))
    chosen = cost.double().gather(1, found.columns[:, None]).flatten()
    assert found.total.item() == pytest.approx(float(chosen.sum()), abs=tolerance)
    slack = cost.double() - found.row_prices[:, None] - found.column_prices
    assert n == 0 or slack.min() >= -tolerance
    assert slack.gather(1, found.columns[:, None]).abs().sum() <= tolerance
    rows, columns = linear_sum_assignment(cost.double().numpy())
    assert found.total.item() == pytest.approx(float(cost.double()[rows, columns].sum()), abs=tolerance)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 16, 17, 33])
@pytest.mark.parametrize("dims", [1, 2, 3, 63])
def test_small_problems(n: int, dims: int, name: str) -> None:
    x0, x1 = noise(n, dims), noise(n, dims, seed=1)
    with pyflowk.backend(name):
        assert_optimal(assignment_of_points(x0, x1), distances(x0, x1))
        cost = noise(n, n, seed=2)
        assert_optimal(assignment(cost), cost)


@pytest.mark.parametrize("problems", [1, 3])
def test_a_long_search_hears_signals(problems: int) -> None:
    """Of three alarms during one call, which takes seconds, the third ends it; else one is heard, behind its end."""
    points = noise(2, problems, 4096, 2) / noise(2, problems, 4096, 2, seed=1)
    heard, found = [], []

    def alarm(number: int, frame: object) -> None:
        heard.append(number)
        if len(heard) == 3:
            raise TimeoutError

    before = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        with pytest.raises(TimeoutError):
            found.append(assignment_of_points(*points))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not found
    x0, x1 = points[:, 0, :600]
    assert_optimal(assignment_of_points(x0, x1), distances(x0, x1))


@pytest.mark.parametrize("dims", [1, 2, 5, 63])
@pytest.mark.parametrize("n", [63, 64, 65, 200, 513, 700])
def test_points(n: int, dims: int) -> None:
    x0, x1 = noise(n, dims), noise(n, dims, seed=1)
    assert_optimal(assignment_of_points(x0, x1), distances(x0, x1))


@pytest.mark.parametrize(
    "n, dims", [(1100, 2), (1100, 63), *([(4096, 2), (4096, 63)] if os.environ.get("PYFLOWK_NIGHTLY") else [])]
)
def test_many_points(n: int, dims: int) -> None:
    x0, x1 = noise(n, dims), noise(n, dims, seed=1)
    assert_optimal(assignment_of_points(x0, x1), distances(x0, x1))


@pytest.mark.parametrize("n", [100, 600])
def test_costs(n: int) -> None:
    uniform = noise(n, n).abs().sqrt()
    for cost in (
        uniform,
        -(uniform**8),
        (10 * uniform).round(),
        uniform.log().exp().half(),
        uniform[:, :1] * uniform[:1],
    ):
        assert_optimal(assignment(cost), cost)


def degenerate(n: int, dims: int) -> dict[str, tuple[Tensor, Tensor]]:
    x0, x1 = noise(n, dims), noise(n, dims, seed=1)
    circle = torch.arange(n) % 8 * (math.pi / 4)
    return {
        "one point": (torch.zeros(n, dims), torch.zeros(n, dims)),
        "one point each": (torch.zeros(n, dims), torch.ones(n, dims)),
        "grid": ((2 * x0).round(), (2 * x1).round()),
        "few points": (x0, x1[:10].repeat(n // 10 + 1, 1)[:n]),
        "heavy tails": (x0 / noise(n, 1, seed=2) ** 3, x1 / noise(n, 1, seed=3) ** 3),
        "shifted": (x0, x1 + 5),
        "eight Gaussians": (
            x0,
            0.2 * x1 + 5 * torch.stack((circle.sin(), circle.cos(), *[0 * circle] * dims), 1)[:, :dims],
        ),
        "on a line": (x0[:, :1].expand(n, dims), x1[:, :1].expand(n, dims)),
        "far away": (x0 + 1e6, x1 + 1e6),
        "tiny": (1e-30 * x0, 1e-30 * x1),
        "one far": (x0, torch.cat((x1[1:], torch.full((1, dims), 1e12)))),
    }


@pytest.mark.parametrize("kind", degenerate(1, 2))
@pytest.mark.parametrize("n, dims", [(40, 2), (300, 1), (300, 2), (600, 2), (600, 5)])
def test_degenerate_points(kind: str, n: int, dims: int) -> None:
    x0, x1 = degenerate(n, dims)[kind]
    assert_optimal(assignment_of_points(x0, x1), distances(x0, x1))


@pytest.mark.parametrize("name", BACKENDS)
def test_a_permutation_is_recovered(name: str) -> None:
    for n, dims in ((20, 2), (30, 7), *([(700, 2), (700, 63)] if name == "cpu" else [])):
        x0, order = noise(n, dims), torch.randperm(n, generator=torch.Generator().manual_seed(n))
        with pyflowk.backend(name):
            found = assignment_of_points(x0, x0[order])
        assert torch.equal(found.columns, order.argsort()) and found.total == 0


@pytest.mark.parametrize("name", BACKENDS)
def test_a_problem_depends_on_nothing_beside_it(name: str) -> None:
    x0, x1 = noise(5, 30, 3), noise(5, 30, 3, seed=1)
    threads = torch.get_num_threads()
    with pyflowk.backend(name):
        together = assignment_of_points(x0, x1)
        try:
            torch.set_num_threads(3)
            again = assignment_of_points(x0, x1)
        finally:
            torch.set_num_threads(threads)
        assert all(map(torch.equal, together, again))
        for group in range(5):
            alone = assignment_of_points(x0[group], x1[group])
            assert all(map(torch.equal, alone, (result[group] for result in together)))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_and_strides(dtype: torch.dtype, name: str) -> None:
    x0, x1 = noise(2, 12, 3).to(dtype), noise(2, 12, 3, seed=1).to(dtype)
    with pyflowk.backend(name):
        wanted = assignment_of_points(x0, x1)
        assert_optimal(Assignment(*(result[1] for result in wanted)), distances(x0[1], x1[1]))
        strided = assignment_of_points(x0.mT.contiguous().mT, torch.stack((x1, x1), 3)[..., 0])
        assert all(map(torch.equal, wanted, strided))
        cost = distances(x0[0], x1[0])
        assert all(map(torch.equal, assignment(cost), assignment(cost.mT.contiguous().mT)))
        assert assignment_of_points(x0[:1].expand(3, 12, 3), x1[:1].expand(3, 12, 3)).columns.shape == (3, 12)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e301])
def test_what_is_not_finite_is_refused(value: float, name: str) -> None:
    cost = torch.zeros(3, 4, 4, dtype=torch.float64)
    cost[1, 2, 3] = value
    points = cost.clone()
    with pyflowk.backend(name):
        for call in (lambda: assignment(cost), lambda: assignment_of_points(points, cost.zero_())):
            with pytest.raises(ValueError, match=r"expected finite numbers, below 1e300; got others in problem 1"):
                call()


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: assignment(torch.zeros(2, 3)), r"cost must be \(G, B, B\); got \(1, 2, 3\)"),
        (lambda: assignment(torch.zeros(3)), r"cost must be \(G, B, B\); got \(3,\)"),
        (lambda: assignment(torch.zeros(3, 3, dtype=torch.int64)), "float32"),
        (lambda: assignment_of_points(torch.zeros(3, 2), torch.zeros(4, 2)), r"x1 must have the shape of x0"),
        (lambda: assignment_of_points(torch.zeros(3, 2), torch.zeros(3, 2).double()), r"x1 must be (torch\.)?float32"),
        (lambda: assignment_of_points(torch.zeros(3), torch.zeros(3)), r"x0 must be \(G, B, D\)"),
    ],
)
def test_what_does_not_fit_is_named(call: Callable[[], object], words: str, name: str) -> None:
    with pyflowk.backend(name), pytest.raises((ValueError, TypeError), match=words):
        call()


def test_points_without_coordinates_and_with_a_gradient() -> None:
    assert assignment_of_points(torch.zeros(3, 0), torch.zeros(3, 0)).total == 0
    found = assignment_of_points(noise(9, 2).requires_grad_(), noise(9, 2, seed=1))
    assert not found.total.requires_grad


def test_torch_compile_keeps_the_op() -> None:
    x0, x1 = noise(9, 2), noise(9, 2, seed=1)
    compiled = torch.compile(lambda a, b: assignment_of_points(a, b).columns, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x0, x1), assignment_of_points(x0, x1).columns)
