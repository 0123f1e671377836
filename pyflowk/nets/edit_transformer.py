"""The edit transformer: of each place of a sequence, which tokens come, go and change there, and how soon."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .._checks import require_counts
from ..paths import EDITS, EditLogits
from ..space import Ragged
from .token_transformer import TokenTransformer

__all__ = ["EditTransformer"]


class EditTransformer(TokenTransformer):
    r"""A field of edits: a :class:`TokenTransformer` of sequences x, whose answer is an
    :class:`pyflowk.paths.EditLogits`.

    x is a :class:`pyflowk.space.Ragged` (B, L) of ``symbols``; in front of it stands one more symbol, the start, to the
    right of which alone something can be inserted. Of each of the 1 + L places the last layer gives 3 logits of rates
    and 2 K of tokens, all zero at first; with ``insertions`` alone 1 and K. All else is said by ``options``, those of a
    TokenTransformer. Raises TypeError for x that is no Ragged, ValueError for symbols out of range, and what that
    raises. Cost: that of a TokenTransformer of 1 + L places. Havasi et al., 2025, arXiv:2506.09018.

    >>> import torch
    >>> from pyflowk.nets import EditTransformer
    >>> from pyflowk.space import Ragged
    >>> told = EditTransformer(5, width=16, depth=1)(0.5, Ragged.of([torch.tensor([0, 4]), torch.tensor([3])]))
    >>> told.rates.shape, told.insert.shape, told.substitute.shape
    (torch.Size([2, 3, 3]), torch.Size([2, 3, 5]), torch.Size([2, 3, 5]))
    """

    def __init__(
        self, symbols: int, width: int = 128, depth: int = 4, *, insertions: bool = False, **options: Any
    ) -> None:
        require_counts("EditTransformer", symbols=symbols)
        self.symbols, kinds = symbols, 1 if insertions else len(EDITS)
        self.sizes = (kinds, symbols) if insertions else (kinds, symbols, symbols)
        super().__init__(symbols + 1, sum(self.sizes), width, depth, **options)

    def forward(  # type: ignore[override]
        self, t: Tensor | float, x: Ragged, context: Tensor | None = None
    ) -> EditLogits:
        if not isinstance(x, Ragged):
            raise TypeError(f"expected x to be a Ragged, as sequences of edits have lengths, got {type(x).__name__}")
        started = F.pad(x.values.long(), (1, 0), value=self.symbols)
        return EditLogits(*super().forward(t, Ragged(started, x.lengths + 1), context).split(self.sizes, 2))
