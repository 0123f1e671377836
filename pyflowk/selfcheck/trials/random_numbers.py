"""How `random_numbers` is tried."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from ...ops.random_numbers import RANDOM
from ..trial import Large, Trial

__all__ = ["TRIALS"]


def _keys(rows: int) -> tuple[Tensor, ...]:
    return (torch.arange(rows) * 2**40,)


#: keys have no precision; a radius near zero magnifies what its logarithm lost
TRIALS = {
    "random_numbers": Trial(
        [(3, 130, kind, wide) for kind, wide in product(RANDOM.values(), (False, True))],
        lambda config, rows: _keys(rows),
        (torch.float32,),
        lambda config: 4.0,
        large=Large((3, 3072, RANDOM["normal"], False), _keys),
        others=tuple(
            Large((3, size, RANDOM["normal"], wide), _keys, 9) for size, wide in product((64, 400, 401), (False, True))
        ),
    )
}
