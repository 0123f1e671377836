"""Columns of a table as symbols and back: a symbol of a column is a text, numbers of a range, or nothing known.

`Column` says what the symbols of one column stand for; `encode_cells` and `decode_cells` go to and fro between them and
`Cells`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

__all__ = ["Cells", "Column", "decode_cells", "encode_cells"]

Cells = Mapping[str, Any]
"""Columns by name: texts, or numbers (N,) float64, NaN where nothing is known."""


@dataclass(frozen=True)
class Column:
    """What the symbols 0, 1, ... of a column stand for: texts; or ranges (least, most) of numbers that rise, and None,
    behind them, where a number is missing. Raises ValueError or TypeError for other values, and for any of them twice.

    >>> from pyflowk.columns import Column
    >>> Column("age", ((17.0, 29.0), (30.0, 41.0), None)).numeric
    True
    """

    name: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        values = tuple(tuple(map(float, v)) if isinstance(v, (list, tuple)) else v for v in self.values)
        object.__setattr__(self, "values", values)
        ranges = [v for v in values if isinstance(v, tuple)]
        texts = [v for v in values if isinstance(v, str)]
        if not values or (texts and len(texts) < len(values)) or len(set(values)) < len(values):
            raise ValueError(f"{self.name}: expected texts, or ranges of numbers, each of them once; got {values[:5]}")
        ends = [end for one in ranges for end in one]
        if any(len(one) != 2 for one in ranges) or ends != sorted(ends) or not all(map(math.isfinite, ends)):
            raise ValueError(f"{self.name}: expected ranges (least, most) that rise, got {ranges[:5]}")
        if not texts and (len(values) - len(ranges) > 1 or None in values[:-1]):
            raise ValueError(f"{self.name}: expected ranges and, behind them, None; got {values[:5]}")

    @property
    def numeric(self) -> bool:
        """Whether its symbols are ranges of numbers."""
        return not isinstance(self.values[0], str)

    def encode(self, cells: Any) -> Tensor:
        """Symbols (N,) int64 of texts or numbers; a number between ranges or beyond them belongs to one beside it."""
        if isinstance(cells, Tensor) != self.numeric:
            kind = "numbers" if self.numeric else "texts"
            raise ValueError(f"column {self.name!r}: expected {kind}, got {_shown(cells)}")
        if not self.numeric:
            codes = {text: code for code, text in enumerate(self.values)}
            if unknown := next((cell for cell in cells if cell not in codes), None):
                known = ", ".join(map(repr, self.values[:5]))
                raise ValueError(f"column {self.name!r}: expected one of {len(codes)} texts, {known}, got {unknown!r}")
            return torch.tensor([codes[cell] for cell in cells], dtype=torch.int64)
        missing = cells.isnan()
        if missing.any() and self.values[-1] is not None:
            raise ValueError(f"column {self.name!r}: expected numbers, got none in row {int(missing.nonzero()[0])}")
        least = torch.tensor([v[0] for v in self.values if v is not None], dtype=torch.float64)
        found = torch.searchsorted(least, cells.contiguous(), right=True).sub(1).clamp(min=0)
        return torch.where(missing, len(self.values) - 1, found)

    def decode(self, symbols: Tensor, generator: Generator | None = None) -> list[str]:
        """A cell for each symbol (N,): its text, "" for nothing known, or a number drawn evenly from its range."""
        if not self.numeric:
            return [self.values[int(i)] for i in symbols]
        ends = torch.tensor([v or (math.nan, math.nan) for v in self.values], dtype=torch.float64)
        low, high = ends[symbols].unbind(1)
        found = low + (high - low) * torch.rand(len(symbols), generator=generator, dtype=torch.float64)
        known = ends.nan_to_num()
        whole = bool((known == known.round()).all())
        return ["" if math.isnan(v) else f"{v:.0f}" if whole else f"{v:.7g}" for v in found.tolist()]


def encode_cells(cells: Cells, columns: Sequence[Column]) -> Tensor:
    """Symbols (N, D) int64 of the cells of these columns; ValueError for columns that are missing, and for new texts.

    >>> from pyflowk.columns import Column, encode_cells
    >>> encode_cells({"colour": ["red", "blue"], "other": ["", ""]}, [Column("colour", ("blue", "red"))])
    tensor([[1],
            [0]])
    """
    if missing := [column.name for column in columns if column.name not in cells]:
        raise ValueError(f"expected the columns {', '.join(c.name for c in columns)}; {', '.join(missing)} missing")
    return torch.stack([column.encode(cells[column.name]) for column in columns], 1)


def decode_cells(x: Tensor, columns: Sequence[Column], generator: Generator | None = None) -> list[list[str]]:
    """The rows that symbols (N, D) stand for; numbers are drawn from their ranges by the generator.

    >>> import torch
    >>> from pyflowk.columns import Column, decode_cells
    >>> decode_cells(torch.tensor([[1, 0]]), [Column("colour", ("blue", "red")), Column("size", ((3.0, 3.0), None))])
    [['red', '3']]
    """
    return [list(row) for row in zip(*(c.decode(x[:, i], generator) for i, c in enumerate(columns)), strict=True)]


def _shown(cells: Any) -> str:
    return "numbers" if isinstance(cells, Tensor) else ", ".join(map(repr, cells[:3]))
