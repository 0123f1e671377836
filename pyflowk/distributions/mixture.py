"""A mixture of Gaussians."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from .._checks import require_counts
from ..ops.draw import draw_uniform
from ..ops.dtypes import state_dtype
from .base import Distribution
from .gaussian import LOG_2PI


class GaussianMixture(Distribution):
    r"""A learned mixture of diagonal Gaussians, :math:`p(z) = \sum_k w_k N(z; \mu_k, \sigma_k^2)`.

    Means start at standard normal draws (torch's global generator), scales at 1 and weights equal. A context is
    accepted and ignored. ``temperature`` multiplies every component's standard deviation. Raises ValueError for less
    than one component. Cost: K densities. Papamakarios, Pavlakou, Murray, 2017, arXiv:1705.07057, section 3.2
    (MAF MoG).

    >>> import torch
    >>> from pyflowk.distributions import GaussianMixture
    >>> base = GaussianMixture((2,), components=3)
    >>> base.log_prob(torch.zeros(5, 2)).shape, base.sample(4).shape
    (torch.Size([5]), torch.Size([4, 2]))
    """

    reparameterised = False  # not by the weights: which component it is, is a choice

    def __init__(self, shape: Sequence[int], components: int) -> None:
        super().__init__(shape)
        require_counts("GaussianMixture", components=components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(torch.randn(components, *self.shape))
        self.log_std = nn.Parameter(torch.zeros(components, *self.shape))

    def _log_prob(self, z: Tensor, context: Tensor | None, temperature: float) -> Tensor:
        log_std = (self.log_std + math.log(temperature)).to(z.dtype)
        scaled = (z[:, None] - self.mean) * torch.exp(-log_std)
        terms = (-0.5 * scaled.square() - log_std).reshape(*scaled.shape[:2], self.dims)
        of_components = terms.sum(2) - 0.5 * LOG_2PI * self.dims
        return torch.logsumexp(of_components + torch.log_softmax(self.logits.to(z.dtype), 0), 1)

    def _sample(self, n: int, context: Tensor | None, generator: Generator | None, temperature: float) -> Tensor:
        # by the inverse of the distribution function: multinomial would need replacement and refuses n = 0
        uniform = draw_uniform((n,), generator, dtype=state_dtype(self.anchor), device=self.anchor.device)
        last = len(self.logits) - 1
        which = torch.searchsorted(self.logits.softmax(0).cumsum(0).to(uniform), uniform).clamp(max=last)
        noise = self._noise(n, generator)
        return self.mean[which] + temperature * torch.exp(self.log_std[which]) * noise
