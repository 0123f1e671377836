"""Adaptive integration, every row with a step of its own; nothing is differentiated here.

A row that has ended steps by zero until the last one ends, so no row depends on the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .control import Clock, Control, Status, first_step
from .dense import Dense, interpolate
from .events import Event, Fired
from .field import Field, column, real_dtype, rk_stages
from .mesh import Inside, Mesh
from .tableaus import Tableau

__all__ = ["Trace", "solve_adaptive"]


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

        `times` (B, T) are where outputs are wanted, the two ends of a row first and last, and `extra` (B,) once more,
        NaN for rows that want none. Where the times require gradients the points do too: they keep their places between
        the ends.
        """
        known = times.detach()
        begin, final = known[:, 0], known[:, -1]
        if extra is not None:
            known = torch.cat([known, extra[:, None]], 1)
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
        due = ~at_start & ~at_end & known.isfinite()
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
                wanted = times if extra is None else torch.cat([times, extra[:, None]], 1)
                inside[i] = r, c, (wanted[r, c] - points[i, r]) / (points[i + 1, r] - points[i, r])
        return Mesh(points, (), inside, at_start.t(), at_end.t())


def solve_adaptive(
    f: Field,
    table: Tableau,
    y: Tensor,
    times: Tensor,
    control: Control,
    *,
    k: Tensor | None = None,
    step: Tensor | None = None,
    poll: int = 1,
    record: bool = False,
    dense: Dense | None = None,
    events: list[Event] | None = None,
    after_step: Callable[[Tensor, Tensor, Tensor, Tensor], None] | None = None,
) -> Trace:
    """Integrate from times[:, 0] to times[:, -1], (B, T), with outputs at all of them.

    k is the slope at the start, `step` (B,) the first steps, if they are known. The host looks every
    `poll` steps whether all rows have ended.
    """
    first, begin, end = y, times[:, 0], times[:, -1]
    if k is None:
        k = f(column(begin.to(real_dtype(y)), y), y)
    spent = 1
    if step is None:
        step = first_step(f, table, control, begin, y, k, end - begin)
        spent += 1
    clock = Clock.start(begin, step, end)
    fired = Fired.start(events, begin, y) if events else None
    result = y.new_full((times.shape[1], *y.shape), float("nan"))
    at_start = times == begin[:, None]
    between = ~at_start & (times != end[:, None])
    interior = bool(between.any())
    recorded = []
    attempts = 0
    while attempts % poll or bool((clock.status == Status.RUNNING).any()):
        attempts += 1
        h, lands = clock.step()
        dtype = real_dtype(y)
        stages = _stage_times(table, clock.t, h, torch.where(lands, end, clock.t + h), y)
        y1, ks = rk_stages(f, table, stages, y, h.to(dtype), k)
        error = control.error(table, y, y1, h.to(dtype), ks)
        after, good = clock.after(control, table, h, lands, error)
        if record:
            recorded.append((clock.t, h, good))
        if dense is not None:
            dense.add(clock.t, h, good, y, ks)
        if fired is not None:
            after = fired.check(table, clock, after, h, good, y, y1, ks)
        if interior:
            sign = torch.where(end < begin, -1.0, 1.0)[:, None]
            due = between & good[:, None] & (times * sign > (clock.t[:, None] * sign))
            due = due & (times * sign <= after.t[:, None] * sign)
            r, c = due.nonzero(as_tuple=True)
            if r.numel():
                theta = (times[r, c] - clock.t[r]) / h[r]
                result[c, r] = interpolate(table, theta, y[r], h[r], [s[r] for s in ks])
        keep = column(good, y)
        y, k = torch.where(keep, y1, y), torch.where(keep, ks[-1], k)
        clock = after
        if after_step is not None:
            after_step(clock.t, h, good, y)
    arrived = ~at_start & (times == end[:, None]) & (clock.status == Status.SUCCESS)[:, None]
    for here, state in ((at_start, first), (arrived, y)):
        r, c = here.nonzero(as_tuple=True)
        result[c, r] = state[r]
    if fired is not None:
        y = torch.where(column(clock.status == Status.EVENT, y), fired.y, y)
    return Trace(result, clock, y, spent + clock.attempts * table.evaluations, fired, recorded)


def _stage_times(table: Tableau, t: Tensor, h: Tensor, after: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    c = torch.tensor(table.c, dtype=t.dtype, device=t.device)
    times = torch.addcmul(t, c[:, None], h)
    times[-table.at_end :] = after  # at the end of the step itself, not near it
    times = times.to(real_dtype(y))
    return times.reshape(table.stages, -1, *[1] * (y.ndim - 1)).unbind(0)
