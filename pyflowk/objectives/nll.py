"""Maximum likelihood: the negative log-density, and its usual unit for images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Protocol

import torch
from torch import Tensor


class Density(Protocol):
    """Anything with a log-density, such as a Flow or a zoo model."""

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


def bits_per_dim(log_prob: Tensor, dims: int | Sequence[int]) -> Tensor:
    r"""Log-likelihood in nats as bits per dimension: :math:`-\log p(x) / (D \log 2)`.

    ``dims`` is D or the event's shape. For integers, log p must be that of a model that dequantises, scales and
    squashes with transforms: their log-determinants are the only constants. Raises ValueError unless D >= 1.

    >>> import math, torch
    >>> from pyflowk.objectives import bits_per_dim
    >>> bits_per_dim(torch.tensor([-64 * math.log(2.0)]), (1, 8, 8))
    tensor([1.])
    """
    size = math.prod(dims) if isinstance(dims, Sequence) else dims
    if isinstance(size, bool) or not isinstance(size, Integral):
        raise TypeError(f"bits_per_dim expects an integer or the event's shape, got {dims!r}")
    if size < 1:
        raise ValueError(f"bits_per_dim expects at least one dimension, got {dims!r}")
    return -log_prob / (size * math.log(2))
