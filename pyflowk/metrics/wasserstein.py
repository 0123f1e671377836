"""The exact Wasserstein distance of two samples, by optimal transport between their points."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..ops.assignment import assignment_of_points
from .pairs import finite, thinned, two_samples


def wasserstein(x: Tensor, y: Tensor, *, generator: Generator | None = None) -> Tensor:
    r"""The 2-Wasserstein distance between samples x (N, \*event) and y (M, \*event): a number in float64.

    .. math:: W_2 = \Big( \min_\pi \tfrac{1}{N} \sum_i |x_i - y_{\pi(i)}|^2 \Big)^{1/2}

    exactly, for the points that there are. The larger sample is thinned to the size of the smaller one by the
    generator. Few points make it too large, by some :math:`N^{-1/D}`: compare with what two samples of data give. NaN
    for rows that are not finite. Raises ValueError for no samples or different shapes. Cost: that of
    :func:`pyflowk.ops.assignment_of_points`. Tong et al., 2024, arXiv:2302.00482, section 5, tell it of 10,000 points.

    >>> import torch
    >>> from pyflowk.metrics import wasserstein
    >>> wasserstein(torch.tensor([[0.0], [1.0]]), torch.tensor([[5.0], [4.0]]))
    tensor(4., dtype=torch.float64)
    """
    x, y = two_samples(x, y, least=1)
    x, y = thinned(x, y, generator)
    if not finite(x, y):
        return x.new_full((), torch.nan)
    found = assignment_of_points(x[None], y[None]).columns[0]
    return (x - y[found]).square().sum(1).mean().sqrt()  # not from prices, whose rounding is that of the largest cost
