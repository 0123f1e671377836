"""What is done to the rows of a table before a model sees them, and how it is undone: a part of every run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._hints import did_you_mean
from .files import Table
from .moments import Moments, moments
from .rows import Mapped, OnDemand, Rows, chosen, in_place


@dataclass(frozen=True)
class Preparation:
    r"""Rows of a table in the table's units <-> what a model sees: :math:`z = (x - \mu) / \sigma`, column by column.

    ``mean`` and ``std`` are those of the training rows, float64. ``columns`` are names, () where the table has none:
    columns are then called by their numbers, counted from 0. The columns at the positions ``given`` are contexts, the
    others events. All arithmetic is in float64; events and contexts are float32, on the device of the rows. A density
    over z becomes one in the table's units by ``log_scale``: :math:`\log p(x) = \log p(z) - \sum \log \sigma`, over
    the events' columns.

    >>> import torch
    >>> from pyflowk.datasets import Preparation
    >>> weather = Preparation((20.0, 3.0), (5.0, 2.0), ("temp", "rain"), given=(0,))
    >>> z, context = weather.apply(torch.tensor([[25.0, 7.0]]))
    >>> z, context, weather.undo(z, context)
    (tensor([[2.]]), tensor([[1.]]), tensor([[25.,  7.]], dtype=torch.float64))
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    columns: tuple[str, ...] = ()
    given: tuple[int, ...] = ()

    @classmethod
    def fit(cls, rows: Rows, columns: Sequence[str] = ()) -> Preparation:
        """By the mean and the standard deviation of rows (N, D), in memory or on demand."""
        return cls.of(moments(rows), columns)

    @classmethod
    def of(cls, found: Moments, columns: Sequence[str] = ()) -> Preparation:
        """By moments that are known already."""
        return cls(tuple(found.mean.tolist()), tuple(found.std.tolist()), tuple(columns))

    @classmethod
    def identity(cls, width: int, columns: Sequence[str] = ()) -> Preparation:
        """Nothing is done: the units are the model's."""
        return cls((0.0,) * width, (1.0,) * width, tuple(columns))

    @property
    def names(self) -> tuple[str, ...]:
        """What each column is called."""
        return self.columns or tuple(map(str, range(len(self.mean))))

    @property
    def modelled(self) -> tuple[int, ...]:
        """The columns that are not given."""
        return tuple(i for i in range(len(self.mean)) if i not in self.given)

    @property
    def log_scale(self) -> float:
        """The sum of log std over the modelled columns: densities in the table's units are lower by it, in nats."""
        return math.fsum(math.log(self.std[i]) for i in self.modelled)

    @property
    def is_identity(self) -> bool:
        return not any(self.mean) and all(std == 1 for std in self.std)

    def find(self, column: int | str) -> int:
        """The position of a column by its name or its number (of two meanings the name); or ValueError."""
        if isinstance(column, str) and column in self.columns:
            return self.columns.index(column)
        if str(column).isdecimal() and int(column) < len(self.mean):
            return int(column)
        raise ValueError(f"no column {column!r}{did_you_mean(column, self.names)}: there are {self._listed}")

    def conditioned(self, columns: Sequence[int | str]) -> Preparation:
        """The same with these columns, in this order, as contexts: some, each once, or ValueError."""
        given = tuple(self.find(column) for column in columns)
        if not 0 < len(set(given)) == len(given) < len(self.mean):
            raise ValueError(f"expected some of the columns {self._listed}, each once; got {list(columns)}")
        return replace(self, given=given)

    def apply(self, rows: Tensor | Table) -> tuple[Any, Any]:
        """Rows (N, D) in the table's units -> events (N, d) and contexts (N, c), None without given columns; float32.

        The columns of a `Table` are found by name where both have names; what it reads on demand is prepared when it is
        read. Raises ValueError, now or then, for columns that are not there, and for numbers that are not finite or
        become so in float32.
        """
        table = rows if isinstance(rows, Table) else Table("rows", rows)
        values = self.select(table)
        if isinstance(values, OnDemand):
            x = Mapped(values, _Applied(self, table.name, 0), (len(self.modelled),), torch.float32)
            given = Mapped(values, _Applied(self, table.name, 1), (len(self.given),), torch.float32)
            return x, given if self.given else None
        z = self._scaled(values, range(len(self.mean)))
        if not bool(z.isfinite().all()):
            row, column = (~z.isfinite()).nonzero()[0].tolist()
            raise ValueError(
                f"{table.name}, {table.row(row)}: expected a finite number near {self.mean[column]:.4g} in column "
                f"{self.names[column]!r}, got {values[row, column].item():g}"
            )
        context = z[:, list(self.given)] if self.given else None
        return z[:, list(self.modelled)], context

    def undo(self, events: Any, contexts: Any = None) -> Tensor:
        """Events (N, d) -> their columns in the table's units, (N, d) float64.

        With contexts, (N, c) or (1, c) for all, whole rows (N, D) in the table's order.
        """
        found = self._unscaled(events, self.modelled)
        if contexts is None or not self.given:
            return found
        rows = found.new_empty(len(found), len(self.mean))
        rows[:, list(self.modelled)] = found
        rows[:, list(self.given)] = self._unscaled(contexts, self.given)
        return rows

    def undone(self, events: Any, contexts: Any = None) -> Any:
        """What `undo` gives, on demand where the events are."""
        return _Undone(self, events, contexts) if isinstance(events, OnDemand) else self.undo(events, contexts)

    def context(self, values: Mapping[str, float]) -> Tensor:
        """One context (1, c) for values of the given columns in the table's units, or ValueError unless all are there.

        >>> from pyflowk.datasets import Preparation
        >>> Preparation((20.0, 3.0), (5.0, 2.0), ("temp", "rain"), given=(0,)).context({"temp": 30})
        tensor([[2.]])
        """
        return self.context_of(self.given_values(values))

    def context_of(self, values: Tensor) -> Tensor:
        """Contexts (N, c) for values (N, c) of the given columns, in their order and the table's units."""
        return self._scaled(values.double(), self.given)

    def given_values(self, values: Mapping[str, float]) -> Tensor:
        """The values (1, c) in the order of the contexts, float64, checked."""
        wanted = [self.names[i] for i in self.given]
        if not wanted:
            raise ValueError("this model has no given columns")
        found: dict[int, float] = {}
        for key, value in values.items():
            position = self.find(key)
            if position not in self.given:
                raise ValueError(
                    f"column {self.names[position]!r} is not given but modelled; given are {', '.join(wanted)}"
                )
            if position in found:
                raise ValueError(f"column {self.names[position]!r} stands twice")
            if not math.isfinite(value):
                raise ValueError(f"column {self.names[position]!r}: expected a finite number, got {value}")
            found[position] = float(value)
        missing = [self.names[i] for i in self.given if i not in found]
        if missing:
            raise ValueError(f"expected a value for each of {', '.join(wanted)}; {', '.join(missing)} missing")
        return torch.tensor([[found[i] for i in self.given]], dtype=torch.float64)

    def select(self, table: Table) -> Any:
        """The columns of a table in this order, (N, D) float64; by name where both have names, else all of them."""
        if self.columns and table.columns:
            missing = [name for name in self.columns if name not in table.columns]
            if missing:
                raise ValueError(
                    f"{table.name}: expected the columns {', '.join(self.columns)}; {', '.join(missing)} missing, "
                    f"there are {', '.join(table.columns)}"
                )
            return _double(chosen(table.values, [table.columns.index(name) for name in self.columns]))
        if table.values.ndim != 2 or table.values.shape[1] != len(self.mean):
            raise ValueError(
                f"{table.name}: expected rows of {len(self.mean)} columns ({', '.join(self.names)}), "
                f"got shape {tuple(table.values.shape)}"
            )
        return _double(table.values)

    def drift(self, rows: Rows) -> list[str]:
        """Columns whose mean or standard deviation over rows (N, D) in the table's units is another now, in words."""
        now, found = Preparation.fit(rows), []
        for i, name in enumerate(self.names):
            moved = max(abs(now.mean[i] - self.mean[i]), abs(now.std[i] - self.std[i]))
            if moved > 1e-4 * self.std[i]:
                found.append(
                    f"column {name!r} has mean {now.mean[i]:.6g} and std {now.std[i]:.6g} "
                    f"where it had {self.mean[i]:.6g} and {self.std[i]:.6g}"
                )
        return found

    @property
    def digits(self) -> list[int]:
        """Significant digits with which samples of each column are written: about 1e-6 of its standard deviation."""
        return [min(17, 7 + math.ceil(math.log10(1 + abs(m) / s))) for m, s in zip(self.mean, self.std)]

    def as_json(self) -> dict[str, Any]:
        """JSON values; Python writes float64 so that they come back as they were."""
        return {key: list(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preparation:
        """The inverse of `as_json`; raises ValueError or TypeError for anything else."""
        found = cls(**{key: tuple(value) for key, value in values.items()})
        width = len(found.mean)
        if len(found.std) != width or (found.columns and len(found.columns) != width):
            raise ValueError(f"expected a mean, a std and a name for each of {width} columns")
        if not all(math.isfinite(m) and 0 < s < math.inf for m, s in zip(found.mean, found.std)):
            raise ValueError("expected finite means and standard deviations above 0")
        if not all(i in range(width) for i in found.given):
            raise ValueError(f"expected given columns from 0 to {width - 1}, got {list(found.given)}")
        return found

    @property
    def _listed(self) -> str:
        return ", ".join(self.columns) or f"0 to {len(self.mean) - 1}"

    def _moments(self, columns: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (like.new_tensor([of[i] for i in columns], dtype=torch.float64) for of in (self.mean, self.std))
        return mean, std

    def _scaled(self, rows: Tensor, columns: Sequence[int]) -> Tensor:
        mean, std = self._moments(columns, rows)
        return ((rows - mean) / std).float()

    def _unscaled(self, z: Tensor, columns: Sequence[int]) -> Tensor:
        mean, std = self._moments(columns, z)
        return z.detach().double() * std + mean


@dataclass(frozen=True)
class _Applied:
    """Events, or contexts, of rows that are read on demand."""

    preparation: Preparation
    name: str
    which: int

    def __call__(self, rows: Tensor) -> Tensor:
        found: Tensor = self.preparation.apply(Table(self.name, rows, self.preparation.columns))[self.which]
        return found


class _Undone(OnDemand):
    """Rows of a table whose events and contexts are read on demand."""

    def __init__(self, preparation: Preparation, events: OnDemand, contexts: OnDemand | None) -> None:
        width = len(preparation.mean) if contexts is not None else len(preparation.modelled)
        super().__init__((len(events), width), torch.float64)
        self.preparation, self.events, self.contexts = preparation, events, contexts

    def __getitem__(self, rows: Tensor | slice, /) -> Tensor:
        known = None if self.contexts is None else self.contexts[rows]
        return self.preparation.undo(self.events[rows], known)

    def in_place(self) -> _Undone:
        return _Undone(self.preparation, self.events.in_place(), in_place(self.contexts))


def _double(values: Any) -> Any:
    """Rows on demand are float64 already."""
    return values if isinstance(values, OnDemand) else values.double()
