"""Rows that are made block by block: what of them a place may see, and what finished blocks leave for those behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .attention import Past
from .dual import Dual
from .field import Field

__all__ = ["Behind", "Finished"]


@dataclass(frozen=True, eq=False)
class Finished:
    r"""The blocks of rows that are there already, (B, S) symbols: the context of the block behind them.

    Beside the rows' own ``context`` it holds the keys and values, (B, heads, S, d) each, that they left in each layer
    of a network that has read them (:meth:`TokenTransformer.read`). Indexing and len are those of rows.

    >>> import torch
    >>> from pyflowk.nets import Finished
    >>> len(Finished(torch.tensor([[0, 1], [2, 2], [1, 0]]))[:2])
    2
    """

    symbols: Tensor
    context: Any = None
    pasts: tuple[tuple[Tensor, Tensor], ...] = ()

    def __len__(self) -> int:
        return len(self.symbols)

    def __getitem__(self, rows: Tensor | slice) -> Finished:
        context = self.context
        context = context[rows] if context is not None and len(context) == len(self) else context
        return Finished(self.symbols[rows], context, tuple((k[rows], v[rows]) for k, v in self.pasts))

    def followed_by(self, block: Tensor) -> Finished:
        """With one more block (B, T) of symbols, and nothing of what layers keep."""
        return Finished(torch.cat((self.symbols, block), 1), self.context)


class Behind(Field):
    """A field of whole rows asked about the block behind those that are :class:`Finished`, which are read again.

    It serves fields that keep nothing, such as guided ones. Cost: that of the field on all of the row so far.

    >>> import torch
    >>> from pyflowk.nets import Behind, Finished, TokenTransformer
    >>> field = Behind(TokenTransformer(4, 3, width=8, depth=1, block=2, time=None))
    >>> field(0.5, torch.tensor([[3, 3]]), Finished(torch.tensor([[0, 2]]))).shape
    torch.Size([1, 2, 3])
    """

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field, self.takes_time = field, field.takes_time

    def forward(self, t: Tensor | float, x: Tensor, context: Finished) -> Tensor:  # type: ignore[override]
        return self.field(t, torch.cat((context.symbols, x), 1), context.context)[:, context.symbols.shape[1] :]


class Read(Past):
    """Keys and values of finished blocks in one layer, and behind them those of the block that is read now."""

    def __init__(self, pair: tuple[Tensor, Tensor] | None) -> None:
        super().__init__(0)
        self.pair = None if pair is None else (Dual(pair[0]), Dual(pair[1]))

    def joined(self, k: Dual, v: Dual) -> tuple[Dual, Dual]:
        if self.pair is not None:
            k, v = (Dual(torch.cat((a.value, b.value), 2)) for a, b in zip(self.pair, (k, v), strict=True))
        self.pair = k, v
        return k, v

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, T, d) of all that was read."""
        assert self.pair is not None
        return self.pair[0].value, self.pair[1].value


def seen_by_blocks(places: int, block: int, twice: bool, like: Tensor) -> Tensor:
    """Which keys (1, T, T) the places of a row see: those of their own block and of the blocks before it.

    ``twice``: (1, 2 T, 2 T) of a row that is finished and the same row with noise behind it, whose blocks see those of
    the finished row before them, and themselves.
    """
    number = torch.arange(places, device=like.device) // block
    before, own = number < number[:, None], number == number[:, None]
    if not twice:
        return (before | own).unsqueeze(0)
    finished = torch.cat((before | own, torch.zeros_like(own)), 1)
    return torch.cat((finished, torch.cat((before, own), 1))).unsqueeze(0)
