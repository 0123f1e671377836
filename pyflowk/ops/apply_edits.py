"""Edits of token sequences: insertions, deletions and substitutions together, as one step of an edit flow has them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._router import FusedOp
from .symbols import check_lengths

__all__ = ["Edited", "apply_edits"]


class Edited(NamedTuple):
    """What `apply_edits` made: ``values`` (B, limit), of which a row's first ``lengths`` (B,) count, and how many
    insertions were ``dropped`` (B,) because there was no room."""

    values: Tensor
    lengths: Tensor
    dropped: Tensor


def _formula(instead: Tensor, insert: Tensor, lengths: Tensor, limit: int, pad: int) -> tuple[Tensor, ...]:
    """The op in plain torch: `instead` holds what stands where a token was, -1 where it is deleted."""
    inside = torch.arange(insert.shape[1], device=insert.device) < lengths[:, None]
    kept, inserted = inside & (instead >= 0), inside & (insert >= 0)
    room = limit - kept.sum(1, keepdim=True)
    placed = inserted & (inserted.cumsum(1) <= room)
    count = torch.stack((kept, placed), 2).flatten(1).long()  # a token, then what was inserted behind it
    tokens = torch.stack((instead, insert), 2).flatten(1)
    place = torch.where(count > 0, count.cumsum(1) - 1, limit)
    values = insert.new_full((insert.shape[0], limit + 1), pad).scatter(1, place, tokens)[:, :limit].clone()
    return values, count.sum(1), (inserted & ~placed).sum(1)


def _check(instead: Tensor, insert: Tensor, lengths: Tensor, limit: int, pad: int) -> None:
    """What `csrc/bind/apply_edits.cpp` checks, for the paths that do not go through it."""
    if instead.ndim != 2 or insert.shape != instead.shape or insert.device != instead.device:
        raise ValueError(
            f"apply_edits: expected x and its edits (B, N) on one device; got {tuple(instead.shape)} on "
            f"{instead.device} and {tuple(insert.shape)} on {insert.device}"
        )
    check_lengths("apply_edits", "lengths", lengths, instead)
    if limit < instead.shape[1]:
        raise ValueError(f"apply_edits: limit must be at least the {instead.shape[1]} places of x; got {limit}")


_op = FusedOp(
    "apply_edits",
    "(Tensor instead, Tensor insert, Tensor lengths, int limit, int pad) -> (Tensor, Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=lambda instead, insert, lengths, limit, pad: (
        instead.new_empty((instead.shape[0], limit)),
        torch.empty_like(lengths),
        torch.empty_like(lengths),
    ),
    indices=("instead", "insert", "lengths"),
    expand_below=0,
)


def apply_edits(
    x: Tensor, lengths: Tensor, insert: Tensor, delete: Tensor, substitute: Tensor, limit: int | None = None,
    pad: int = 0,
) -> Edited:  # fmt: skip
    r"""Apply insertions, deletions and substitutions at all places at once.

    An insertion stands to the right of its place, whatever becomes of the token there; a token that is both deleted
    and substituted is deleted. Where a row would grow beyond the limit, its last insertions are dropped.

    Args:
        x: (B, N), int64; a row's first lengths count, and edits beyond them do not.
        lengths: (B,), int64, 0 to N.
        insert: (B, N), int64: the token to insert, negative for none.
        delete: (B, N), bool.
        substitute: (B, N), int64: the token to put there instead, negative for none.
        limit: the longest row, at least N; N if nothing is said.
        pad: what stands beyond a row's end.

    Returns:
        The values (B, limit), their lengths (B,) and the number of insertions that were dropped (B,), all int64.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit; a limit below N; on the CPU lengths out of
            range.

    Cost: one pass. Source: Havasi et al. 2025 (arXiv:2506.09018).

    >>> none = torch.full((1, 3), -1)
    >>> insert, delete, substitute = none.clone(), torch.tensor([[False, True, False]]), none.clone()
    >>> insert[0, 1], substitute[0, 0] = 7, 8
    >>> apply_edits(torch.tensor([[1, 2, 3]]), torch.tensor([3]), insert, delete, substitute, limit=4).values
    tensor([[8, 7, 3, 0]])
    """
    limit = x.shape[-1] if limit is None else limit
    for what, t, dtype in (
        ("x", x, torch.int64), ("insert", insert, torch.int64), ("delete", delete, torch.bool),
        ("substitute", substitute, torch.int64),
    ):  # fmt: skip
        if t.dtype != dtype:
            raise TypeError(f"apply_edits: {what} must be {dtype}; got {t.dtype}")
        if t.ndim != 2 or t.shape != x.shape:
            raise ValueError(f"apply_edits: expected x and its edits (B, N); got {tuple(x.shape)} and {tuple(t.shape)}")
        if t.device != x.device:
            raise ValueError(f"apply_edits: x and {what} must be on one device; got {x.device} and {t.device}")
    instead = torch.where(delete, -1, torch.where(substitute >= 0, substitute, x))
    args = (instead, insert.contiguous(), lengths.contiguous(), limit, pad)
    _check(*args)
    return Edited(*_op(args))
