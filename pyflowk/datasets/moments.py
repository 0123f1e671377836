"""What one pass over the rows of a table tells about its columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .rows import Watch, in_place, pieces


@dataclass(frozen=True)
class Moments:
    """Of each column of rows (N, D): least and greatest value, mean, and the sum of squares about the mean.

    Mean and squares are in units of ``scale``, the largest absolute value, so that squares fit float64. The moments of
    two pieces add up to those of both (Chan, Golub and LeVeque, 1983).
    """

    count: int
    low: Tensor
    high: Tensor
    scale: Tensor
    center: Tensor
    squares: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        """In float64; NaN where a column has one."""
        rows = rows.double()
        low, high = rows.amin(0), rows.amax(0)
        scale = torch.maximum(low.abs(), high.abs()).clamp(min=torch.finfo(torch.float64).tiny)
        scaled = rows / scale
        center = scaled.mean(0)
        center = center + (scaled - center).mean(0)  # once more, for columns far from 0
        return cls(len(rows), low, high, scale, center, (scaled - center).square().sum(0))

    def __add__(self, other: Moments) -> Moments:
        scale, count = torch.maximum(self.scale, other.scale), self.count + other.count
        (a, squares), (b, more) = self._in(scale), other._in(scale)
        apart = b - a
        squares = squares + more + apart.square() * (self.count * (other.count / count))
        low, high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        return Moments(count, low, high, scale, a + apart * (other.count / count), squares)

    def _in(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and squares in other units."""
        ratio = self.scale / scale
        return self.center * ratio, self.squares * ratio.square()

    @property
    def mean(self) -> Tensor:
        """(D,), in the units of the rows."""
        return self.center * self.scale

    @property
    def std(self) -> Tensor:
        """(D,), of N - 1 degrees of freedom."""
        return self.squares.div(max(1, self.count - 1)).sqrt() * self.scale


def moments(rows: Any, what: str = "mean and deviation", watch: Watch | None = None) -> Moments:
    """Of rows (N, D), N > 0: a tensor at once; rows on demand by pieces, in the order in which they lie."""
    found = None
    for _, piece in pieces(in_place(rows), what, watch):
        found = Moments.of(piece) if found is None else found + Moments.of(piece)
    if found is None:
        raise ValueError("expected at least one row")
    return found
