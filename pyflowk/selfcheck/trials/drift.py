"""How `drift` is tried: its sums and its forces."""

from __future__ import annotations

from typing import Any

import torch

from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]

_RATES = torch.tensor([-2.0, -0.5], dtype=torch.float64)
_WIDE = (torch.float32, torch.float64)


def _sums(config: tuple[Any, ...], rows: int, others: int = 70, size: int = 3) -> tuple[Any, ...]:
    known = noise(rows, others if config and config[0] < 0 else 0).abs()
    return noise(rows, size), noise(others, size), known, _RATES


def _forces(config: tuple[Any, ...], rows: int, others: int = 70, size: int = 3) -> tuple[Any, ...]:
    return *_sums(config, rows, others, size), noise(rows, 2) / 4, noise(others, 2) / 4


TRIALS = {
    "drift_sums": Trial(
        [(3, 30, False, False, False), (-2, 10, True, True, False)],
        _sums,
        _WIDE,
        lambda config: 8.0,
        double=(3,),
        large=Large((0, 400, False, False, False), lambda rows: _sums((), rows, 640, 64)),
    ),
    "drift": Trial(
        [(40, 40, False), (0, 0, True), (-3, 70, False)],
        _forces,
        _WIDE,
        lambda config: 64.0,
        double=(3,),
        large=Large((400, 400, False), lambda rows: _forces((), rows, 640, 64)),
    ),
}
