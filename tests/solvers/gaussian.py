"""Samplers of Gaussian data on the line, N(m, s^2): what a field says is exactly affine in x, and so is every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jvp

from pyflowk.nets import Field
from pyflowk.paths import Schedule
from pyflowk.solvers import course

M, S = 1.0, 0.5
Sampler = Callable[..., Tensor]


def best(schedule: Schedule, prediction: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The average of what passes through x, (B, D)."""

    def predict(t: Tensor, x: Tensor) -> Tensor:
        alpha, sigma, alpha_rate, sigma_rate = schedule.at(t)
        d = (x - alpha * M) / ((alpha * S) ** 2 + sigma**2)
        return {
            "velocity": alpha_rate * M + (alpha * alpha_rate * S**2 + sigma * sigma_rate) * d,
            "noise": sigma * d,
            "data": M + alpha * S**2 * d,
            "score": -d,
        }[prediction]

    return predict


class ExactMap(Field):
    """The average velocity from t to its end on straight lines, in closed form: the velocity where they are one."""

    hears_end = True

    def forward(self, t: Any, x: Tensor, context: Any = None, end: Any = None) -> Tensor:
        t = torch.as_tensor(t, dtype=x.dtype).reshape(-1, *[1] * (x.dim() - 1))
        now, centred = deviation(t), x - t * M
        velocity = M + (t * S**2 - (1 - t)) / now.square() * centred
        if end is None:
            return velocity
        end = torch.as_tensor(end, dtype=x.dtype).reshape(-1, *[1] * (x.dim() - 1))
        gap = torch.where(end == t, 1.0, end - t)
        return torch.where(end == t, velocity, (end * M + deviation(end) / now * centred - x) / gap)


class ExactShares(ExactMap):
    """The same, and beside it the average of every element's share of the divergence on the way."""

    def forward(self, t: Any, x: Tensor, context: Any = None, end: Any = None) -> Tensor:
        u = super().forward(t, x, context, end)
        t = torch.as_tensor(t, dtype=x.dtype).reshape(-1, *[1] * (x.dim() - 1))
        here = (t * S**2 - (1 - t)) / deviation(t).square()
        if end is not None:
            end = torch.as_tensor(end, dtype=x.dtype).reshape(-1, *[1] * (x.dim() - 1))
            gap = torch.where(end == t, 1.0, end - t)
            here = torch.where(end == t, here, (deviation(end) / deviation(t)).log() / gap)
        return torch.cat((u, here.expand_as(u)), 1)

    def derivative(self, t: Any, x: Tensor, tangent: Tensor, context: Any = None, end: Any = None, **rates: Any) -> Any:
        rate, end_rate = rates.get("rate", 0.0), rates.get("end_rate", 0.0)
        ones = [torch.ones(len(x), dtype=x.dtype) for _ in range(2)]
        times, speeds = (t * ones[0], end * ones[1]), (rate * ones[0], end_rate * ones[1])
        return jvp(lambda t, s, x: self(t, x, context, s), (*times, x), (*speeds, tangent))[:2]

    def with_tangents(self, t: Any, x: Tensor, tangents: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        found = [jvp(lambda x: self(t, x, context), (x,), (e,))[:2] for e in tangents.unbind(1)]
        return found[0][0], torch.stack([image for _, image in found], 1)


def deviation(t: Tensor) -> Tensor:
    """That of all that is there at a time of straight lines."""
    return ((t * S).square() + (1 - t).square()).sqrt()


@dataclass(frozen=True)
class Line:
    """x -> slope x + offset, and the shares of every draw of noise (K,) in it."""

    slope: Tensor
    offset: Tensor
    noise: Tensor

    def moments(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Of what comes of x of that mean and variance."""
        return self.slope * mean + self.offset, self.slope**2 * variance + self.noise.square().sum()

    def after(self, other: Line) -> Line:
        noise = torch.cat((self.slope * other.noise, self.noise))
        return Line(self.slope * other.slope, self.slope * other.offset + self.offset, noise)


def probed(
    monkeypatch: pytest.MonkeyPatch, sampler: Sampler, schedule: Schedule, grid: Tensor, prediction: str, **chosen: Any
) -> Line:
    """The line that a sampler is: rows 0, 1 and then 0 again, each of which gets 1 in one draw of noise."""
    draws = 2 * len(grid)
    x = torch.zeros(2 + draws, 1, dtype=torch.float64)
    x[1], drawn = 1.0, 0

    def noise_like(x: Tensor, generator: Any) -> Tensor:
        nonlocal drawn
        noise = torch.zeros_like(x)
        noise[2 + drawn], drawn = 1.0, drawn + 1
        return noise

    with monkeypatch.context() as patch:
        patch.setattr(course, "noise_like", noise_like)
        y = sampler(best(schedule, prediction), x, schedule, grid, prediction=prediction, **chosen)[:, 0]
    return Line(y[1] - y[0], y[0], (y[2:] - y[0])[:drawn])


def start(schedule: Schedule, time: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the path at a time."""
    alpha, sigma, *_ = schedule.at(time)
    return alpha * M, (alpha * S).square() + sigma.square()
