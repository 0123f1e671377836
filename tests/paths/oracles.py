"""What is known in closed form of affine paths from normal noise to Gaussian mixtures on the line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyflowk.paths import Characteristics, CondOT, CondOTJumps, Schedule


@dataclass(frozen=True)
class Mixture:
    """Data :math:`\\sum_k w_k N(m_k, s_k^2)`; times and places are (N,) float64."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    def density(self, x: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        """p_t(x)."""
        return self._parts(x, t, schedule)[0].sum(1)

    def predictions(self, x: Tensor, t: Tensor, schedule: Schedule) -> dict[str, Tensor]:
        """Velocity, noise, data and score: averages over what passes through x at t."""
        alpha, sigma, alpha_rate, sigma_rate = (c.unsqueeze(1) for c in schedule.at(t))
        parts, mean, variance, s = self._parts(x, t, schedule)
        share, d = parts / parts.sum(1, keepdim=True), (x.unsqueeze(1) - alpha * mean)
        each = {
            "velocity": alpha_rate * mean + (alpha * alpha_rate * s**2 + sigma * sigma_rate) / variance * d,
            "noise": sigma / variance * d,
            "data": mean + alpha * s**2 / variance * d,
            "score": -d / variance,
        }
        return {name: (share * value).sum(1) for name, value in each.items()}

    def _parts(self, x: Tensor, t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alpha, sigma = (c.unsqueeze(1) for c in schedule.at(t)[:2])
        weights, mean, s = (torch.tensor(v, dtype=x.dtype) for v in (self.weights, self.means, self.deviations))
        variance = (alpha * s) ** 2 + sigma**2
        parts = weights * torch.exp(-((x.unsqueeze(1) - alpha * mean) ** 2) / (2 * variance))
        return parts / (2 * torch.pi * variance).sqrt(), mean, variance, s


GAUSSIAN = Mixture((1.0,), (1.0,), (0.5,))
PAIR = Mixture((0.3, 0.7), (-1.0, 1.5), (0.3, 0.5))


def jumping(points: Mixture, path: CondOTJumps) -> Callable[[Tensor, Tensor], Characteristics]:
    """What flow and jumps of a few data do, whose deviations are 0: averages over those that pass through x (B, D)."""

    def told(t: Tensor, x: Tensor) -> Characteristics:
        t = t.expand(len(x))
        drift, rates = torch.empty_like(x), x.new_zeros(*x.shape, path.bins.count)
        for d in range(x.shape[1]):
            parts, mean = points._parts(x[:, d], t, CondOT())[:2]
            share = parts / parts.sum(1, keepdim=True)
            for k, z in enumerate(mean):
                data = z.expand(len(x), 1)
                noise = (x[:, d : d + 1] - t[:, None] * data) / (1 - t[:, None])
                sample = path.sample(noise, data, t)
                rates[:, d] += share[:, k, None] * sample.intensity * sample.masses[:, 0]
            drift[:, d] = points.predictions(x[:, d], t, CondOT())["velocity"]
        return Characteristics(drift, None, rates.sum(-1).log(), rates.clamp(min=torch.finfo(x.dtype).tiny).log())

    return told


TWO = Mixture((0.4, 0.6), (-1.0, 0.8), (0.0, 0.0))
