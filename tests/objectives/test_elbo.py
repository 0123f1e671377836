"""The bound of an autoencoder, where everything is Gaussian, and the laws of events given their codes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyflowk.objectives import elbo
from pyflowk.objectives.elbo import draw_events, log_prob_of_events


class Linear:
    """z ~ N(0, 1), x = z + N(0, s^2): the posterior is N(x / (1 + s^2), s^2 / (1 + s^2)), x ~ N(0, 1 + s^2)."""

    def __init__(self, s: float, wider: float = 0.0) -> None:
        self.s, self.wider = s, wider

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x / (1 + self.s**2)
        return mean, torch.full_like(mean, math.log(self.s / math.sqrt(1 + self.s**2)) + self.wider)

    def log_likelihood(self, x: Tensor, code: Tensor) -> Tensor:
        return log_prob_of_events(x, code, torch.tensor(math.log(self.s)), None)

    def log_prior(self, code: Tensor, context: Any = None, generator: Any = None) -> Tensor:
        return torch.distributions.Normal(0.0, 1.0).log_prob(code).sum(1)


def test_the_bound_is_exact_with_the_true_posterior_and_off_by_a_divergence_without() -> None:
    x = torch.randn(50_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = -torch.distributions.Normal(0.0, math.sqrt(1.25)).log_prob(x).sum(1)
    torch.testing.assert_close(elbo(Linear(0.5), x, generator=torch.Generator().manual_seed(1)), exact)
    wide = elbo(Linear(0.5, 0.4), x, generator=torch.Generator().manual_seed(1)) - exact
    divergence = 2 * (0.5 * math.exp(0.8) - 0.5 - 0.4)
    assert abs(wide.mean().item() - divergence) < 0.02


def test_masses_of_levels_sum_to_one_and_samples_come_as_often() -> None:
    mean = torch.tensor([-1.3, -0.2, 0.9], dtype=torch.float64).expand(5, 3)
    log_scale = torch.tensor([-0.5, -2.0, -6.0], dtype=torch.float64)
    x = torch.arange(5.0, dtype=torch.float64)[:, None].expand(5, 3)
    mass = torch.stack([log_prob_of_events(x[:, i : i + 1], mean[:, i : i + 1], log_scale[i], 5) for i in range(3)], 1)
    torch.testing.assert_close(mass.exp().sum(0), torch.ones(3, dtype=torch.float64))
    drawn = draw_events(mean[0].expand(40_000, 3), log_scale, 5, torch.Generator().manual_seed(0))
    often = torch.stack([(drawn == level).double().mean(0) for level in range(5)])
    torch.testing.assert_close(often, mass.exp(), rtol=0, atol=0.01)
    assert torch.equal(draw_events(mean[:1], log_scale, 5, spread=0.0), torch.tensor([[0.0, 2.0, 4.0]]).double())
    far = log_prob_of_events(x[:1, :1], torch.full((1, 1), 1.0).double(), torch.tensor(-6.0), 5)
    assert far.isfinite().all() and far < -300  # no logarithm of nothing
