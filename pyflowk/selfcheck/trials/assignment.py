"""How `assignment` is tried, of costs and of points."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


def _costs(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    return (noise(rows, 24, 24),)


def _points(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    return noise(rows, 24, 3), noise(rows, 24, 3).flip(1)


#: columns and totals are compared: of prices there are many that prove them
TRIALS = {
    "assignment": Trial([()], _costs, compared=2, large=Large((), lambda rows: (noise(rows, 96, 96),), 3)),
    "assignment_of_points": Trial(
        [()], _points, compared=2, large=Large((), lambda rows: (*noise(2, rows, 96, 8).unbind(0),), 3)
    ),
}
