"""Log-likelihoods of integers in the units that papers print: bits per dimension, bits per symbol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor


def bits_per_dim(log_prob: Tensor, dims: int | Sequence[int]) -> Tensor:
    r"""Log-likelihood in nats as bits per dimension: :math:`-\log p(x) / (D \log 2)`.

    ``dims`` is D or the event's shape; every event has a value of its own. For integers, log p must be that of a model
    that dequantises, scales and squashes with transforms: their log-determinants are the only constants. Raises
    ValueError unless D >= 1. Cost: one division.

    >>> import math, torch
    >>> from pyflowk.metrics import bits_per_dim
    >>> bits_per_dim(torch.tensor([-64 * math.log(2.0)]), (1, 8, 8))
    tensor([1.])
    """
    size = math.prod(dims) if isinstance(dims, Sequence) else dims
    if isinstance(size, bool) or not isinstance(size, Integral):
        raise TypeError(f"bits_per_dim expects an integer or the event's shape, got {dims!r}")
    if size < 1:
        raise ValueError(f"bits_per_dim expects at least one dimension, got {dims!r}")
    return -log_prob / (size * math.log(2))


def bits_per_symbol(log_prob: Tensor, lengths: Tensor) -> Tensor:
    r"""Log-likelihoods (B,) in nats as bits per symbol, of all rows together: a number in float64.

    .. math:: -\sum_i \log p(x_i) / (\log 2 \, \sum_i L_i)

    as a text is scored: long rows weigh more, and the ends of rows, which log p may pay for, are no symbols. Raises
    ValueError unless ``lengths`` (B,) are those of the rows and some row has a symbol. Cost: one pass.

    >>> import math, torch
    >>> from pyflowk.metrics import bits_per_symbol
    >>> bits_per_symbol(torch.tensor([-9 * math.log(2.0), -math.log(2.0)]), torch.tensor([3, 2]))
    tensor(2., dtype=torch.float64)
    """
    if log_prob.shape != lengths.shape or log_prob.dim() != 1:
        raise ValueError(f"expected a length for each row, got {tuple(log_prob.shape)} and {tuple(lengths.shape)}")
    if lengths.is_floating_point() or not int(lengths.sum()) > 0:
        raise ValueError(f"lengths: expected integers, some above 0, got {lengths.dtype} that sum to {lengths.sum()}")
    return -log_prob.sum(dtype=torch.float64) / (lengths.sum() * math.log(2))
