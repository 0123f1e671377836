"""How path_sample is called: noise drawn or given, rows shorter and longer than what the kernels make at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyflowk import ops

from .base import DTYPES, OpCase


def _case(op: str, event: tuple[int, ...]) -> OpCase:
    drawn = op == "path_sample"

    def call(x1: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        x0, coefficients = (None, rest) if drawn else (rest[0], rest[1:])
        # one key, so that a row is the same alone
        keys = torch.full(x1.shape[:1], 2**61 + 12345, device=x1.device) if drawn else None
        return ops.path_sample(x1, coefficients, keys=keys, x0=x0)

    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows + 17 * math.prod(event))

        def some(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        events = [some(rows, *event).to(state) for _ in range(1 if drawn else 2)]
        wide = torch.float64 if state == torch.float64 else torch.float32
        return *events, *(some(rows).to(wide) for _ in range(4))

    dtypes = tuple(d for d in DTYPES if d[0] == d[1])
    # the plain formula's own noise is rounded: in float64 it is the kernel's truth
    return OpCase(f"{op}-{'x'.join(map(str, event))}", op, call, inputs, dtypes=dtypes, summands=math.prod(event),
                  extremes=not drawn)  # fmt: skip


EVENTS = [(), (1,), (2,), (63,), (3, 4, 4), (1, 130), (1028,)]
ALL = [_case(op, event) for op in ("path_sample", "path_between") for event in EVENTS]
SMALL = [_case("path_sample", (3,)), _case("path_between", (2, 2))]
FEW = [_case("path_sample", (6,)), _case("path_between", (2, 3))]
