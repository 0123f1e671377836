"""From noise to data by edits: all that are due in a step are made together, by gates that no rate can overrun."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from .._checks import require_counts, require_numbers
from ..nets.field import Field, as_field
from ..ops import apply_edits, jump_step, random_numbers
from ..ops.describe import require_data
from ..ops.draw import draw_keys, later_keys
from ..ops.modes import transformed
from ..paths import EditPath, EditRates, expected_edits
from ..shapes import expand_context
from ..space import INTEGERS, Ragged

__all__ = ["EditWalk", "walk_edits"]

PIECES = 64
"""Parts, at most, that a step is cut into where too many edits are due."""
SHORTEST = 1 / 16
"""A part is at least so much of what is left of its step."""
CERTAIN = 1e6
"""Edits to come, at most, where guidance raises rates: all gates are open by then, and numbers stay finite."""


class EditWalk(NamedTuple):
    """Where a walk ended, ``x``; per row how many insertions found no room, ``dropped`` (B,), and how often more than
    one edit of a position was to be expected in one part of a step, ``saturated`` (B,); and the ``evaluations``."""

    x: Ragged
    dropped: Tensor
    saturated: Tensor
    evaluations: int


@torch.no_grad()
def walk_edits(
    field: Field | Callable[..., Any],
    x: Ragged,
    path: EditPath,
    grid: Tensor,
    *,
    longest: int,
    context: Tensor | Ragged | None = None,
    generator: Generator | None = None,
    kept: int = 0,
    most: float = math.inf,
    temperature: float = 1.0,
    top_p: float = 1.0,
    guidance: float = 0.0,
    corrector: float = 0.0,
) -> EditWalk:
    r"""Make data of noise x, a :class:`pyflowk.space.Ragged` of symbols, by edits at the times of a ``grid``.

    A field of edits, whose answer to (t, x, context) is an :class:`pyflowk.paths.EditLogits`, is asked once a step.
    Its logits are taken to stay, and the gate of each edit is :math:`1 - e^{-n}`, n being how many are to be expected
    until the end of the step (:func:`pyflowk.paths.expected_edits`): finite at t = 1, too. All positions go together:
    what stands there may be deleted or substituted, and a token inserted to its right, even if it is deleted. Rows
    have up to ``longest`` symbols at any time: insertions that find no room, those furthest to the right, are dropped.

    Args:
        kept: so many tokens at the beginning of every row stay, and nothing comes between them.
        most: a step ends earlier for a row of which more edits are to be expected than this, as those of one step do
            not see each other, and the rest of it is another one, up to 64 times.
        temperature, top_p: of the tokens, as in :func:`pyflowk.ops.jump_step`.
        guidance: w, for rates and chances :math:`r_c^{1 + w} r_u^{-w}`, of a field that can do without its context.
        corrector: strength s of edits that are taken back and made again, at the rates :math:`(1 + c_t)` times those
            forward and :math:`c_t \kappa'_t / \kappa_t` for each token, :math:`c_t = s\, t^{1.5} (1 - t)^{0.5}`; it
            keeps the law of the path, and holds for noise without any tokens.

    The same rows come of the same generator whatever their neighbours. Raises ValueError for a grid that does not rise
    from 0 to 1, for rows longer than ``longest`` or shorter than ``kept``, for a corrector of other noise, and on the
    CPU for rates that are NaN or infinite, with their row. Cost: an evaluation a step, two with guidance. Havasi et
    al., 2025, arXiv:2506.09018.

    >>> import torch
    >>> from pyflowk.paths import EditLogits, EditPath
    >>> from pyflowk.solvers import uniform_grid, walk_edits
    >>> from pyflowk.space import Ragged
    >>> def never(t, x):
    ...     rows, longest = x.values.shape
    ...     return EditLogits(torch.full((rows, 1 + longest, 1), -99.0), torch.zeros(rows, 1 + longest, 5))
    >>> walk_edits(never, Ragged.of([torch.tensor([3, 1])]), EditPath(), uniform_grid(4), longest=8).x.row(0)
    tensor([3, 1])
    """
    _check(x, grid, longest, kept, most, guidance, corrector)
    rows, where = len(x), x.values.device
    asked = as_field(field)
    told_of = expand_context(context, rows)  # type: ignore[type-var]
    keys = draw_keys(rows, generator, device=where)
    dropped, saturated = x.lengths.new_zeros(2, rows, dtype=torch.int64)
    ends = grid.to(where).double()
    t, calls = ends[:1].expand(rows), 0
    for step, end in enumerate(ends[1:]):
        for piece in range(PIECES):
            odds, rates = _told(asked, x, path, t, told_of, guidance)
            calls += 1
            until = end.expand(rows)
            if most < math.inf and piece < PIECES - 1:
                due = _due(odds, path, t, until).sum((1, 2))
                until = torch.lerp(t, until, (most / due).clamp(SHORTEST, 1))
            due = _due(odds, path, t, until)
            saturated += (due > 1).sum((1, 2))
            due = _corrected(due, x, path, t, until, corrector)
            due[:, :kept] = 0
            due[:, kept : kept + 1, 1:] = 0
            x, lost = _edited(x, due, rates, later_keys(keys, step * PIECES + piece), longest, temperature, top_p)
            dropped, t = dropped + lost, until
            if most == math.inf or bool((t >= end).all()):
                break
    return EditWalk(x, dropped, saturated, calls)


def _told(
    field: Field, x: Ragged, path: EditPath, t: Tensor, context: Any, guidance: float
) -> tuple[Tensor, EditRates]:
    """Log-odds of edits (B, T, 3), and the rates that they are of, of a field at times t (B,), guided or not."""
    asked: Any = field
    rates = EditRates(asked(t.float(), x, context), x, path.left(t))
    _check_rates(rates.odds, t)
    if not guidance or context is None:
        return rates.odds, rates
    weak = EditRates(asked(t.float(), x, None), x, path.left(t))
    _check_rates(weak.odds, t)
    rates.insert = torch.lerp(weak.insert.log_softmax(2), rates.insert.log_softmax(2), 1 + guidance)
    if rates.substitute is not None and weak.substitute is not None:
        mixed = torch.lerp(weak.substitute.log_softmax(2), rates.substitute.log_softmax(2), 1 + guidance)
        rates.substitute = mixed.nan_to_num(nan=-math.inf)
    r = torch.lerp(weak.log_rates, rates.log_rates, 1 + guidance).exp().clamp(max=CERTAIN)
    odds = r + torch.log(-torch.expm1(-r))  # of which r is log(1 + e^odds)
    return odds.where(rates.odds > -math.inf, -math.inf), rates


def _due(odds: Tensor, path: EditPath, t: Tensor, until: Tensor) -> Tensor:
    """How many edits of each kind and position are to be expected from t to ``until`` (B,), (B, T, 3)."""
    ratio = (path.left(until) / path.left(t)).log().where(until > t, 0.0)
    due = expected_edits(odds.double(), ratio[:, None, None])
    if path.spread:
        due = due + path.spread * (until - t)[:, None, None] * torch.nn.functional.softplus(odds.double())
    return due.where((until > t)[:, None, None], 0.0)  # whatever is told of rows that wait for others at the end


def _corrected(due: Tensor, x: Ragged, path: EditPath, t: Tensor, until: Tensor, strength: float) -> Tensor:
    """With deletions of what has been inserted, and as many more insertions."""
    if not strength:
        return due
    more = (strength * t**1.5 * (1 - t).sqrt())[:, None]
    grown = ((1 - path.left(until)) / (1 - path.left(t))).log().where(t > 0, 0.0)[:, None]
    back = (more * grown).where(x.mask, 0.0)
    due = due * (1 + more.unsqueeze(2))
    if due.shape[2] == 1:
        due = torch.cat((due, torch.zeros_like(due), torch.zeros_like(due)), 2)
    due[:, 1:, 1] += back
    return due


def _edited(
    x: Ragged, due: Tensor, rates: EditRates, keys: Tensor, longest: int, temperature: float, top_p: float
) -> tuple[Ragged, Tensor]:
    """The sequences after the edits of a part of a step, and how many insertions had no room."""
    rows, places, kinds = due.shape
    chance = random_numbers(keys, 3, places, "uniform", torch.float64)
    inserted = chance[:, 0] < -torch.expm1(-due[..., 0])
    started = torch.nn.functional.pad(x.values.where(x.mask, 0), (1, 0)).long()
    nothing = torch.full_like(started, -1)
    deleted, other = torch.zeros_like(inserted), nothing
    law: dict[str, Any] = {"temperature": temperature, "top_p": top_p}
    new = jump_step(rates.insert, started, keys, inserted.float(), step=0, **law)
    if kinds > 1:
        changed = chance[:, 1] < -torch.expm1(-due[..., 1:].sum(2))
        deleted = changed & (chance[:, 2] * due[..., 1:].sum(2) < due[..., 1])
        if rates.substitute is not None:
            jumps = changed & ~deleted
            drawn = jump_step(rates.substitute, started, keys, jumps.float(), step=1, **law)
            other = drawn.where(jumps, nothing)
    edited = apply_edits(
        started, x.lengths.long() + 1, new.where(inserted, nothing), deleted, other, max(longest + 1, places)
    )
    lengths = edited.lengths - 1
    width = int(lengths.max()) if rows and lengths.is_cpu else longest
    over = (lengths - longest).clamp(min=0)
    return Ragged(edited.values[:, 1 : 1 + min(width, longest)], lengths - over), edited.dropped + over


def _check_rates(odds: Tensor, t: Tensor) -> None:
    """Refuse what would be taken for no edits of rows on their way, where values can be looked at; -inf is none."""
    if not odds.is_cpu or transformed():
        return
    strange = ~(odds < math.inf) & (t < 1)[:, None, None]
    if strange.any():
        row = int(strange.flatten(1).any(1).nonzero()[0])
        raise ValueError(f"field of edits: expected finite rates, got {float(odds[strange][0])} in row {row}")


def _check(x: Ragged, grid: Tensor, longest: int, kept: int, most: float, guidance: float, corrector: float) -> None:
    if not isinstance(x, Ragged):
        raise TypeError(f"x: expected a Ragged of symbols, got {type(x).__name__}")
    if x.values.dtype not in INTEGERS:
        raise TypeError(f"x: expected a Ragged of symbols, got one of {x.values.dtype}")
    require_data("x", x.values)
    require_counts("walk_edits", longest=longest)
    require_counts("walk_edits", 0, kept=kept)
    require_numbers("walk_edits", corrector=corrector)
    if not most > 0 or not math.isfinite(guidance):
        raise ValueError(f"expected most above 0 and a finite guidance, got {most} and {guidance}")
    if grid.dim() != 1 or len(grid) < 2 or grid[0] != 0 or grid[-1] != 1 or not (grid.diff() > 0).all():
        raise ValueError(f"grid: expected times that rise from 0 to 1, got {grid}")
    if len(x) and not kept <= int(x.lengths.min()) <= int(x.lengths.max()) <= longest:
        raise ValueError(
            f"x: expected {kept} to {longest} tokens a row, got {int(x.lengths.min())} to {int(x.lengths.max())}"
        )
    if corrector and len(x) and int(x.lengths.max()) > kept:
        raise ValueError(f"corrector: expected noise without tokens, got up to {int(x.lengths.max()) - kept}")
