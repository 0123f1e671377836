"""One Runge-Kutta step of all rows, each with a step of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ...ops.rk_step import rk_combine
from .checked import Checked
from .tableaus import Tableau

__all__ = ["column", "rk_inside", "rk_stages"]


def column(values: Tensor, like: Tensor) -> Tensor:
    """One value a row, (B,), in a shape that broadcasts against the rows."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def rk_stages(
    f: Checked, table: Tableau, times: Sequence[Tensor], y: Tensor, h: Tensor, k: Tensor, *, slope: bool = True,
    combine: Callable[..., Tensor] = rk_combine,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """One step from y with slope k: the new state, and the slopes; the last of them, at the new state, if asked for."""
    ks = [k]
    last = table.stages - 1
    for i in range(1, last + 1):
        places, weights = table.rows[i]
        state = combine(y, h, [ks[j] for j in places], weights)
        if i < last or slope:
            ks.append(f(times[i], state))
    return state, ks


def rk_inside(f: Checked, table: Tableau, times: Sequence[Tensor], y: Tensor, h: Tensor, ks: list[Tensor]) -> None:
    """Append the slopes that the polynomial inside the step needs beyond those of the step, at their times."""
    for t, (places, weights) in zip(times, table.extra_rows):
        ks.append(f(t, rk_combine(y, h, [ks[j] for j in places], weights)))
