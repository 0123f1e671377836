"""How `modulated_norm` and `modulated_norm_tangents` are tried."""

from __future__ import annotations

from collections.abc import Callable
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


def _trial(make: Callable[..., tuple[Tensor, ...]]) -> Trial:
    def sized(tokens: int, size: int, rows: int) -> Large:
        return Large(_LARGE, lambda n: make(_LARGE, n, tokens, size), rows)

    return Trial(
        _CONFIGS, make, conditioning=lambda config: 16.0, large=sized(64, 384, 17),
        others=(sized(2, 1032, 3), sized(2, 1027, 3)),
    )  # fmt: skip


TRIALS = {"modulated_norm": _trial(_value), "modulated_norm_tangents": _trial(_with_tangents)}
