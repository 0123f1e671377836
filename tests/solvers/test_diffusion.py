"""Samplers of diffusions on Gaussian data: every step is a line that is known from the formulas of the papers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyflowk.paths import EDM, VE, VP, CondOT, Schedule
from pyflowk.solvers import curved_euler, ddim, ddpm, edm_heun, karras_grid, overshooting, power_grid, uniform_grid
from tests.solvers.gaussian import Line, M, S, best, probed
from tests.solvers.samplers import D, Says, check, composed, schedules, seeded, step_of_ddim


@schedules
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction", ["data", "velocity"])
def test_ddim(monkeypatch: pytest.MonkeyPatch, schedule: Schedule, eta: float, prediction: str) -> None:
    for grid in (uniform_grid(1), power_grid(7), torch.tensor([0.2, 0.5, 0.9], dtype=D)):
        found = probed(monkeypatch, ddim, schedule, grid, prediction, eta=eta)
        check(found, composed(schedule, grid, lambda a, b: step_of_ddim(a, b, eta)), schedule, grid)
        assert len(found.noise) == (len(grid) - 1 if eta else 0)
        if eta == 1:
            check(probed(monkeypatch, ddpm, schedule, grid, prediction), found, schedule, grid)


@schedules
def test_noise_that_is_drawn_again(monkeypatch: pytest.MonkeyPatch, schedule: Schedule) -> None:
    def refreshed(a: Says, b: Says) -> Line:
        slope, offset = b.alpha * a.data + b.sigma * 0.7**0.5 * a.noise
        return Line(slope, offset, (0.3**0.5 * b.sigma)[None])

    def overshot(a: Says, b: Says) -> Line:
        far = Says(schedule, (b.t + 1.5 * (b.t - a.t) * (1 - b.t)).clamp(max=1))
        back = b.alpha / far.alpha
        slope, offset = back * (far.alpha * a.data + far.sigma * a.noise)
        return Line(slope, offset, (b.sigma**2 - (back * far.sigma) ** 2).clamp(min=0).sqrt()[None])

    grid = uniform_grid(6)
    found = probed(monkeypatch, curved_euler, schedule, grid, "data", refresh=0.3)
    check(found, composed(schedule, grid, refreshed), schedule, grid)
    found = probed(monkeypatch, overshooting, schedule, grid, "data", overshoot=1.5)
    check(found, composed(schedule, grid, overshot), schedule, grid)
    plain = probed(monkeypatch, ddim, schedule, grid, "data")
    check(probed(monkeypatch, curved_euler, schedule, grid, "data"), plain, schedule, grid)
    check(probed(monkeypatch, overshooting, schedule, grid, "data", overshoot=0.0), plain, schedule, grid)


def test_the_posterior_of_ddpm() -> None:
    """Its mean in both of its forms, and its variance, at the steps of a chain of betas."""
    schedule, grid = VP(), uniform_grid(10)[[2, 3]]
    alpha, sigma, *_ = schedule.at(grid)
    before, after = alpha.square()
    beta = 1 - before / after
    x = torch.tensor([[0.4], [-1.0]], dtype=D)
    noise, data = (best(schedule, q)(grid[0], x) for q in ("noise", "data"))
    mean = after.sqrt() * beta / (1 - before) * data + (1 - beta).sqrt() * (1 - after) / (1 - before) * x
    torch.testing.assert_close(mean, (x - beta / sigma[0] * noise) / (1 - beta).sqrt(), rtol=1e-12, atol=0)
    drawn = torch.randn(2, 1, dtype=D, generator=seeded())
    known = mean + (beta * (1 - after) / (1 - before)).sqrt() * drawn
    for prediction in ("noise", "score"):
        found = ddpm(best(schedule, prediction), x, schedule, grid, prediction=prediction, generator=seeded())
        torch.testing.assert_close(found, known, rtol=1e-10, atol=0)


@pytest.mark.parametrize("churn", [0.0, 4.0, 100.0])
def test_the_sampler_of_edm_is_its_algorithm(monkeypatch: pytest.MonkeyPatch, churn: float) -> None:
    """In terms of sigma, as the paper writes it; on straight lines too, where x is scaled."""
    sigmas = EDM().at(karras_grid(6, EDM())).sigma

    def denoised(sigma: Tensor) -> tuple[Tensor, Tensor]:
        kept = S**2 / (S**2 + sigma**2)
        return kept, (1 - kept) * M

    def step(i: int) -> Line:
        sigma, following = sigmas[i], sigmas[i + 1]
        more = min(churn / 6, 2**0.5 - 1) if 0.05 <= sigma <= 70 else 0.0
        high = sigma * (1 + more)
        fresh = 1.003 * (high**2 - sigma**2).sqrt()
        kept, gained = denoised(high)
        p, q = (1 - kept) / high, -gained / high
        slope, offset = 1 + (following - high) * p, (following - high) * q
        if following > 0:
            kept, gained = denoised(following)
            p2, q2 = (1 - kept) / following, -gained / following
            slope, offset = (
                1 + (following - high) / 2 * (p + p2 * slope),
                (following - high) / 2 * (q + q2 + p2 * offset),
            )
        return Line(slope, offset, (slope * fresh)[None])

    known = step(0)
    for i in range(1, 6):
        known = step(i).after(known)
    chosen = {"churn": churn, "churn_noise": 1.003, "churn_min": 0.05, "churn_max": 70.0}
    found = probed(monkeypatch, edm_heun, EDM(), karras_grid(6, EDM()), "data", **chosen)
    check(found, known, EDM(), torch.zeros(1, dtype=D))
    straight = CondOT().time(-2 * sigmas.log())
    found = probed(monkeypatch, edm_heun, CondOT(), straight, "velocity", **chosen)
    scaled = Line(found.slope / 81, found.offset, found.noise)  # which starts at x / (1 + 80)
    check(scaled, known, EDM(), torch.zeros(1, dtype=D))


def test_churn_goes_not_past_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    for schedule in (EDM(), VE(), VP(), CondOT()):
        grid = uniform_grid(8)
        line = probed(monkeypatch, edm_heun, schedule, grid, "data", churn=100.0)
        assert line.noise[0] == 0 and (line.noise[1:-1].abs() > 0).all()
