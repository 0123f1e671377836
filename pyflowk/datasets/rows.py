"""What a part of a data set is: rows that are taken by their numbers, in memory or elsewhere."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Rows(Protocol):
    """Events or contexts, row by row: a tensor, a :class:`Ragged`, or what reads the rows that are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor | slice, /) -> Any:
        """These rows as a tensor or as a :class:`Ragged`."""
