"""The energy distance: how far two samples lie from each other beyond how far each is spread."""

from __future__ import annotations

from torch import Tensor

from .pairs import distance_blocks, two_samples


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    r"""Squared energy distance of samples x (N, \*event) and y (M, \*event), without bias: a number in float64.

    .. math:: 2 E|X - Y| - E|X - X'| - E|Y - Y'|

    with Euclidean distances in the units of the data, means over pairs of different rows. It is 0 on average for
    samples of one distribution, so that it may fall below 0, and above 0 for any two others. Raises ValueError for less
    than two samples or different shapes. Cost: (N + M)^2 D / 2 differences, some blocks of 4 MB beside the data.
    Szekely, Rizzo, 2013, "Energy statistics: a class of statistics based on distances".

    >>> import torch
    >>> from pyflowk.metrics import energy_distance
    >>> energy_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [7.0]]))
    tensor(6., dtype=torch.float64)
    """
    x, y = two_samples(x, y)
    between = _total(x, y) / (len(x) * len(y))
    within = sum((_total(z, z) / (len(z) * (len(z) - 1)) for z in (x, y)), x.new_zeros(()))
    return 2 * between - within


def _total(x: Tensor, y: Tensor) -> Tensor:
    total = x.new_zeros(())
    for _, distances in distance_blocks(x, y):
        total += distances.sum()
    return total
