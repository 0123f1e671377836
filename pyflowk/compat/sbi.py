"""Posteriors by sbi's calls, on the systems of the zoo: `NPE` learns p(theta | x) from simulations, `Posterior` is it.

For posteriors that sbi has trained already, :func:`pyflowk.compat.accelerate` their estimator.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..shapes import sample_shape
from ..training import TrainConfig
from ._tables import TableDensity

__all__ = ["NPE", "Posterior"]

LEAK = 10_000
"""Draws by which the mass of the flow inside of the prior is estimated, as in sbi."""
FEWEST = 1e-4
"""The share of draws inside of the prior below which sampling gives up."""


class NPE:
    """Neural posterior estimation: a conditional density of parameters theta (N, D) given observations x (N, C).

    ``density_estimator`` is a system of the zoo with a density and numbers as context ("maf", "nsf", "flow_matching"
    for FMPE, ...), with its ``options``; ``prior`` a torch distribution, outside of which the posterior has no mass.
    Both sides are standardised inside. Raises ValueError where there are no simulations, or fewer than 20.
    Papamakarios, Murray, 2016, arXiv:1605.06376; Greenberg et al., 2019, arXiv:1905.07488.

    >>> import torch
    >>> from pyflowk.compat.sbi import NPE
    >>> prior = torch.distributions.Independent(torch.distributions.Uniform(-torch.ones(2), torch.ones(2)), 1)
    >>> theta = prior.sample((200,))
    >>> inference = NPE(prior, options={"width": 16})
    >>> _ = inference.append_simulations(theta, theta + 0.1 * torch.randn(200, 2)).train(max_num_epochs=2)
    >>> posterior = inference.build_posterior().set_default_x(torch.zeros(2))
    >>> posterior.sample((5,)).shape, posterior.log_prob(theta).shape
    (torch.Size([5, 2]), torch.Size([200]))
    """

    def __init__(
        self, prior: Any = None, density_estimator: str = "maf", *, options: Mapping[str, Any] | None = None
    ) -> None:
        self.prior, self.density_estimator, self.options = prior, density_estimator, dict(options or {})
        self._theta: list[Tensor] = []
        self._x: list[Tensor] = []
        self._density: TableDensity | None = None

    def append_simulations(self, theta: Tensor, x: Tensor) -> NPE:
        """Parameters (N, D) and what was simulated with them, (N, C); more of them may follow."""
        if theta.dim() != 2 or x.dim() != 2 or len(theta) != len(x):
            raise ValueError(f"expected theta (N, D) and x (N, C), got {tuple(theta.shape)} and {tuple(x.shape)}")
        self._theta.append(theta)
        self._x.append(x)
        return self

    def train(
        self,
        training_batch_size: int = 200,
        learning_rate: float = 3e-3,
        max_num_epochs: float = 100,
        seed: int = 0,
    ) -> TableDensity:
        """Fit the density to all simulations, by a rate that falls to zero; the best weights are kept."""
        if not self._theta:
            raise ValueError("expected simulations: append_simulations(theta, x) comes before train")
        theta, x = torch.cat(self._theta), torch.cat(self._x)
        batch = min(training_batch_size, len(theta))
        steps = max(1, round(max_num_epochs * len(theta) / batch))
        config = TrainConfig(
            steps=steps, batch_size=batch, lr=learning_rate, warmup=min(100, steps // 10), seed=seed,
            validate_every=max(1, len(theta) // batch), save_every=steps, sample_every=0, tensorboard=False, cpu=True,
        )  # fmt: skip
        self._density = TableDensity(theta, x, self.density_estimator, self.options, config)
        return self._density

    def build_posterior(self, density_estimator: TableDensity | None = None, prior: Any = None) -> Posterior:
        """The posterior of what was trained last, or of a density that ``train`` has given."""
        density = self._density if density_estimator is None else density_estimator
        if density is None:
            raise ValueError("expected a density: train() comes before build_posterior")
        return Posterior(density, self.prior if prior is None else prior)


class Posterior:
    """p(theta | x) inside of a prior: the flow, cut off at the prior's support and normalised again.

    ``sample`` draws from the flow and rejects what lies outside; ``log_prob`` adds the mass that was cut off, estimated
    by 10,000 draws (``norm_posterior=False`` leaves it out). Raises ValueError without an observation, and RuntimeError
    where less than one draw in 10,000 lies inside of the prior.
    """

    def __init__(self, density: TableDensity, prior: Any = None, default_x: Tensor | None = None) -> None:
        self.density, self.prior, self.default_x = density, prior, default_x

    def set_default_x(self, x: Tensor) -> Posterior:
        """The observation (C,) or (1, C) of all calls that name none."""
        self.default_x = x
        return self

    def sample(self, sample_shape: Sequence[int] = (), x: Tensor | None = None, seed: int | None = None) -> Tensor:
        """(*sample_shape, D) for one observation."""
        shape = _shape(sample_shape)
        generator = None if seed is None else torch.Generator().manual_seed(operator.index(seed))
        return self._draw(shape.numel(), self._observed(x), generator).reshape(*shape, -1)

    def sample_batched(self, sample_shape: Sequence[int], x: Tensor, seed: int | None = None) -> Tensor:
        """(*sample_shape, B, D) for observations (B, C)."""
        shape = _shape(sample_shape)
        generator = None if seed is None else torch.Generator().manual_seed(operator.index(seed))
        drawn = torch.stack([self._draw(shape.numel(), row[None], generator) for row in x], 1)
        return drawn.reshape(*shape, len(x), -1)

    def log_prob(self, theta: Tensor, x: Tensor | None = None, norm_posterior: bool = True) -> Tensor:
        """(N,) nats of parameters (N, D) for one observation; -inf outside of the prior."""
        observed = self._observed(x)
        theta = theta.reshape(-1, theta.shape[-1])
        nats = self.density.log_prob(theta, observed.expand(len(theta), -1))
        if self.prior is None:
            return nats.float()
        if norm_posterior:
            generator = torch.Generator().manual_seed(0)
            inside = self._inside(self.density.sample(LEAK, observed, generator)).double().mean()
            nats = nats - inside.clamp(min=1 / LEAK).log()
        return torch.where(self._inside(theta), nats, -torch.inf).float()

    def _observed(self, x: Tensor | None) -> Tensor:
        x = self.default_x if x is None else x
        if x is None:
            raise ValueError("expected an observation: x=, or set_default_x before")
        return x.reshape(1, -1)

    def _inside(self, theta: Tensor) -> Tensor:
        """(N,) whether the prior has mass there."""
        theta = theta.float()
        inside: Tensor = self.prior.support.check(theta)
        return inside.reshape(len(theta), -1).all(1)

    def _draw(self, n: int, observed: Tensor, generator: torch.Generator | None) -> Tensor:
        """n rows inside of the prior."""
        kept: list[Tensor] = []
        found = tried = 0
        while found < n:
            theta = self.density.sample(max(n - found, 100), observed, generator)
            tried += len(theta)
            if self.prior is not None:
                theta = theta[self._inside(theta)]
            kept.append(theta)
            found += len(theta)
            if tried >= 1 / FEWEST and found < FEWEST * tried:
                raise RuntimeError(
                    f"of {tried} draws {found} lie inside of the prior: is the observation like those simulated?"
                )
        return torch.cat([*kept, torch.empty(0, len(self.density.preparation.modelled))])[:n].float()


def _shape(shape: Sequence[int]) -> torch.Size:
    return torch.Size(sample_shape(shape))
