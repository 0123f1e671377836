"""How `sinkhorn` and its draw are tried."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...ops.sinkhorn import COLUMNS
from ..trial import Trial, noise

__all__ = ["TRIALS"]

_SOURCES, _TARGETS, _SIZE = 21, 18, 3


def _inputs(config: tuple[Any, ...], rows: int) -> tuple[Any, ...]:
    x0, x1 = noise(rows, _SOURCES, _SIZE), noise(rows, _TARGETS, _SIZE)
    a, b = (torch.rand(rows, n, generator=torch.Generator().manual_seed(n)).double() for n in (_SOURCES, _TARGETS))
    a, b = (w / w.sum(1, keepdim=True) for w in (a, b))
    return (x0, [x1], a, b, torch.zeros_like(a), torch.zeros_like(b), torch.zeros(rows, COLUMNS, dtype=torch.float64))


def _draw_inputs(config: tuple[Any, ...], rows: int) -> tuple[Any, ...]:
    """Chances that are far from each other, and uniform numbers that are far from where they meet."""
    targets = 4 * torch.arange(4.0, dtype=torch.float64).reshape(1, 4, 1).expand(rows, 4, 1)
    x0 = 4.0 * (torch.arange(5, dtype=torch.float64) % 4).reshape(1, 5, 1).expand(rows, 5, 1)
    one = torch.ones(rows, 4, dtype=torch.float64)
    return x0.contiguous(), [targets.contiguous()], one, 0 * one, torch.full((rows, 5), 0.5, dtype=torch.float64)


#: few steps, as what mixing finds grows with their rounding; weights and potentials are as wide as arithmetic
TRIALS = {
    "sinkhorn": Trial(
        [(2.0, math.inf, 0.0, 90, 3), (0.7, 0.5, 0.0, 90, 3), (5.0, math.inf, 1e-2, 90, 90)],
        _inputs,
        (torch.float32, torch.float64),
        lambda config: 64.0,
        double=(6,),
    ),
    "sinkhorn_draw": Trial([(0.5,)], _draw_inputs, (torch.float32, torch.float64), double=(4,)),
}
