"""How long the next step of every row is: its clock, the error of a step and what follows from it, the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ops.dtypes import state_dtype
from ...ops.rk_control import (
    ACCEPTED,
    ATTEMPTS,
    END,
    GOOD,
    STATUS,
    STEP,
    TIME,
    Status,
    rk_control,
    start_clock,
)
from ...ops.rk_step import rk_combine, rk_error, scaled_error
from .checked import Checked
from .stages import column
from .stepping import Adaptive
from .tableaus import Tableau

__all__ = ["Clock", "Status", "combined", "first_step", "judge", "numbers", "scaled_norm"]


def numbers(control: Adaptive, table: Tableau, dtype: torch.dtype) -> list[Any]:
    """The `control` of `ops.rk_control`, for a clock of this type."""
    p, i, d = (rate / table.error_order for rate in control.pid)
    least = max(control.dt_min, torch.finfo(dtype).tiny)
    bounds = control.safety, control.shrink, control.grow
    return [control.rtol, control.atol, *bounds, -(i + p + d), p + 2 * d, -d, least, control.dt_max, control.max_steps]


def scaled_norm(
    control: Adaptive, y0: Tensor, y1: Tensor, h: Tensor, ks: Sequence[Tensor], weights: Sequence[float]
) -> Tensor:
    """How far every row is from what is tolerated, as `ops.rk_error`."""
    if control.plain:
        return rk_error(y0, y1, h, ks, weights, rtol=control.rtol, atol=control.atol)  # type: ignore[arg-type]
    rtol, atol = (x.to(h) if isinstance(x, Tensor) else x for x in (control.rtol, control.atol))
    error = scaled_error(y0, y1, h, ks, weights, rtol, atol)
    if control.norm is None:
        return error.flatten(1).square().mean(1).sqrt() if error.numel() else error.new_zeros(len(error))
    found = control.norm(error)
    if not isinstance(found, Tensor) or found.numel() != len(error):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"norm: expected one number a row, ({len(error)},); got {got}")
    return found.reshape(-1).to(error.dtype, copy=True)  # norm may answer in one buffer


def combined(norms: Sequence[Tensor]) -> Tensor:
    """What is controlled, of the scaled norms of a method's estimates: e, or e^2 / (e^2 + (r / 10)^2)^(1/2)."""
    e, *rough = norms
    for r in rough:
        e = e / (1 + 0.01 * (r / torch.where(e == 0, 1, e)).square()).sqrt()
    return e


def judge(
    control: Adaptive, table: Tableau, y0: Tensor, y1: Tensor, k0: Tensor, ks: Sequence[Tensor], clock: Tensor,
    numbers: Sequence[Any],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`ops.rk_control` of a step with these slopes, with this control's measure of an error."""
    k1, estimates = ks[-1], [([ks[j] for j in places], weights) for places, weights in table.estimates]
    if control.plain and len(estimates) == 1:
        return rk_control(y0, y1, k0, k1, clock, *estimates[0], numbers, table.c)
    h = clock[:, STEP].to(state_dtype(y0))
    # the clock goes on as that of a state of one number whose error is the one that was measured
    error = combined([scaled_norm(control, y0, y1, h, *estimate) for estimate in estimates])
    slope = (error / torch.where(h == 0, 1, h))[:, None]
    state, rest = torch.zeros_like(slope), numbers[2:]
    _, _, clock, at = rk_control(state, state, state, state, clock, [slope], [1.0], [0.0, 1.0, *rest], table.c)
    good = column(clock[:, GOOD] != 0, y0)
    return torch.where(good, y1, y0), torch.where(good, k1, k0), clock, at


@dataclass(frozen=True)
class Clock:
    """The clock of `ops.rk_control` by columns, (B,) each."""

    data: Tensor  # (B, 10)

    @classmethod
    def start(cls, t: Tensor, h: Tensor, end: Tensor) -> Clock:
        """Before the first step; rows of zero length have arrived."""
        return cls(start_clock(t, h, end))

    @property
    def t(self) -> Tensor:
        return self.data[:, TIME]

    @property
    def step(self) -> Tensor:
        """The signed length of the step to try, 0 for rows that have ended."""
        return self.data[:, STEP]

    @property
    def status(self) -> Tensor:
        return self.data[:, STATUS].long()

    @property
    def attempts(self) -> Tensor:
        return self.data[:, ATTEMPTS].long()

    @property
    def accepted(self) -> Tensor:
        return self.data[:, ACCEPTED].long()

    @property
    def good(self) -> Tensor:
        """Which rows took the last step."""
        return self.data[:, GOOD] != 0

    def times(self, table: Tableau, dtype: torch.dtype) -> Tensor:
        """The times of the next step's stages and the step behind them, (B, stages + 1)."""
        t, step, end = self.data[:, TIME : TIME + 1], self.data[:, STEP : STEP + 1], self.data[:, END : END + 1]
        c = torch.tensor(table.c, dtype=t.dtype, device=t.device)
        after = torch.where(step == end - t, end, t + step)
        return torch.cat([torch.where(c == 1, after, t + c * step), step], 1).to(dtype)

    def stopped(self, rows: Tensor, t: Tensor) -> Clock:
        """The clock where an event ended some rows at their times t."""
        data = self.data.clone()
        data[:, TIME] = torch.where(rows, t, data[:, TIME])
        data[:, STATUS] = torch.where(rows, int(Status.EVENT), data[:, STATUS])
        data[:, STEP] = torch.where(rows, 0, data[:, STEP])
        return Clock(data)


def first_step(f: Checked, table: Tableau, control: Adaptive, t: Tensor, y: Tensor, k: Tensor, span: Tensor) -> Tensor:
    """A first step for every row, signed, from the sizes of state, slope and curvature (Hairer, Norsett, Wanner II.4).

    Costs one evaluation of the field.
    """

    def norm(h: Tensor, ks: list[Tensor], weights: list[float]) -> Tensor:
        return scaled_norm(control, y, y, h.to(state_dtype(y)), ks, weights).to(span.dtype)

    one, limit = torch.ones_like(span), span.abs()
    sign = torch.copysign(one, span)
    d0, d1 = norm(one, [y], [1.0]), norm(one, [k], [1.0])
    h0 = torch.where(torch.minimum(d0, d1) < 1e-5, 1e-6, 0.01 * d0 / d1).nan_to_num(1e-6, 1e-6).minimum(limit)
    step = sign * h0
    moved = f(column((t + step).to(state_dtype(y)), y), rk_combine(y, step.to(state_dtype(y)), [k], [1.0]))
    d2 = norm(1 / torch.where(h0 == 0, 1, h0), [moved, k], [1.0, -1.0])
    largest = torch.maximum(d1, d2)
    h1 = torch.where(largest <= 1e-15, (h0 * 1e-3).clamp(min=1e-6), (0.01 / largest) ** (1 / table.error_order))
    h1 = torch.where(h1.isfinite(), h1, h0)
    return sign * torch.minimum(torch.minimum(100 * h0, h1), limit).clamp(max=control.dt_max)
