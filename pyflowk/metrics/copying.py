"""Do samples repeat the training data? They should not be nearer to them than other data are."""

from __future__ import annotations

import torch
from torch import Tensor

from .pairs import distance_blocks, finite, two_samples


def data_copying(samples: Tensor, training: Tensor, held_out: Tensor) -> Tensor:
    r"""How often a sample is nearer to the training data than a held-out row is: a number in float64.

    .. math:: P\big[d(s, T) < d(h, T)\big] + \tfrac{1}{2} P\big[d(s, T) = d(h, T)\big]

    with d the Euclidean distance to the nearest training row. It is 0.5 for samples of the data's own distribution,
    near 1 where samples are copies of training rows, and below 0.5 where they are off the data. samples (N, \*event),
    training (M, \*event), held_out (K, \*event); the standard error of an honest sampler is about
    :math:`\sqrt{(N + K + 1) / (12 N K)}`. Scale the columns first; pictures are better compared by features. NaN for
    rows that are not finite. Raises ValueError for none, or different shapes. Cost: (N + K) M D differences, some
    blocks of 4 MB beside the data. Meehan, Chaudhuri, Dasgupta, 2020, arXiv:2004.05675.

    >>> import torch
    >>> from pyflowk.metrics import data_copying
    >>> data = torch.arange(20.0)
    >>> data_copying(data[:10:2], data[::2], data[1::2])
    tensor(1., dtype=torch.float64)
    """
    x, known = two_samples(samples, training, least=1)
    other, _ = two_samples(held_out, training, least=1)
    if not (finite(x, known) and finite(other, other)):
        return x.new_full((), torch.nan)
    near, far = (_nearest(rows, known) for rows in (x, other))
    far = far.sort().values
    below = torch.searchsorted(far, near) + torch.searchsorted(far, near, right=True)
    return 1 - below.double().mean() / (2 * len(far))


def _nearest(x: Tensor, known: Tensor) -> Tensor:
    """Of every row of x, the distance to the nearest of the others."""
    found = x.new_empty(len(x))
    for rows, distances in distance_blocks(x, known):
        found[rows] = distances.amin(1)
    return found
