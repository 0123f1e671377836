"""Rules of rows, written once: how many events, and whose context is whose.

`sample_shape` reads a number of samples or a shape of them, `number_of` a number alone, and `shaped` gives rows that
shape. `expand_context` is the rule of contexts: as many rows as there are events, or one row for all of them.
`check_labels` refuses what is no row of labels.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from .space import Ragged

__all__ = ["check_labels", "expand_context", "number_of", "sample_shape", "shaped"]

Rows = TypeVar("Rows", Tensor, Ragged)


def sample_shape(n: int | Sequence[int]) -> tuple[int, ...]:
    """The leading shape that a number of samples, or a shape of them, means.

    >>> from pyflowk.shapes import sample_shape
    >>> sample_shape(5), sample_shape((2, 3))
    ((5,), (2, 3))
    """
    return tuple(_count(size) for size in n) if isinstance(n, (tuple, list)) else (_count(n),)


def _count(n: Any) -> int:
    if not isinstance(n, (int, torch.SymInt)) or isinstance(n, bool):
        if isinstance(n, bool) or not hasattr(n, "__index__"):
            raise TypeError(f"n: expected a number of samples or a shape of them, got {n!r}")
        n = operator.index(n)  # an integer of numpy or torch
    if n < 0:
        raise ValueError(f"n: expected at least 0 samples, got {n!r}")
    return n


def number_of(n: int) -> int:
    """A number of samples, checked as :func:`sample_shape` does; no shape."""
    if isinstance(n, (tuple, list)):
        raise TypeError(f"n: expected a number of samples, got {n!r}")
    return sample_shape(n)[0]


def shaped(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Rows (N, \\*rest) with the leading shape that :func:`sample_shape` told.

    >>> import torch
    >>> from pyflowk.shapes import sample_shape, shaped
    >>> shaped(torch.zeros(6, 4), sample_shape((2, 3))).shape
    torch.Size([2, 3, 4])
    """
    return rows if len(shape) == 1 else rows.reshape(*shape, *rows.shape[1:])


def expand_context(context: Rows | None, rows: int) -> Rows | None:
    """The context with one row per event: rows as they are, or one row repeated (a view).

    Raises ValueError for any other number of rows, TypeError for no tensor and no :class:`Ragged`.

    >>> import torch
    >>> from pyflowk.shapes import expand_context
    >>> expand_context(torch.tensor(7), 3)
    tensor([7, 7, 7])
    """
    if context is None:
        return None
    if not isinstance(context, (Tensor, Ragged)):
        raise TypeError(f"context: expected a tensor, such as torch.tensor([2]), got {type(context).__name__}")
    if isinstance(context, Tensor) and context.dim() == 0:
        context = context[None]
    values = context.values if isinstance(context, Ragged) else context
    if values.shape[0] == rows:
        return context
    if values.shape[0] != 1:
        got = f"{tuple(values.shape)}; for k samples per context pass context.repeat_interleave(k, 0)"
        raise ValueError(
            f"expected a context of {rows} rows (one per event) or of 1 row (for all), got "
            + (f"{len(values)} rows" if isinstance(context, Ragged) else got)
        )
    repeated = values.expand(rows, *values.shape[1:])
    return Ragged(repeated, context.lengths.expand(rows)) if isinstance(context, Ragged) else repeated


def check_labels(context: Tensor) -> Tensor:
    """Class labels (B,) as int64; TypeError for anything that is not a row of integers."""
    if context.dim() != 1 or context.is_floating_point() or context.dtype == torch.bool:
        raise TypeError(f"expected class labels (B,) of an integer dtype, got {tuple(context.shape)} {context.dtype}")
    return context.long()
