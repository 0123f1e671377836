"""Samplers that solve stochastic equations, on Gaussian data: steps from the formulas of the papers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyflowk.paths import EDM, VP, CondOT, Schedule
from pyflowk.solvers import DIFFUSIONS, euler_maruyama, predictor_corrector, stochastic_heun, uniform_grid
from tests.solvers.gaussian import Line, best, probed
from tests.solvers.samplers import D, Says, check, composed, schedules, seeded, step_of_ddim

HALF_SQUARES: dict[str, Callable[[Says], Tensor]] = {
    "sde": lambda a: a.sigma * (a.c.alpha_rate * a.sigma / a.alpha - a.c.sigma_rate),
    "sigma": lambda a: a.sigma,
    "constant": lambda a: torch.ones_like(a.t),
    "linear": lambda a: 1 - a.t,
    "decreasing": lambda a: (torch.cos(torch.pi * a.t) + 1) ** 2 / 4,
    "increasing_decreasing": lambda a: torch.sin(torch.pi * a.t) ** 2,
}


@schedules
@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_euler_maruyama_and_heun(monkeypatch: pytest.MonkeyPatch, schedule: Schedule, diffusion: str) -> None:
    """Mean and variance of both equal those of the recursion, not those of the data."""
    first = 0.1 if diffusion == "sde" and schedule.at(torch.zeros(())).alpha == 0 else 0.0
    grid, still = uniform_grid(5, first), torch.tensor([1.0, 0.0], dtype=D)

    def w(a: Says) -> Tensor:
        return 0.6 * HALF_SQUARES[diffusion](a)

    def drift(a: Says) -> Tensor:
        return a.velocity + w(a) * a.score

    def euler(a: Says, b: Says) -> Line:
        last, h = b.t == 1, b.t - a.t
        slope, offset = still + h * drift(a)
        return Line(slope, offset, (torch.zeros(1, dtype=D) if last else (2 * w(a) * h).sqrt()[None]))

    def heun(a: Says, b: Says) -> Line:
        if b.t == 1:
            return euler(a, b)
        h, (p, q), (r, s) = b.t - a.t, drift(a), drift(b)
        before, after = ((2 * w(end) * h).sqrt() for end in (a, b))
        slope, offset = 1 + h / 2 * (p + r * (1 + h * p)), h / 2 * (q + r * h * q + s)
        return Line(slope, offset, (h / 2 * r * before + (before + after) / 2)[None])

    chosen = {"diffusion": diffusion, "scale": 0.6}
    for sampler, step in ((euler_maruyama, euler), (stochastic_heun, heun)):
        found = probed(monkeypatch, sampler, schedule, grid, "data", **chosen)
        check(found, composed(schedule, grid, step), schedule, grid)


@pytest.mark.parametrize("sampler", [euler_maruyama, stochastic_heun])
@pytest.mark.parametrize("schedule", [CondOT(), VP()], ids=str)
def test_the_last_step(monkeypatch: pytest.MonkeyPatch, schedule: Schedule, sampler: Callable[..., Tensor]) -> None:
    grid = uniform_grid(4)
    before = Says(schedule, grid[3])
    h, until = grid[4] - grid[3], probed(monkeypatch, sampler, schedule, grid[:4], "data", last="noise")
    still = torch.tensor([1.0, 0.0], dtype=D)
    mean = still + h * (before.velocity + before.sigma * before.score)
    ends = {
        "mean": (mean, 0.0), "noise": (mean, (2 * before.sigma * h).sqrt().item()), "denoise": (before.data, 0.0),
        "euler": (still + h * before.velocity, 0.0),
    }  # fmt: skip
    for last, ((slope, offset), fresh) in ends.items():
        if sampler is euler_maruyama:
            known = Line(slope, offset, torch.tensor([fresh], dtype=D)).after(until)
            check(probed(monkeypatch, sampler, schedule, grid, "data", last=last), known, schedule, grid)
        else:  # its step before looks at this one's beginning
            whole = probed(monkeypatch, sampler, schedule, grid, "data", last=last)
            assert torch.allclose(whole.noise[-1:], torch.tensor([fresh], dtype=D))


@schedules
def test_corrected_steps(monkeypatch: pytest.MonkeyPatch, schedule: Schedule) -> None:
    def step(a: Says, b: Says) -> Line:
        size = 2 * (0.2 * a.alpha / b.alpha * a.sigma) ** 2
        slope, offset = torch.tensor([1.0, 0.0], dtype=D) + size * a.score
        return step_of_ddim(a, b, 1.0).after(Line(slope, offset, (2 * size).sqrt()[None]))

    grid, chosen = uniform_grid(6), {"norms": "expected", "snr": 0.2}
    found = probed(monkeypatch, predictor_corrector, schedule, grid, "data", **chosen)
    check(found, composed(schedule, grid, step), schedule, grid)


@pytest.mark.parametrize("norms", ["rows", "batch", "expected"])
def test_the_corrector(norms: str) -> None:
    schedule, grid = VP(), torch.tensor([0.5, 0.6], dtype=D)
    a, b = (Says(schedule, t) for t in grid)
    x, noise = torch.tensor([[0.4], [-1.0]], dtype=D), torch.randn(3, 2, 1, dtype=D, generator=seeded())
    known = x
    for drawn in noise[:2]:
        score = a.score[0] * known + a.score[1]
        ratio = {"rows": drawn.abs() / score.abs(), "batch": drawn.abs().mean() / score.abs().mean(),
                 "expected": a.sigma}[norms]  # fmt: skip
        step = 2 * (a.alpha / b.alpha) ** 2 * (0.3 * torch.minimum(torch.as_tensor(ratio), 10 * a.sigma)) ** 2
        known = known + step * score + (2 * step).sqrt() * drawn
    line = step_of_ddim(a, b, 1.0)
    known = line.slope * known + line.offset + line.noise * noise[2]
    found = predictor_corrector(
        best(schedule, "velocity"), x, schedule, grid, corrections=2, snr=0.3, norms=norms, generator=seeded()
    )
    torch.testing.assert_close(found, known, rtol=1e-9, atol=0)
    still = predictor_corrector(lambda t, x: 0 * x, 0 * x, EDM(), uniform_grid(50), prediction="data", norms=norms)
    assert still.isfinite().all()  # where the score is 0
    if norms == "batch":
        return
    wide = x.expand(2, 5) * torch.linspace(0.5, 2, 5, dtype=D)  # norms are those of rows, not of the batch
    field = lambda t, x: -x  # noqa: E731
    both, first = (
        predictor_corrector(
            field,
            rows,
            schedule,
            grid,
            prediction="score",
            norms=norms,
            generator=[seeded(i) for i in range(len(rows))],
        )
        for rows in (wide, wide[:1])
    )
    torch.testing.assert_close(both[:1], first)
