"""How attention is called: blocks of queries and keys that end anywhere, masks, tangents of everything and of some."""

from __future__ import annotations

import torch
from torch import Tensor

from pyflowk import ops

from .base import DTYPES, OpCase

ALL_THREE = ("q", "k", "v")


def _case(
    heads: int, queries: int, keys: int, size: int, width: int, number: int = 0, moved: tuple[str, ...] = ALL_THREE,
    hidden: int = 0, causal: bool = False,
) -> OpCase:  # fmt: skip
    """`number` tangents of those of q, k, v that are `moved`; the mask hides every `hidden`-th key."""
    shapes = {"q": (heads, queries, size), "k": (heads, keys, size), "v": (heads, keys, width)}

    def call(q: Tensor, k: Tensor, v: Tensor, *tangents: Tensor) -> tuple[Tensor, ...]:
        mask = (torch.arange(keys, device=q.device) % hidden > 0).expand(len(q), keys) if hidden else None
        if not number:
            return (ops.attention(q, k, v, mask=mask, causal=causal, scale=0.7),)
        named = {f"d{name}": t for name, t in zip(moved, tangents, strict=True)}
        return ops.attention_with_tangents(q, k, v, **named, mask=mask, causal=causal, scale=0.7)

    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows + queries + keys)
        made = [(rows, *shape) for shape in shapes.values()]
        made += [(rows, number, *shapes[name]) for name in moved if number]
        return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(state) for shape in made)

    op = "attention_tangents" if number else "attention"
    name = f"{op}-{heads}x{queries}x{keys}x{size}x{width}"
    name += f"-{number}{''.join(moved)}" * bool(number) + f"-hidden{hidden}" * bool(hidden) + "-causal" * causal
    return OpCase(
        name,
        op,
        call,
        inputs,
        dtypes=tuple(DTYPES[:4]),
        summands=8 * keys * size,
        extremes=False,
        conditioning=4.0,
        spreads_nan=causal,
    )


ALL = [
    _case(2, 5, 5, 8, 8), _case(1, 70, 130, 16, 5, hidden=3), _case(1, 1, 3, 33, 65), _case(3, 64, 64, 4, 4),
    _case(2, 5, 5, 8, 8, 1), _case(1, 70, 130, 16, 5, 2, hidden=3), _case(1, 65, 3, 20, 70, 1, ("q",)),
    _case(2, 4, 66, 6, 3, 2, ("k",)), _case(1, 17, 70, 5, 4, 1, ("v",), hidden=2), _case(1, 9, 8, 3, 6, 3, ("q", "v")),
    _case(1, 70, 130, 16, 5, causal=True), _case(1, 130, 130, 5, 9, 1, hidden=3, causal=True),
    _case(2, 6, 4, 3, 3, 1, causal=True), _case(1, 21, 71, 16, 48, 1, hidden=5, causal=True),
]  # fmt: skip
SMALL = [
    _case(2, 3, 4, 3, 2),
    _case(1, 3, 4, 3, 2, hidden=2),
    _case(2, 2, 3, 3, 2, 1),
    _case(1, 3, 4, 2, 2, 2, hidden=2),
]
FEW = [_case(2, 3, 4, 3, 2), _case(2, 3, 4, 3, 2, 1)]
