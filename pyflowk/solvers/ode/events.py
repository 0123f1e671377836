"""Events: where g(t, y) changes its sign along the solution of a row; the root is found on the step's polynomial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...ops.describe import described
from ...ops.dtypes import state_dtype
from .checked import Checked
from .control import Clock
from .dense import interpolate
from .stages import column
from .tableaus import Tableau
from .within import Step, Within

__all__ = ["Event", "Fired", "Record", "root_with_gradient"]


@dataclass(frozen=True)
class Event:
    """g(t, y) -> (B,) whose change of sign is the event, row by row; times and states come as a field gets them.

    The root is found on the step's own polynomial, to rounding; of several roots of one g within a step an odd number
    is seen as one, an even number is not seen. A g that is zero at the start does not fire there, one that is NaN
    raises. The times and states
    of events, recorded ones too, are differentiable: dt = -dg / (dg/dt + dg/dy f).

    Args:
        g: continuous.
        terminal: whether the row ends there, with status EVENT; else it is noted in `Solution.records`.
        direction: 1 only where g rises, -1 only where it falls, 0 both.

    Raises ValueError for another direction, or for a g whose answer is not one number a row, or NaN. Cost: one g a
    step, ten to twenty where it changes its sign; an event with a gradient one evaluation of the field more. Source:
    Hairer, Norsett, Wanner 1993, II.6; Chen, Amos, Nickel 2021 (arXiv:2011.03902).

    >>> from pyflowk.solvers import Adaptive, solve_ivp
    >>> fall = lambda t, y: torch.stack([y[:, 1], torch.full_like(y[:, 1], -9.81)], 1)
    >>> ground = Event(lambda t, y: y[:, 0])
    >>> y0, close = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), Adaptive(1e-5, 1e-5)
    >>> solve_ivp(fall, y0, [0.0, 5.0], stepping=close, events=ground).event_t
    tensor([0.4515, 0.6386], dtype=torch.float64)
    """

    g: Callable[[Tensor, Tensor], Tensor]
    terminal: bool = True
    direction: int = 0

    def __post_init__(self) -> None:
        if not callable(self.g) or self.direction not in (-1, 0, 1):
            raise ValueError(
                f"event: expected a function g and a direction of -1, 0 or 1; got {self.g!r} and {self.direction!r}"
            )

    def __str__(self) -> str:
        return f"event {getattr(self.g, '__name__', type(self.g).__name__)}"

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        before = 0 if y.is_inference() else y._version
        value = self.g(column(t.to(state_dtype(y)), y), y)
        if not y.is_inference() and y._version != before:
            raise ValueError(f"{self}: expected it to leave the state as it is; got the state changed in place")
        if not isinstance(value, Tensor) or value.numel() != y.shape[0]:
            raise ValueError(f"{self}: expected one number a row, ({y.shape[0]},); got {described(value)}")
        return value.reshape(-1).clone()  # g may write into the same memory every time


@dataclass
class Record:
    """Some rows passed event number `event`: which (n,), when (n,) and in which states (n, *event)."""

    event: int
    rows: Tensor
    t: Tensor
    y: Tensor


@dataclass
class Fired:
    """What became of the events: of terminal ones time, state and number, NaN and -1 for rows without; the others."""

    events: Sequence[Event]
    values: list[Tensor]
    t: Tensor
    y: Tensor
    index: Tensor
    records: list[Record] = field(default_factory=list)

    @classmethod
    def start(cls, events: Sequence[Event], t: Tensor, y: Tensor) -> Fired:
        nan, values = torch.full_like(t, float("nan")), [event(t, y) for event in events]
        sound = y.isfinite().reshape(len(y), y[:1].numel()).all(1)
        for event, value in zip(events, values):
            _check_number(event, t, value, sound)
        return cls(events, values, nan, torch.full_like(y, float("nan")), torch.full_like(t, -1).long())

    def check(self, within: Within, step: Step, y1: Tensor) -> Clock:
        """Look at one step, tried to y1; the clock with the rows stopped that a terminal event stops."""
        table, before, after, y, ks = within.table, step.before, step.after, step.y, step.ks
        h, good = before.step, after.good
        thetas = []
        for number, event in enumerate(self.events):
            g0, g1 = self.values[number], event(after.t, y1)
            rises, falls = (g0 < 0) & (g1 >= 0), (g0 > 0) & (g1 <= 0)
            crossed = good & (rises if event.direction > 0 else falls if event.direction < 0 else rises | falls)
            self.values[number] = torch.where(good, g1, g0)
            theta = torch.full_like(h, float("inf"))
            if bool((crossed | (good & g1.isnan())).any()):
                _check_number(event, after.t, g1, good)
                ks = within.slopes(step, crossed)
                theta = torch.where(crossed, self._root(event, table, before.t, h, g0, g1, y, ks), theta)
            thetas.append(theta)
        first, which = torch.full_like(h, float("inf")), self.index
        for number, event in enumerate(self.events):
            if event.terminal:
                which = torch.where(thetas[number] < first, number, which)
                first = torch.minimum(first, thetas[number])
        for number, event in enumerate(self.events):
            if not event.terminal:
                rows = (thetas[number].isfinite() & (thetas[number] < first)).nonzero()[:, 0]
                if rows.numel():
                    theta = thetas[number][rows]
                    state = interpolate(table, theta, y[rows], h[rows], [k[rows] for k in ks])
                    self.records.append(Record(number, rows, before.t[rows] + theta * h[rows], state))
        stopped = first.isfinite()
        if not bool(stopped.any()):
            return after
        theta = torch.where(stopped, first, 0)
        t = before.t + theta * h
        here = column(stopped, y)
        self.t, self.index = torch.where(stopped, t, self.t), which
        self.y = torch.where(here, interpolate(table, theta, y, h, ks), self.y)
        return after.stopped(stopped, t)

    def slots(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Of all events of a row, the terminal one first: times and numbers, (S, B), NaN and -1 where a row has fewer;
        and the slots of every record."""
        used, places = torch.ones_like(self.index), []
        for record in self.records:
            places.append(used[record.rows])
            used[record.rows] += 1
        count = int(used.max()) if used.numel() else 1
        t, index = (
            self.t.new_full((count, *self.t.shape), float("nan")),
            self.index.new_full((count, *self.t.shape), -1),
        )
        t[0], index[0] = self.t, self.index
        for record, place in zip(self.records, places):
            t[place, record.rows], index[place, record.rows] = record.t, record.event
        return t, index, places

    @staticmethod
    def _root(
        event: Event, table: Tableau, t: Tensor, h: Tensor, g0: Tensor, g1: Tensor, y: Tensor, ks: list[Tensor]
    ) -> Tensor:
        """theta of the root between 0 and 1: regula falsi (Illinois: who stays twice loses half its weight), with
        a bisection every fourth time. The last point is just past the root: the interval closes from its far side."""
        low, high = torch.zeros_like(h), torch.ones_like(h)
        f_low, f_high = g0.to(h.dtype), g1.to(h.dtype)
        least, above = 2 * torch.finfo(h.dtype).eps, torch.zeros_like(h, dtype=torch.bool)
        below = above
        for turn in range(80):
            wide = high - low > 2 * least
            if not bool(wide.any()):
                break
            theta = high - f_high * (high - low) / torch.where(f_high == f_low, 1, f_high - f_low)
            if turn % 4 == 3:
                theta = (low + high) / 2
            theta = torch.where(theta.isfinite(), theta, (low + high) / 2)
            theta = torch.maximum(low + least, torch.minimum(theta, high - least))
            value = event(t + theta * h, interpolate(table, theta, y, h, ks)).to(h.dtype)
            beyond = torch.where(g0 < 0, value >= 0, value <= 0)  # on the side of the upper end
            upper, lower = wide & beyond, wide & ~beyond  # a row that is done does not move with the others
            f_low = torch.where(lower, value, torch.where(upper & above, f_low / 2, f_low))
            f_high = torch.where(upper, value, torch.where(lower & below, f_high / 2, f_high))
            low, high = torch.where(lower, theta, low), torch.where(upper, theta, high)
            above, below = upper, lower
        return high


def _check_number(event: Event, t: Tensor, value: Tensor, rows: Tensor) -> None:
    """ValueError where an event has no sign, which could never change."""
    if bool((unknown := rows & value.isnan()).any()):
        row = int(unknown.nonzero()[0, 0])
        raise ValueError(f"{event}: expected numbers along the solution; got NaN at t = {t[row].item():g} in row {row}")


def root_with_gradient(event: Event, f: Checked, t: Tensor, y: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
    """Event time and state of the rows `here`, with their derivatives, from the state y at the fixed time t.

    Implicit function theorem: dt = -dg / (dg/dt + dg/dy f). The derivative is NaN where the solution only touches the
    event; a jump between constants has a fixed time.
    """
    fixed, state = t.detach(), y.detach()

    def along(step: Tensor) -> Tensor:
        return event(fixed + step, state + column(step, y).to(y.dtype) * slope)

    with torch.no_grad():
        slope = f(column(fixed.to(state_dtype(y)), y), state).clone()
    with torch.enable_grad():
        step = torch.zeros_like(fixed).requires_grad_()
        (rate,) = torch.autograd.grad(along(step).sum() + 0 * step.sum(), step)
    value = event(fixed, y)
    change = value - value.detach()  # zero, with a gradient
    touched = here & (rate == 0)
    moved = -change / torch.where(here & ~touched, rate, 1)
    moved = torch.where(touched, torch.where(touched, change, 1).square().sqrt(), moved)  # the root's slope at 0 is NaN
    return fixed + moved, y + column(moved, y).to(y.dtype) * slope
