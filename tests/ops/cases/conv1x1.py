"""How conv1x1 is called: vectors, images whose positions fill vectors or do not, with a bias and without."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyflowk import ops

from .base import DTYPES, Barriers, OpCase


def _case(event: tuple[int, ...], bias: bool) -> OpCase:
    def call(x: Tensor, weight: Tensor, terms: Tensor, *bias: Tensor) -> tuple[Tensor, ...]:
        return ops.conv1x1(x, weight, terms, *bias)

    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows + 17 * math.prod(event))
        sums = torch.float64 if state == torch.float64 else torch.float32
        c = event[0]
        shapes = [(rows, *event), (c, c), (c,)] + [(c,)] * bias
        tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
        tensors[1] /= c**0.5
        return tensors[0].to(state), *(t.to(sums) for t in tensors[1:])

    name = f"conv1x1-{'x'.join(map(str, event))}{'-bias' * bias}"
    dtypes = tuple(d for d in DTYPES if d[0] == d[1])
    summands = max(event[0], 9 * math.prod(event[1:]))
    return OpCase(name, "conv1x1", call, inputs, frozenset(range(1, 3 + bias)), dtypes, summands=summands)


#: channels around the blocks of the products, positions around vectors and tiles; more channels than a block of W.
ALL = [
    _case(event, bias)
    for event, bias in [
        ((1,), True),
        ((2,), False),
        ((7,), True),
        ((33,), False),
        ((12, 16, 16), True),
        ((3, 5, 7), False),
        ((5, 8), True),
        ((6, 2, 2), False),
        ((13, 257), True),
        ((130, 3), True),
        ((194, 8), False),
    ]
]

SMALL = [_case((3,), True), _case((2, 8), False), _case((4, 3), True)]

FEW = [_case((4,), True), _case((3, 2, 4), False)]
BARRIERS = Barriers(("conv1x1.cu",), 4, tuple((case, 9) for case in ALL))
