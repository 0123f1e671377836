"""How long the next step of every row is: tolerances, first step, PID controller, what ends a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
from .tableaus import Tableau

__all__ = ["Clock", "Control", "Status", "first_step"]


@dataclass(frozen=True)
class Control:
    """Tolerances and the PID controller: the next step is h safety e^-(I+P+D)/q e_1^(P+2D)/q e_2^-D/q, within bounds.

    e, e_1, e_2 are the scaled errors of this and the two last accepted steps, q the order of the estimate. A step is
    accepted if e <= 1. Tolerances are numbers, or tensors that broadcast against the state; `norm` makes (B,) of the
    scaled error (B, *event) of a step, in place of the root mean square over the row. pid are the exponents P, I, D.
    Raises ValueError or TypeError for numbers that cannot be. Sources: Hairer, Norsett, Wanner 1993, II.4; Soderlind
    2003.

    >>> Control(rtol=1e-3, pid=(0.4, 0.3, 0.0)).max_steps
    100000
    """

    rtol: float | Tensor = 1e-7
    atol: float | Tensor = 1e-9
    norm: Callable[[Tensor], Tensor] | None = None
    safety: float = 0.9
    shrink: float = 0.2  # smallest and
    grow: float = 10.0  # largest factor from step to step
    pid: tuple[float, float, float] = (0.0, 1.0, 0.0)
    dt_min: float = 0.0
    dt_max: float = float("inf")
    max_steps: int = 100_000

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            object.__setattr__(self, name, _tolerance(name, getattr(self, name)))
        if isinstance(self.rtol, Tensor) or isinstance(self.atol, Tensor):
            rtol, atol = torch.as_tensor(self.rtol), torch.as_tensor(self.atol)
            right = bool((rtol >= 0).all() & (atol >= 0).all() & (rtol + atol > 0).all())
        else:
            right = self.rtol >= 0 and self.atol >= 0 and self.rtol + self.atol > 0
        if not right:
            raise ValueError(
                f"rtol, atol: expected numbers that are not negative nor both zero; got {self.rtol}, {self.atol}"
            )
        if not 0 < self.shrink < 1 <= self.grow or not 0 < self.safety <= 1:
            raise ValueError(
                "shrink, grow, safety: expected 0 < shrink < 1 <= grow and 0 < safety <= 1; "
                f"got {self.shrink}, {self.grow}, {self.safety}"
            )
        if len(self.pid) != 3 or not all(map(math.isfinite, self.pid)):
            raise ValueError(f"pid: expected three finite numbers; got {self.pid}")
        if not 0 <= self.dt_min <= self.dt_max or not self.dt_max > 0 or self.max_steps < 1:
            raise ValueError(
                "dt_min, dt_max, max_steps: expected 0 <= dt_min <= dt_max, dt_max > 0, max_steps >= 1; "
                f"got {self.dt_min}, {self.dt_max}, {self.max_steps}"
            )

    @property
    def plain(self) -> bool:
        """Whether the error is what the kernels measure."""
        return self.norm is None and not isinstance(self.rtol, Tensor) and not isinstance(self.atol, Tensor)

    def numbers(self, table: Tableau, dtype: torch.dtype) -> list[Any]:
        """The `control` of `ops.rk_control`, for a clock of this type."""
        p, i, d = (rate / table.error_order for rate in self.pid)
        least = max(self.dt_min, torch.finfo(dtype).tiny)
        rates = -(i + p + d), p + 2 * d, -d
        return [self.rtol, self.atol, self.safety, self.shrink, self.grow, *rates, least, self.dt_max, self.max_steps]

    def error(self, y0: Tensor, y1: Tensor, h: Tensor, ks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """How far every row is from what is tolerated, as `ops.rk_error`."""
        if self.plain:
            return rk_error(y0, y1, h, ks, weights, rtol=self.rtol, atol=self.atol)  # type: ignore[arg-type]
        rtol, atol = (x.to(h) if isinstance(x, Tensor) else x for x in (self.rtol, self.atol))
        error = scaled_error(y0, y1, h, ks, weights, rtol, atol)
        if self.norm is None:
            return error.flatten(1).square().mean(1).sqrt() if error.numel() else error.new_zeros(len(error))
        found = self.norm(error)
        if not isinstance(found, Tensor) or found.numel() != len(error):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"norm: expected one number a row, ({len(error)},); got {got}")
        return found.reshape(-1).to(error.dtype, copy=True)  # norm may answer in one buffer

    def judge(
        self, y0: Tensor, y1: Tensor, k0: Tensor, k1: Tensor, clock: Tensor, ks: Sequence[Tensor],
        weights: Sequence[float], numbers: Sequence[Any], c: Sequence[float],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """`ops.rk_control` with this control's measure of an error."""
        if self.plain:
            return rk_control(y0, y1, k0, k1, clock, ks, weights, numbers, c)
        h = clock[:, STEP].to(state_dtype(y0))
        # the clock goes on as that of a state of one number whose error is the one that was measured
        slope = (self.error(y0, y1, h, ks, weights) / torch.where(h == 0, 1, h))[:, None]
        state = torch.zeros_like(slope)
        _, _, clock, at = rk_control(state, state, state, state, clock, [slope], [1.0], [0.0, 1.0, *numbers[2:]], c)
        good = column(clock[:, GOOD] != 0, y0)
        return torch.where(good, y1, y0), torch.where(good, k1, k0), clock, at


def _tolerance(name: str, value: Any) -> float | Tensor:
    if isinstance(value, (int, float)):
        return float(value)
    try:
        value = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.float64).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}: expected a number or numbers; got {value!r}") from error
    return value if value.ndim else float(value)


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


def first_step(f: Checked, table: Tableau, control: Control, t: Tensor, y: Tensor, k: Tensor, span: Tensor) -> Tensor:
    """A first step for every row, signed, from the sizes of state, slope and curvature (Hairer, Norsett, Wanner II.4).

    Costs one evaluation of the field.
    """

    def norm(h: Tensor, ks: list[Tensor], weights: list[float]) -> Tensor:
        return control.error(y, y, h.to(state_dtype(y)), ks, weights).to(span.dtype)

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
