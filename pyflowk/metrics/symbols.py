"""How far samples of symbols are from data: differences of frequencies."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import require_counts
from ..space import Events, Ragged
from .ngrams import windows


def total_variation(x: Tensor, y: Tensor) -> Tensor:
    r"""Total variation between the frequencies of values x (N,) and y (M,): a number in float64, from 0 to 1.

    .. math:: \frac{1}{2} \sum_v |p_x(v) - p_y(v)|

    It is above 0 for finite samples of one distribution: by some :math:`\sqrt{K / N}` with K values. Raises ValueError
    for no values, TypeError for values that are no integers. Cost: a sort.

    >>> import torch
    >>> from pyflowk.metrics import total_variation
    >>> total_variation(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 1]))
    tensor(0.5000, dtype=torch.float64)
    """
    for name, value in (("x", x), ("y", y)):
        if value.is_floating_point() or value.is_complex():
            raise TypeError(f"{name}: expected integers, got {value.dtype}")
        if value.dim() != 1 or not len(value):
            raise ValueError(f"{name}: expected values (N,), at least one, got {tuple(value.shape)}")
    values, place = torch.cat((x, y)).unique(return_inverse=True)
    shares = torch.cat([torch.full_like(z, sign / len(z), dtype=torch.float64) for z, sign in ((x, 1), (y, -1))])
    return shares.new_zeros(len(values)).index_add_(0, place, shares).abs().sum() / 2


def ngram_distance(x: Events, y: Events, symbols: int, order: int = 2) -> Tensor:
    r"""Total variation between the n-grams of rows x and y, (N, L) integers or :class:`Ragged`, in float64.

    N-grams are runs of ``order`` of the integers 0 to ``symbols`` - 1, and the start of a row; of a Ragged, its end,
    too. All that rows hold counts alike, so that long rows weigh more. Raises ValueError for no n-grams, for other
    integers, and where their number has no place in int64; TypeError for rows that are no integers. Cost: a sort of all
    n-grams.

    >>> import torch
    >>> from pyflowk.metrics import ngram_distance
    >>> x, y = torch.tensor([[0, 1, 0, 1]]), torch.tensor([[0, 0, 1, 1]])
    >>> float(ngram_distance(x, y, symbols=2, order=1)), float(ngram_distance(x, y, symbols=2))
    (0.0, 0.5)
    """
    require_counts("ngram_distance", symbols=symbols, order=order)
    if (symbols + 2) ** order >= 2**63:
        raise ValueError(f"expected n-grams that int64 can number, got {order} symbols below {symbols}")
    codes = []
    for name, rows in (("x", x), ("y", y)):
        values = rows.values if isinstance(rows, Ragged) else rows
        if values.is_floating_point() or values.is_complex():
            raise TypeError(f"{name}: expected integers, got {values.dtype}")
        before, symbol, _ = windows(rows, order, symbols, isinstance(rows, Ragged))
        if ((symbol < 0) | (symbol >= symbols + isinstance(rows, Ragged))).any():
            raise ValueError(f"{name}: expected symbols 0 to {symbols - 1}, got {values.min()} to {values.max()}")
        codes.append(before * (symbols + 2) + symbol)
    return total_variation(*codes)
