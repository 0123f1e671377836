"""How `causal_decode` is tried."""

from __future__ import annotations

from typing import Any

import torch

from ...ops.causal_decode import pack_transformer
from ..trial import Large, Trial, noise

__all__ = ["TRIALS"]


def _inputs(config: tuple[Any, ...], rows: int, tokens: int = 9, features: int = 3) -> tuple[Any, ...]:
    width, _, _, hidden, depth = config[0]
    out, norm = 2 * features, [(width,), (width,)]
    layer = [*norm, (3 * width, width), (3 * width,), (width, width), (width,), *norm]
    layer += [(hidden, width), (hidden,), (width, hidden), (width,)]
    shapes = [(width, features), (width,), *layer * depth, *norm, (out, width), (out,)]
    weights = pack_transformer([noise(*shape) * 0.5 / shape[-1] ** 0.5 for shape in shapes])
    leads = [noise(rows, 1, width), noise(rows, width), noise(rows, 1, width), noise(rows, width)]
    return noise(rows, tokens, features), *leads, noise(tokens), noise(tokens, width), noise(2, 0, 0), weights


#: width, heads, heads of keys, hidden units and layers; plain and guided, and the bounds that a token's scale may have
_CONFIGS = [([32, 2, 2, 128, 1], 0, False, False, (1, 2, 3, 5)[guidance], 1.0, guidance, 0.7) for guidance in range(4)]
_LARGE = ([128, 2, 2, 512, 2], 0, False, False, 2, 2.0, 1, 0.7)

#: in float64 the formula is its own truth
TRIALS = {
    "causal_decode": Trial(
        _CONFIGS,
        _inputs,
        (torch.float32, torch.float64),
        conditioning=lambda config: 16.0,
        large=Large(_LARGE, lambda rows: _inputs(_LARGE, rows, 33, 12), 17),
    )
}
