"""What a part of a data set is: rows that are taken by their numbers, in memory or read when they are asked for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .._threads import one_thread
from ..space import cat

PIECE = 1 << 17
"""Numbers of rows on disk that are looked at together, 1 MB of float64."""

Watch = Callable[[str], Callable[[float], None]]
"""Given what a long pass over the data does, what hears of the part that is done, 0 to 1."""


class Rows(Protocol):
    """Events or contexts, row by row: a tensor, a :class:`Ragged`, or rows that are read :class:`OnDemand`."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor | slice, /) -> Any:
        """These rows as a tensor or as a :class:`Ragged`."""


class OnDemand(ABC):
    r"""Rows (N, \*event) that are read when they are asked for: ``[LongTensor]`` and ``[slice]`` are tensors.

    They are looked at by `pieces`, and handed on as a `Picked`, `Mapped` or `Joined`, which read nothing by themselves.
    """

    decoded = False
    """Whether a row has to be decoded: work for a processor, and not for the disk alone."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.shape, self.dtype = tuple(shape), dtype

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """The number of sizes, that of the rows included."""
        return len(self.shape)

    @abstractmethod
    def __getitem__(self, rows: Tensor | slice, /) -> Tensor:
        """These rows."""

    def in_place(self) -> OnDemand:
        """The same rows in the order in which they are read fastest, for what does not depend on the order."""
        return self


class Picked(OnDemand):
    """The rows of a source whose numbers are given: a part of it, in any order."""

    def __init__(self, source: OnDemand, order: Tensor) -> None:
        super().__init__((len(order), *source.shape[1:]), source.dtype)
        self.source, self.order, self.decoded = source, order, source.decoded

    def __getitem__(self, rows: Tensor | slice, /) -> Tensor:
        return self.source[self.order[rows]]

    def in_place(self) -> Picked:
        """By the numbers in the source."""
        import numpy as np  # whose sort needs no room for a second copy

        return Picked(self.source.in_place(), torch.from_numpy(np.sort(self.order.numpy())))


class Mapped(OnDemand):
    """A function of the rows of a source, row by row."""

    def __init__(
        self, source: OnDemand, function: Callable[[Tensor], Tensor], event: Sequence[int], dtype: torch.dtype
    ) -> None:
        super().__init__((len(source), *event), dtype)
        self.source, self.function, self.decoded = source, function, source.decoded

    def __getitem__(self, rows: Tensor | slice, /) -> Tensor:
        return self.function(self.source[rows])

    def in_place(self) -> Mapped:
        """As the source's are."""
        return Mapped(self.source.in_place(), self.function, self.shape[1:], self.dtype)


class Joined(OnDemand):
    """The rows of one source behind those of another."""

    def __init__(self, *sources: OnDemand) -> None:
        super().__init__((sum(map(len, sources)), *sources[0].shape[1:]), sources[0].dtype)
        self.sources, self.decoded = sources, any(source.decoded for source in sources)

    def __getitem__(self, rows: Tensor | slice, /) -> Tensor:
        numbers = torch.arange(len(self))[rows] if isinstance(rows, slice) else rows
        found, start = torch.empty((len(numbers), *self.shape[1:]), dtype=self.dtype), 0
        for source in self.sources:
            inside = ((numbers >= start) & (numbers < start + len(source))).nonzero().flatten()
            if len(inside):
                found[inside] = source[numbers[inside] - start]
            start += len(source)
        return found


@dataclass(frozen=True)
class _Columns:
    """Some columns of rows (N, D)."""

    positions: tuple[int, ...]

    def __call__(self, rows: Tensor) -> Tensor:
        return rows[:, list(self.positions)]


def chosen(rows: Any, positions: Sequence[int]) -> Any:
    """Some columns, in this order, of rows (N, D), in memory or on demand."""
    pick = _Columns(tuple(positions))
    return Mapped(rows, pick, (len(positions),), rows.dtype) if isinstance(rows, OnDemand) else pick(rows)


def picked(rows: Any, order: Tensor) -> Any:
    """The rows with these numbers, in memory or on demand."""
    return Picked(rows, order) if isinstance(rows, OnDemand) else rows[order]


def joined(parts: Sequence[Any]) -> Any:
    """The rows of all parts, one behind the other, in memory or on demand."""
    return Joined(*parts) if isinstance(parts[0], OnDemand) else cat(parts)


def in_place(rows: Any) -> Any:
    """The rows in the order in which they are read fastest, for what does not depend on the order."""
    return rows.in_place() if isinstance(rows, OnDemand) else rows


def pieces(rows: Any, what: str = "read", watch: Watch | None = None) -> Iterator[tuple[int, Any]]:
    """(number of its first row, rows) of consecutive pieces, on one thread; what is in memory is one piece."""
    if not isinstance(rows, OnDemand):
        yield 0, rows
        return
    say = None if watch is None else watch(what)
    step = max(1, PIECE // max(1, math.prod(rows.shape[1:])))
    with one_thread():
        for start in range(0, len(rows), step):
            yield start, rows[start : start + step]
            if say is not None:
                say(min(1.0, (start + step) / len(rows)))
