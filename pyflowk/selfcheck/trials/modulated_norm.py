"""How `modulated_norm` and `modulated_norm_tangents` are tried."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..trial import Trial, noise

__all__ = ["TRIALS"]

_CONFIGS: list[tuple[Any, ...]] = [(False, 1e-6), (True, 1e-6)]


def _value(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    return noise(rows, 3, 66), noise(rows, 66), noise(rows + 1, 66)[1:]


def _with_tangents(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    return *_value(config, rows), noise(rows, 2, 3, 66), noise(rows, 2, 66), noise(rows + 1, 2, 66)[1:]


TRIALS = {
    "modulated_norm": Trial(_CONFIGS, _value, conditioning=lambda config: 4.0),
    "modulated_norm_tangents": Trial(_CONFIGS, _with_tangents, conditioning=lambda config: 4.0),
}
