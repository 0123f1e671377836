"""How activation_with_tangents is called: both kernels, events around a register's and a stage's size."""

from __future__ import annotations

import torch
from torch import Tensor

from pyflowk import ops

from .base import DTYPES, OpCase


def _case(activation: str, number: int, *event: int) -> OpCase:
    def call(x: Tensor, dx: Tensor) -> tuple[Tensor, ...]:
        return ops.activation_with_tangents(x, dx, activation)

    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows + number + sum(event))
        shapes = (rows, *event), (rows, number, *event)
        return tuple(2 * torch.randn(s, generator=generator, dtype=torch.float64).to(state) for s in shapes)

    name = f"activation_tangents-{activation}-{number}-{'x'.join(map(str, event))}"
    return OpCase(name, "activation_tangents", call, inputs, dtypes=tuple(DTYPES[:4]), summands=10, extremes=False)


ALL = [_case("silu", 1, 7), _case("silu", 2, 3, 5, 41), _case("gelu_tanh", 1, 33), _case("gelu_tanh", 3, 700),
       _case("silu", 1)]  # fmt: skip
SMALL = [_case("silu", 2, 3), _case("gelu_tanh", 1, 4)]
FEW = [_case("gelu_tanh", 2, 3)]
