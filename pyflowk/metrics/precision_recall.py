"""Fidelity and variety apart: precision and recall, density and coverage."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .pairs import distance_blocks, finite, others_blocks, require_neighbours, two_samples


class PrecisionRecall(NamedTuple):
    """Numbers in float64: ``precision`` and ``density`` of samples, ``recall`` and ``coverage`` of the reference."""

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def precision_recall(samples: Tensor, reference: Tensor, neighbours: int = 5) -> PrecisionRecall:
    r"""How many samples look like the reference, and how much of the reference the samples reach.

    Around every row stands the ball that reaches to its k-th neighbour (``neighbours``) of its own kind. For samples
    (N, \*event) and reference (M, \*event)

    - precision: the share of samples in some reference ball; recall: the share of reference rows in some sample's ball;
    - density: reference balls per sample, :math:`\frac{1}{k N} \sum_{i j} 1[|s_i - r_j| \le \rho_j]`: 1 on average for
      samples of the reference's distribution, and more where samples crowd in its middle;
    - coverage: the share of reference balls that hold a sample; of one distribution it is
      :math:`1 - \prod_{i=1}^{k} \frac{M - i}{M + N - i}` on average.

    Copies of few reference rows have precision 1 and little coverage. Distances are Euclidean: scale the columns first.
    NaN for rows that are not finite. Raises ValueError for no more rows than neighbours, or different shapes. Cost:
    (N + M)^2 D differences and a selection, some blocks of 4 MB beside the data. Kynkaanniemi, Karras, Laine,
    Lehtinen, Aila, 2019, arXiv:1904.06991; Naeem, Oh, Uh, Choi, Yoo, 2020, arXiv:2002.09797.

    >>> import torch
    >>> from pyflowk.metrics import precision_recall
    >>> grid = torch.arange(10.0)
    >>> [round(float(value), 2) for value in precision_recall(grid[:5] + 0.1, grid, neighbours=1)]
    [1.0, 0.6, 2.0, 0.6]
    """
    x, y = two_samples(samples, reference)
    require_neighbours(neighbours, x, y)
    if not finite(x, y):
        return PrecisionRecall(*[x.new_full((), torch.nan)] * 4)
    reach_x, reach_y = _reach(x, neighbours), _reach(y, neighbours)
    recalled, covered = torch.zeros(2, len(y), dtype=torch.bool, device=y.device)
    held = x.new_empty(len(x))
    for rows, distances in distance_blocks(x, y):
        inside = distances <= reach_y
        held[rows] = inside.sum(1).double()
        covered |= inside.any(0)
        recalled |= (distances <= reach_x[rows, None]).any(0)
    shares = ((held > 0), recalled, held / neighbours, covered)
    return PrecisionRecall(*(share.double().mean() for share in shares))


def _reach(x: Tensor, neighbours: int) -> Tensor:
    """Of every row, the distance of its k-th neighbour."""
    reach = x.new_empty(len(x))
    for rows, distances in others_blocks(x):
        reach[rows] = distances.kthvalue(neighbours, dim=1).values
    return reach
