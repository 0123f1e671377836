"""Stochastic equations: moments that are known, and noise that belongs to rows."""

from __future__ import annotations

import math

import pytest
import torch

from pyflowk.solvers import Fixed, sdeint

D = torch.float64


@pytest.mark.parametrize("method", ["euler_maruyama", "heun"])
def test_ornstein_uhlenbeck(method: str) -> None:
    """dy = -y dt + s dW from y0: mean and variance at t = 1."""
    generator = torch.Generator().manual_seed(0)
    y0 = torch.full((20000, 1), 2.0, dtype=D)
    y = sdeint(lambda t, y: -y, lambda t, y: 0.8 * torch.ones_like(y), y0, [0.0, 1.0], method=method,
               stepping=Fixed(50), generator=generator)[-1]  # fmt: skip
    variance = 0.64 * (1 - math.exp(-2)) / 2
    assert y.mean().item() == pytest.approx(2 * math.exp(-1), abs=0.02)
    assert y.var().item() == pytest.approx(variance, rel=0.05)


def test_ito_and_stratonovich() -> None:
    """dy = s y dW: Ito keeps the mean, Stratonovich multiplies it by e^(s^2 t / 2)."""
    y0, noise = torch.ones(40000, 1, dtype=D), lambda t, y: 0.6 * y
    for method, mean in (("euler_maruyama", 1.0), ("heun", math.exp(0.18))):
        y = sdeint(lambda t, y: 0 * y, noise, y0, [0.0, 1.0], method=method, stepping=Fixed(40),
                   generator=torch.Generator().manual_seed(1))[-1]  # fmt: skip
        assert y.mean().item() == pytest.approx(mean, abs=0.02)


def test_seeds_belong_to_rows() -> None:
    g = lambda t, y: torch.ones_like(y)  # noqa: E731
    y = sdeint(lambda t, y: -y, g, torch.zeros(3, 2), [0.0, 0.5, 1.0], stepping=Fixed(4), seeds=[5, 6, 7])
    alone = sdeint(lambda t, y: -y, g, torch.zeros(1, 2), [0.0, 0.5, 1.0], stepping=Fixed(4), seeds=[6])
    assert torch.equal(y[:, 1:2], alone)
    with pytest.raises(ValueError, match="one for each of 3 rows"):
        sdeint(lambda t, y: -y, g, torch.zeros(3, 2), [0.0, 1.0], seeds=[1])
    with pytest.raises(ValueError, match="method: expected one of euler_maruyama, heun"):
        sdeint(lambda t, y: -y, g, torch.zeros(3, 2), [0.0, 1.0], method="milstein")
    number = sdeint(lambda t, y: -y, 1, torch.zeros(3, 2), [0.0, 0.5, 1.0], stepping=Fixed(4), seeds=[5, 6, 7])
    assert torch.equal(y, number)
    with pytest.raises(TypeError, match=r"diffusion: expected a function of \(t, y\), or a number, got '1'"):
        sdeint(lambda t, y: -y, "1", torch.zeros(3, 2), [0.0, 1.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sdeint expects diffusion to be a finite number of at least 0, got -1"):
        sdeint(lambda t, y: -y, -1, torch.zeros(3, 2), [0.0, 1.0])
