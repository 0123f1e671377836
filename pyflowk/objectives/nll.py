"""Maximum likelihood: the negative log-density."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Density(Protocol):
    """Anything with a log-density, such as a :class:`pyflowk.flows.Flow`."""

    def log_prob(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor: ...


def nll(
    density: Density,
    x: Tensor,
    context: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
    reduction: str = "none",
) -> Tensor:
    r"""Negative log-likelihood per event: :math:`-\log p(x \mid c)` in nats.

    x is (B, \*event); the result is (B,) for reduction "none", a scalar for "mean" and "sum". Raises ValueError for
    another reduction. Cost: one ``density.log_prob``.

    >>> import torch
    >>> from pyflowk.distributions import DiagonalGaussian
    >>> from pyflowk.flows import Flow
    >>> from pyflowk.objectives import nll
    >>> from pyflowk.transforms import Compose
    >>> nll(Flow(DiagonalGaussian((2,)), Compose()), torch.zeros(3, 2), reduction="mean")
    tensor(1.8379)
    """
    return reduce(-density.log_prob(x, context, generator), reduction)


def reduce(loss: Tensor, reduction: str) -> Tensor:
    """A per-sample loss (B,) as it is ("none"), or its "mean" or "sum"."""
    if reduction == "none":
        return loss
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    raise ValueError(f"reduction: expected one of none, mean, sum; got {reduction!r}")
