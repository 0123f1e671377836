"""How mlp is called: every number of layers and activation, with and without a shift, widths around a register's."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from pyflowk import ops

from .base import DTYPES, OpCase


def _case(widths: tuple[int, ...], activation: str, shifted: bool = False) -> OpCase:
    layers = len(widths) - 1

    def call(*tensors: Tensor) -> tuple[Tensor]:
        x, *rest = tensors
        shift = rest.pop(0) if shifted else None
        return (ops.mlp(x, rest[0::2], rest[1::2], activation=activation, shift=shift),)

    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows + 13 * sum(widths))

        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        parameters = [(noise(b, a) * a**-0.5, noise(b)) for a, b in pairwise(widths)]
        shift = (noise(rows, widths[1]).to(state),) if shifted else ()
        return noise(rows, widths[0]).to(state), *shift, *(t.to(params or state) for pair in parameters for t in pair)

    first = 2 if shifted else 1
    name = f"mlp-{activation}-{'x'.join(map(str, widths))}{'-shift' if shifted else ''}"
    return OpCase(
        name, "mlp", call, inputs, shared=frozenset(range(first, first + 2 * layers)),
        dtypes=tuple(pair for pair in DTYPES if pair[0] in (torch.float32, torch.float64)), extremes=False,
        summands=sum(widths), spreads_nan=True,
    )  # fmt: skip


ALL = [
    _case((32, 64, 64, 48), "relu"),
    _case((1, 2, 2), "tanh"),
    _case((5, 17, 9, 3), "silu", shifted=True),
    _case((7, 33, 2), "selu", shifted=True),
    _case((2, 12, 12, 12, 5), "elu"),
    _case((150, 140, 30, 20, 10, 4), "leaky_relu"),
]
SMALL = [_case((3, 4, 2), "tanh", shifted=True), _case((2, 3, 3, 2), "silu"), _case((2, 3, 2, 3, 2, 2), "elu")]
FEW = [_case((3, 4, 2), "tanh"), _case((2, 3, 3, 2), "silu", shifted=True)]
