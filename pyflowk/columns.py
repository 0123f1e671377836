"""Columns of a table as symbols and back: a symbol of a column is a text, numbers of a range, or nothing known.

`Column` says what the symbols of one column stand for; `encode_cells` and `decode_cells` go to and fro between them and
`Cells`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

__all__ = ["Cells", "Column", "decode_cells", "encode_cells"]

Cells = Mapping[str, Any]
"""Columns by name: texts, or numbers (N,) float64, NaN where nothing is known."""
MISSING = ("", "na", "n/a", "nan", "null", "none", "?", "-")
"""What stands for a number that is not there; among numbers, such a cell does not make a row a header."""


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
        """Symbols (N,) int64 of texts or numbers; a number between ranges or beyond them belongs to one beside it.

        Raises ValueError, with the row, for texts that are none of the column's, for what is no finite number, and for
        other numbers than the one of a column that has no more.
        """
        return self._of_numbers(cells) if self.numeric else self._of_texts(cells)

    def beyond(self, cells: Any) -> str:
        """How many numbers lie outside of all ranges, in words; "" for none."""
        ranges = [one for one in self.values if isinstance(one, tuple)]
        if not ranges:
            return ""
        values, least, most = self._parsed(cells), ranges[0][0], ranges[-1][1]
        outside = int(((values < least) | (values > most)).sum())
        return f"{self.name}, {outside} of {len(values)} outside of {least:g} to {most:g}" if outside else ""

    def _of_texts(self, cells: Any) -> Tensor:
        if isinstance(cells, Tensor):
            raise ValueError(f"column {self.name!r}: expected texts, got numbers")
        codes = {text: code for code, text in enumerate(self.values)}
        row = next((row for row, cell in enumerate(cells) if cell not in codes), None)
        if row is not None:
            known, got = ", ".join(map(repr, self.values[:5])), repr(cells[row]) if cells[row] else "an empty cell"
            raise ValueError(
                f"column {self.name!r}: expected one of {len(codes)} texts, {known}, got {got} in row {row}"
            )
        return torch.tensor([codes[cell] for cell in cells], dtype=torch.int64)

    def _of_numbers(self, cells: Any) -> Tensor:
        values, ranges = self._parsed(cells), [one for one in self.values if one is not None]
        missing = values.isnan()
        single = len({end for one in ranges for end in one}) < 2
        only = ranges[0][0] if ranges else math.nan  # which no number is
        wrong = ~missing & (values != only) if single else values.isinf()
        if wrong.any():
            row = int(wrong.nonzero()[0])
            expected = "finite numbers" if not single else f"{only:g} in every row" if ranges else "no numbers"
            raise ValueError(f"column {self.name!r}: expected {expected}, got {values[row]:g} in row {row}")
        if missing.any() and self.values[-1] is not None:
            raise ValueError(f"column {self.name!r}: expected numbers, got none in row {int(missing.nonzero()[0])}")
        least = torch.tensor([one[0] for one in ranges], dtype=torch.float64)
        found = torch.searchsorted(least, values.contiguous(), right=True).sub(1).clamp(min=0)
        return torch.where(missing, len(self.values) - 1, found)

    def _parsed(self, cells: Any) -> Tensor:
        """Numbers (N,) float64, NaN where one is missing, of cells that a table of other rows took for texts, too."""
        if isinstance(cells, Tensor):
            return cells
        missing = [cell.lower() in MISSING for cell in cells]
        wrong = [row for row, cell in enumerate(cells) if not missing[row] and not is_number(cell)]
        if wrong:
            shown = ", ".join(f"{cells[row]!r} in row {row}" for row in wrong[:3])
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise ValueError(f"column {self.name!r}: expected numbers, got {shown}{more}")
        found = [math.nan if gone else float(cell) for cell, gone in zip(cells, missing, strict=True)]
        return torch.tensor(found, dtype=torch.float64)

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
    """Symbols (N, D) int64 of the cells of these columns; ValueError for columns that are missing, and as
    :meth:`Column.encode` raises it. Numbers outside of all ranges of a column, which become its nearest, are warned of.

    >>> from pyflowk.columns import Column, encode_cells
    >>> encode_cells({"colour": ["red", "blue"], "other": ["", ""]}, [Column("colour", ("blue", "red"))])
    tensor([[1],
            [0]])
    """
    if missing := [column.name for column in columns if column.name not in cells]:
        raise ValueError(f"expected the columns {', '.join(c.name for c in columns)}; {', '.join(missing)} missing")
    x = torch.stack([column.encode(cells[column.name]) for column in columns], 1)
    if beyond := [told for column in columns if (told := column.beyond(cells[column.name]))]:
        warnings.warn(f"numbers that no column knows are taken for its nearest: {'; '.join(beyond)}", stacklevel=2)
    return x


def decode_cells(x: Tensor, columns: Sequence[Column], generator: Generator | None = None) -> list[list[str]]:
    """The rows that symbols (N, D) stand for; numbers are drawn from their ranges by the generator.

    >>> import torch
    >>> from pyflowk.columns import Column, decode_cells
    >>> decode_cells(torch.tensor([[1, 0]]), [Column("colour", ("blue", "red")), Column("size", ((3.0, 3.0), None))])
    [['red', '3']]
    """
    return [list(row) for row in zip(*(c.decode(x[:, i], generator) for i, c in enumerate(columns)), strict=True)]


def is_number(cell: str) -> bool:
    """Whether a cell is a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python reads 1_2 as twelve
