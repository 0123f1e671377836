"""The level of numbers: one Gaussian."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from ..space import Space
from .levels import Rows, Score, pieces, score

LAMBDA = 0.05
MAX_GAUSSIAN_DIM = 4096
"""A covariance beyond this size takes minutes to factor."""


def gaussian_level(
    space: Space,
    train: Rows,
    test: Rows,
    train_context: Rows | None = None,
    test_context: Rows | None = None,
    *,
    seed: int = 0,
) -> Score | None:
    r"""Test score of one full-covariance Gaussian fitted to the training rows; given the contexts that are numbers.

    Numbers are taken as they are handed in: of a table the standardised columns, as a model's are. Integers x get
    U(0, 1) added by the seed, are divided by the number of levels, and go through a logit with lambda 0.05; its
    Jacobian is counted: :math:`\log p(x) = \log N(\ell(u); \mu, \Sigma) + \log |\det \ell'(u)|`.

    The result is None where the fit is not defined or not affordable: for symbols, on a manifold, for variable length,
    for fewer training vectors than dimensions, a singular covariance, or more than 4096 dimensions. Cost: one D x D
    Cholesky factor and a pass over the data, in float64, by pieces.

    >>> import torch
    >>> from pyflowk.metrics import gaussian_level
    >>> from pyflowk.space import Space
    >>> draw = lambda n: torch.randn(n, 2, generator=torch.Generator().manual_seed(n))
    >>> abs(gaussian_level(Space((2,)), draw(9000), draw(8000)).nats + 2.838) < 0.05
    True
    """
    given = space.context_dim or 0
    affordable = space.dims <= MAX_GAUSSIAN_DIM and len(train) > space.dims + given and len(test) > 0
    if space.kind == "symbols" or space.variable or space.manifold is not None or not affordable:
        return None
    if given and (train_context is None or test_context is None):
        raise ValueError(f"expected contexts of both parts, as the events of {space} have them")
    generator = Generator().manual_seed(seed)
    mean, covariance = _moments(x for x, _ in _vectors(space, train, train_context, generator))
    factors = [torch.linalg.cholesky_ex(covariance[own, own]) for own in (slice(None), slice(space.dims, None))]
    if any(int(info) != 0 for _, info in factors):
        return None
    both, known = (factor for factor, _ in factors)
    found, start = torch.empty(len(test), dtype=torch.float64), 0  # one block, between which and others none is lost
    for x, ladj in _vectors(space, test, test_context, generator):
        rows = found[start : start + len(x)]
        rows.copy_(_log_prob(x - mean, both) + ladj)
        if given:
            rows -= _log_prob((x - mean)[:, space.dims :], known)
        start += len(x)
    return score(found, space)


def _vectors(space: Space, rows: Rows, context: Rows | None, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Prepared events with their contexts, (N, D + C) float64, and the log|det| (N,) of the preparation, by pieces."""
    for piece in pieces(rows, space.dims):
        x = rows[piece].flatten(1).double()
        ladj = x.new_zeros(len(x))
        if space.levels is not None:
            noise = torch.rand(x.shape, generator=generator, dtype=torch.float64)
            u = LAMBDA + (1 - 2 * LAMBDA) * (x + noise) / space.levels
            log_u, log_v = u.log(), (1 - u).log()
            x, ladj = log_u - log_v, (math.log((1 - 2 * LAMBDA) / space.levels) - log_u - log_v).sum(1)
        if space.context_dim is not None and context is not None:
            x = torch.cat([x, context[piece].double()], 1)
        yield x, ladj


def _moments(parts: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of the rows of all parts, merged as Chan, Golub and LeVeque, 1979, do it."""
    x = next(parts)
    count, mean = len(x), x.mean(0)
    scatter = (x - mean).T @ (x - mean)
    for x in parts:
        shift, share = x.mean(0) - mean, len(x) / (count + len(x))
        centred = x - x.mean(0)
        scatter += centred.T @ centred + count * share * torch.outer(shift, shift)
        mean = mean + share * shift
        count += len(x)
    return mean, scatter / (count - 1)


def _log_prob(centred: Tensor, factor: Tensor) -> Tensor:
    """Of centred vectors (N, D), under the Gaussian whose covariance has that Cholesky factor: (N,)."""
    noise = torch.linalg.solve_triangular(factor, centred.T, upper=False)
    return -0.5 * noise.square().sum(0) - factor.diagonal().log().sum() - len(factor) / 2 * math.log(2 * math.pi)
