"""The right-hand side as the solvers call it: times in a shape that broadcasts, slopes checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..ops.rk_step import rk_combine
from .tableaus import Tableau

__all__ = ["Field", "column", "real_dtype", "rk_stages", "time_dtype"]


def real_dtype(y: Tensor) -> torch.dtype:
    """Of steps, errors and the times that a field sees: float32, or float64 beside float64."""
    return torch.float64 if y.dtype == torch.float64 else torch.float32


def time_dtype(y: Tensor) -> torch.dtype:
    """Of the solver's own clock: float64, where the device has it."""
    return torch.float32 if y.device.type == "mps" else torch.float64


def column(values: Tensor, like: Tensor) -> Tensor:
    """One value a row, (B,), in a shape that broadcasts against the rows."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


class Field:
    """f(t, y) with its answer checked; t is 0-d where all rows share it, else (B, 1, ..., 1)."""

    def __init__(self, f: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.f = f

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        k = self.f(t, y)
        if not isinstance(k, Tensor):
            raise TypeError(f"field: expected a tensor of the state's shape {tuple(y.shape)}; got {type(k).__name__}")
        if k.shape != y.shape:
            raise ValueError(f"field: expected the state's shape {tuple(y.shape)}; got {tuple(k.shape)}")
        if k.is_complex():
            raise TypeError(f"field: expected a real slope, as the state is; got {k.dtype}")
        return k if k.dtype == y.dtype else k.to(y.dtype)


def rk_stages(
    field: Field, table: Tableau, times: Sequence[Tensor], y: Tensor, h: Tensor, k: Tensor, *, slope: bool = True,
    combine: Callable[..., Tensor] = rk_combine,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """One step from y with slope k: the new state, and the slopes; the last of them, at the new state, if asked for."""
    ks = [k]
    last = table.stages - 1
    for i in range(1, last + 1):
        places, weights = table.rows[i]
        state = combine(y, h, [ks[j] for j in places], weights)
        if i < last or slope:
            ks.append(field(times[i], state))
    return state, ks
