"""Scores, and the levels that every density model has to beat: two models that anybody could write down.

The trivial level takes every value, and every length, for as likely as any other. The other one is fitted to the
training rows: a full-covariance Gaussian to numbers, n-grams to symbols. Rows are tensors, `Ragged`, or what reads the
rows that are asked for, and are read by pieces.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .._threads import one_thread
from ..space import Space

PIECE = 1 << 17
"""Numbers that are read at a time, 1 MB."""


class Rows(Protocol):
    """Events or contexts, row by row."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


@dataclass(frozen=True)
class Score:
    """Mean log-likelihood of a test set with its standard error, in nats a sample and, for integers, bits a ``unit``.

    The unit is a "dim" of ordered levels, a "symbol", or a "row" of a table's. One sample, or one that is impossible,
    has no standard error: None. Nats of a table are those of its standardised columns.

    >>> from pyflowk.metrics import Score
    >>> str(Score(nats=-108.9, nats_error=0.8, bits=2.456, bits_error=0.018, unit="dim"))
    '2.456 +- 0.018 bits/dim (log-likelihood -108.90 +- 0.80 nats)'
    """

    nats: float
    nats_error: float | None
    bits: float | None = None
    bits_error: float | None = None
    unit: str | None = None

    def __str__(self) -> str:
        nats = f"{with_error(self.nats, self.nats_error, 2)} nats"
        if self.bits is None:
            return f"log-likelihood {nats}"
        return f"{with_error(self.bits, self.bits_error, 3)} bits/{self.unit} (log-likelihood {nats})"


def with_error(value: float, error: float | None, digits: int) -> str:
    """A number and its standard error, where there is one.

    >>> from pyflowk.metrics import with_error
    >>> with_error(1.234, 0.5, 2), with_error(1.234, None, 2)
    ('1.23 +- 0.50', '1.23')
    """
    return f"{value:.{digits}f}" if error is None else f"{value:.{digits}f} +- {error:.{digits}f}"


def score(log_prob: Tensor, space: Space, lengths: Tensor | None = None) -> Score:
    r"""Mean and standard error of log-likelihoods (N,) in nats of N events of a space.

    Bits are :math:`-\sum_i \log p_i / (\log 2 \sum_i n_i)`, n elements of event i: as many as the space has, or those
    of its length, for which ``lengths`` (N,) are needed; the standard error is that of a ratio of means. Raises
    ValueError for a space of variable length without them.

    >>> import torch
    >>> from pyflowk.metrics import score
    >>> from pyflowk.space import Space
    >>> print(score(torch.tensor([-1.0, -3.0]), Space((1, 2, 2), levels=2)))
    0.721 +- 0.361 bits/dim (log-likelihood -2.00 +- 1.00 nats)
    """
    log_prob = log_prob.double()
    nats = log_prob.mean().item(), _standard_error(log_prob)
    if space.kind == "real":
        return Score(*nats)
    sizes = torch.full_like(log_prob, 1 if space.columns else space.dims)
    if space.variable:
        if lengths is None:
            raise ValueError(f"expected the lengths of events of {space}, got none")
        sizes = lengths.to(log_prob) * math.prod(space.shape[1:])
    bits = -log_prob / math.log(2)
    mean = bits.sum() / sizes.sum()
    error = _standard_error((bits - mean * sizes) / sizes.mean())
    return Score(*nats, mean.item(), error, unit_of(space))


def unit_of(space: Space) -> str | None:
    """A likelihood of integers is told in bits per "dim" of ordered levels, per "symbol", or, of the columns of a
    table, per "row"; None is for real numbers.

    >>> from pyflowk.space import Space
    >>> unit_of(Space((1, 8, 8), levels=17)), unit_of(Space((12,), symbols=4))
    ('dim', 'symbol')
    """
    if space.columns is not None:
        return "row"
    return {"real": None, "levels": "dim", "symbols": "symbol"}[space.kind]


def _standard_error(values: Tensor) -> float | None:
    """None where there is none: of one value, and of values that are not finite."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return error if math.isfinite(error) else None


def trivial_level(space: Space, lengths: Tensor | None = None) -> float | None:
    r"""log2 of the number of levels or symbols, the bits that uniform entries cost, of columns those of a row; None for
    real numbers.

    Rows of several ``lengths`` (N,) pay for these, too, as n-grams do: for one of 0 to L, all as likely,
    :math:`\log_2 (L + 1)` bits a row, divided by the mean number of entries of a row; None where no row has any.
    Raises ValueError for a space of variable length without them.

    >>> from pyflowk.metrics import trivial_level
    >>> from pyflowk.space import Space
    >>> trivial_level(Space((1, 2, 2), levels=256)), trivial_level(Space((12,), symbols=4))
    (8.0, 2.0)
    """
    if space.sizes is not None:
        return sum(map(math.log2, space.sizes))
    values = space.levels or space.symbols
    if values is None or not space.variable:
        return None if values is None else math.log2(values)
    if lengths is None:
        raise ValueError(f"expected the lengths of events of {space}, got none")
    entries = int(lengths.sum()) * math.prod(space.shape[1:])
    return math.log2(values) + math.log2(space.shape[0] + 1) * len(lengths) / entries if entries else None


def lengths_of(rows: Rows, space: Space) -> Tensor | None:
    """The lengths (N,) of rows of a space of variable length, read by pieces; None where all are of one length."""
    if not space.variable:
        return None
    return torch.cat([rows[piece].lengths for piece in pieces(rows, space.dims)])


def pieces(rows: Rows, dims: int) -> Iterator[slice]:
    """Slices of rows of so many numbers each that are read at a time, one of no rows where there are none; several
    pieces on one thread."""
    step = max(1, PIECE // max(1, dims))
    with one_thread() if len(rows) > step else contextlib.nullcontext():
        yield from (slice(start, start + step) for start in range(0, max(1, len(rows)), step))
