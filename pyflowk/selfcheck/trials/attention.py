"""How `attention` and `attention_tangents` are tried."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]

_CONFIGS: list[tuple[Any, ...]] = [(False, 0.25), (True, 0.25)]


def _mask(rows: int, keys: int) -> Tensor:
    return (torch.arange(keys) % 3 > 0).expand(rows, keys).long().contiguous()


def _value(config: tuple[Any, ...], rows: int, tokens: int = 66, size: int = 16) -> tuple[Tensor, ...]:
    keys = tokens + 4
    values = noise(rows, 2, tokens, size), noise(rows, 2, keys, size), noise(rows + 1, 2, keys, size)[1:]
    return *values, _mask(rows, keys)


def _with_tangents(config: tuple[Any, ...], rows: int, tokens: int = 66, size: int = 16) -> tuple[Tensor, ...]:
    *values, mask = _value(config, rows, tokens, size)
    tangents = (noise(rows + i, 2, *t.shape[1:])[i:] for i, t in enumerate(values))
    return *values, *tangents, mask


_LARGE = (True, 0.125)


TRIALS = {
    "attention": Trial(
        _CONFIGS,
        _value,
        conditioning=lambda config: 16.0,
        large=Large(_LARGE, lambda rows: _value(_LARGE, rows, 256, 64), 17),
    ),
    "attention_tangents": Trial(
        _CONFIGS,
        _with_tangents,
        conditioning=lambda config: 16.0,
        large=Large(_LARGE, lambda rows: _with_tangents(_LARGE, rows, 256, 64), 5),
    ),
}
