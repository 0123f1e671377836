"""How `rq_spline` is tried."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor

from ...ops.masks import MASKS, transformed_channels
from ...ops.rq_spline import TAILS, spline_params
from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


def _configs() -> list[tuple[Any, ...]]:
    flags = product(
        (MASKS["all"], MASKS["half"] + 1, MASKS["checkerboard"]), TAILS.values(), ((8, 0.0), (5, 6.9)), (False, True)
    )
    return [
        (mask, bins, tails, -3.0, 3.0, 1e-3, 1e-3, 1e-3, softclip, interleaved, inverse)
        for (mask, tails, (bins, softclip), interleaved), inverse in product(flags, (False, True))
    ]


def _inputs(config: tuple[Any, ...], rows: int, size: int = 64) -> tuple[Tensor, ...]:
    names = {code: name for name, code in MASKS.items()}
    mask, swap = names[config[0] & ~1], bool(config[0] & 1)
    per_element = spline_params(config[1], {code: name for name, code in TAILS.items()}[config[2]])
    event = (2, 6, 8) if mask == "checkerboard" else (size,)
    channels = transformed_channels(event[0], mask, swap) * per_element
    return 2 * noise(rows, *event), 0.3 * noise(rows, channels, *event[1:])  # bins of tame widths: no errors grow


#: In float64 the formula is its own truth, and narrow bins round more than is allowed then.
_LARGE = (MASKS["all"], 8, TAILS["linear"], -3.0, 3.0, 1e-3, 1e-3, 1e-3, 0.0, True, False)

TRIALS = {
    "rq_spline": Trial(
        _configs(),
        _inputs,
        (torch.float32, torch.bfloat16, torch.float16),
        lambda config: 256.0,
        large=Large(_LARGE, lambda rows: _inputs(_LARGE, rows), 2049),
        others=(Large(_LARGE, lambda rows: _inputs(_LARGE, rows, 3001), 3),),
    )
}
