"""Whether a layer with kernels computes what it computed before, on random numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS, _TOLERANCE = 5, 1e-6


def agrees(theirs: Any, ours: Any, evaluate: Any) -> bool:
    """Both ways, with and without gradients, in float64; the parameters of both layers are drawn anew, alike.

    `evaluate(layer, z, inverse) -> (y, ladj, x)` at x = z, or at numbers of its own where z is None.
    """
    generator = torch.Generator().manual_seed(0)
    for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
        with torch.no_grad():
            its.normal_(std=0.5 / max(1, its.shape[1:].numel()) ** 0.5, generator=generator)
            mine.copy_(its)
    with torch.no_grad():
        z, ladj, x = evaluate(theirs, None, False)
        found = [*evaluate(ours, None, False)[:2], *evaluate(ours, z, True)[:2]]
    found += evaluate(ours, None, False)[:2]
    expected = (z, ladj, x, -ladj, z, ladj)
    return all(torch.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE) for a, b in zip(found, expected, strict=True))


def numbers(*shape: int, scale: float = 1.0) -> Tensor:
    """The same for the same shape."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)
