"""The level of symbols: n-grams."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .._checks import require_counts
from ..space import Events, Ragged, Space
from .levels import Rows, Score, lengths_of, pieces, score


def ngram_level(space: Space, train: Rows, test: Rows, *, order: int = 2) -> Score | None:
    r"""Test score of n-grams of the training rows, add-one smoothed: each symbol given the ``order`` - 1 before it.

    .. math:: p(x_l \mid x_{<l}) = (c(x_{l-n+1} \ldots x_l) + 1) / (c(x_{l-n+1} \ldots x_{l-1}) + S)

    c counts in the training rows, in front of which a start stands; S is the number of symbols, and one more for the
    end of a row where the space has variable length: the score of such a row pays for its end. Events (N, L) or
    :class:`Ragged`; larger events are read in order as one row. The result is None for numbers, for no rows, and where
    contexts of ``order`` symbols have no number in int64. Cost: a sort of all n-grams, by pieces.
    Laplace's rule; Shannon, 1948, "A mathematical theory of communication".

    >>> import torch
    >>> from pyflowk.metrics import ngram_level
    >>> from pyflowk.space import Space
    >>> turns = torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0]]).repeat(100, 1)
    >>> print(ngram_level(Space((4,), symbols=2), turns, turns))
    0.254 +- 0.000 bits/symbol (log-likelihood -0.70 +- 0.00 nats)
    """
    require_counts("ngram_level", order=order)
    if space.symbols is None or not len(train) or not len(test) or (space.symbols + 2) ** order >= 2**63:
        return None
    grams, stems = _Counts(), _Counts()
    for before, symbol, _ in _read(space, train, order):
        grams.add(before * (space.symbols + 2) + symbol)
        stems.add(before)
    choices = space.symbols + space.variable
    log_prob = torch.zeros(len(test), dtype=torch.float64)
    for before, symbol, row in _read(space, test, order):
        seen = grams.of(before * (space.symbols + 2) + symbol) + 1
        log_prob.index_add_(0, row, (seen / (stems.of(before) + choices)).log())
    return score(log_prob, space, lengths_of(test, space))


def windows(x: Events, order: int, symbols: int, ends: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of every place of all rows: a number for the ``order`` - 1 symbols before it, its symbol, and its row.

    Starts stand before a row; with ``ends`` the place after its last symbol counts, and holds the symbol ``symbols``.
    """
    ids = (x.values if isinstance(x, Ragged) else x).flatten(1).long()
    lengths = ids.new_full((len(ids),), ids.shape[1])
    if isinstance(x, Ragged):
        lengths = x.lengths * math.prod(x.values.shape[2:])
    places = torch.arange(ids.shape[1] + 1, device=ids.device)
    ids = F.pad(ids, (0, 1)).masked_fill(places == lengths[:, None], symbols)
    counted = places < lengths[:, None] + ends
    padded, before = F.pad(ids, (order - 1, 0), value=symbols + 1), torch.zeros_like(ids)
    for back in range(order - 1):
        before = before * (symbols + 2) + padded[:, back : back + ids.shape[1]]
    rows = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)
    return before[counted], ids[counted], rows[counted]


def _read(space: Space, rows: Rows, order: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for piece in pieces(rows, space.dims):
        before, symbol, row = windows(rows[piece], order, space.symbols or 0, space.variable)
        yield before, symbol, row + piece.start


class _Counts:
    """How often each number came."""

    def __init__(self) -> None:
        self.codes, self.counts = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)

    def add(self, codes: Tensor) -> None:
        new, counts = codes.unique(return_counts=True)
        self.codes, place = torch.cat((self.codes, new)).unique(return_inverse=True)
        self.counts = torch.zeros_like(self.codes).index_add_(0, place, torch.cat((self.counts, counts)))

    def of(self, codes: Tensor) -> Tensor:
        place = torch.searchsorted(self.codes, codes).clamp(max=len(self.codes) - 1)
        return torch.where(self.codes[place] == codes, self.counts[place], 0).double()
