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


def column_distance(x: Tensor, y: Tensor, order: int = 1) -> Tensor:
    r"""Mean total variation between the columns of rows x (N, D) and y (M, D), integers, in float64.

    With ``order`` 2 it is that of all pairs of different columns; a single column is compared alone. Raises ValueError
    for another order, no rows and rows of two widths, TypeError for what are no integers. Cost: a sort of all pairs.

    >>> import torch
    >>> from pyflowk.metrics import column_distance
    >>> x, y = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0, 0], [1, 1]])
    >>> float(column_distance(x, y)), float(column_distance(x, y, order=2))
    (0.0, 1.0)
    """
    if order not in (1, 2) or x.dim() != 2 or x.shape[1:] != y.shape[1:]:
        raise ValueError(f"expected rows (N, D) and (M, D), and order 1 or 2; got {x.shape}, {y.shape}, {order}")
    if x.is_floating_point() or y.is_floating_point():
        raise TypeError(f"expected integers, got {x.dtype} and {y.dtype}")
    width, values = x.shape[1], int(max(x.max(), y.max())) + 1 if x.numel() and y.numel() else 1
    first, second = torch.triu_indices(width, width, 1) if order == 2 and width > 1 else (torch.arange(width),) * 2
    place = values**2 * torch.arange(len(first))
    return total_variation(*((z[:, first].long() * values + z[:, second] + place).flatten() for z in (x, y)))


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
