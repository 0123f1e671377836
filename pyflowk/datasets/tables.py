"""Tables of numbers as data sets: checked, split, and standardised by their training rows."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .base import Dataset, table_space
from .files import Table
from .preparation import Preparation

Split = Literal["random", "time"]
RESOLVED = 65_536
"""Rows that are looked at to see whether the values of a column stay apart in float32."""


def prepare(table: Table, *, seed: int, split: Split = "random", preparation: Preparation | None = None) -> Dataset:
    """Split a table (N, D), N >= 20, and standardise it: a tenth for the test, a tenth for validation, the rest trains.

    `split` "random" draws all parts by `seed`; "time" takes the last tenth of the rows for the test, so that a time
    series is tested on its future, and draws a tenth of N from the others for validation. The means and standard
    deviations are those of the training rows, or of a `preparation` that is there already, given columns included.
    Raises ValueError, naming column and row, for entries that are not finite, constant columns, and columns that lose
    their values in float32 because one of them is too far out.

    >>> import torch
    >>> from pyflowk.datasets import Table
    >>> from pyflowk.datasets.tables import prepare
    >>> data = prepare(Table("ramp", torch.arange(40.0).reshape(20, 2).double()), seed=0)
    >>> len(data.train), len(data.valid), len(data.test), round(data.train.std().item(), 2)
    (16, 2, 2, 0.98)
    """
    check(table)
    train, valid, test = parts(len(table.values), seed, split)
    if preparation is None:
        _check_varying(table, train)
        preparation = Preparation.fit(table.values[train], table.columns)
    values = preparation.select(table)
    x, contexts = preparation.apply(table)
    seen = (None, None, None) if contexts is None else (contexts[train], contexts[valid], contexts[test])
    return Dataset(
        table.name, table_space(preparation), x[train], x[valid], x[test], *seen,
        preparation=preparation, fingerprint=Table(table.name, values).fingerprint(), notes=table.notes,
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
    return Preparation.fit(table.values[: -(len(table.values) // 10)], table.columns)


def check(table: Table) -> None:
    """Raise ValueError, naming column and row, for a table that cannot be learned from."""
    values = table.values
    if values.ndim != 2 or values.shape[1] < 1 or len(values) < 20:
        raise ValueError(f"{table.name}: expected a table of at least 20 rows, got shape {tuple(values.shape)}")
    if not bool(values.isfinite().all()):
        row, column = (~values.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"{table.name}, {table.row(row)}, {table.column(column)}: expected a finite number, "
            f"got {values[row, column].item():g}"
        )
    _check_varying(table, torch.arange(len(values)))
    shown = values[:: max(1, len(values) // RESOLVED)]
    z = Preparation.fit(values).apply(shown)[0]
    for column in range(values.shape[1]):
        apart = len(shown[:, column].unique())
        if len(z[:, column].unique()) < max(min(apart, 8), apart // 2):
            row = int((values[:, column] - values[:, column].median()).abs().argmax())
            raise ValueError(
                f"{table.name}, {table.column(column)}: {values[row, column].item():g} ({table.row(row)}) is so far "
                "from the other values that they become equal in float32: remove it, or take logarithms"
            )


def _check_varying(table: Table, rows: Tensor) -> None:
    values = table.values[rows]
    constant = (values.amin(0) == values.amax(0)).nonzero().flatten().tolist()
    if constant:
        where = "every row" if len(rows) == len(table.values) else "every training row"
        value = values[0, constant[0]].item()
        raise ValueError(
            f"{table.name}: expected columns that vary, but {table.column(constant[0])} is {value:g} in {where}"
        )
