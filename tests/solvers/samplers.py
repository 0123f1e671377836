"""Every sampler of diffusions as users call it, and its step on Gaussian data, from what is known of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from pyflowk.paths import EDM, VE, VP, CondOT, Cosine, LinearVP, Schedule, SubVP
from pyflowk.solvers import (
    curved_euler,
    ddim,
    ddpm,
    dpmpp_2m,
    edm_heun,
    euler_maruyama,
    overshooting,
    predictor_corrector,
    stochastic_heun,
)
from tests.solvers.gaussian import Line, M, S, start

D = torch.float64
PATHS: list[Schedule] = [CondOT(), Cosine(), LinearVP(), VP(), SubVP(), VE(), VE(clean=True), EDM()]
schedules = pytest.mark.parametrize("schedule", PATHS, ids=str)
#: every sampler as users call it
ALL: dict[str, Callable[..., Tensor]] = {
    "ddim": ddim, "ddim-noisy": lambda *a, **k: ddim(*a, eta=0.5, **k), "ddpm": ddpm,
    "curved_euler": lambda *a, **k: curved_euler(*a, refresh=0.3, **k), "overshooting": overshooting,
    "dpmpp_2m": dpmpp_2m,
    "edm_heun": lambda *a, **k: edm_heun(*a, churn=2.0, **k), "euler_maruyama": euler_maruyama,
    "stochastic_heun": stochastic_heun,
    "predictor_corrector": lambda *a, **k: predictor_corrector(*a, norms="expected", **k),
}  # fmt: skip
samplers = pytest.mark.parametrize("name", ALL)
PLAIN = {"dpmpp_2m", "ddim"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Says:
    """What is known at a time: shares of data and noise as lines (slope, offset) of x."""

    def __init__(self, schedule: Schedule, t: Tensor) -> None:
        self.t, self.c = t, schedule.at(t)
        self.alpha, self.sigma = self.c.alpha, self.c.sigma
        variance = (self.alpha * S) ** 2 + self.sigma**2
        self.data = self.line(M, self.alpha * S**2 / variance)
        self.noise = self.line(0.0, self.sigma / variance)
        slope = (self.alpha * self.c.alpha_rate * S**2 + self.sigma * self.c.sigma_rate) / variance
        self.velocity = self.line(self.c.alpha_rate * M, slope)
        self.score = self.line(0.0, -1 / variance)

    def line(self, offset: Tensor | float, slope: Tensor) -> Tensor:
        """offset + slope (x - alpha m)."""
        return torch.stack((slope, offset - slope * self.alpha * M))


def step_of_ddim(a: Says, b: Says, eta: float) -> Line:
    fresh = eta**2 * b.sigma**2 * (1 - (a.alpha * b.sigma / (b.alpha * a.sigma)) ** 2)
    slope, offset = b.alpha * a.data + (b.sigma**2 - fresh).sqrt() * a.noise
    return Line(slope, offset, fresh.sqrt()[None])


def composed(schedule: Schedule, grid: Tensor, step: Callable[[Says, Says], Line]) -> Line:
    points = [Says(schedule, t) for t in grid]
    lines = [step(a, b) for a, b in pairwise(points)]
    whole = lines[0]
    for line in lines[1:]:
        whole = line.after(whole)
    return whole


def check(found: Line, known: Line, schedule: Schedule, grid: Tensor) -> None:
    torch.testing.assert_close((found.slope, found.offset), (known.slope, known.offset), rtol=1e-8, atol=1e-8)
    both = [line.moments(*start(schedule, grid[0])) for line in (found, known)]
    torch.testing.assert_close(*both, rtol=1e-8, atol=1e-8)
