"""How `hutchinson` is tried."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor

from ..trial import Trial, noise

__all__ = ["TRIALS"]


def _inputs(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    return noise(rows, 3, 130), torch.arange(rows) * 2**40


def _directions_inputs(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    return (torch.arange(rows) * 2**40,)


TRIALS = {
    "hutchinson": Trial([(0,), (1,)], _inputs, (torch.float32, torch.bfloat16, torch.float16)),
    # keys have no precision; a radius near zero magnifies what its logarithm lost
    "hutchinson_directions": Trial(
        [(3, 130, kind, wide) for kind, wide in product((0, 1), (False, True))],
        _directions_inputs,
        (torch.float32,),
        lambda config: 4.0,
    ),
}
