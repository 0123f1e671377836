"""How rk_combine and rk_error are called: every number of slopes, events around the widths of the kernels' ways."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyflowk import ops

from .base import DTYPES, OpCase

#: none of them zero, so that none is left out
WEIGHTS = [0.3, -0.7, 1.1, 0.05, -0.4, 0.9, -1.3, 0.6, 0.2]


def _inputs(event: tuple[int, ...], tensors: int, rows: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(rows + 17 * math.prod(event) + tensors)
    steps = 0.1 + torch.rand(rows, generator=generator, dtype=torch.float64)
    state = [torch.randn(rows, *event, generator=generator, dtype=torch.float64).to(dtype) for _ in range(tensors)]
    return *state, steps.to(torch.float64 if dtype == torch.float64 else torch.float32)


def _combine(n: int, event: tuple[int, ...]) -> OpCase:
    def call(y: Tensor, *rest: Tensor) -> tuple[Tensor]:
        *ks, h = rest
        return (ops.rk_combine(y, h, ks, WEIGHTS[:n]),)

    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        return _inputs(event, 1 + n, rows, state)

    return OpCase(f"rk_combine-{n}-{'x'.join(map(str, event))}", "rk_combine", call, inputs, dtypes=tuple(DTYPES[:4]))


def _error(n: int, event: tuple[int, ...]) -> OpCase:
    def call(y0: Tensor, y1: Tensor, *rest: Tensor) -> tuple[Tensor]:
        *ks, h = rest
        return (ops.rk_error(y0, y1, h, ks, WEIGHTS[:n], rtol=0.3, atol=0.2),)

    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        return _inputs(event, 2 + n, rows, state)

    return OpCase(f"rk_error-{n}-{'x'.join(map(str, event))}", "rk_error", call, inputs, dtypes=tuple(DTYPES[:4]))


EVENTS = [(), (1,), (2,), (64,), (3, 5, 7), (600,)]
ALL = [
    *(_combine(n, (7,)) for n in range(1, 10)),
    *(_error(n, (7,)) for n in range(1, 10)),
    *(make(4, event) for make in (_combine, _error) for event in EVENTS),
    *(make(2, event) for make in (_combine, _error) for event in [(4099,), (3, 37, 40)]),  # more than a block's
]
SMALL = [_combine(2, (3,)), _combine(5, (2, 2)), _error(2, (3,)), _error(4, (2, 2))]
FEW = [_combine(3, (6,)), _error(2, (2, 3))]
