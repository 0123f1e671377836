"""What lies within a tried step: its slopes, and those that only the polynomial inside it needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...ops.dtypes import state_dtype
from .checked import Checked
from .control import Clock
from .stages import column, rk_inside
from .tableaus import Tableau

__all__ = ["Step", "Within"]


@dataclass
class Step:
    """One tried step of all rows: the clock before and after it, the state it started from, and the slopes."""

    before: Clock
    after: Clock
    y: Tensor
    ks: list[Tensor]  # none, where nobody wants to know
    asked: Tensor | None = None  # which rows somebody looked inside of


@dataclass
class Within:
    """All slopes of a step; a method's `extra` ones are evaluated when somebody first asks, and counted row by row."""

    f: Checked
    table: Tableau
    count: Tensor  # (B,) extra evaluations that each row needed, of all rows
    rows: Tensor | None = None  # where the present ones are among them; None: where they are

    def slopes(self, step: Step, asked: Tensor) -> list[Tensor]:
        """For a look inside some rows' step, by mask or index."""
        table = self.table
        if not table.extra:
            return step.ks
        if step.asked is None:
            t, h = step.before.t, step.before.step
            times = [column((t + c * h).to(state_dtype(step.y)), step.y) for c in table.all_c[table.stages :]]
            rk_inside(self.f, table, times, step.y, h.to(state_dtype(step.y)), step.ks)
            step.asked = torch.zeros_like(h, dtype=torch.bool)
        new = torch.zeros_like(step.asked)
        new[asked] = True
        new &= ~step.asked
        step.asked = step.asked | new
        places = new.nonzero()[:, 0]
        self.count[places if self.rows is None else self.rows[places]] += len(table.extra)
        return step.ks
