"""How `sinkhorn` and its draw are tried."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...ops.sinkhorn import COLUMNS
from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


def _inputs(config: tuple[Any, ...], rows: int, sources: int = 21, targets: int = 18, size: int = 3) -> tuple[Any, ...]:
    x0, x1 = noise(rows, sources, size), noise(rows, targets, size)
    a, b = (torch.rand(rows, n, generator=torch.Generator().manual_seed(n)).double() for n in (sources, targets))
    a, b = (w / w.sum(1, keepdim=True) for w in (a, b))
    return (x0, [x1], a, b, torch.zeros_like(a), torch.zeros_like(b), torch.zeros(rows, COLUMNS, dtype=torch.float64))


def _draw_inputs(config: tuple[Any, ...], rows: int, each: int = 1) -> tuple[Any, ...]:
    """Chances that are far from each other, and uniform numbers that are far from where they meet."""
    n, m = 5 * each, 4 * each
    targets = 4 * torch.arange(m, dtype=torch.float64).reshape(1, m, 1).repeat(rows, 1, 1)
    x0 = 4 * (torch.arange(n, dtype=torch.float64) % m).reshape(1, n, 1).repeat(rows, 1, 1)
    one = torch.ones(rows, m, dtype=torch.float64)
    return x0, [targets], one, 0 * one, torch.full((rows, n), 0.5, dtype=torch.float64)


_LARGE = (2.0, math.inf, 0.0, 90, 3)


#: few steps, as what mixing finds grows with their rounding; weights and potentials are as wide as arithmetic
TRIALS = {
    "sinkhorn": Trial(
        [(2.0, math.inf, 0.0, 90, 3), (0.7, 0.5, 0.0, 90, 3), (5.0, math.inf, 1e-2, 90, 90)],
        _inputs,
        (torch.float32, torch.float64),
        lambda config: 64.0,
        double=(6,),
        large=Large(_LARGE, lambda rows: _inputs(_LARGE, rows, 210, 190, 8), 9),
    ),
    "sinkhorn_draw": Trial(
        [(0.5,)],
        _draw_inputs,
        (torch.float32, torch.float64),
        double=(4,),
        large=Large((0.5,), lambda rows: _draw_inputs((0.5,), rows, 50), 9),
    ),
}
