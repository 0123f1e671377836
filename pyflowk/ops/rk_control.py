"""What follows from a tried Runge-Kutta step: error norm, accept or reject, PID controller, the next step's times.

A row's clock is a row of numbers, one a column below; `start_clock` makes the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from ._router import FusedOp
from .dtypes import state_dtype
from .rk_step import _check_like, _check_slopes, _present, rk_error_formula

__all__ = ["Status", "rk_control", "start_clock"]

#: t, the step proposed next (signed), the last time, the scaled errors of the two last accepted steps, a `Status`,
#: steps tried and taken, the step to try (0 for rows that have ended), and whether the last one was taken.
TIME, NEXT, END, LAST, OLDER, STATUS, ATTEMPTS, ACCEPTED, STEP, GOOD = range(10)
COLUMNS = 10
MOST_STAGES = 14  # of dopri8
NUMBERS = 11  # of `control`


class Status(IntEnum):
    """A status says how a row ended."""

    SUCCESS = 0
    EVENT = 1
    MAX_STEPS = 2
    STEP_TOO_SMALL = 3
    NON_FINITE = 4
    RUNNING = -1


_RUNNING = int(Status.RUNNING)  # torch.compile takes a comparison with an enumerator for a constant


# ---- formula; rates and bounds may be numbers or 0-d tensors ---------------------------------------------------------


def tried_step(t: Tensor, following: Tensor, end: Tensor, status: Tensor) -> Tensor:
    """Return the signed length of the step to try; one that lands on the end may be one percent longer."""
    rest = end - t
    step = torch.where(following.abs() * 1.01 >= rest.abs(), rest, following)
    return torch.where(status == _RUNNING, step, 0)


def advanced(clock: Sequence[Tensor], error: Tensor, control: Sequence[Any]) -> tuple[Tensor, ...]:
    """Return the columns of a clock after a step of that scaled error, all (B,)."""
    t, following, end, last, older, status, attempts, accepted, step, _ = clock
    safety, shrink, grow, this, before, first, dt_min, dt_max, max_steps = control
    running = status == _RUNNING
    good, finite, lands = running & (error <= 1), error.isfinite(), step == end - t
    e = error.to(t.dtype).clamp(min=1e-12)
    factor = safety * torch.exp(this * e.log() + before * last.log() + first * older.log())
    factor = torch.where(finite, factor, shrink).clamp(shrink, grow)
    factor = torch.where(good, factor, factor.clamp(max=safety))
    least = (10 * torch.finfo(t.dtype).eps * t.abs()).clamp(min=dt_min)
    stuck = running & ~good & (step.abs() <= least)
    size = torch.maximum((step * factor).abs(), least).clamp(max=dt_max)
    attempts = attempts + running
    status = torch.where(good & lands, int(Status.SUCCESS), status)
    status = torch.where((status == _RUNNING) & (attempts >= max_steps), int(Status.MAX_STEPS), status)
    status = torch.where(stuck, torch.where(finite, int(Status.STEP_TOO_SMALL), int(Status.NON_FINITE)), status)
    now = torch.where(good, torch.where(lands, end, t + step), t)
    following = torch.where(running, torch.copysign(size, step), following)
    return (
        now,
        following,
        end,
        torch.where(good, e, last),
        torch.where(good, last, older),
        status,
        attempts,
        accepted + good,
        tried_step(now, following, end, status),
        good.to(t.dtype),
    )


def stage_times(t: Tensor, step: Tensor, end: Tensor, c: Sequence[float], dtype: torch.dtype) -> list[Tensor]:
    """Return when the stages are, and the step behind them, (B,) each; a step's end is the end itself."""
    after = torch.where(step == end - t, end, t + step)
    return [*((after if at == 1 else t + at * step).to(dtype) for at in c), step.to(dtype)]


def _control(
    y0: Tensor,
    y1: Tensor,
    k0: Tensor,
    k1: Tensor,
    clock: Tensor,
    ks: Sequence[Tensor],
    weights: Sequence[float],
    control: Sequence[float],
    c: Sequence[float],
) -> tuple[Tensor, ...]:
    columns = clock.unbind(1)
    h = columns[STEP].to(state_dtype(y0))
    error = rk_error_formula(y0, y1, h, ks, weights, control[0], control[1])
    after = advanced(columns, error, control[2:])
    taken = after[GOOD].bool().reshape(-1, *[1] * (y0.ndim - 1))
    times = stage_times(after[TIME], after[STEP], after[END], c, h.dtype)
    return torch.where(taken, y1, y0), torch.where(taken, k1, k0), torch.stack(after, 1), torch.stack(times, 1)


def _check(
    y0: Tensor,
    y1: Tensor,
    k0: Tensor,
    k1: Tensor,
    clock: Tensor,
    ks: Sequence[Tensor],
    weights: Sequence[float],
    control: Sequence[float],
    c: Sequence[float],
) -> None:
    _check_slopes("rk_control", y0, clock[:, STEP].to(state_dtype(y0)), ks, weights)
    for what, t in (("y1", y1), ("k0", k0), ("k1", k1)):
        _check_like("rk_control", y0, what, t)
    # a device without float64 has no kernel either
    if clock.dtype != torch.float64 and y0.device.type != "mps":
        raise TypeError(f"rk_control: clock must be {torch.float64}; got {clock.dtype}")
    if clock.shape != (y0.shape[0], COLUMNS):
        raise ValueError(f"rk_control: clock must be ({y0.shape[0]}, {COLUMNS}); got {tuple(clock.shape)}")
    if len(control) != NUMBERS:
        raise ValueError(f"rk_control: control must be {NUMBERS} numbers; got {len(control)}")
    if not 1 <= len(c) <= MOST_STAGES:
        raise ValueError(f"rk_control: c must be 1 to {MOST_STAGES} numbers; got {len(c)}")


_rk_control = FusedOp(
    "rk_control",
    "(Tensor y0, Tensor y1, Tensor k0, Tensor k1, Tensor clock, Tensor[] ks, float[] weights, float[] control, "
    "float[] c) -> (Tensor, Tensor, Tensor, Tensor)",
    formula=_control,
    check=_check,
    fake=lambda y0, y1, k0, k1, clock, *rest: (
        y0.new_empty(y0.shape),
        y0.new_empty(y0.shape),
        clock.new_empty(clock.shape),
        y0.new_empty((y0.shape[0], len(rest[-1]) + 1), dtype=state_dtype(y0)),
    ),
)


def start_clock(t: Tensor, step: Tensor, end: Tensor) -> Tensor:
    """Return the clock before the first step, (B, 10); rows of zero length have arrived.

    >>> start_clock(torch.zeros(1), torch.tensor([0.5]), torch.ones(1))
    tensor([[ 0.0000,  0.5000,  1.0000,  1.0000,  1.0000, -1.0000,  0.0000,  0.0000,
              0.5000,  0.0000]])
    """
    one, zero = torch.ones_like(t), torch.zeros_like(t)
    status = torch.where(t == end, int(Status.SUCCESS), int(Status.RUNNING)).to(t.dtype)
    return torch.stack([t, step, end, one, one, status, zero, zero, tried_step(t, step, end, status), zero], 1)


def rk_control(
    y0: Tensor,
    y1: Tensor,
    k0: Tensor,
    k1: Tensor,
    clock: Tensor,
    ks: Sequence[Tensor],
    weights: Sequence[float],
    control: Sequence[float],
    c: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Judge a tried step of every row and go on: what it accepts, its next step, and when that step's stages are.

    With e the scaled error of `rk_error`, a running row takes the step where e <= 1; the next one is
    h safety e^a e_1^b e_2^d within shrink and grow, e_1 and e_2 being the errors of the two accepted steps before.
    A row that ends keeps its state and steps by zero.

    Args:
        y0, y1: (B, *event), states before and after the step, as for `rk_error`.
        k0, k1: slopes there.
        clock: (B, 10), float64, of `start_clock` or of the call before.
        ks, weights: slopes with their weights in the error.
        control: rtol, atol, safety, shrink, grow, a, b, d, the smallest step, the largest, the most steps.
        c: the method's times; 1 is at the end of the step exactly.

    Returns:
        State and slope of every row, its clock, and (B, len(c) + 1): stage times, with the step behind them, float32
        (float64 for float64 states). Bitwise the same for any batch mates.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices or counts that do not fit.

    Cost: one pass over memory. Derivatives: those of its formula. Source: Hairer, Norsett, Wanner 1993, II.4;
    Soderlind 2003.

    >>> y0, y1 = torch.zeros(1, 1), torch.ones(1, 1)
    >>> clock = start_clock(*(torch.tensor([v], dtype=torch.float64) for v in (0.0, 0.25, 1.0)))
    >>> numbers = 0.0, 1.0, 0.9, 0.2, 10.0, -0.2, 0.0, 0.0, 0.0, 1.0, 100.0
    >>> y, _, clock, times = rk_control(y0, y1, y0, y1, clock, [y1], [4.0], numbers, [0.0, 1.0])
    >>> y, times
    (tensor([[1.]]), tensor([[0.2500, 0.4750, 0.2250]]))
    """
    slopes, kept = _present("rk_control", ks, weights)
    return _rk_control((y0, y1, k0, k1, clock, slopes, kept, control, c))
