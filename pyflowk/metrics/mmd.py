"""The maximum mean discrepancy under a Gaussian kernel."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from .pairs import distance_blocks, two_samples

PROBED = 1000
"""Rows of each sample whose distances tell the bandwidth."""


def mmd(x: Tensor, y: Tensor, bandwidth: float | None = None) -> Tensor:
    r"""Squared maximum mean discrepancy of samples x (N, \*event) and y (M, \*event), without bias, in float64.

    .. math:: E\,k(X, X') + E\,k(Y, Y') - 2 E\,k(X, Y), \quad k(a, b) = \exp(-|a - b|^2 / (2 h^2))

    Means are over pairs of different rows: 0 on average for samples of one distribution, and it may fall below 0. The
    bandwidth h is the median distance between rows of both samples together (of 1000 of each, evenly spaced), unless it
    is given. Raises ValueError for less than two samples, different shapes, or a bandwidth that is no finite number
    above 0. Cost: (N + M)^2 D / 2 differences, some blocks of 4 MB beside the data.
    Gretton, Borgwardt, Rasch, Schoelkopf, Smola, 2012, "A kernel two-sample test", JMLR 13.

    >>> import torch
    >>> from pyflowk.metrics import mmd
    >>> mmd(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [1.0]]), bandwidth=1.0)
    tensor(0.7869, dtype=torch.float64)
    """
    x, y = two_samples(x, y)
    if bandwidth is not None and not (isinstance(bandwidth, (int, float, Real)) and 0 < bandwidth < math.inf):
        raise ValueError(f"bandwidth: expected a finite number > 0, got {bandwidth!r}")
    width = median_distance(x, y) if bandwidth is None else x.new_tensor(bandwidth)
    between = _total(x, y, width) / (len(x) * len(y))
    within = sum(((_total(z, z, width) - len(z)) / (len(z) * (len(z) - 1)) for z in (x, y)), x.new_zeros(()))
    return within - 2 * between


def median_distance(x: Tensor, y: Tensor) -> Tensor:
    """The median of the distances above 0 between rows of both samples, 1 where there is none."""
    some = torch.cat([z[:: math.ceil(len(z) / PROBED)] for z in (x, y)])
    distances = torch.pdist(some)
    apart = distances[distances != 0]  # keeps NaN
    return apart.median() if len(apart) else x.new_ones(())


def _total(x: Tensor, y: Tensor, width: Tensor) -> Tensor:
    total = x.new_zeros(())
    for _, distances in distance_blocks(x, y):
        total += (-0.5 * (distances / width).square()).exp().sum()
    return total
