"""The bound of an autoencoder: what its codes tell of events, less what they cost."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..ops.draw import draw_normal, draw_uniform
from .nll import reduce

__all__ = ["Coder", "Gauss", "draw_code", "draw_events", "elbo", "log_prob_of_code", "log_prob_of_events"]

Gauss = tuple[Tensor, Tensor]
"""Means and log-deviations."""


def draw_code(posterior: Gauss, generator: Generator | None = None) -> Tensor:
    """A code of each event: its mean, and noise of its deviation."""
    mean, log_deviation = posterior
    noise = draw_normal(mean.shape, generator, dtype=mean.dtype, device=mean.device)
    return mean + log_deviation.exp() * noise


def log_prob_of_code(z: Tensor, posterior: Gauss) -> Tensor:
    """log q(z | x), (B,)."""
    mean, log_deviation = posterior
    squares = ((z - mean) * torch.exp(-log_deviation)).square()
    return -(0.5 * squares + log_deviation + 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)


def log_prob_of_events(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int | None) -> Tensor:
    r"""log p(x | z), (B,) in nats, of events (B, \*shape) around the means that a decoder gives.

    Real numbers are Gaussian, of deviation :math:`e^s`, s the ``log_scale``, which broadcasts. Levels 0..L-1 have the
    mass that a logistic law of scale :math:`e^s` has between the middles to their neighbours, the two outer ones all
    that is beyond; means are then in units in which the levels are evenly spread over [-1, 1]. Kingma et al., 2016,
    arXiv:1606.04934, appendix.
    """
    if levels is None:
        return log_prob_of_code(x, (mean, log_scale.expand_as(mean)))
    away, half = x * (2 / levels) - 1 + 1 / levels - mean, 1 / levels
    rate = torch.exp(-log_scale)
    low, high = (away - half) * rate, (away + half) * rate
    inside = F.logsigmoid(high) + F.logsigmoid(-low) + torch.log(-torch.expm1(-2 * half * rate))
    ends = torch.where(x == 0, F.logsigmoid(high), F.logsigmoid(-low))
    return torch.where((x == 0) | (x == levels - 1), ends, inside).flatten(1).sum(1)


def draw_events(
    mean: Tensor, log_scale: Tensor, levels: int | None, generator: Generator | None = None, spread: float = 1.0
) -> Tensor:
    """Events of that law, their deviations times ``spread``: 0 gives the likeliest ones."""
    if levels is None:
        noise = draw_normal(mean.shape, generator, dtype=mean.dtype, device=mean.device)
        return mean + spread * log_scale.exp() * noise
    u = draw_uniform(mean.shape, generator, dtype=mean.dtype, device=mean.device)
    u = u.clamp(torch.finfo(u.dtype).eps, 1 - torch.finfo(u.dtype).eps)
    x = mean + spread * log_scale.exp() * torch.logit(u)
    return ((x + 1) * (levels / 2)).floor().clamp(0, levels - 1).detach()


class Coder(Protocol):
    """What has codes of events: an autoencoder, and the prior of its codes."""

    def posterior(self, x: Tensor) -> Gauss:
        """Means and log-deviations of the codes (B, *code) of events."""
        ...

    def log_likelihood(self, x: Tensor, code: Tensor) -> Tensor:
        """log p(x | z), (B,)."""
        ...

    def log_prior(self, code: Tensor, context: Any = None, generator: Generator | None = None) -> Tensor:
        """log p(z), (B,)."""
        ...


def elbo(
    coder: Coder,
    x: Tensor,
    context: Any = None,
    *,
    beta: float = 1.0,
    generator: Generator | None = None,
    reduction: str = "none",
) -> Tensor:
    r"""Bound of an autoencoder, by one draw of a code: :math:`-\log p(x | z) + \beta\, (\log q(z | x) - \log p(z))`.

    x is (B, \*shape); the result is (B,) in nats, or by ``reduction`` their "mean" or "sum". On average over z and with
    beta = 1 it is above :math:`-\log p(x)`, by the divergence of q(z | x) from p(z | x); less or more trades what codes
    cost for reconstructions (Higgins et al., 2017). The prior may be a flow, which then learns with the autoencoder.
    Cost: one pass of encoder, decoder and prior. Kingma, Welling, 2014, arXiv:1312.6114.

    >>> import torch
    >>> from pyflowk import zoo
    >>> from pyflowk.objectives import elbo
    >>> elbo(zoo.autoencoder((3,), channels=2, width=8), torch.zeros(5, 3)).shape
    torch.Size([5])
    """
    posterior = coder.posterior(x)
    code = draw_code(posterior, generator)
    observed, prior = coder.log_likelihood(x, code), coder.log_prior(code, context, generator)
    return reduce(beta * (log_prob_of_code(code, posterior) - prior) - observed, reduction)
