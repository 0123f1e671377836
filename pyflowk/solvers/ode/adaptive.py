"""Adaptive integration, every row with a step of its own; nothing is differentiated here.

A row that has ended steps by zero until the last one ends, so no row depends on the others; or it leaves the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...ops.dtypes import state_dtype
from .checked import Checked
from .compiled import advance_compiled
from .control import Clock, Status, first_step, judge, numbers
from .dense import Dense, interpolate
from .events import Event, Fired
from .mesh import Inside, Mesh
from .stages import column, rk_stages
from .stepping import Adaptive
from .tableaus import Tableau
from .within import Step, Within

__all__ = ["Trace", "solve_adaptive"]

READ_EVERY = 8  # steps are kept that long before outputs are read off them, all at once


@dataclass
class Trace:
    """What an adaptive solve found out."""

    y: Tensor  # the outputs, (T, B, *event), NaN where a row did not get to
    clock: Clock
    last: Tensor  # the last good state of every row
    evaluations: Tensor
    events: Fired | None = None
    recorded: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)  # t, h, taken

    def mesh(self, times: Tensor, extra: Tensor | None = None) -> Mesh:
        """The accepted steps alone, moved to the front row by row, as a mesh that can be integrated again.

        `times` (B, T) are where outputs are wanted, the two ends of a row first and last, and `extra` (B, E) more
        such, NaN for rows that want none. Where the times require gradients the points do too: they keep their places
        between the ends.
        """
        known = times.detach()
        begin, final = known[:, 0], known[:, -1]
        if extra is not None:
            known = torch.cat([known, extra], 1)
        fully = self.clock.status == Status.SUCCESS
        at_start = known == begin[:, None]
        at_end = (known == final[:, None]) & fully[:, None] & ~at_start
        if not self.recorded:
            return Mesh(known[:, :1].t(), (), {}, at_start.t(), at_end.t())
        start, h, taken = (torch.stack(part) for part in zip(*self.recorded))
        order = taken.to(torch.int8).argsort(dim=0, descending=True, stable=True)
        steps = int(taken.sum(0).max())
        start, h, taken = (part.gather(0, order)[:steps] for part in (start, h, taken))
        ends = torch.where(
            fully, final, torch.where(taken, start + h, begin).gather(0, taken.sum(0).clamp(min=1)[None] - 1)[0]
        )
        points = torch.cat([torch.where(taken, start, ends), ends[None]])
        sign = torch.where(final < begin, -1.0, 1.0)
        due = ~at_start & ~at_end & (known * sign[:, None] <= (self.clock.t * sign)[:, None])  # not behind an event
        place = torch.searchsorted((points * sign).t().contiguous(), (known * sign[:, None]).contiguous()) - 1
        inside: dict[int, Inside] = {}
        for i in range(steps):
            r, c = (due & (place == i) & taken[i][:, None]).nonzero(as_tuple=True)
            if r.numel():
                inside[i] = r, c, (known[r, c] - points[i, r]) / h[i, r]
        if times.requires_grad:
            length = torch.where(final == begin, 1, final - begin)
            share = (points - begin) / length
            moved = times - times.detach()  # zero, with a gradient
            points = points + (1 - share) * moved[:, 0] + share * moved[:, -1]
            for i, (r, c, _) in inside.items():
                wanted = times if extra is None else torch.cat([times, extra], 1)
                inside[i] = r, c, (wanted[r, c] - points[i, r]) / (points[i + 1, r] - points[i, r])
        return Mesh(points, (), inside, at_start.t(), at_end.t())


class Reader:
    """Reads outputs between the ends of the rows' intervals off the steps, into `result` (T, B, *event)."""

    def __init__(self, within: Within, times: Tensor, between: Tensor, result: Tensor) -> None:
        self.within, self.result, self.between = within, result, between
        self.times = times * torch.where(times[:, -1] < times[:, 0], -1.0, 1.0)[:, None]  # rising
        self.sign = torch.where(times[:, -1] < times[:, 0], -1.0, 1.0).to(times)
        self.steps: list[Step] = []

    def add(self, steps: list[Step]) -> None:
        """Keep some steps, and read if there are many."""
        self.steps += steps
        if len(self.steps) >= READ_EVERY:
            self.read()

    def read(self) -> None:
        """Read what lies within the kept steps, and drop them."""
        steps, self.steps = self.steps, []
        if not steps:
            return
        begin, end = steps[0].before.t * self.sign, steps[-1].after.t * self.sign
        r, c = (self.between & (self.times > begin[:, None]) & (self.times <= end[:, None])).nonzero(as_tuple=True)
        if not r.numel():
            return
        wanted = self.times[r, c]
        # a step that was rejected ends where it began, so the first that does not end before is one that was taken
        ends = torch.stack([step.after.t for step in steps]) * self.sign
        place = (ends[:, r] < wanted).sum(0)
        order = place.argsort(stable=True)
        r, c, wanted = r[order], c[order], wanted[order] * self.sign[r[order]]
        counts = place.bincount(minlength=len(steps)).tolist()
        for step, rows, columns, t in zip(steps, r.split(counts), c.split(counts), wanted.split(counts)):
            if rows.numel():
                h = step.before.step[rows]
                theta = (t - step.before.t[rows]) / h
                ks = [k[rows] for k in self.within.slopes(step, rows)]
                whole = rows if self.within.rows is None else self.within.rows[rows]
                self.result[columns, whole] = interpolate(self.within.table, theta, step.y[rows], h, ks)

    def leave(self, keep: Tensor) -> None:
        """Go on with some of the rows."""
        self.times, self.between, self.sign = self.times[keep], self.between[keep], self.sign[keep]


def solve_adaptive(
    f: Checked,
    table: Tableau,
    y: Tensor,
    times: Tensor,
    control: Adaptive,
    *,
    k: Tensor | None = None,
    record: bool = False,
    dense: Dense | None = None,
    events: list[Event] | None = None,
    after_step: Callable[[Tensor, Tensor, Tensor, Tensor], None] | None = None,
) -> Trace:
    """Integrate from times[:, 0] to times[:, -1], (B, T), with outputs at all of them.

    k is the slope at the start, if it is known. The host looks every `control.poll` steps whether all rows have ended;
    with `control.compile` after many steps that are one graph, without events and `after_step` then. With `record`,
    for who integrates the steps again, outputs between the ends stay NaN.
    """
    first, begin, end = y, times[:, 0], times[:, -1]
    if k is None:
        k = f(column(begin.to(state_dtype(y)), y), y)
    spent = 1
    if (step := control.first_steps(begin, end)) is None:
        step = first_step(f, table, control, begin, y, k, end - begin)
        spent += 1
    clock = Clock.start(begin, step, end)
    at = clock.data if control.compile else clock.times(table, state_dtype(y))
    fired = Fired.start(events, begin, y) if events else None
    within, reader, inside = Within(f, table, torch.zeros_like(clock.attempts)), None, None
    if times.shape[1] > 2:  # not the ends alone
        inside = y.new_full((times.shape[1], *y.shape), float("nan"))
        between = (times != begin[:, None]) & (times != end[:, None])
        reader = Reader(within, times, between, inside) if not record and bool(between.any()) else None
    rates = numbers(control, table, begin.dtype)
    poll = 1 if control.compile else control.poll or (1 if y.device.type == "cpu" else 8)
    recorded: list[tuple[Tensor | None, Tensor, Tensor, Tensor]] = []
    rows: Tensor | None = None  # the present ones, once some have left, and the states and clocks of those
    last, clocks = y, clock.data
    keep = "all" if reader or dense else "clocks" if record else "nothing"
    attempts = 0
    while attempts % poll or bool(clock.step.any()):
        attempts += 1
        if control.compile:
            y, k, clock, steps = advance_compiled(f, table, rates, keep, y, k, clock)
            taken = [Step(*tried_step) for tried_step in steps]
        else:
            before, start = clock, y
            tried, ks = rk_stages(f, table, _stages(at, y), y, at[:, -1], k)
            y, k, data, at = judge(control, table, y, tried, k, ks, clock.data, rates)
            clock = Clock(data)
            taken = [Step(before, clock, start, ks)]
            if fired is not None and (moved := fired.check(within, taken[0], tried)) is not clock:
                taken[0].after = clock = moved
                at = moved.times(table, state_dtype(y))
            if after_step is not None:
                after_step(clock.t, before.step, clock.good, y)
        if record:
            recorded += [(rows, one.before.t, one.before.step, one.after.good) for one in taken]
        if dense is not None:
            for one in taken:
                good = one.after.good
                dense.add(one.before.t, one.before.step, good, one.y, within.slopes(one, good))
        if reader is not None:
            reader.add(taken)
        if control.compact and attempts % poll == 0:
            going = clock.step.nonzero()[:, 0]
            if 0 < 2 * going.numel() <= y.shape[0]:
                if reader is not None:
                    reader.read()
                last, clocks = _put(last, rows, y), _put(clocks, rows, clock.data)
                rows = going if rows is None else rows[going]
                y, k, clock, at = y[going], k[going], Clock(clock.data[going]), at[going]
                within.rows = rows
                if reader is not None:
                    reader.leave(going)
    if reader is not None:
        reader.read()
    y, clock = _put(last, rows, y), Clock(_put(clocks, rows, clock.data))
    result = _with_ends(inside, times, first, y, clock.status == Status.SUCCESS)
    if fired is not None:
        y = torch.where(column(clock.status == Status.EVENT, y), fired.y, y)
    evaluations = spent + clock.attempts * table.evaluations + within.count
    return Trace(result, clock, y, evaluations, fired, _whole(recorded, times.shape[0]))


def _with_ends(inside: Tensor | None, times: Tensor, first: Tensor, last: Tensor, arrived: Tensor) -> Tensor:
    """The outputs (T, B, *event): those between the ends, if there are any, and the ends that rows got to."""
    if inside is None:
        return torch.stack([first, torch.where(column(arrived, last), last, float("nan"))][: times.shape[1]])
    at_start = times == times[:, :1]
    for here, state in ((at_start, first), (~at_start & (times == times[:, -1:]) & arrived[:, None], last)):
        r, c = here.nonzero(as_tuple=True)
        inside[c, r] = state[r]
    return inside


def _stages(at: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """The stages' times, shaped to broadcast against y, and the step behind them."""
    return at.reshape(*at.shape, *[1] * (y.ndim - 1)).unbind(1)


def _put(whole: Tensor, rows: Tensor | None, values: Tensor) -> Tensor:
    """`whole` with some rows replaced."""
    return values if rows is None else whole.index_copy(0, rows, values)


def _whole(
    recorded: list[tuple[Tensor | None, Tensor, Tensor, Tensor]], rows: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The record of steps with a place for every row, also for those that had left the batch: they took none."""
    return [
        tuple(part if here is None else _put(part.new_zeros(rows), here, part) for part in step)  # type: ignore[misc]
        for here, *step in recorded
    ]
