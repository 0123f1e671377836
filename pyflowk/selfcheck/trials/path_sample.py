"""How `path_sample` is tried, with noise drawn and given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


def _coefficients(rows: int) -> list[Tensor]:
    return [*noise(4, rows).unbind(0)]


def _drawn(config: tuple[Any, ...], rows: int, size: int = 130) -> tuple[Any, ...]:
    return noise(rows, size), torch.arange(rows) * 2**40, _coefficients(rows)


def _between(config: tuple[Any, ...], rows: int, size: int = 130) -> tuple[Any, ...]:
    return *noise(2, rows, size).unbind(0), _coefficients(rows)


#: coefficients are float32 beside 16-bit data, which `Trial.tensors` would make narrow
TRIALS = {
    "path_sample": Trial([()], _drawn, (torch.float32,), large=Large((), lambda rows: _drawn((), rows, 3072))),
    "path_between": Trial(
        [()], _between, (torch.float32, torch.float64), large=Large((), lambda rows: _between((), rows, 3072))
    ),
}
