"""How `hutchinson` is tried."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..trial import Trial, noise

__all__ = ["TRIALS"]


def _inputs(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    return noise(rows, 3, 130), torch.arange(rows) * 2**40


TRIALS = {"hutchinson": Trial([(0,), (1,)], _inputs, (torch.float32, torch.bfloat16, torch.float16))}
