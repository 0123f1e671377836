"""Tables whose rows are taken for symbols: texts as they are, numbers cut into bins that hold as many rows each."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from .._checks import require_counts
from ..columns import MISSING, Column, decode_cells, is_number
from ..space import Space
from .base import Dataset
from .files import INDEX, Table, _has_words, _rows, digest, read_file
from .tables import Split, parts

BINS = 32
"""Into which a column of numbers is cut, if nobody says."""
SUFFIXES = (".csv", ".parquet")
"""Files that may have columns of texts."""
MOST = 1000
"""Different texts that a column has, at most: names of single rows are nothing to learn."""


@dataclass(frozen=True, eq=False)
class Mixed:
    """A table with columns of texts, lists, and of numbers, (N,) float64 and NaN where there are none, by name.

    >>> from pyflowk.datasets.categories import Mixed
    >>> len(Mixed("pets", {"kind": ["cat", "dog"], "age": torch.tensor([3.0, 7.0]).double()}))
    2
    """

    name: str
    cells: dict[str, Any]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.cells.values())))


def categorical(table: Mixed | Table, *, bins: int = BINS, seed: int = 0, split: Split = "random") -> Dataset:
    """A table, N >= 20 rows, as symbols (N, D), in three parts as :func:`pyflowk.datasets.tables.prepare` cuts them.

    A column of texts has a symbol for each of its texts; one of numbers with up to ``bins`` different ones a symbol for
    each, others so many ranges that hold as many training rows each, and one symbol more where numbers are missing.
    The space knows the ``columns`` (:class:`pyflowk.columns.Column`). Raises ValueError for fewer rows, and for a
    column of more than 1000 different texts.

    >>> import torch
    >>> from pyflowk.datasets.categories import Mixed, categorical
    >>> pets = Mixed("pets", {"kind": ["cat", "dog"] * 20, "age": torch.arange(40.0).double()})
    >>> categorical(pets, bins=4)
    Dataset(pets: 32 / 4 / 4 samples of 2 columns of up to 4 symbols)
    """
    require_counts("categorical", 2, bins=bins)
    table = as_mixed(table)
    if len(table) < 20:
        raise ValueError(f"{table.name}: expected a table of at least 20 rows, got {len(table)}")
    order = parts(len(table), seed, split)
    columns = [_column(table.name, name, cells, order[0], bins) for name, cells in table.cells.items()]
    x = torch.stack([column.encode(table.cells[column.name]) for column in columns], 1)
    rows = [x[chosen] for chosen in order]
    binned = [c.name for c in columns if c.numeric and any(v is not None and v[0] < v[1] for v in c.values)]
    notes = (f"columns of numbers cut into up to {bins} bins: {', '.join(binned)}",) if binned else ()
    return Dataset(table.name, column_space(columns), *rows, fingerprint=digest(*rows), notes=(*table.notes, *notes))


def column_space(columns: Sequence[Column]) -> Space:
    """The space of rows of these columns."""
    return Space((len(columns),), symbols=max(len(c.values) for c in columns), columns=tuple(columns))


def as_mixed(table: Mixed | Table) -> Mixed:
    """A table of numbers by columns."""
    if isinstance(table, Mixed):
        return table
    values = table.values[:].double()
    names = table.columns or tuple(map(str, range(values.shape[1])))
    return Mixed(table.name, dict(zip(names, values.unbind(1), strict=True)), table.notes)


def read_mixed(path: Path) -> Mixed:
    """A .csv or .parquet file with any columns, in memory. The first row of a .csv with texts is its header unless one
    of its cells is a number; one of numbers alone is read as :func:`pyflowk.datasets.files.read_csv` reads it."""
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    rows = list(_rows(path))
    if any(_has_words(cells) or not all(cells) for _, cells in rows[1:]):
        return _texts(path, rows)
    found = read_file(path)
    assert isinstance(found, Table)  # no .npy file of pictures
    return as_mixed(found)


def write_cells(path: Path, x: Tensor, columns: Sequence[Column], generator: Generator | None = None) -> None:
    """Rows of symbols (N, D) as a .csv of what they stand for, below a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([[c.name for c in columns], *decode_cells(x, columns, generator)])


def _texts(path: Path, rows: list[tuple[int, list[str]]]) -> Mixed:
    names = [str(i) for i in range(len(rows[0][1]))]
    if not any(map(is_number, rows[0][1])):
        names, rows = rows[0][1], rows[1:]
    for line, cells in rows:
        if len(cells) != len(names):
            raise ValueError(f"{path}, line {line}: expected {len(names)} columns, got {len(cells)}")
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: expected a name for each column, got {', '.join(names)[:60]}")
    table = {name: [cells[i] for _, cells in rows] for i, name in enumerate(names)}
    return _without_index(Mixed(str(path), {name: _numbers(cells) for name, cells in table.items()}))


def _read_parquet(path: Path) -> Mixed:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"{path}: reading parquet needs pyarrow: pip install pyarrow") from error
    table = parquet.read_table(path)
    cells = {
        str(name): _numbers(["" if v is None else str(v) for v in column.to_pylist()])
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return _without_index(Mixed(str(path), cells))


def _numbers(cells: list[str]) -> Any:
    """Cells as numbers (N,), NaN where one is missing, if all others are numbers; else as they are."""
    missing = [cell.lower() in MISSING for cell in cells]
    if all(missing) or not all(gone or is_number(cell) for cell, gone in zip(cells, missing, strict=True)):
        return cells
    found = [float("nan") if gone else float(cell) for cell, gone in zip(cells, missing, strict=True)]
    values = torch.tensor(found, dtype=torch.float64)
    return cells if values.isinf().any() else values


def _without_index(table: Mixed) -> Mixed:
    """The table without the row numbers that pandas and R put before the columns."""
    first, cells = next(iter(table.cells.items()))
    if first not in INDEX or len(table.cells) < 2 or not isinstance(cells, Tensor) or len(cells.unique()) < len(cells):
        return table
    note = f"column {first!r} is taken for row numbers and left out"
    return Mixed(table.name, {k: v for k, v in table.cells.items() if k != first}, (*table.notes, note))


def _column(table: str, name: str, cells: Any, training: Tensor, bins: int) -> Column:
    if not isinstance(cells, Tensor):
        texts = sorted(set(cells))
        if len(texts) > MOST:
            raise ValueError(
                f"{table}, column {name!r}: expected up to {MOST} different texts, got {len(texts)} in {len(cells)} "
                f"rows, such as {texts[0]!r}: leave it out"
            )
        return Column(name, tuple(texts))
    gone = (None,) if cells.isnan().any() else ()
    values = cells[~cells.isnan()].unique()
    if len(values) > bins:
        seen = cells[training]
        seen = seen[~seen.isnan()].sort().values
        starts = seen[torch.arange(bins) * len(seen) // bins].unique()
        last = torch.cat((torch.searchsorted(seen, starts[1:]) - 1, torch.tensor([len(seen) - 1])))
        return Column(name, (*zip(starts.tolist(), seen[last].tolist(), strict=True), *gone))
    return Column(name, (*((v, v) for v in values.tolist()), *gone))
