"""How lu_weight is called: matrices of several sizes and their inverses, a batch of them at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from pyflowk import ops

from .base import DTYPES, OpCase


def _case(size: int, inverse: bool) -> OpCase:
    generator = torch.Generator().manual_seed(size)
    permutation = torch.randperm(size, generator=generator)
    signs = 1 - 2 * torch.randint(0, 2, (size,), generator=generator)

    def call(lu: Tensor) -> tuple[Tensor, ...]:
        n = lu.shape[0]
        rows = (t.to(lu.device).expand(n, -1).contiguous() for t in (permutation, signs))
        return ops.lu_weight(lu, *rows, inverse)

    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows + 17 * size)
        lu = torch.randn((rows, size, size), generator=generator, dtype=torch.float64)
        return ((lu / (2 * size) ** 0.5).to(state),)

    name = f"lu_weight-{size}{'-inverse' * inverse}"
    dtypes = tuple(d for d in DTYPES if d[0] == d[1])
    return OpCase(name, "lu_weight", call, inputs, dtypes=dtypes, summands=size, extremes=False, costly=size > 33)


ALL = [_case(size, inverse) for size in (1, 2, 5, 12, 33, 67) for inverse in (False, True)]

SMALL = [_case(3, False), _case(3, True)]

FEW = [_case(3, False), _case(4, True)]
