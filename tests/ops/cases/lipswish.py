"""How lipswish is called: events around a register's and a stage's size."""

from __future__ import annotations

import torch
from torch import Tensor

from pyflowk import ops

from .base import DTYPES, OpCase


def _case(*event: int) -> OpCase:
    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows + sum(event))
        x = 3 * torch.randn((rows, *event), generator=generator, dtype=torch.float64)
        return x.to(state), torch.tensor([1.3], dtype=state)

    return OpCase(
        f"lipswish-{'x'.join(map(str, event))}", "lipswish", ops.lipswish, inputs, shared=frozenset({1}),
        dtypes=tuple(pair for pair in DTYPES if pair[0] in (torch.float32, torch.float64)), extremes=False,
        summands=1000,
    )  # fmt: skip


ALL = [_case(), _case(7), _case(3, 5, 41)]
SMALL = [_case(3)]
FEW = [_case(3)]
