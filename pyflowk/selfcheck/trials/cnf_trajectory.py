"""How `cnf_trajectory` is tried."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ops.cnf_trajectory import SMOOTH
from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


TWO_STAGES = (0.5, 0.25, 0.75)
FOUR_STAGES = (0.5, 0.25, 0.5, 0.5, -0.25, 0.75, 0.125, 0.25, 0.5, 0.125)


def _configs() -> list[tuple[Any, ...]]:
    rest = [(3, 2, activation, TWO_STAGES, 2, -0.2, 0.5) for activation in SMOOTH.values()]
    return [(64, 3, SMOOTH["tanh"], FOUR_STAGES, 4, 0.25, 0.5), *rest]


def _inputs(config: tuple[Any, ...], rows: int, size: int = 2) -> tuple[Tensor, ...]:
    width, depth, _, method, steps = config[:5]
    weights = 2 * size * width + (depth - 1) * width**2
    evaluations = steps * (4 if len(method) == len(FOUR_STAGES) else 2)
    tables = [noise(evaluations, depth * width + size) for _ in range(2)]
    return noise(rows, size), noise(rows, 2, size), noise(rows, width), noise(weights) / width**0.5, *tables


#: In float64 the formula is its own truth, and sums over a whole path round more than is allowed then.
_NARROW = (3, 2, SMOOTH["tanh"], TWO_STAGES, 2, -0.2, 0.5)
_LARGE = (128, 3, SMOOTH["tanh"], FOUR_STAGES, 2, 0.25, 0.5)

TRIALS = {
    "cnf_trajectory": Trial(
        _configs(),
        _inputs,
        (torch.float32,),
        lambda config: 64.0,
        large=Large(_LARGE, lambda rows: _inputs(_LARGE, rows, 16)),
        others=(Large(_NARROW, lambda rows: _inputs(_NARROW, rows), 1101),),  # which fill a card of wider panels
    )
}
