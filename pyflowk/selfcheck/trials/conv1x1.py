"""How `conv1x1` is tried."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


def _inputs(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    return noise(rows, 12, 4, 6), noise(12, 12), noise(12), noise(12)


def _large(rows: int) -> tuple[Tensor, ...]:
    return noise(rows, 48, 16, 16), noise(48, 48) / 7, noise(48), noise(48)


TRIALS = {
    "conv1x1": Trial([()], _inputs, (torch.float32, torch.float64), lambda config: 8.0, large=Large((), _large, 33))
}
