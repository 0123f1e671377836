"""How `lu_weight` is tried."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


def _inputs(config: tuple[Any, ...], rows: int, size: int = 12) -> tuple[Tensor, ...]:
    permutation = torch.randperm(size, generator=torch.Generator().manual_seed(0)).repeat(rows, 1)
    return noise(rows, size, size) / size, permutation, 1 - 2 * (permutation % 2)


TRIALS = {
    "lu_weight": Trial([(False,), (True,)], _inputs, large=Large((True,), lambda rows: _inputs((True,), rows, 96), 5))
}
