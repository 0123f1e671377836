"""The energy distance of two samples, beyond how far each is spread, and the energy score of samples of one event."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..ops.dtypes import state_dtype
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


def energy_score(x: Tensor, y: Tensor) -> Tensor:
    r"""How well samples tell an event: :math:`\big(E|y - x| - E|y - y'| / 2\big) / \sqrt{D}`, (B,).

    For each of the events x (B, \*event) of D numbers y (B, m, \*event) holds m > 1 samples of what may have come. The
    score is least on average where they have the distribution of x, given whatever they were drawn for. The result is
    differentiable, float32 or better. Raises ValueError for other shapes. Cost: m^2 D operations an event.
    Gneiting, Raftery, 2007, "Strictly proper scoring rules, prediction, and estimation".

    >>> import torch
    >>> from pyflowk.metrics import energy_score
    >>> energy_score(torch.tensor([[0.0]]), torch.tensor([[[1.0], [3.0]]]))
    tensor([1.])
    """
    if x.dim() == 0 or y.dim() < 2 or y.shape[1] < 2 or (*y.shape[:1], *y.shape[2:]) != tuple(x.shape):
        here, there = tuple(x.shape), tuple(y.shape)
        raise ValueError(f"expected events x (B, *event) and y (B, m, *event), m > 1; got {here} and {there}")
    rows, draws, size = x.shape[0], y.shape[1], math.prod(x.shape[1:])
    dtype = torch.promote_types(state_dtype(x), state_dtype(y))
    x, y = x.to(dtype).reshape(rows, 1, size), y.to(dtype).reshape(rows, draws, size)
    within = torch.cdist(y, y).sum((1, 2)) / (draws * (draws - 1))
    return (torch.cdist(x, y).mean((1, 2)) - within / 2) / math.sqrt(max(1, size))
