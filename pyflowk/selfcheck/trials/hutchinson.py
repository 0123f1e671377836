"""How `hutchinson` is tried."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


def _inputs(config: tuple[Any, ...], rows: int, size: int = 130) -> tuple[Tensor, ...]:
    return noise(rows, 3, size), torch.arange(rows) * 2**40


TRIALS = {
    "hutchinson": Trial(
        [(0,), (1,)],
        _inputs,
        (torch.float32, torch.bfloat16, torch.float16),
        large=Large((1,), lambda rows: _inputs((1,), rows, 3072), 65),
        others=(
            Large((0,), lambda rows: _inputs((0,), rows, 64), 9),
            Large((0,), lambda rows: _inputs((0,), rows, 401), 3),
        ),
    )
}
