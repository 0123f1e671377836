"""Paths with noise of their own, against the closed forms of Gaussian pairs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyflowk.paths import AffinePath, Blurred, BrownianBridge, Cosine, Path, PathSample

D = torch.float64
S0, S1, SIGMA, M0, M1 = 0.7, 1.3, 0.8, 0.4, -1.0
ENTROPIC = 0.6446242792  # the covariance of the Schroedinger bridge's pairs: modern specification, golden numbers


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shares(path: Path, t: float) -> tuple[Tensor, Tensor]:
    """How much of x0, of x1 and of the noise there is in x_t and in the target: every path here is linear in them."""
    zero, one = torch.zeros(1, 1, dtype=D), torch.ones(1, 1, dtype=D)
    noise = torch.randn(1, 1, dtype=D, generator=seeded())

    def sample(x0: Tensor, x1: Tensor) -> PathSample:
        return path.sample(x0, x1, t, seeded())

    base = sample(zero, zero)
    rows = [[part / noise for part in (base.x_t, base.target)]]
    for x0, x1 in ((one, zero), (zero, one)):
        found = sample(x0, x1)
        rows.append([found.x_t - base.x_t, found.target - base.target])
    return torch.stack([torch.cat([row[i] for row in rows]).squeeze(1) for i in (0, 1)]).unbind()


def test_the_covariance_of_the_bridge() -> None:
    """c = (sqrt(4 s0^2 s1^2 + sigma^4) - sigma^2) / 2."""
    assert (math.sqrt(4 * S0**2 * S1**2 + SIGMA**4) - SIGMA**2) / 2 == pytest.approx(ENTROPIC, abs=1e-10)


@pytest.mark.parametrize("t", [0.05, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("c", [0.0, ENTROPIC, S0 * S1])
@pytest.mark.parametrize("path", [AffinePath(), BrownianBridge(SIGMA), Blurred(sigma=0.3)], ids=str)
def test_the_average_target_is_the_velocity_of_gaussian_pairs(path: Path, c: float, t: float) -> None:
    """v = m1 - m0 + V' / (2 V) (x - mu), V the variance at t: it solves the continuity equation."""
    place, speed = shares(path, t)
    covariance = torch.tensor([[1, 0, 0], [0, S0**2, c], [0, c, S1**2]], dtype=D)
    mean = torch.tensor([0, M0, M1], dtype=D)
    slope = (speed @ covariance @ place) / (place @ covariance @ place)

    extra, growth = {
        AffinePath: (0.0, 0.0), Blurred: (0.09, 0.0), BrownianBridge: (SIGMA**2 * t * (1 - t), SIGMA**2 * (1 - 2 * t)),
    }[type(path)]  # fmt: skip
    variance = (1 - t) ** 2 * S0**2 + 2 * t * (1 - t) * c + t**2 * S1**2 + extra
    rate = -2 * (1 - t) * S0**2 + 2 * (1 - 2 * t) * c + 2 * t * S1**2 + growth
    assert slope.item() == pytest.approx(rate / (2 * variance), rel=1e-9)
    assert (place @ covariance @ place).item() == pytest.approx(variance, rel=1e-12)
    assert (mean @ place).item() == pytest.approx((1 - t) * M0 + t * M1, rel=1e-12)
    assert (mean @ speed).item() == pytest.approx(M1 - M0, rel=1e-12)


def test_the_drift_of_the_bridge_is_known() -> None:
    """Target and half of sigma^2 times the score of x_t between its two points: (x1 - x_t) / (1 - t)."""
    path, t = BrownianBridge(SIGMA), torch.linspace(0.05, 0.95, 7, dtype=D)
    x0, x1 = (torch.randn(7, 3, dtype=D, generator=seeded(seed)) for seed in (1, 2))
    sample, noise = path.with_noise(x0, x1, t, seeded())
    time = t.unsqueeze(1)
    score = -noise / (SIGMA * (time * (1 - time)).sqrt())
    mean = time * x1 + (1 - time) * x0
    torch.testing.assert_close(score, -(sample.x_t - mean) / (SIGMA**2 * time * (1 - time)))
    torch.testing.assert_close(sample.target + SIGMA**2 / 2 * score, (x1 - sample.x_t) / (1 - time))
    assert all(map(torch.equal, sample[:3], path.sample(x0, x1, t, seeded())[:3]))
    torch.testing.assert_close(noise, torch.randn(7, 3, dtype=D, generator=seeded()))


def test_both_ends_of_a_bridge() -> None:
    """Points are exact, targets are bounded: by what they are at t = least."""
    path, x = BrownianBridge(2.0), torch.zeros(4, 1)
    t = torch.tensor([0.0, 1e-7, 1 - 1e-7, 1.0])
    sample, noise = path.with_noise(x, x + 1, t, seeded())
    torch.testing.assert_close(sample.x_t[[0, 3]], torch.tensor([[0.0], [1.0]]))
    known = 1 + torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]) * 2.0 / (2 * math.sqrt(1e-3 * 0.999)) * noise
    torch.testing.assert_close(sample.target, known, rtol=1e-5, atol=0)


def test_a_blur_leaves_the_velocity_alone() -> None:
    path, x0, x1 = AffinePath(Cosine()), torch.zeros(20000, 1), torch.ones(20000, 1)
    plain, blurred = path.sample(x0, x1, 0.3), Blurred(path, 0.2).sample(x0, x1, 0.3, seeded())
    assert torch.equal(plain.target, blurred.target)
    assert (blurred.x_t - plain.x_t).std().item() == pytest.approx(0.2, rel=0.02)


def test_numbers_that_make_no_path() -> None:
    for sigma in (0, -1):
        with pytest.raises(ValueError, match=f"BrownianBridge expects sigma to be above 0, got {sigma}; an AffinePath"):
            BrownianBridge(sigma)
    for wrong, error in ((math.inf, ValueError), ("1", TypeError)):
        with pytest.raises(error, match=r"BrownianBridge expects sigma to be a finite number"):
            BrownianBridge(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"BrownianBridge expects least to be above 0 and below 0\.5, got 0\.5"):
        BrownianBridge(least=0.5)
    with pytest.raises(ValueError, match="Blurred expects sigma to be a finite number of at least 0, got nan"):
        Blurred(sigma=math.nan)
    with pytest.raises(ValueError, match="expected times from 0"):
        BrownianBridge().with_noise(torch.zeros(1, 1), torch.zeros(1, 1), 1.5)
