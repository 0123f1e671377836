"""The field of a table: columns that have different numbers of symbols."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .._checks import require_counts
from ..ops.describe import described
from ..ops.modes import transformed
from ..space import Ragged
from .field import Field
from .token_transformer import TokenTransformer

__all__ = ["ColumnField"]

NEVER = -1e4
"""The logit of a symbol that a column does not have: its chance is 0, and logits stay finite."""


class ColumnField(Field):
    r"""Logits (B, D, K) of the symbols of D columns, of which column i has ``sizes[i]`` and K is the most.

    Symbols x (B, D) are those of each column, or K, a mask. A :class:`TokenTransformer` hears another vector for each
    symbol, and for the mask, of each column, and tells of each of them by weights of its own: which column a place is
    need not be learned. What a column does not have is never drawn. ``options`` are those of the transformer. Raises
    ValueError for another number of columns and, on the CPU, for symbols that a column does not have, and what the
    transformer raises. Cost: that of the transformer with the sum of all sizes as its outputs.

    >>> import torch
    >>> from pyflowk.nets import ColumnField
    >>> field = ColumnField((2, 3), width=8, depth=1, time=None)
    >>> field(0.5, torch.tensor([[1, 3]])).softmax(-1)
    tensor([[[0.5000, 0.5000, 0.0000],
             [0.3333, 0.3333, 0.3333]]], grad_fn=<SoftmaxBackward0>)
    """

    needs_answer = False

    def __init__(self, sizes: Sequence[int], width: int = 128, depth: int = 4, **options: Any) -> None:
        super().__init__()
        for size in sizes:
            require_counts("ColumnField", size=size)
        self.sizes, self.most = tuple(sizes), max(sizes)
        self.net = TokenTransformer(sum(sizes) + len(self.sizes), sum(sizes), width, depth, **options)
        self.takes_time, self.takes_context = self.net.takes_time, self.net.takes_context

    def no_context(self) -> Tensor | Ragged:
        return self.net.no_context()

    def forward(self, t: Tensor | float, x: Tensor, context: Tensor | None = None) -> Tensor:
        if not isinstance(x, Tensor) or x.is_floating_point() or x.dtype == torch.bool:
            raise TypeError(f"expected symbols, integers (B, {len(self.sizes)}), got {described(x)}")
        if x.dim() != 2 or x.shape[1] != len(self.sizes):
            raise ValueError(f"expected symbols (B, {len(self.sizes)}), got {tuple(x.shape)}")
        sizes = torch.tensor(self.sizes, device=x.device)
        if x.is_cpu and not transformed() and (strange := (x < 0) | ((x >= sizes) & (x != self.most))).any():
            row, column = strange.nonzero()[0].tolist()
            raise ValueError(f"column {column}: expected symbols 0 to {self.sizes[column] - 1}, got {x[row, column]}")
        first = torch.tensor([0, *accumulate(self.sizes)][:-1], device=x.device)
        own = first + torch.arange(len(self.sizes), device=x.device)  # each has one symbol more, its mask
        logits = self.net(t, own + torch.minimum(x.long(), sizes), context)
        symbol = torch.arange(self.most, device=x.device)
        has = symbol < sizes.unsqueeze(1)
        place = first.unsqueeze(1) + torch.minimum(symbol, sizes.unsqueeze(1) - 1)
        found = logits.gather(2, place.expand(len(x), -1, -1))
        return torch.where(has, found, torch.full_like(found, NEVER))
