"""[SF]2M against the Schroedinger bridge between Gaussians: what is left at its best, and both equations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyflowk.objectives import SF2M
from pyflowk.paths import Sinkhorn, UniformTimes
from pyflowk.solvers import Fixed, odeint, sdeint

D = torch.float64
S0, S1, SIGMA, M0, M1 = 0.7, 1.3, 0.8, 0.4, -1.0
COVARIANCE = (math.sqrt(4 * S0**2 * S1**2 + SIGMA**4) - SIGMA**2) / 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moments(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and the growth of that, at t."""
    mean = (1 - t) * M0 + t * M1
    variance = (1 - t) ** 2 * S0**2 + 2 * t * (1 - t) * COVARIANCE + t**2 * S1**2 + SIGMA**2 * t * (1 - t)
    growth = -2 * (1 - t) * S0**2 + 2 * (1 - 2 * t) * COVARIANCE + 2 * t * S1**2 + SIGMA**2 * (1 - 2 * t)
    return mean, variance, growth


def velocity(t: Tensor, x: Tensor) -> Tensor:
    mean, variance, growth = (m.reshape(-1, 1) if m.dim() else m for m in moments(t))
    return M1 - M0 + growth / (2 * variance) * (x - mean)


def score(t: Tensor, x: Tensor) -> Tensor:
    """Times half of sigma^2."""
    mean, variance, _ = (m.reshape(-1, 1) if m.dim() else m for m in moments(t))
    return -(SIGMA**2) / 2 * (x - mean) / variance


def pairs(n: int) -> tuple[Tensor, Tensor]:
    """Of the entropic plan."""
    z = torch.randn(2, n, 1, dtype=D, generator=seeded(5))
    x0 = M0 + S0 * z[0]
    return x0, M1 + COVARIANCE / S0 * z[0] + math.sqrt(S1**2 - (COVARIANCE / S0) ** 2) * z[1]


def test_what_is_left_at_the_best_fields() -> None:
    """The variances of target and noise, less what x_t tells of them; any other field leaves more."""
    x0, x1 = pairs(40000)
    loss = SF2M(SIGMA, lambda _, x, context, generator: (x0, x1, context), UniformTimes(least=0.05, most=0.95))
    t = torch.linspace(0.05, 0.95, 2001, dtype=D)
    _, variance, growth = moments(t)
    spread, pull = (t * (1 - t)).sqrt(), (1 - 2 * t) / (2 * (t * (1 - t)).sqrt())
    target = S0**2 + S1**2 - 2 * COVARIANCE + (SIGMA * pull) ** 2
    left = target - growth**2 / (4 * variance) + 1 - (SIGMA * spread) ** 2 / variance
    known = torch.trapezoid(left, t).item() / 0.9

    def mean(*fields: object) -> tuple[float, float]:
        each = loss(*fields, x1, generator=seeded())  # type: ignore[arg-type]
        return each.mean().item(), each.std().item() / 200

    best, error = mean(velocity, score)
    assert best == pytest.approx(known, abs=4 * error) and error < 0.02 * known
    assert mean(velocity, lambda t, x: score(t, x) + 0.1)[0] > best + 2e-3
    assert mean(lambda t, x: 1.1 * velocity(t, x), score)[0] > best + 2e-3


def test_both_equations_end_at_the_data_and_the_stochastic_one_keeps_the_pairs() -> None:
    x0, x1 = pairs(20000)

    def noise(t: Tensor, x: Tensor) -> Tensor:
        return SIGMA * torch.ones_like(x)

    def solve(drift: object, start: Tensor, times: list[float]) -> Tensor:
        options = {"method": "heun", "stepping": Fixed(40), "generator": seeded()}
        return sdeint(drift, noise, start, times, **options)[-1]  # type: ignore[arg-type]

    there = solve(lambda t, x: velocity(t, x) + score(t, x), x0, [0.0, 1.0])
    back = solve(lambda t, x: velocity(t, x) - score(t, x), x1, [1.0, 0.0])
    still = odeint(velocity, x0, [0.0, 1.0], method="rk4", stepping=Fixed(20))[-1]
    for end, mean, deviation in ((there, M1, S1), (still, M1, S1), (back, M0, S0)):
        assert end.mean().item() == pytest.approx(mean, abs=4 * deviation / 140)
        assert end.std().item() == pytest.approx(deviation, rel=4 / 200)
    for one, two in ((x0, there), (back, x1)):
        c = torch.cov(torch.cat((one, two), 1).T)[0, 1].item()
        assert c == pytest.approx(COVARIANCE, abs=4 * math.sqrt((S0**2 * S1**2 + COVARIANCE**2) / 20000))
    # without noise a trajectory keeps its rank, and with it all of the covariance that there can be
    assert torch.cov(torch.cat((x0, still), 1).T)[0, 1].item() == pytest.approx(S0 * S1, rel=0.03)


def test_contexts_go_with_their_events_and_bridges_have_noise() -> None:
    seen = []

    def field(t: Tensor, x: Tensor, context: Tensor) -> Tensor:
        seen.append(context)
        return x

    x, c = torch.zeros(3, 2), torch.arange(3.0).unsqueeze(1)
    SF2M(1.0, lambda x0, x1, c, generator: (x0, x1.flip(0), c.flip(0)))(field, field, x, c)
    assert all(torch.equal(context, c.flip(0)) for context in seen) and len(seen) == 2
    x = torch.randn(32, 2, generator=seeded(1))
    named, default = (
        SF2M(0.5, *pairing)(lambda t, x: x, lambda t, x: -x, x, generator=seeded())
        for pairing in ((Sinkhorn(0.5),), ())
    )
    assert torch.equal(named, default)  # the entropic plan, regularised by 2 sigma^2
    for setting, said in (({"pairing": "exact"}, "a function that pairs"), ({"times": 0.5}, "a law of times"),
                          ({"source": x}, "got a tensor: say pyflowk.distributions.Empirical")):  # fmt: skip
        with pytest.raises(TypeError, match=f"{next(iter(setting))}: expected .*{said}"):
            SF2M(**setting)
    with pytest.raises(ValueError, match="BrownianBridge expects sigma to be above 0"):
        SF2M(0.0, lambda x0, x1, c, generator: (x0, x1, c))
    for fields in ((lambda t, x: x[:, :1], lambda t, x: x), (lambda t, x: x, lambda t, x: x[:, :1])):
        with pytest.raises(ValueError, match=r"field: expected the state's shape \(32, 2\); got \(32, 1\)"):
            SF2M(0.5)(*fields, x)
