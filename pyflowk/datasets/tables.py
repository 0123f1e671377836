"""Tables of numbers as data sets: checked, split, and standardised by their training rows."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .base import Dataset, table_space
from .files import Table
from .moments import Moments, moments
from .preparation import Preparation
from .rows import PIECE, OnDemand, Watch, picked, pieces

Split = Literal["random", "time"]
RESOLVED = 65_536
"""Rows that are looked at to see whether the values of a column stay apart in float32."""


def prepare(
    table: Table,
    *,
    seed: int,
    split: Split = "random",
    preparation: Preparation | None = None,
    watch: Watch | None = None,
) -> Dataset:
    """Split a table (N, D), N >= 20, and standardise it: a tenth for the test, a tenth for validation, the rest trains.

    `split` "random" draws all parts by `seed`; "time" takes the last tenth of the rows for the test, so that a time
    series is tested on its future, and draws a tenth of N from the others for validation. The means and standard
    deviations are those of the training rows, or of a `preparation` that is there already, given columns included.
    A table that is not in memory is read three times, by pieces, whose moments add up to those of all but for rounding.
    Raises ValueError, naming column and row, for entries that are not finite, constant columns, and columns that lose
    their values in float32 because one of them is too far out.

    >>> import torch
    >>> from pyflowk.datasets import Table
    >>> from pyflowk.datasets.tables import prepare
    >>> data = prepare(Table("ramp", torch.arange(40.0).reshape(20, 2).double()), seed=0)
    >>> len(data.train), len(data.valid), len(data.test), round(data.train.std().item(), 2)
    (16, 2, 2, 0.98)
    """
    ends = check(table, watch)
    order = parts(len(table.values), seed, split)
    if preparation is None:
        found = moments(picked(table.values, order[0]), "mean and deviation", watch)
        _require_varying(table, found)
        preparation = Preparation.of(found, table.columns)
    values = preparation.select(table)
    x, contexts = preparation.apply(table)
    if isinstance(x, OnDemand):
        preparation.apply(Table(f"{table.name}, least and greatest values", ends, table.columns))
    seen = [] if contexts is None else [picked(contexts, rows) for rows in order]
    return Dataset(
        table.name, table_space(preparation), *(picked(x, rows) for rows in order), *seen,
        preparation=preparation, fingerprint=Table(table.name, values).fingerprint(watch), notes=table.notes,
    )  # fmt: skip


def parts(count: int, seed: int, split: Split = "random") -> tuple[Tensor, Tensor, Tensor]:
    """The rows of the training, validation and test part of a table of `count` rows; see `prepare`."""
    if split not in ("random", "time"):
        raise ValueError(f"split: expected random or time, got {split!r}")
    part, generator = count // 10, torch.Generator().manual_seed(seed)
    order = torch.randperm(count if split == "random" else count - part, generator=generator)
    if split == "time":
        order = torch.cat([order, torch.arange(count - part, count)])
    return order[: count - 2 * part], order[count - 2 * part : count - part], order[count - part :]


def before_the_last_tenth(table: Table) -> Preparation:
    """What runs used that were made before the preparation was stored with them: all rows but the test's."""
    rows = torch.arange(len(table.values) - len(table.values) // 10)
    return Preparation.fit(picked(table.values, rows), table.columns)


def check(table: Table, watch: Watch | None = None) -> Tensor:
    """Raise ValueError, naming column and row, for a table that cannot be learned from; its extremes (2, D)."""
    values = table.values
    if values.ndim != 2 or values.shape[1] < 1 or len(values) < 20:
        raise ValueError(f"{table.name}: expected a table of at least 20 rows, got shape {tuple(values.shape)}")
    found = moments(values, "looked at", watch)
    if not bool((found.low.isfinite() & found.high.isfinite()).all()):
        start, broken = next((at, rows) for at, rows in pieces(values) if not bool(rows.isfinite().all()))
        row, column = (~broken.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"{table.name}, {table.row(start + row)}, {table.column(column)}: expected a finite number, "
            f"got {broken[row, column].item():g}"
        )
    _require_varying(table, found)
    _require_apart(table, Preparation.of(found))
    return torch.stack([found.low, found.high])


def _require_apart(table: Table, preparation: Preparation) -> None:
    """The values of each column, or of rows all over the table, are to be different ones in float32, too."""
    values, width = table.values, table.values.shape[1]
    most = min(RESOLVED, 4 * PIECE // width) if isinstance(values, OnDemand) else RESOLVED
    shown = values[:: max(1, len(values) // most)]
    z = preparation.apply(shown)[0]
    for column in range(width):
        apart = len(shown[:, column].unique())
        if len(z[:, column].unique()) < max(min(apart, 8), apart // 2):
            every = torch.cat([rows[:, column] for _, rows in pieces(values)])
            row = int((every - every.median()).abs().argmax())
            raise ValueError(
                f"{table.name}, {table.column(column)}: {every[row].item():g} ({table.row(row)}) is so far "
                "from the other values that they become equal in float32: remove it, or take logarithms"
            )


def _require_varying(table: Table, found: Moments) -> None:
    constant = (found.low == found.high).nonzero().flatten().tolist()
    if constant:
        where = "every row" if found.count == len(table.values) else "every training row"
        raise ValueError(
            f"{table.name}: expected columns that vary, but {table.column(constant[0])} is "
            f"{found.low[constant[0]].item():g} in {where}"
        )
