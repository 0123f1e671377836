"""What is known in closed form of affine paths from normal noise to Gaussian mixtures on the line."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyflowk.paths import Schedule


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
