"""Rules of shapes, written once: how many events, and whose context is whose.

`sample_shape` reads a number of samples or a shape of them, `number_of` a number alone, and `shaped` gives rows that
shape. `expand_context` is the rule of contexts: as many rows as there are events, or one row for all of them.
`check_labels` and `check_events` refuse what is no row of labels and events of another shape.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_events", "check_labels", "expand_context", "number_of", "sample_shape", "shaped"]


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


def expand_context(context: Tensor | None, rows: int) -> Tensor | None:
    """The context with one row per event: rows as they are, or one row repeated (a view).

    >>> import torch
    >>> from pyflowk.shapes import expand_context
    >>> expand_context(torch.tensor(7), 3)
    tensor([7, 7, 7])
    """
    if context is None:
        return None
    if not isinstance(context, Tensor):
        raise TypeError(f"context: expected a tensor, such as torch.tensor([2]), got {type(context).__name__}")
    if context.dim() == 0:
        context = context[None]
    if context.shape[0] == rows:
        return context
    if context.shape[0] != 1:
        raise ValueError(
            f"expected a context of {rows} rows (one per event) or of 1 row (for all), got {tuple(context.shape)};"
            " for k samples per context pass context.repeat_interleave(k, 0)"
        )
    return context.expand(rows, *context.shape[1:])


def check_labels(context: Tensor) -> Tensor:
    """Class labels (B,) as int64; TypeError for anything that is not a row of integers."""
    if context.dim() != 1 or context.is_floating_point() or context.dtype == torch.bool:
        raise TypeError(f"expected class labels (B,) of an integer dtype, got {tuple(context.shape)} {context.dtype}")
    return context.long()


def check_events(x: Any, shape: tuple[int, ...], name: str = "x") -> None:
    """Raise unless x is a batch (B, \\*shape) of events: TypeError for no tensor, ValueError for another shape.

    >>> import torch
    >>> from pyflowk.shapes import check_events
    >>> check_events(torch.zeros(5, 2), (3,))
    Traceback (most recent call last):
    ValueError: expected x (B, 3), got (5, 2)
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"expected {name} to be a tensor, got {type(x).__name__}")
    if x.dim() == 0 or tuple(x.shape[1:]) != shape:
        raise ValueError(f"expected {name} ({', '.join(map(str, ('B', *shape)))}), got {tuple(x.shape)}")
