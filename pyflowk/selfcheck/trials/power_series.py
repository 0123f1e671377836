"""How `power_series` is tried."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

from ...ops.power_series import MOST_FACTORS
from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


def _inputs(config: tuple[Any, ...], rows: int) -> tuple[Any, ...]:
    return _of((20, *(65,) * (1 + config[0] % (MOST_FACTORS - 1)), 20), config[0] + 2, rows)


def _of(widths: tuple[int, ...], kinds: int, rows: int) -> tuple[Any, ...]:
    slopes = [noise(rows, width).tanh() for width in widths[1:-1]]
    weights = [noise(b, a) / (a**0.5 + b**0.5) for a, b in pairwise(widths)]
    return noise(rows, widths[0]), slopes, weights, torch.arange(rows) % kinds


#: in float64 the formula is its own truth: sums of 64 products a factor, in another order
TRIALS = {
    "power_series": Trial(
        [(10, 1, 1.0), (8, 1, 1.0), (9, 2, 0.6), (11, 1, 0.8)],
        _inputs,
        (torch.float32, torch.float64),
        lambda config: 16.0,
        large=Large((10, 1, 1.0), lambda rows: _of((64, 128, 128, 64), 12, rows)),
    )
}
