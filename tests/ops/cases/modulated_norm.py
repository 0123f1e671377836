"""How modulated_norm is called: both norms, rows around a sum's lanes, few and many tokens, tangents of either kind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyflowk import ops

from .base import DTYPES, OpCase

Shape = tuple[int, ...]
STATES = tuple(DTYPES)


def _made(shapes: list[Shape], rows: int, states: tuple[torch.dtype | None, ...]) -> tuple[Tensor, ...]:
    """Normal numbers; the tokens lie beside 0, as a residual stream does."""
    generator = torch.Generator().manual_seed(rows + sum(map(sum, shapes)))
    made = [torch.randn((rows, *shape), generator=generator, dtype=torch.float64) for shape in shapes]
    made[0] = 1.5 * made[0] + 0.7
    return tuple(t.to(state) for t, state in zip(made, states))


def _value(rms: bool, tokens: Shape, size: int) -> OpCase:
    def call(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor]:
        return (ops.modulated_norm(x, scale, shift, rms=rms),)

    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        return _made([(*tokens, size), (size,), (size,)], rows, (state, params or state, params or state))

    return _case("modulated_norm", call, inputs, rms, tokens, size)


def _tangents(rms: bool, tokens: Shape, size: int, number: int, moving: bool = True) -> OpCase:
    def call(x: Tensor, scale: Tensor, shift: Tensor, dx: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        return ops.modulated_norm_with_tangents(x, scale, shift, dx, *more, rms=rms)

    def inputs(rows: int, state: torch.dtype = torch.float64, params: torch.dtype | None = None) -> tuple[Tensor, ...]:
        param = params or state
        shapes: list[Shape] = [(*tokens, size), (size,), (size,), (number, *tokens, size)]
        moved: list[Shape] = [(number, size), (number, size)] if moving else []
        return _made([*shapes, *moved], rows, (state, param, param, state, param, param))

    return _case("modulated_norm_tangents", call, inputs, rms, tokens, size, f"-{number}{'' if moving else '-still'}")


def _case(
    op: str, call: Callable[..., tuple[Tensor, ...]], inputs: Callable[..., tuple[Tensor, ...]], rms: bool,
    tokens: Shape, size: int, more: str = "",
) -> OpCase:  # fmt: skip
    name = f"{op}{more}-{'rms' if rms else 'layer'}-{'x'.join(map(str, (*tokens, size)))}"
    # a constant row has no variance but its rounding, which is another one there
    return OpCase(name, op, call, inputs, dtypes=STATES, summands=1200, extremes=False)


ALL = [
    *(_value(rms, *shape) for rms in (False, True) for shape in (((3,), 64), ((), 7), ((5,), 33), ((2, 3), 1100))),
    _value(False, (70,), 12), _value(False, (4,), 2),
    _tangents(False, (3,), 64, 1), _tangents(True, (2,), 33, 2), _tangents(False, (), 7, 3),
    _tangents(False, (2, 2), 1100, 2, moving=False), _value(True, (), 1027), _tangents(True, (), 1027, 1),
]  # fmt: skip
SMALL = [_value(False, (3,), 5), _value(True, (), 4), _tangents(False, (3,), 5, 2), _tangents(True, (2,), 4, 1)]
FEW = [_value(False, (2,), 16), _tangents(False, (2,), 16, 2)]
