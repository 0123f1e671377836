"""How long the next step of every row is: tolerances, first step, PID controller, what ends a row."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from ..ops.rk_step import rk_combine, rk_error
from .field import Field, column, real_dtype
from .tableaus import Tableau

__all__ = ["Clock", "Control", "Status", "first_step"]


class Status(IntEnum):
    """How a row ended."""

    SUCCESS = 0
    EVENT = 1
    MAX_STEPS = 2
    STEP_TOO_SMALL = 3
    NON_FINITE = 4
    RUNNING = -1


@dataclass(frozen=True)
class Control:
    """Tolerances and the PID controller: the next step is h safety e^-(I+P+D)/q e_1^(P+2D)/q e_2^-D/q, within bounds.

    e, e_1, e_2 are the scaled errors of this and the two last accepted steps, q the order of the estimate. A step is
    accepted if e <= 1.
    """

    rtol: float = 1e-7
    atol: float = 1e-9
    safety: float = 0.9
    shrink: float = 0.2  # smallest and
    grow: float = 10.0  # largest factor from step to step
    pid: tuple[float, float, float] = (0.0, 1.0, 0.0)
    dt_min: float = 0.0
    dt_max: float = float("inf")
    max_steps: int = 100_000

    def __post_init__(self) -> None:
        if not (self.rtol >= 0 and self.atol >= 0 and self.rtol + self.atol > 0):
            raise ValueError(
                f"rtol, atol: expected numbers that are not negative nor both zero; got {self.rtol}, {self.atol}"
            )
        if not 0 < self.shrink < 1 <= self.grow or not 0 < self.safety <= 1:
            raise ValueError(
                "shrink, grow, safety: expected 0 < shrink < 1 <= grow and 0 < safety <= 1; "
                f"got {self.shrink}, {self.grow}, {self.safety}"
            )
        if not 0 <= self.dt_min <= self.dt_max or not self.dt_max > 0 or self.max_steps < 1:
            raise ValueError(
                "dt_min, dt_max, max_steps: expected 0 <= dt_min <= dt_max, dt_max > 0, max_steps >= 1; "
                f"got {self.dt_min}, {self.dt_max}, {self.max_steps}"
            )

    def error(self, table: Tableau, y0: Tensor, y1: Tensor, h: Tensor, ks: list[Tensor]) -> Tensor:
        """(B,): the embedded estimate over what is tolerated."""
        assert table.error is not None
        return rk_error(y0, y1, h, ks, table.error, rtol=self.rtol, atol=self.atol)


@dataclass
class Clock:
    """What the controller knows of every row, (B,) each: a step of `h` is next at time `t`."""

    t: Tensor
    h: Tensor  # signed
    end: Tensor
    last: Tensor  # scaled errors of the last accepted step
    older: Tensor  # and the one before
    status: Tensor
    attempts: Tensor
    accepted: Tensor

    @classmethod
    def start(cls, t: Tensor, h: Tensor, end: Tensor) -> Clock:
        """Before the first step; rows of zero length have arrived."""
        one, none = torch.ones_like(t), torch.zeros_like(t, dtype=torch.long)
        status = torch.where(t == end, int(Status.SUCCESS), int(Status.RUNNING))
        return cls(t, h, end, one, one, status, none, none)

    def step(self) -> tuple[Tensor, Tensor]:
        """The signed length of the step to try, 0 for rows that have ended, and whether it lands on the end."""
        rest = self.end - self.t
        lands = self.h.abs() * 1.01 >= rest.abs()  # rather a step one percent longer than a tiny one after it
        return torch.where(self.status == Status.RUNNING, torch.where(lands, rest, self.h), 0), lands

    def after(
        self, control: Control, table: Tableau, step: Tensor, lands: Tensor, error: Tensor
    ) -> tuple[Clock, Tensor]:
        """The clock after a step of that scaled error, and which rows accept it."""
        running = self.status == Status.RUNNING
        error = error.to(self.t.dtype)
        good, finite = running & (error <= 1), error.isfinite()
        p, i, d = control.pid
        q = table.error_order
        e = error.clamp(min=1e-12)
        factor = control.safety * e ** (-(i + p + d) / q)
        if p or d:
            factor = factor * self.last ** ((p + 2 * d) / q) * self.older ** (-d / q)
        factor = torch.where(finite, factor, control.shrink).clamp(control.shrink, control.grow)
        factor = torch.where(good, factor, factor.clamp(max=control.safety))
        tiny = 10 * torch.finfo(self.t.dtype).eps * self.t.abs()
        least = tiny.clamp(min=max(control.dt_min, torch.finfo(self.t.dtype).tiny))
        stuck = running & ~good & (step.abs() <= least)
        size = torch.minimum(torch.maximum((step * factor).abs(), least), torch.full_like(least, control.dt_max))
        attempts = self.attempts + running
        status = self.status
        status = torch.where(good & lands, int(Status.SUCCESS), status)
        out_of_steps = (status == Status.RUNNING) & (attempts >= control.max_steps)
        status = torch.where(out_of_steps, int(Status.MAX_STEPS), status)
        status = torch.where(stuck & finite, int(Status.STEP_TOO_SMALL), status)
        status = torch.where(stuck & ~finite, int(Status.NON_FINITE), status)
        clock = Clock(
            t=torch.where(good, torch.where(lands, self.end, self.t + step), self.t),
            h=torch.where(running, torch.copysign(size, step), self.h),
            end=self.end,
            last=torch.where(good, e, self.last),
            older=torch.where(good, self.last, self.older),
            status=status,
            attempts=attempts,
            accepted=self.accepted + good,
        )
        return clock, good


def first_step(f: Field, table: Tableau, control: Control, t: Tensor, y: Tensor, k: Tensor, span: Tensor) -> Tensor:
    """A first step for every row, signed, from the sizes of state, slope and curvature (Hairer, Norsett, Wanner II.4).

    Costs one evaluation of the field.
    """

    def norm(h: Tensor, ks: list[Tensor], weights: list[float]) -> Tensor:
        return rk_error(y, y, h.to(real_dtype(y)), ks, weights, rtol=control.rtol, atol=control.atol).to(span.dtype)

    one, sign = torch.ones_like(span), torch.where(span < 0, -1.0, 1.0).to(span.dtype)
    d0, d1 = norm(one, [y], [1.0]), norm(one, [k], [1.0])
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
    h0 = torch.where(h0.isfinite(), h0, 1e-6).minimum(span.abs())
    step = (sign * h0).to(real_dtype(y))
    moved = f(column((t + sign * h0).to(real_dtype(y)), y), rk_combine(y, step, [k], [1.0]))
    d2 = norm(1 / torch.where(h0 == 0, 1, h0), [moved, k], [1.0, -1.0])
    largest = torch.maximum(d1, d2)
    h1 = torch.where(largest <= 1e-15, (h0 * 1e-3).clamp(min=1e-6), (0.01 / largest) ** (1 / table.error_order))
    h1 = torch.where(h1.isfinite(), h1, h0)
    return sign * torch.minimum(torch.minimum(100 * h0, h1), span.abs()).clamp(max=control.dt_max)
