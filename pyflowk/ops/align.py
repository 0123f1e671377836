"""Alignments of token sequences: the fewest edits from one to another, and which they are, ties at random."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._router import FusedOp
from .random_numbers import check_keys, philox
from .symbols import check_lengths

__all__ = ["Alignment", "align"]

BLANK = -1
_KIND = 257  # kAlign of csrc/math/philox.h


class Alignment(NamedTuple):
    """What `align` found: ``z0`` and ``z1`` (B, N0 + N1), tokens of the two sequences one above the other with blanks,
    -1, between and beyond them, and the ``distance`` (B,), the number of pairs that differ."""

    z0: Tensor
    z1: Tensor
    distance: Tensor


def _distances(x0: Tensor, x1: Tensor) -> Tensor:
    """Edits from every prefix of x0 to every prefix of x1: (B, N0 + 1, N1 + 1), a row after the other."""
    rows, n0 = x0.shape
    places = torch.arange(x1.shape[1] + 1, device=x0.device)
    table = [places.expand(rows, -1)]
    for i in range(n0):
        last = table[-1]
        best = last + 1
        best[:, 1:] = torch.minimum(best[:, 1:], last[:, :-1] + (x1 != x0[:, i, None]))
        table.append((best - places).cummin(1).values + places)  # insertions: of all starts to the left the best
    return torch.stack(table, 1)


def _formula(x0: Tensor, x1: Tensor, lengths0: Tensor, lengths1: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The op in plain torch: the way back, one pair of every sequence at a time."""
    (rows, n0), n1 = x0.shape, x1.shape[1]
    table, every = _distances(x0, x1), torch.arange(rows, device=x0.device)
    steps = torch.arange(-(-(n0 + n1) // 4), device=x0.device)
    words = torch.stack(philox(keys[:, None], steps, torch.zeros_like(steps), _KIND), -1).flatten(1)
    i, j = lengths0.clamp(0, n0), lengths1.clamp(0, n1)
    distance = table[every, i, j]
    z0, z1 = (torch.full((rows, n0 + n1), BLANK, device=x0.device) for _ in range(2))
    for step in range(n0 + n1):
        left, up = (j - 1).clamp(min=0), (i - 1).clamp(min=0)
        here = table[every, i, j]
        a = x0[every, up] if n0 else torch.full_like(i, BLANK)
        b = x1[every, left] if n1 else torch.full_like(j, BLANK)
        both = (i > 0) & (j > 0)
        optimal = torch.stack(
            (
                both & (here == table[every, up, left] + (a != b)),
                (i > 0) & (here == table[every, up, j] + 1),
                (j > 0) & (here == table[every, i, left] + 1),
            ),
            1,
        )
        ways = optimal.sum(1)
        chosen = (optimal.cumsum(1) <= ((words[:, step] * ways) >> 32)[:, None]).sum(1)  # 3 where both are at their end
        takes0, takes1 = (chosen == 0) | (chosen == 1), (chosen == 0) | (chosen == 2)
        z0[:, step], z1[:, step] = torch.where(takes0, a, BLANK), torch.where(takes1, b, BLANK)
        i, j = i - takes0.long(), j - takes1.long()
    used = ((z0 != BLANK) | (z1 != BLANK)).sum(1, keepdim=True)
    back = used - 1 - torch.arange(n0 + n1, device=x0.device)
    z0, z1 = (torch.where(back >= 0, z.gather(1, back.clamp(min=0)), BLANK) for z in (z0, z1))
    return z0, z1, distance


def _check(x0: Tensor, x1: Tensor, lengths0: Tensor, lengths1: Tensor, keys: Tensor) -> None:
    """What `csrc/bind/align.cpp` checks, for the paths that do not go through it."""
    if x0.ndim != 2 or x1.ndim != 2 or x0.shape[0] != x1.shape[0] or x0.device != x1.device:
        raise ValueError(
            f"align: expected x0 (B, N0) and x1 (B, N1) on one device; got {tuple(x0.shape)} on {x0.device} and "
            f"{tuple(x1.shape)} on {x1.device}"
        )
    for what, x, lengths in (("0", x0, lengths0), ("1", x1, lengths1)):
        if x.dtype != torch.int64:
            raise TypeError(f"align: x{what} must be int64; got {x.dtype}")
        check_lengths("align", f"lengths{what}", lengths, x)
    check_keys("align", keys, x0.shape[0])


_op = FusedOp(
    "align",
    "(Tensor x0, Tensor x1, Tensor lengths0, Tensor lengths1, Tensor keys) -> (Tensor, Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=lambda x0, x1, lengths0, *_: (
        *(x0.new_empty((x0.shape[0], x0.shape[1] + x1.shape[1])) for _ in range(2)),
        torch.empty_like(lengths0),
    ),
    indices=("x0", "x1", "lengths0", "lengths1", "keys"),
    expand_below=0,
)


def align(x0: Tensor, lengths0: Tensor, x1: Tensor, lengths1: Tensor, keys: Tensor) -> Alignment:
    r"""Align pairs of sequences by the fewest insertions, deletions and substitutions (Levenshtein's distance).

    A pair (a, b) of the alignment keeps a or substitutes b for it, (a, blank) deletes a, (blank, b) inserts b. Of
    several alignments as short one is drawn: from the ends backwards, evenly among the last pairs that can be the last
    of a shortest one.

    Args:
        x0: (B, N0), int64, any tokens but -1; a row's first lengths0 count.
        lengths0: (B,), int64, 0 to N0.
        x1: (B, N1), likewise.
        lengths1: (B,), int64, 0 to N1.
        keys: (B,), int64, from `draw_keys` of `pyflowk.ops.draw`.

    Returns:
        z0 and z1 (B, N0 + N1), int64, in which blanks are -1, those beyond the last pair too: a sequence is its z
        without the blanks; and the distance (B,), int64. Rows do not depend on those beside them.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit; on the CPU lengths out of range.

    Cost: N0 N1 / 64 steps of some twenty instructions a pair, 3 N0 N1 / 8 bytes of memory a pair at work. Sources:
    Hyyro 2003, "A bit-vector algorithm for computing Levenshtein and Damerau edit distances"; Havasi et al. 2025
    (arXiv:2506.09018), whose edit flows ask for it.

    >>> x0, x1 = torch.tensor([[1, 2, 3]]), torch.tensor([[1, 3, 4]])
    >>> z0, z1, distance = align(x0, torch.tensor([3]), x1, torch.tensor([3]), torch.tensor([0]))
    >>> distance
    tensor([2])
    >>> z0[z0 >= 0], z1[z1 >= 0]
    (tensor([1, 2, 3]), tensor([1, 3, 4]))
    """
    args = (x0, x1, lengths0, lengths1, keys)
    _check(*args)
    return Alignment(*_op(tuple(t.contiguous() for t in args)))
