"""How `modulated_norm` and `modulated_norm_tangents` are tried."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]

_CONFIGS: list[tuple[Any, ...]] = [(False, 1e-6), (True, 1e-6)]


def _value(config: tuple[Any, ...], rows: int, tokens: int = 3, size: int = 66) -> tuple[Tensor, ...]:
    return noise(rows, tokens, size), noise(rows, size), noise(rows + 1, size)[1:]


def _with_tangents(config: tuple[Any, ...], rows: int, tokens: int = 3, size: int = 66) -> tuple[Tensor, ...]:
    tangents = noise(rows, 2, tokens, size), noise(rows, 2, size), noise(rows + 1, 2, size)[1:]
    return *_value(config, rows, tokens, size), *tangents


_LARGE = _CONFIGS[1]


TRIALS = {
    "modulated_norm": Trial(
        _CONFIGS,
        _value,
        conditioning=lambda config: 16.0,
        large=Large(_LARGE, lambda rows: _value(_LARGE, rows, 64, 384), 17),
        others=(
            Large(_LARGE, lambda rows: _value(_LARGE, rows, 2, 1032), 3),
            Large(_LARGE, lambda rows: _value(_LARGE, rows, 2, 1027), 3),
        ),
    ),
    "modulated_norm_tangents": Trial(
        _CONFIGS,
        _with_tangents,
        conditioning=lambda config: 16.0,
        large=Large(_LARGE, lambda rows: _with_tangents(_LARGE, rows, 64, 384), 17),
        others=(
            Large(_LARGE, lambda rows: _with_tangents(_LARGE, rows, 2, 1032), 3),
            Large(_LARGE, lambda rows: _with_tangents(_LARGE, rows, 2, 1027), 3),
        ),
    ),
}
