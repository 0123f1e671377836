"""How discrete_loss is called: bound and cross-entropy, with a mask or none, some padding, chunks of several sizes."""

from __future__ import annotations

import torch
from torch import Tensor

from pyflowk import ops

from .base import DTYPES, OpCase


def _case(kind: str, masked: bool, size: int) -> OpCase:
    mask = size - 1 if masked and size > 2 else size if masked else None
    places = 6

    def ids(x: Tensor) -> tuple[Tensor, Tensor]:
        """The same for every row, so that a row is the same alone: right already, padding, the others."""
        data = torch.tensor([0, 1, 2, 3, -1, 4]) % max(1, size - masked)
        data[4] = -1
        now = torch.tensor([0, 5, size - 1, 3, 1, 0]) % size
        now = torch.where(torch.arange(places) % 3 > 0, mask, data.clamp(min=0)) if mask is not None else now
        return tuple(t.expand(len(x), places).contiguous().to(x.device) for t in (now, data))

    def call(logits: Tensor) -> tuple[Tensor, ...]:
        now, data = ids(logits)
        return (ops.discrete_loss(logits, now, data, kind=kind, mask=mask),)

    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows + 17 * size)
        return ((2 * torch.randn(rows, places, size, generator=generator, dtype=torch.float64)).to(state),)

    dtypes = tuple(d for d in DTYPES if d[0] == d[1])
    name = f"discrete_loss-{kind}-{'mask' if masked else 'noise'}-{size}"
    return OpCase(name, "discrete_loss", call, inputs, dtypes=dtypes, summands=size)


ALL = [
    _case("elbo", False, 1), _case("elbo", False, 17), _case("elbo", True, 33), _case("cross_entropy", False, 130),
    _case("elbo", False, 1100), _case("cross_entropy", True, 2),
]  # fmt: skip
SMALL = [_case("elbo", False, 5), _case("elbo", True, 4), _case("cross_entropy", False, 3)]
FEW = [_case("elbo", False, 9)]
