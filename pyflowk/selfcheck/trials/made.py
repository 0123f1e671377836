"""How `made_forward` and `made_inverse` is tried."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from ...ops.affine_coupling import ADDITIVE, BOUNDS
from ...ops.made import MADE_ACTIVATIONS, SPLINE
from ...ops.made_layout import MadeLayout
from ...ops.rq_spline import TAILS, spline_params
from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


def _configs() -> list[tuple[Any, ...]]:
    kinds = (((64, 64), False), ((9,), False), ((20, 20, 20), True))
    maps: list[tuple[int, int, tuple[float, ...]]] = [
        (bound, 0, (2.0,)) for bound in (BOUNDS["tanh"], BOUNDS["sigmoid"], BOUNDS["none"], ADDITIVE)
    ]
    maps += [
        (SPLINE + tails, 8, (-3.0, 3.0, 1e-3, 1e-3, 1e-3, clip)) for tails, clip in zip(TAILS.values(), (0.0, 6.9, 0.0))
    ]
    return [
        (hidden, activation, residual, *map)
        for (hidden, residual), activation, map in zip(cycle(kinds), cycle(MADE_ACTIVATIONS.values()), maps)
    ]


def _inputs(config: tuple[Any, ...], rows: int, features: int = 33) -> tuple[Tensor, ...]:
    hidden = config[0]
    degrees = [[j * features // width for j in range(width)] for width in hidden]
    map, bins = config[3:5]
    tails = next((name for name, code in TAILS.items() if SPLINE + code == map), "")
    params = spline_params(bins, tails) if bins else 1 if map == ADDITIVE else 2
    layout = MadeLayout(degrees, range(features)[::-1], params)
    weights = noise(len(layout.source)) / (16 if bins else max(hidden) ** 0.5)
    return noise(rows, features), weights, noise(rows, hidden[0]) / 2, layout.plan


def _conditioning(config: tuple[Any, ...]) -> float:
    return 256.0 if config[3] >= SPLINE else 16.0  # a bin that is narrow magnifies what its edges lost


_WIDE: tuple[Any, ...] = ((512, 512), MADE_ACTIVATIONS["relu"], False, BOUNDS["tanh"], 0, (2.0,))
_LARGE = Large(_WIDE, lambda rows: _inputs(_WIDE, rows, 64), 65)
_TRIAL = Trial(_configs(), _inputs, (torch.float32, torch.float64), _conditioning, large=_LARGE)

TRIALS = {"made_forward": _TRIAL, "made_inverse": _TRIAL}
