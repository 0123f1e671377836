"""Integration over a mesh that is known beforehand: fixed steps, and the accepted steps of an adaptive solve again.

Nothing here asks the host, so a captured or compiled graph can hold it, and everything is differentiable in the state,
the field's parameters and the mesh.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from ...ops.dtypes import state_dtype
from ...ops.modes import functional
from ...ops.recompute import Standing, computed_again
from .checked import Checked
from .dense import Dense, interpolate
from .stages import rk_inside, rk_stages
from .tableaus import Tableau

__all__ = ["Inside", "Mesh", "differentiating", "in_stretches", "integrate"]

Inside = tuple[Tensor, Tensor, Tensor]  # rows, columns of the output, theta


@dataclass
class Mesh:
    """Where to step and what is wanted: either for all rows alike or row by row.

    points: (n + 1,), with `outputs[i]` the columns that are the state at point i. Or points (n + 1, B), with
    `inside[i]` what is wanted within step i, and (T, B) masks of what is the first and the last state.
    """

    points: Tensor
    outputs: Sequence[Sequence[int]] = ()
    inside: dict[int, Inside] = field(default_factory=dict)
    at_start: Tensor | None = None
    at_end: Tensor | None = None
    perturb: bool = False  # whether the field is asked just within a step in place of at its ends

    @property
    def steps(self) -> int:
        return self.points.shape[0] - 1

    def clocks(self, table: Tableau, y: Tensor) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
        """The steps, (B,) each, and the stage times of each step as the field sees them."""
        dtype = state_dtype(y)
        start, end = self.points[:-1], self.points[1:]
        h = end - start
        # a stage at an end of its step is at that point itself, not near it; no table of stages is copied to a card
        times = torch.stack([start if c == 0 else end if c == 1 else start + c * h for c in table.all_c], 1).to(dtype)
        if self.perturb:
            begin, stop = start.to(dtype), end.to(dtype)
            ends: dict[float, Tensor] = {0: torch.nextafter(begin, stop), 1: torch.nextafter(stop, begin)}
            inside = torch.stack([ends.get(c, times[:, i]) for i, c in enumerate(table.all_c)], 1)
            times = times + (inside - times).detach()
        if times.ndim == 2:
            steps = h.to(dtype)[:, None].expand(-1, y.shape[0])
        else:
            steps, times = h.to(dtype), times.reshape(*times.shape, *[1] * (y.ndim - 1))
        return list(steps.unbind(0)), [row.unbind(0) for row in times.unbind(0)]

    def gather(self, first: Tensor, last: Tensor, pieces: list[Tensor]) -> Tensor:
        """The outputs from what was found on the way."""
        if self.at_start is None or self.at_end is None:
            states = [first, *pieces]
            wanted = [columns for columns in self.outputs[1:] if columns]
            order = {j: 0 for j in self.outputs[0]}
            order |= {j: i for i, columns in enumerate(wanted, 1) for j in columns}
            return torch.stack([states[order[j]] for j in range(len(order))])
        shape = *self.at_start.shape, *[1] * (first.ndim - 1)
        nowhere = torch.full_like(first, float("nan"))
        whole = torch.where(self.at_end.reshape(shape), last, nowhere)
        whole = torch.where(self.at_start.reshape(shape), first, whole)
        if not pieces:
            return whole
        rows = torch.cat([place[0] for place in self.inside.values()])
        columns = torch.cat([place[1] for place in self.inside.values()])
        return whole.index_put((columns, rows), torch.cat(pieces))


def differentiating(f: Checked, t: Tensor, y: Tensor) -> tuple[Tensor, bool]:
    """The slope without its graph, and whether the field takes derivatives on the way to it, as divergences do.

    Under a checkpoint each of them would have all steps up to it computed again; torch.func refuses it. Where it takes
    them by the graph of its state, `f.alive` is set: from then on it gets a state with a graph without grad mode too.
    """
    kept: list[Tensor] = []
    read = False

    def pack(x: Tensor) -> int:
        kept.append(x)
        return len(kept) - 1

    def unpack(place: int) -> Tensor:
        nonlocal read
        read = True
        return kept[place]

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            k = f(t, y)
        f.alive = read and y.requires_grad
    except RuntimeError as error:
        if "saved tensor hooks" not in str(error):
            raise
        k, read = f(t, y), True
    return k.detach().clone().requires_grad_(k.requires_grad), read


def integrate(
    f: Checked, table: Tableau, y: Tensor, mesh: Mesh, *, every: int = 0, dense: Dense | None = None,
    k: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The outputs, (T, B, *event); k is the slope at the start, if it is known.

    With `every` > 0 only every so many steps a state is kept for the backward pass, which computes what lies between
    again.
    """
    steps, times = mesh.clocks(table, y)
    first = y

    def stretch(y: Tensor, k: Tensor | None, begin: int, end: int) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        found = []
        for i in range(begin, end):
            if k is None:
                k = f(times[i][0], y)
            goes_on = table.fsal and i + 1 < mesh.steps and not mesh.perturb
            look = i in mesh.inside or dense is not None
            more = goes_on or look
            y1, ks = rk_stages(f, table, times[i], y, steps[i], k, slope=more)
            k1 = ks[-1]
            if look:
                rk_inside(f, table, times[i][table.stages :], y, steps[i], ks)
            if i in mesh.inside:
                rows, _, theta = mesh.inside[i]
                found.append(interpolate(table, theta, y[rows], steps[i][rows], [s[rows] for s in ks]))
            if dense is not None and len(dense.steps) == i:  # not when it is computed again
                start = mesh.points[i].expand(y.shape[0])
                dense.add(start, mesh.points[i + 1] - start, torch.ones_like(start, dtype=torch.bool), y, ks)
            if mesh.outputs and mesh.outputs[i + 1]:
                found.append(y1)
            y, k = y1, k1 if more and not mesh.perturb else None
        return y, k, found

    y, pieces = in_stretches(stretch, f, y, k, mesh.steps, every)
    return mesh.gather(first, y, pieces)


def in_stretches(
    stretch: Callable[..., tuple[Tensor, Any, list[Tensor]]], f: Checked, y: Tensor, slopes: Any, steps: int, every: int
) -> tuple[Tensor, list[Tensor]]:
    """The last state and all that was found, from `stretch(y, slopes, begin, end) -> y, slopes, found`, `every` so many
    steps, whose insides the backward pass computes again; of all steps at once where `every` is 0."""
    again = every and torch.is_grad_enabled() and not functional()  # whose tensors have no hooks
    standing = Standing(f.f) if again and not torch.compiler.is_compiling() else None
    pieces: list[Tensor] = []
    length = every or max(steps, 1)
    for begin in range(0, steps, length):
        arguments = y, slopes, begin, min(begin + length, steps)
        if again:
            y, slopes, found = computed_again(stretch, *arguments, standing=standing, arrival=itemgetter(0))
        else:
            y, slopes, found = stretch(*arguments)
        pieces += found
    return y, pieces
