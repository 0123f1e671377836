"""How `lu_weight` is tried."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..trial import Trial, noise

__all__ = ["TRIALS"]


def _inputs(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    permutation = torch.randperm(12, generator=torch.Generator().manual_seed(0)).repeat(rows, 1)
    return noise(rows, 12, 12) / 12, permutation, 1 - 2 * (permutation % 2)


TRIALS = {"lu_weight": Trial([(False,), (True,)], _inputs)}
