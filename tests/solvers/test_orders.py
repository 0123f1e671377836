"""What many samples, or many steps, of a sampler come to: moments, orders, the data."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.paths import EDM, VE, VP, CondOT, Cosine, Schedule
from pyflowk.solvers import Fixed, ddim, edm_heun, karras_grid, odeint, uniform_grid
from tests.solvers.gaussian import M, S, best, probed, start
from tests.solvers.samplers import ALL, PATHS, D, samplers, seeded


@samplers
@pytest.mark.parametrize("schedule", [VP(), CondOT(), EDM()], ids=str)
def test_moments_of_many_samples(monkeypatch: pytest.MonkeyPatch, name: str, schedule: Schedule) -> None:
    """Those of the line that the sampler is."""
    n, grid = 40_000, uniform_grid(12)
    mean, variance = start(schedule, grid[0])
    x = mean + variance.sqrt() * torch.randn(n, 1, dtype=D, generator=seeded(1))
    y = ALL[name](best(schedule, "data"), x, schedule, grid, prediction="data", generator=seeded(2))
    known = probed(monkeypatch, ALL[name], schedule, grid, "data").moments(mean, variance)
    assert y.mean().item() == pytest.approx(known[0].item(), abs=4 * (known[1].item() / n) ** 0.5)
    assert y.var().item() == pytest.approx(known[1].item(), rel=4 * (2 / n) ** 0.5)


ORDERS: list[tuple[str, dict[str, Any], float]] = [
    ("ddim", {}, 1), ("ddpm", {}, 1), ("dpmpp_2m", {}, 2), ("edm_heun", {"churn": 0.0}, 2),
    ("euler_maruyama", {"diffusion": "linear", "last": "noise"}, 1),
    ("stochastic_heun", {"diffusion": "linear", "last": "noise"}, 2),
]  # fmt: skip
PLAINLY: dict[str, Callable[..., Tensor]] = {**ALL, "edm_heun": edm_heun}


@pytest.mark.parametrize("name, chosen, order", ORDERS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("schedule", [CondOT(), Cosine()], ids=str)
def test_orders(
    monkeypatch: pytest.MonkeyPatch, name: str, chosen: dict[str, Any], order: float, schedule: Schedule
) -> None:
    """Mean and variance after N steps against those of the path, at inner times."""
    errors = []
    for steps in (40, 80, 160):
        grid = uniform_grid(steps, 0.3, 0.9)
        line = probed(monkeypatch, PLAINLY[name], schedule, grid, "velocity", **chosen)
        found, known = line.moments(*start(schedule, grid[0])), start(schedule, grid[-1])
        errors.append([abs((a - b).item()) for a, b in zip(found, known)])
    for coarse, fine in pairwise(errors):
        rates = [torch.tensor(a / b).log2().item() for a, b in zip(coarse, fine) if a > 1e-12]
        assert min(rates) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(
    "name, schedule",
    [
        (n, p)
        for n in ALL
        for p in PATHS
        if n != "curved_euler" and not (n in ("euler_maruyama", "stochastic_heun") and isinstance(p, (VE, EDM)))
    ],
    ids=str,
)  # one share drawn anew at every step is wrong the more steps there are; equations of noise of 50 need far more
def test_many_steps_reach_the_data(monkeypatch: pytest.MonkeyPatch, name: str, schedule: Schedule) -> None:
    grid = karras_grid(100, schedule)
    if name in ("euler_maruyama", "stochastic_heun"):
        grid = uniform_grid(100)
    mean, variance = probed(monkeypatch, ALL[name], schedule, grid, "data").moments(*start(schedule, grid[0]))
    assert mean.item() == pytest.approx(M, abs=0.02)
    assert variance.item() == pytest.approx(S**2 + (1e-4 if schedule == VE() else 0), rel=0.12)


def test_on_straight_lines_ddim_is_eulers_method_and_it_leads_back() -> None:
    field, x = best(CondOT(), "velocity"), torch.tensor([[0.4], [-1.0]], dtype=D)
    known = odeint(field, x, [0.0, 1.0], method="euler", stepping=Fixed(7))[-1]
    torch.testing.assert_close(ddim(field, x, CondOT(), uniform_grid(7)), known)
    there = ddim(field, x, CondOT(), uniform_grid(400))
    torch.testing.assert_close(ddim(field, there, CondOT(), uniform_grid(400, 1, 0)), x, rtol=0, atol=1e-2)
