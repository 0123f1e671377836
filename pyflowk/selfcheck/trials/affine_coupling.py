"""How `affine_coupling` is tried."""

from __future__ import annotations

from itertools import product
from typing import Any

from torch import Tensor

from ...ops.affine_coupling import ADDITIVE, BOUNDS
from ...ops.masks import MASKS, transformed_channels
from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


def _configs() -> list[tuple[Any, ...]]:
    bounds = (BOUNDS["tanh"], BOUNDS["sigmoid"], BOUNDS["none"], ADDITIVE)
    masks = (MASKS[name] for name in ("half", "alternating", "checkerboard", "all"))
    flags = product(masks, (0, 1), bounds, (False, True), (False, True))
    return [
        (mask + swap, bound, 2.0, interleaved, inverse)
        for mask, swap, bound, interleaved, inverse in flags
        if not (bound == ADDITIVE and interleaved) and not (mask == MASKS["all"] and swap)
    ]


def _inputs(config: tuple[Any, ...], rows: int) -> tuple[Tensor, ...]:
    names = {code: name for name, code in MASKS.items()}
    mask, swap, bound = names[config[0] & ~1], bool(config[0] & 1), config[1]
    event = {"checkerboard": (3, 6, 8), "alternating": (6, 5, 7)}.get(mask, (64,))
    channels = transformed_channels(event[0], mask, swap) * (1 if bound == ADDITIVE else 2)
    return noise(rows, *event), noise(rows, channels, *event[1:])


#: rows longer than one block takes
_LARGE = Large(
    (MASKS["half"], BOUNDS["tanh"], 2.0, False, False),
    lambda rows: (noise(rows, 12, 32, 32), noise(rows, 12, 32, 32)),
    65,
)

TRIALS = {"affine_coupling": Trial(_configs(), _inputs, conditioning=lambda config: 4.0, large=_LARGE)}
