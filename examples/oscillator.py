"""The constants of a damped oscillator, twice: from readings at irregular times, and from nothing but the first moments
at which it passes through zero. A few seconds on one core.

Every row starts elsewhere, has its own times and takes its own steps. The first fit differentiates the states, the
second the times of events. The data come from the closed solution, so that both answers are known.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from pyflowk.solvers import Adaptive, Event, solve_ivp

TRUTH = {"frequency": 2.0, "damping": 0.3}
CLOSE = Adaptive(rtol=1e-5, atol=1e-6)
Loss = Callable[[Callable[[Tensor, Tensor], Tensor]], Tensor]


def exact(y0: Tensor, t: Tensor) -> Tensor:
    """The position at the times t (B, T) of what starts in y0 (B, 2), position and velocity."""
    frequency, damping = TRUTH.values()
    ringing = (frequency**2 - damping**2) ** 0.5
    x, v = y0[:, :1], y0[:, 1:]
    swing = x * torch.cos(ringing * t) + (v + damping * x) / ringing * torch.sin(ringing * t)
    return torch.exp(-damping * t) * swing


def first_zeros(y0: Tensor) -> Tensor:
    """The first times after zero, (B,), at which the position is zero."""
    frequency, damping = TRUTH.values()
    ringing = (frequency**2 - damping**2) ** 0.5
    x, v = y0.unbind(1)
    return torch.remainder(torch.atan2(x * ringing, -(v + damping * x)), torch.pi) / ringing


def from_readings(y0: Tensor, t: Tensor, readings: Tensor) -> Loss:
    """How far a field's solution is from readings (B, T) at the times t (B, T)."""
    return lambda field: (solve_ivp(field, y0, t, stepping=CLOSE).y[..., 0].t() - readings).square().mean()


def from_zeros(y0: Tensor, zeros: Tensor) -> Loss:
    """How far the first zeros of a field's solution are from those that were seen."""
    passes = Event(lambda t, y: y[:, 0])

    def loss(field: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        found = solve_ivp(field, y0, [0.0, 20.0], stepping=CLOSE, events=passes).event_t
        assert found is not None
        return (found - zeros).square().mean()

    return loss


def fit(loss: Loss, steps: int) -> dict[str, float]:
    """Frequency and damping, positive, by L-BFGS from 1 and 1/2."""
    logs = torch.tensor([1.0, 0.5], dtype=torch.float64).log().requires_grad_()
    optimizer = torch.optim.LBFGS([logs], max_iter=steps, line_search_fn="strong_wolfe")

    def field(t: Tensor, y: Tensor) -> Tensor:
        frequency, damping = logs.exp()
        x, v = y.unbind(1)
        return torch.stack([v, -frequency.square() * x - 2 * damping * v], 1)

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        value = loss(field)
        value.backward()
        return value

    optimizer.step(evaluate)  # type: ignore[no-untyped-call]
    return dict(zip(TRUTH, logs.exp().tolist(), strict=True))


def main(steps: int = 30, noise: float = 0.01) -> dict[str, dict[str, float]]:
    """Fit and print; the constants by what they were learnt from."""
    generator = torch.Generator().manual_seed(0)
    y0 = torch.randn(64, 2, generator=generator, dtype=torch.float64)
    t = torch.rand(64, 12, generator=generator, dtype=torch.float64).mul(3).sort(1).values
    t[:, 0] = 0
    readings = exact(y0, t) + noise * torch.randn(t.shape, generator=generator, dtype=t.dtype)
    results = {
        "the truth": TRUTH,
        "768 readings": fit(from_readings(y0, t, readings), steps),
        "64 first zeros": fit(from_zeros(y0, first_zeros(y0)), steps),
    }
    for name, found in results.items():
        print(f"{name:16}", *(f"{what} {value:.4f}" for what, value in found.items()))
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    main(parser.parse_args().steps)
