"""Scores, and the two levels every density model has to beat.

The trivial level codes each entry with log2(levels) bits. The Gaussian level is one full-covariance Gaussian fitted to
the prepared training vectors: plain for continuous data; x + U(0, 1), divided by the number of levels, logit with
lambda 0.05 for integer data, the Jacobian counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..objectives import bits_per_dim
from .base import Dataset

LAMBDA = 0.05
MAX_GAUSSIAN_DIM = 4096
"""A covariance beyond this size takes minutes to factor."""


@dataclass(frozen=True)
class Score:
    """Mean log-likelihood of a test set with its standard error, in nats a sample and, for integer data, bits/dim.

    One sample, or one that is impossible, has no standard error: None. Nats of a table are those of its standardised
    columns.

    >>> from pyflowk.datasets import Score
    >>> str(Score(nats=-108.9, nats_error=0.8, bits=2.456, bits_error=0.018))
    '2.456 +- 0.018 bits/dim (log-likelihood -108.90 +- 0.80 nats)'
    """

    nats: float
    nats_error: float | None
    bits: float | None = None
    bits_error: float | None = None

    def __str__(self) -> str:
        nats = f"{with_error(self.nats, self.nats_error, 2)} nats"
        if self.bits is None:
            return f"log-likelihood {nats}"
        return f"{with_error(self.bits, self.bits_error, 3)} bits/dim (log-likelihood {nats})"


def with_error(value: float, error: float | None, digits: int) -> str:
    """A number and its standard error, where there is one.

    >>> from pyflowk.datasets.levels import with_error
    >>> with_error(1.234, 0.5, 2), with_error(1.234, None, 2)
    ('1.23 +- 0.50', '1.23')
    """
    return f"{value:.{digits}f}" if error is None else f"{value:.{digits}f} +- {error:.{digits}f}"


def score(log_prob: Tensor, data: Dataset) -> Score:
    """Mean and standard error of per-sample log-likelihoods (N,) in nats; bits/dim = -log p / (D ln 2).

    >>> import torch
    >>> from pyflowk.datasets import Dataset, score
    >>> from pyflowk.space import Space
    >>> data = Dataset("x", Space((1, 2, 2), levels=2), *(torch.zeros(2, 1, 2, 2) for _ in range(3)))
    >>> score(torch.tensor([-1.0, -3.0]), data).nats
    -2.0
    """
    log_prob = log_prob.double()
    nats = log_prob.mean().item(), _standard_error(log_prob)
    if data.space.levels is None:
        return Score(*nats)
    bits = bits_per_dim(log_prob, data.space.dims)
    return Score(*nats, bits.mean().item(), _standard_error(bits))


def _standard_error(values: Tensor) -> float | None:
    """None where there is none: of one value, and of values that are not finite."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return error if math.isfinite(error) else None


def trivial_level(data: Dataset) -> float | None:
    """log2(levels) bits/dim, the cost of uniform entries; None for continuous data.

    >>> import torch
    >>> from pyflowk.datasets import Dataset, trivial_level
    >>> from pyflowk.space import Space
    >>> trivial_level(Dataset("x", Space((1, 2, 2), levels=256), *(torch.zeros(2, 1, 2, 2) for _ in range(3))))
    8.0
    """
    return None if data.space.levels is None else math.log2(data.space.levels)


def _prepare(x: Tensor, levels: int | None, generator: Generator) -> tuple[Tensor, Tensor]:
    """(N, *shape) -> prepared vectors (N, D) float64 and the log|det| (N,) of the preparation."""
    x = x.flatten(1).double()
    if levels is None:
        return x, x.new_zeros(len(x))
    u = LAMBDA + (1 - 2 * LAMBDA) * (x + torch.rand(x.shape, generator=generator, dtype=torch.float64)) / levels
    log_u, log_v = u.log(), (1 - u).log()
    ladj = (math.log((1 - 2 * LAMBDA) / levels) - log_u - log_v).sum(dim=1)
    return log_u - log_v, ladj


def gaussian_level(data: Dataset, *, seed: int = 0) -> Score | None:
    """Test score of one full-covariance Gaussian fitted to the training part: given the contexts, if there are any.

    It is a density of the data as they are handed in: of a table the standardised columns, as a model's is.

    None where the fit is not defined or not affordable: fewer training vectors than dimensions, a singular covariance,
    or more than 4096 dimensions. Cost: one D x D Cholesky factor and a pass over the data, in float64.

    >>> import torch
    >>> from pyflowk.datasets import Dataset, gaussian_level
    >>> from pyflowk.space import Space
    >>> draw = lambda n: torch.randn(n, 2, generator=torch.Generator().manual_seed(n))
    >>> abs(gaussian_level(Dataset("x", Space((2,)), draw(9000), draw(10), draw(8000))).nats + 2.838) < 0.05
    True
    """
    space, generator = data.space, torch.Generator().manual_seed(seed)
    if space.dims > MAX_GAUSSIAN_DIM or len(data.train) <= space.dims + (space.context_dim or 0) or not len(data.test):
        return None
    train, _ = _prepare(data.train[:], space.levels, generator)
    test, ladj = _prepare(data.test[:], space.levels, generator)
    if space.context_dim is None:
        log_prob = _gaussian_log_prob(train, test)
    else:
        assert data.train_context is not None and data.test_context is not None
        known, seen = data.train_context[:].double(), data.test_context[:].double()
        both = _gaussian_log_prob(torch.cat([train, known], 1), torch.cat([test, seen], 1))
        context = _gaussian_log_prob(known, seen)
        log_prob = None if both is None or context is None else both - context
    return None if log_prob is None else score(log_prob + ladj, data)


def _gaussian_log_prob(train: Tensor, test: Tensor) -> Tensor | None:
    """Of the test vectors (N,), under the Gaussian of the training ones; None if its covariance is singular."""
    factor, info = torch.linalg.cholesky_ex(torch.atleast_2d(train.T.cov()))
    if int(info) != 0:
        return None
    noise = torch.linalg.solve_triangular(factor, (test - train.mean(dim=0)).T, upper=False)
    log_det = factor.diagonal().log().sum()
    return -0.5 * noise.square().sum(dim=0) - log_det - test.shape[1] / 2 * math.log(2 * math.pi)
