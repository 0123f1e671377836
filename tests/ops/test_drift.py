"""drift: forces by sums over pairs, the closed form of Gaussians, balance, degenerate clouds, bad input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import pyflowk
from pyflowk.ops import drift, registry, sinkhorn, sinkhorn_plan
from pyflowk.ops.dtypes import FLOATING
from tests.ops.test_nearest import normal


def by_pairs(y: Tensor, x: Tensor, t: float, normalise: str, scale: float | None) -> Tensor:
    """The forces as the paper defines them, one affinity at a time."""
    b, n = len(y), len(x)
    apart = (y[:, None] - torch.cat([x, y])).square().sum(2).sqrt().tolist()
    d = {(i, j): apart[i][j] for i in range(b) for j in range(n + b)}
    pairs = [ij for ij in d if ij[1] != ij[0] + n]
    unit = sum(d[p] for p in pairs) / len(pairs) if scale is None else scale
    k = {p: math.exp(-d[p] / unit / t) for p in pairs}
    rows = {i: sum(k[p] for p in pairs if p[0] == i) for i in range(b)}
    columns = {j: sum(k[p] for p in pairs if p[1] == j) for j in range(n + b)}
    a = {(i, j): k[i, j] / (rows[i] if normalise == "row" else math.sqrt(rows[i] * columns[j])) for i, j in pairs}
    force = torch.zeros_like(y)
    for i in range(b):
        near = sum(a[i, j] for j in range(n))
        far = sum(a[i, n + j] for j in range(b) if j != i)
        weights = [far * a[i, j] for j in range(n)] + [-near * a.get((i, n + j), 0.0) for j in range(b)]
        force[i] = torch.tensor(weights, dtype=y.dtype) @ torch.cat([x, y])
    return force


@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("normalise", ["row", "double"])
@pytest.mark.parametrize("rows, data, size, scale", [(2, 1, 1, None), (7, 12, 3, None), (19, 70, 33, 4.0)])
def test_against_the_sums_over_pairs(
    rows: int, data: int, size: int, scale: float | None, normalise: str, dtype: torch.dtype
) -> None:
    y, x = (1 + normal(rows, size)).to(dtype), normal(data, size, seed=1).to(dtype)
    wanted = torch.stack([by_pairs(y.double(), x.double(), t, normalise, scale) for t in (0.2, 1.0)])
    close = 1e-10 if dtype == torch.float64 else 2e-5
    for backend in ("reference", "cpu"):
        with pyflowk.backend(backend):
            forces, unit = drift(y, x, (0.2, 1.0), normalise, scale=scale)
        assert forces.dtype == unit.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(forces.double(), wanted, rtol=close, atol=close * wanted.abs().max().item())


@pytest.mark.parametrize("dtype", FLOATING[:2])
def test_forces_do_not_depend_on_threads_or_on_the_rows_beside_them(dtype: torch.dtype) -> None:
    """Of given sums: those of columns are over all rows, by definition."""
    y, x, rates = normal(300, 20).to(dtype), normal(200, 20, seed=1).to(dtype), normal(2).abs().neg()
    left, right = normal(300, 2).to(dtype), normal(200, 2).to(dtype)
    sums, forces = (registry()[name] for name in ("drift_sums", "drift"))
    none = y.new_empty(300, 0)
    whole = sums((y, x, none, rates, -1000, 90, False, True, False))
    pulled = forces((y, x, none, rates, left, right, -1000, 90, False))[0].mT
    assert torch.equal(forces((y, x, whole[2], rates, left, right, -1000, 90, False))[0].mT, pulled)
    turned = sums((y, x, whole[2].T.contiguous(), rates, -1000, 90, False, True, True))
    assert all(torch.equal(some, other) for some, other in zip(turned, whole, strict=True))
    for threads, rows in ((1, slice(None)), (2, slice(None)), (1, slice(7, 8)), (2, slice(131, 300))):
        torch.set_num_threads(threads)
        try:
            part = sums((y[rows], x, none[rows], rates, -1000, 90, False, True, False))
            driven = forces((y[rows], x, none[rows], rates, left[rows], right, -1000, 90, False))[0].mT
        finally:
            torch.set_num_threads(1)
        assert all(torch.equal(some, all_[rows]) for some, all_ in zip(part, whole, strict=True))
        assert torch.equal(driven, pulled[..., rows])


def test_a_gaussian_kernel_is_the_difference_of_smoothed_scores() -> None:
    """p = N(1, 0.25), q = N(-0.2, 0.64), width 0.4, at 0.3: 0.3731707317 (modern flows' closed form)."""
    ranks = (torch.arange(1001, dtype=torch.float64) + 0.5) / 1001
    x, q = (torch.distributions.Normal(*law).icdf(ranks)[:, None] for law in ((1.0, 0.5), (-0.2, 0.8)))
    y = torch.cat([torch.full((1, 1), 0.3, dtype=torch.float64), q])
    (forces, _) = drift(y, x, [0.4], "row", "gaussian", scale=1.0)
    towards, away = (torch.exp(-((0.3 - z) ** 2) / 0.32).sum() for z in (x, q))
    shift = forces[0, 0] * (towards + away) ** 2 / (towards * away)  # of means, which affinities of a row share
    assert shift.item() == pytest.approx(0.3731707317, abs=5e-5)


def test_plans_of_the_points_themselves_balance_and_only_those() -> None:
    """Equal clouds are at rest, and forces are the gradient of a Sinkhorn divergence."""
    x = normal(40, 2)
    still = drift(x.clone(), x, [0.5], "sinkhorn", "gaussian").forces
    assert still.abs().max() < 1e-3
    y = (normal(12, 2, seed=3) + 0.5).requires_grad_()

    def transport(a: Tensor, b: Tensor) -> Tensor:  # the entropic cost, whose plan is at its optimum
        costs = torch.cdist(a, b).square() / 2
        found = sinkhorn(costs, None, 0.25, tolerance=1e-9)
        plan = sinkhorn_plan(costs, None, found, 0.25)
        return (plan * costs).sum() + 0.25 * (plan * (plan * plan.numel()).log()).sum()

    forces = drift(y.detach(), x, [0.5], "sinkhorn", "gaussian", scale=1.0).forces[0]
    towards = torch.cdist(y, x).square() / 2
    plan = sinkhorn_plan(towards.detach(), None, sinkhorn(towards.detach(), None, 0.25, tolerance=1e-9), 0.25)
    away = torch.cdist(y, y.detach()).square() / 2
    itself = sinkhorn_plan(away.detach(), None, sinkhorn(away.detach(), None, 0.25, tolerance=1e-9), 0.25)
    (slope,) = torch.autograd.grad((plan * towards).sum() - (itself * away).sum(), y)  # the envelope theorem
    torch.testing.assert_close(forces, -len(y) * slope, rtol=1e-3, atol=1e-3)
    step = transport(y, x) - (transport(y, y) + transport(x, x)) / 2
    moved = y + 1e-3 * forces
    assert transport(moved, x) - (transport(moved, moved) + transport(x, x)) / 2 < step


def test_forces_of_one_distribution_vanish_on_average() -> None:
    forces = torch.stack([drift(normal(64, 2, seed=2 * s), normal(64, 2, seed=2 * s + 1)).forces for s in range(40)])
    means, error = forces.mean((0, 2)), forces.mean(2).std(0) / math.sqrt(40)
    assert (means.abs() < 4 * error).all()


@pytest.mark.parametrize("normalise", ["row", "double"])
def test_degenerate_clouds(normalise: str) -> None:
    alone, equal = normal(1, 2), torch.ones(3, 2)
    assert not drift(alone, normal(4, 2), normalise=normalise).forces.any()  # nothing to be driven away from
    assert not drift(normal(4, 2), normal(0, 2), normalise=normalise).forces.any()
    assert not drift(equal, equal, normalise=normalise).forces.any()
    assert drift(normal(0, 2), normal(4, 2), normalise=normalise).forces.shape == (3, 0, 2)
    far = drift(normal(5, 2) + 1e4, normal(5, 2), normalise=normalise).forces
    assert far.isfinite().all()
    assert drift(normal(5, 2), alone, (t for t in (0.1, 0.2)), normalise).forces.shape == (2, 5, 2)
    broken = normal(4, 2)
    broken[1, 0] = math.nan
    assert drift(broken, normal(5, 2), normalise=normalise).forces.isnan().all()


@pytest.mark.parametrize(
    "error, said, arguments",
    [
        (ValueError, r"expected y \(B, D\) and x \(N, D\); got \(4, 2\) and \(3, 3\)", {"x": normal(3, 3)}),
        (TypeError, "of one dtype, .* got torch.float64, torch.float32", {"x": normal(3, 2).float()}),
        (ValueError, "temperatures must be finite and above 0; got 0.0", {"temperatures": [0.0]}),
        (TypeError, r"temperatures must be a sequence of numbers; got 0\.05", {"temperatures": 0.05}),
        (TypeError, "temperatures must be a sequence of numbers; got '12'", {"temperatures": "12"}),
        (ValueError, "temperatures must be finite and above 0; got -1.0", {"temperatures": iter([1.0, -1.0])}),
        (ValueError, "scale must be finite and above 0; got -1.0", {"scale": -1.0}),
        (ValueError, "normalise must be one of row, double, sinkhorn; got 'column'", {"normalise": "column"}),
        (ValueError, "kernel must be one of laplace, gaussian; got 'flat'", {"kernel": "flat"}),
        (ValueError, "there is no data to transport to", {"x": normal(0, 2), "normalise": "sinkhorn"}),
    ],
)
def test_bad_input(error: type[Exception], said: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(error, match=said):
        drift(**({"y": normal(4, 2), "x": normal(3, 2)} | arguments))
