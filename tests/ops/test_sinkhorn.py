"""sinkhorn and its draw: closed forms, limits, marginals, kernel against formula, rows by themselves, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import pyflowk
from pyflowk.ops import Potentials, sinkhorn, sinkhorn_draw, sinkhorn_plan
from pyflowk.ops.dtypes import FLOATING as DTYPES

D = torch.float64
BACKENDS = ["reference", "cpu"]
every_backend = pytest.mark.parametrize("name", BACKENDS)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def uneven(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(7), dtype=D) + 0.1


# ---- closed forms ----------------------------------------------------------------------------------------------------


@every_backend
def test_the_bridge_between_normal_distributions(name: str) -> None:
    """On a grid the entropic plan of N(0, s0^2) and N(0, s1^2) at reg = 2 sigma^2 has the covariance of the bridge."""
    s0, s1, sigma = 0.7, 1.3, 0.8
    grid = torch.linspace(-8, 8, 801 if name == "cpu" else 201, dtype=D)
    a, b = (torch.exp(-grid.square() / (2 * s * s)) for s in (s0, s1))
    with pyflowk.backend(name):
        x, reg = grid[:, None], 2 * sigma**2
        found = sinkhorn(x, x, reg, a=a, b=b, tolerance=1e-12)
    plan = sinkhorn_plan(x, x, found, reg, a=a, b=b)
    covariance = 0.5 * (math.sqrt(4 * s0**2 * s1**2 + sigma**4) - sigma**2)
    assert covariance == pytest.approx(0.6446242792, abs=1e-9)
    assert found.converged and float(grid @ plan @ grid) == pytest.approx(covariance, abs=1e-6)


@every_backend
def test_a_small_reg_finds_the_assignment(name: str) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    x0, x1 = normal(20, 3), normal(20, 3, seed=1)
    cost = torch.cdist(x0, x1).square()
    rows, columns = optimize.linear_sum_assignment(cost.numpy())
    with pyflowk.backend(name):
        found = sinkhorn(x0, x1, 2e-3, tolerance=1e-3, iterations=20000)
        drawn = sinkhorn_draw(x0, x1, found.g, 2e-3)
    plan = sinkhorn_plan(x0, x1, found, 2e-3)
    assert found.converged
    assert float((plan * cost).sum()) == pytest.approx(cost[rows, columns].mean().item(), rel=2e-3)
    assert (drawn == torch.from_numpy(columns)).sum() >= 18  # chances are not quite 0 or 1


@every_backend
def test_a_large_reg_leaves_pairs_independent(name: str) -> None:
    x0, x1, a, b = normal(7, 2), normal(5, 2, seed=1), uneven(7), uneven(5)
    with pyflowk.backend(name):
        found = sinkhorn(x0, x1, 1e9, a=a, b=b, tolerance=1e-9)
    plan = sinkhorn_plan(x0, x1, found, 1e9, a=a, b=b)
    torch.testing.assert_close(plan, (a / a.sum())[:, None] * b / b.sum(), rtol=1e-7, atol=0)
    assert found.converged


@every_backend
def test_an_unbalanced_plan_is_the_best(name: str) -> None:
    """Nothing near it costs less, the masses being free; from far off, points are left alone."""
    x0, x1, a, b, reg, reg_m = normal(6, 2), normal(5, 2, seed=1), uneven(6), uneven(5), 0.5, 2.0
    x1[0] = 30.0
    cost = torch.cdist(x0, x1).square()

    def kl(p: Tensor, q: Tensor) -> Tensor:
        return (torch.xlogy(p, p / q) - p + q).sum()

    def paid(p: Tensor) -> Tensor:
        free = kl(p.sum(1), a) + kl(p.sum(0), b)
        return (p * cost).sum() + reg * kl(p, a[:, None] * b) + reg_m * free

    with pyflowk.backend(name):
        found = sinkhorn(x0, x1, reg, reg_m=reg_m, a=a, b=b, tolerance=1e-12)
    plan = sinkhorn_plan(x0, x1, found, reg, a=a, b=b, balanced=False).requires_grad_()
    assert found.converged
    (slope,) = torch.autograd.grad(paid(plan), plan)
    assert slope[:, 1:].abs().max() < 1e-8  # a zero derivative wherever there is mass
    assert plan[:, 0].sum() < 1e-9
    torch.testing.assert_close(plan.sum(1), a * torch.exp(-found.f / reg_m))
    with pyflowk.backend(name):
        balanced, tight = sinkhorn(x0, x1, 50.0), sinkhorn(x0, x1, 50.0, reg_m=1e9)
    for one, other in zip(balanced[:2], tight[:2]):
        torch.testing.assert_close(one - one.mean(), other - other.mean(), rtol=1e-3, atol=1e-3)


# ---- marginals and status --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "problems, sources, targets, size", [(1, 1, 1, 1), (2, 16, 33, 2), (1, 50, 7, 63), (3, 5, 130, 1)]
)
def test_marginals(problems: int, sources: int, targets: int, size: int, dtype: torch.dtype, name: str = "cpu") -> None:
    x0, x1 = normal(problems, sources, size).to(dtype), normal(problems, targets, size, seed=1).to(dtype)
    a, b, reg = uneven(problems, sources), uneven(targets), 0.3 * size
    with pyflowk.backend(name):
        found = sinkhorn(x0, x1, reg, a=a, b=b, tolerance=1e-5)
        by_costs = sinkhorn(torch.cdist(x0.double(), x1.double()).square(), None, reg, a=a, b=b, tolerance=1e-5)
    assert found.converged.all() and (found.error <= 1e-5).all()
    assert found.f.dtype == found.g.dtype == (D if dtype == D else torch.float32)
    plan = sinkhorn_plan(x0.double(), x1.double(), found, reg, a=a, b=b)
    error = 1e-5 if dtype == D else 1e-4
    assert (plan.sum(2) - a / a.sum(1, keepdim=True)).abs().sum(1).max() < 2 * error
    assert (plan.sum(1) - b / b.sum()).abs().sum(1).max() < error
    torch.testing.assert_close(
        by_costs.f + by_costs.g[:, :1], (found.f + found.g[:, :1]).double(), rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("reg_m", [None, 0.08])
def test_kernel_against_formula(reg_m: float | None, name: str = "cpu") -> None:
    """The same steps: states, potentials and the number of iterations, however many steps a call makes."""
    x0, x1, reg = normal(2, 37, 3), normal(2, 21, 3, seed=1), 0.05
    chosen = {"reg_m": reg_m, "tolerance": 1e-9}
    with pyflowk.backend("reference"):
        expected = sinkhorn(x0, x1, reg, **chosen)
    with pyflowk.backend(name):
        found = sinkhorn(x0, x1, reg, **chosen)
        a, b = torch.full((2, 37), 1 / 37, dtype=D), torch.full((2, 21), 1 / 21, dtype=D)
        f, g, state = torch.zeros_like(a), torch.zeros_like(b), torch.zeros(2, 9, dtype=D)
        for _ in range(60):
            f, g, state = torch.ops.pyflowk.sinkhorn(
                x0, [x1], a, b, f, g, state, reg, reg_m or math.inf, 1e-9, 2000, 10
            )
    assert (found.iterations > (50 if reg_m is None else 8)).all() and state[:, 2].tolist() == [1, 1]
    torch.testing.assert_close(found.iterations, expected.iterations, rtol=0.3, atol=1)
    for other in (Potentials(f, g, *found[2:]), expected):
        for x0_, x1_, one, another in zip(x0, x1, zip(*found), zip(*other)):
            plans = (sinkhorn_plan(x0_, x1_, Potentials(*p), reg) for p in (one, another))
            torch.testing.assert_close(*plans, rtol=1e-5, atol=1e-9)


@every_backend
def test_longer_steps_save_most_of_them(name: str) -> None:
    x = normal(64, 2)
    with pyflowk.backend(name):
        found = sinkhorn(x, x.flip(0) + 1, 0.02)
    assert found.converged and found.iterations < 400  # more than 2000 plain ones


@every_backend
def test_what_mixing_cannot_do_plain_steps_do(name: str) -> None:
    """Clusters between which mass must go far: mixed steps alone would jump about for ever."""
    x0, x1 = normal(60, 2), normal(60, 2, seed=1)
    x1[:20] += 30.0
    x0[:25] += torch.tensor([30.0, -30.0])
    for dtype in (torch.float32, D):
        with pyflowk.backend(name):
            found = sinkhorn(x0.to(dtype), x1.to(dtype), 0.5)
        assert found.converged and found.iterations < 700


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_a_status_for_what_does_not_converge(dtype: torch.dtype, name: str) -> None:
    x0, x1 = normal(9, 2).to(dtype), 100 * normal(9, 2, seed=1).to(dtype)
    with pyflowk.backend(name):
        for reg, iterations in ((1e-30, 50), (1e-3, 5), (1e-3, 0)):
            found = sinkhorn(x0, x1, reg, iterations=iterations)
            assert found.f.isfinite().all() and found.g.isfinite().all()
            assert not found.converged and found.error > 1e-4 and found.iterations == iterations
        one = sinkhorn(x0[:1], x1[:1], 1e-30)
        same = sinkhorn(x0[:1].expand(5, 2), x1[:1].expand(5, 2), 1e-3)
    assert one.converged and same.converged


@every_backend
def test_nan_and_infinite_costs(name: str) -> None:
    x0, x1 = normal(2, 6, 2), normal(2, 5, 2, seed=1)
    with pyflowk.backend(name):
        alone = sinkhorn(x0[1], x1[1], 0.5)
        x0[0, 3, 1] = math.nan
        found = sinkhorn(x0, x1, 0.5)
        assert found.f[0].isnan().all() and found.g[0].isnan().all() and found.converged.tolist() == [False, True]
        assert torch.equal(found.f[1], alone.f) and torch.equal(found.g[1], alone.g)
        cost = torch.cdist(x0[1], x1[1])
        cost[0, 1:] = math.inf
        barred = sinkhorn(cost, None, 0.5, tolerance=1e-9)
        plan = sinkhorn_plan(cost, None, barred, 0.5)
        assert barred.converged and float(plan[0, 0]) == pytest.approx(1 / 6) and not plan[0, 1:].any()


@every_backend
@pytest.mark.parametrize("sources, targets", [(0, 0), (0, 3), (3, 0)])
def test_empty(sources: int, targets: int, name: str) -> None:
    with pyflowk.backend(name):
        found = sinkhorn(torch.zeros(sources, 2), torch.zeros(targets, 2), 1.0)
        assert found.f.shape == (sources,) and found.g.shape == (targets,) and found.iterations == 0
        assert sinkhorn(torch.zeros(0, 4, 2), torch.zeros(0, 4, 2), 1.0).f.shape == (0, 4)
        if sources == 0:
            assert sinkhorn_draw(torch.zeros(0, 2), torch.zeros(targets, 2), torch.zeros(targets), 1.0).shape == (0,)


def test_problems_by_themselves_and_strides(name: str = "cpu") -> None:
    x0, x1 = normal(4, 30, 5).float(), normal(4, 25, 5, seed=1).float()
    with pyflowk.backend(name):
        found = sinkhorn(x0, x1, 0.5)
        turned = sinkhorn(x0.mT.contiguous().mT, x1.repeat_interleave(2, 0)[::2], 0.5)
        for part, other in zip(found, turned):
            assert torch.equal(part, other)
        for row in range(4):
            for part, alone in zip(found, sinkhorn(x0[row], x1[row], 0.5)):
                assert torch.equal(part[row], alone)


# ---- draws -----------------------------------------------------------------------------------------------------------


def test_draws_have_the_chances_of_the_plan(name: str = "cpu") -> None:
    x0, x1, b, reg = normal(3, 2), normal(40, 2, seed=1), uneven(40), 0.5
    found = sinkhorn(x0, x1, reg, b=b)
    with pyflowk.backend(name):
        rows = torch.arange(3).repeat_interleave(20_000)
        drawn = sinkhorn_draw(x0[rows], x1, found.g, reg, b=b, generator=torch.Generator().manual_seed(0))
        counts = torch.stack([drawn[rows == row].bincount(minlength=40) for row in range(3)]).double()
    plan = sinkhorn_plan(x0, x1, found, reg, b=b)
    expected = 20_000 * plan / plan.sum(1, keepdim=True)
    chi2 = ((counts - expected).square() / expected).sum()
    assert abs(chi2 - 117) < 5 * math.sqrt(2 * 117)


@pytest.mark.parametrize("dtype", DTYPES)
def test_draws_of_kernel_and_formula(dtype: torch.dtype, name: str = "cpu") -> None:
    x0, x1, b = normal(2, 50, 3).to(dtype), normal(2, 700, 3, seed=1).to(dtype), uneven(2, 700)
    b[:, 100:650] = 0.0
    g, drawn = normal(2, 700, seed=2).to(D if dtype == D else torch.float32), []
    for backend in ("reference", name):
        with pyflowk.backend(backend):
            drawn.append(sinkhorn_draw(x0, x1, g, 0.7, b=b, generator=torch.Generator().manual_seed(1)))
            one = sinkhorn_draw(x0[1], x1[1], g[1], 1e-30, b=b[1])
    assert drawn[0].dtype == torch.int64 and (drawn[0] == drawn[1]).float().mean() > 0.97  # but for ties of rounding
    assert ((drawn[1] < 100) | (drawn[1] >= 650)).all()
    best = torch.where(b[1] > 0, g[1] - torch.cdist(x0[1].double(), x1[1].double()).square(), -math.inf).argmax(1)
    assert (one == best).float().mean() > (0.9 if dtype in DTYPES[2:] else 0.99)


# ---- bad input -------------------------------------------------------------------------------------------------------


@every_backend
def test_bad_input_is_refused(name: str) -> None:
    x0, x1 = torch.zeros(4, 2), torch.zeros(3, 2)
    with pyflowk.backend(name):
        for points, message in (
            ((x0, x1[:, :1]), r"expected x0 \(G, B, D\) and x1 \(G, N, D\), .*; got \(1, 4, 2\) and \(1, 3, 1\)"),
            ((x0[0], None), "expected x0"),
            ((x0[None], x1.expand(2, 3, 2)), "expected x0"),
        ):
            with pytest.raises(ValueError, match=message):
                sinkhorn(*points, 1.0)
        for reg in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match="reg must be finite and above 0"):
                sinkhorn(x0, x1, reg)
        with pytest.raises(TypeError, match=r"x1 must be torch\.float32; got torch.float64"):
            sinkhorn(x0, x1.double(), 1.0)
        with pytest.raises(TypeError, match=r"x0 must be real; got torch\.int64"):
            sinkhorn(x0.long(), x1.long(), 1.0)
        with pytest.raises(ValueError, match="reg_m must be above 0"):
            sinkhorn(x0, x1, 1.0, reg_m=0.0)
        with pytest.raises(ValueError, match="at most 100000 iterations and a tolerance"):
            sinkhorn(x0, x1, 1.0, tolerance=-1.0)
        with pytest.raises(ValueError, match="iterations to be an integer of at least 0"):
            sinkhorn(x0, x1, 1.0, iterations=-1)
        with pytest.raises(ValueError, match=r"a must be \(4,\) or \(1, 4\); got \(3,\)"):
            sinkhorn(x0, x1, 1.0, a=torch.ones(3))
        for weights in (torch.tensor([1.0, 1.0, -0.5]), torch.zeros(3)):
            with pytest.raises(ValueError, match="b must be at least 0, and not 0 everywhere"):
                sinkhorn(x0, x1, 1.0, b=weights)
        with pytest.raises(ValueError, match=r"g must be \(1, 3\); got \(1, 4\)"):
            sinkhorn_draw(x0, x1, torch.zeros(4), 1.0)
        with pytest.raises(ValueError, match="no target to draw from"):
            sinkhorn_draw(x0, x1[:0], torch.zeros(0), 1.0)


def test_potentials_have_no_gradient_and_compile() -> None:
    x0, x1 = normal(4, 2).requires_grad_(), normal(5, 2, seed=1)
    assert not sinkhorn(x0, x1, 1.0).f.requires_grad

    def drawn(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        found = sinkhorn(x0, x1, 1.0)
        return found.f, sinkhorn_draw(x0, x1, found.g, 1e-9)

    compiled = torch.compile(drawn, backend="aot_eager", fullgraph=True)
    for one, other in zip(compiled(x0.detach(), x1), drawn(x0.detach(), x1)):
        assert torch.equal(one, other)
    assert isinstance(sinkhorn(x0, x1, 1.0), Potentials)
