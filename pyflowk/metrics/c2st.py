"""A classifier two-sample test: can the neighbours tell where a row comes from?"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from .pairs import finite, others_blocks, require_neighbours, thinned, two_samples


def c2st(x: Tensor, y: Tensor, *, neighbours: int = 5, generator: Generator | None = None) -> Tensor:
    r"""Accuracy of telling samples x (N, \*event) from y (M, \*event) by their neighbours: a number in float64.

    Each row is left out in turn and given to the sample that most of its ``neighbours`` nearest rows are of; rows that
    are as near as the last of them vote, too, and a tied vote is half right. 0.5 says that nobody can tell, 1 that
    everybody can; it is less where many rows are equal, as one less of these is of a row's own sample. The larger
    sample is thinned to the size of the smaller one by the generator; else nothing is drawn. Distances are Euclidean:
    scale the columns first. NaN for rows that are not finite. Raises ValueError for fewer samples than neighbours, or
    different shapes. Cost: (2 N)^2 D differences and a selection, some blocks of 4 MB beside the data.
    Lopez-Paz, Oquab, 2017, arXiv:1610.06545.

    >>> import torch
    >>> from pyflowk.metrics import c2st
    >>> c2st(torch.arange(9.0), torch.arange(9.0) + 100)
    tensor(1., dtype=torch.float64)
    """
    x, y = two_samples(x, y)
    x, y = thinned(x, y, generator)
    size = len(x)
    require_neighbours(neighbours, x, y)
    if not finite(x, y):
        return x.new_full((), torch.nan)
    is_x = torch.arange(2 * size, device=x.device) < size
    right = x.new_empty(2 * size)
    for rows, distances in others_blocks(torch.cat((x, y))):
        near = distances <= distances.kthvalue(neighbours, dim=1, keepdim=True).values
        own = (near & (is_x == is_x[rows, None])).sum(1)
        right[rows] = 0.5 + 0.5 * torch.sign(2 * own - near.sum(1)).double()
    return right.mean()
