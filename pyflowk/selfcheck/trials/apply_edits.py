"""How `apply_edits` is tried, with room and without."""

from __future__ import annotations

from typing import Any

import torch

from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


def _inputs(config: tuple[Any, ...], rows: int, places: int = 30) -> tuple[Any, ...]:
    instead, insert = ((3 * noise(rows, n)[:, :places]).long() for n in (places, places + 1))
    return instead, insert.contiguous(), torch.arange(rows) * 7 % (places + 1)


TRIALS = {
    "apply_edits": Trial(
        [(30, 0), (60, 5)], _inputs, (torch.float32,), large=Large((4096, 0), lambda rows: _inputs((), rows, 4096))
    )
}
