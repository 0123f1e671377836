"""Paths of sequences whose length changes: alignments of noise with data, and what lies between the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from .._checks import require_numbers
from ..ops import align
from ..ops.describe import require_kind
from ..ops.draw import draw_integers, draw_keys, draw_uniform
from ..ops.modes import transformed
from ..ops.times import require_times
from ..space import Ragged
from .edit_rates import DELETE, INSERT, SUBSTITUTE, Edits
from .schedules import Polynomial, Schedule

__all__ = [
    "Aligner",
    "Alignment",
    "Begun",
    "EditPath",
    "EditSource",
    "EditState",
    "NoiseTokens",
    "closest",
    "empty",
    "leftmost",
    "strip",
]

BLANK = -1


class Alignment(NamedTuple):
    """Two sequences brought to one length by blanks, -1: ``z0`` noise and ``z1`` data, (B, Z) int64 each.

    A blank over a token is an insertion, a token over a blank a deletion, two tokens that differ a substitution; two
    that are equal stay, and two blanks are nothing.
    """

    z0: Tensor
    z1: Tensor


class Aligner(Protocol):
    """Whatever aligns the rows of x0 with those of x1."""

    def __call__(self, x0: Ragged, x1: Ragged, generator: Generator | None = None) -> Alignment: ...


def leftmost(x0: Ragged, x1: Ragged, generator: Generator | None = None) -> Alignment:
    """Tokens one above the other from the left: what is longer has blanks at the end of the other.

    >>> from pyflowk.paths import leftmost
    >>> from pyflowk.space import Ragged
    >>> x0, x1 = Ragged.of([torch.tensor([3])]), Ragged.of([torch.tensor([1, 3])])
    >>> leftmost(x0, x1)
    Alignment(z0=tensor([[ 3, -1]]), z1=tensor([[1, 3]]))
    """
    if len(x0) != len(x1):
        raise ValueError(f"leftmost: expected as many rows of x0 as of x1; got {len(x0)} and {len(x1)}")
    width = max(x0.values.shape[1], x1.values.shape[1])
    z0, z1 = (torch.nn.functional.pad(_blanked(x), (0, width - x.values.shape[1]), value=BLANK) for x in (x0, x1))
    return Alignment(z0, z1)


def closest(x0: Ragged, x1: Ragged, generator: Generator | None = None) -> Alignment:
    """The fewest edits that make x1 of x0, drawn among all such ways: :func:`pyflowk.ops.align`.

    >>> import torch
    >>> from pyflowk.paths import closest
    >>> from pyflowk.space import Ragged
    >>> x0, x1 = Ragged.of([torch.tensor([3])]), Ragged.of([torch.tensor([1, 3])])
    >>> closest(x0, x1)
    Alignment(z0=tensor([[-1,  3, -1]]), z1=tensor([[ 1,  3, -1]]))
    """
    keys = draw_keys(len(x1), generator, device=x1.values.device)
    z0, z1, _ = align(x0.values.long(), x0.lengths.long(), x1.values.long(), x1.lengths.long(), keys)
    return Alignment(z0, z1)


EditSource = Callable[[Ragged, Generator | None], Ragged]
"""(data x1, generator) -> the noise x0 of each row."""


def empty(x1: Ragged, generator: Generator | None = None) -> Ragged:
    """The noise without any token, of which data come by insertions alone."""
    return Ragged(x1.values.new_zeros(len(x1), 0), torch.zeros_like(x1.lengths))


@dataclass(frozen=True)
class NoiseTokens:
    """The noise of ``length`` tokens, each of ``symbols`` as likely.

    >>> from pyflowk.paths import NoiseTokens
    >>> from pyflowk.space import Ragged
    >>> NoiseTokens(length=5, symbols=4)(Ragged.of([torch.tensor([1])]), None).lengths
    tensor([5])
    """

    length: int
    symbols: int

    def __call__(self, x1: Ragged, generator: Generator | None = None) -> Ragged:
        where = x1.values.device
        values = draw_integers(0, self.symbols, (len(x1), self.length), generator, device=where)
        return Ragged(values, torch.full_like(x1.lengths, self.length))


@dataclass(frozen=True)
class Begun:
    """Noise of a ``source`` behind the beginning of the data, in a ``share`` of the rows: any part of it, as likely.

    What learns from there goes on with what a sequence begins with.

    >>> from pyflowk.paths import Begun, empty
    >>> from pyflowk.space import Ragged
    >>> Begun(empty, 1.0)(Ragged.of([torch.tensor([3, 1, 4])]), torch.Generator().manual_seed(0)).row(0)
    tensor([3, 1])
    """

    source: EditSource
    share: float

    def __post_init__(self) -> None:
        require_numbers("Begun", share=self.share)
        if self.share > 1:
            raise ValueError(f"share: expected a number from 0 to 1, got {self.share}")

    def __call__(self, x1: Ragged, generator: Generator | None = None) -> Ragged:
        x0 = self.source(x1, generator)
        chance = draw_uniform((2, len(x1)), generator, dtype=torch.float64, device=x1.values.device)
        known = (chance[1] * (x1.lengths + 1)).long() * (chance[0] < self.share)
        return joined(Ragged(x1.values, known), x0)


def joined(x: Ragged, y: Ragged) -> Ragged:
    """The rows of x with those of y behind them."""
    return strip(torch.cat((_blanked(x), _blanked(y)), 1))


class EditState(NamedTuple):
    r"""Sequences on their way: ``x`` at times ``t`` (B,), of which the share ``left`` (B,), :math:`1 - \kappa_t`, is
    still to come; the ``edits`` that are to be made, and the ``intensity`` (B, Z) of each in the unit in which
    ``weight`` (B,) counts a row, 0 where there is none."""

    x: Ragged
    t: Tensor
    left: Tensor
    edits: Edits
    intensity: Tensor
    weight: Tensor


@dataclass(frozen=True)
class EditPath:
    r"""The way from noise to data by edits, each of which comes at a time of its own: by t with probability
    :math:`\kappa_t`.

    Each pair (z0, z1) of an :class:`Alignment` is z0 up to its time and z1 after it, and the sequence is what there is
    without the blanks. :math:`\kappa_t` is the share of data of a ``schedule`` on straight lines, cubic if none is
    given; an edit that is due comes at the rate :math:`w_t = \kappa'_t / (1 - \kappa_t)`. With ``spread`` above 0 edits
    come in the neighbourhood of others: each that has come by itself goes on to its left and to its right, one pair of
    the alignment at a time at this rate, and takes along what it reaches. The unit of rates is then
    :math:`w_t +` ``spread``.

    Times are float64. Raises ValueError for a schedule that is on no straight lines from 0 to 1. Havasi et al., 2025,
    arXiv:2506.09018.

    >>> import torch
    >>> from pyflowk.paths import EditPath, empty, leftmost
    >>> from pyflowk.space import Ragged
    >>> x1 = Ragged.of([torch.tensor([2, 0, 1])])
    >>> state = EditPath().sample(leftmost(empty(x1), x1), torch.tensor([0.9]), torch.Generator().manual_seed(0))
    >>> state.x.row(0), state.edits.position[state.edits.kind >= 0]
    (tensor([0, 1]), tensor([0]))
    """

    schedule: Schedule = field(default_factory=lambda: Polynomial(3.0))
    spread: float = 0.0

    def __post_init__(self) -> None:
        require_kind("schedule", self.schedule, Schedule, "a Schedule, such as pyflowk.paths.Polynomial(3.0)")
        require_numbers("EditPath", spread=self.spread)
        alpha, sigma, *_ = self.schedule.at(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64, device="cpu"))
        if alpha[0] != 0 or alpha[2] != 1 or not torch.allclose(alpha + sigma, torch.ones_like(alpha)):
            raise ValueError(f"schedule: expected shares of data and noise that sum to 1, 0 to 1; got {self.schedule}")

    def left(self, t: Tensor) -> Tensor:
        r""":math:`1 - \kappa_t` at times of any shape, in float64."""
        return self.schedule.at(t.double()).sigma

    def unit(self, t: Tensor) -> Tensor:
        r"""The unit of rates, :math:`\kappa'_t / (1 - \kappa_t)` plus the ``spread``; infinite at t = 1."""
        now = self.schedule.at(t.double())
        return now.alpha_rate / now.sigma + self.spread

    def time(self, share: Tensor) -> Tensor:
        r"""The time at which :math:`\kappa_t` is a share."""
        return self.schedule.time(2 * torch.logit(share.double()))

    def sample(self, alignment: Alignment, t: Tensor, generator: Generator | None = None) -> EditState:
        """What there is at times t (B,) of the rows, with the unit of rates for weight."""
        require_times("EditPath", t)
        z0, left, unit = alignment.z0, self.left(t), self.unit(t)
        level = draw_uniform(z0.shape, generator, dtype=torch.float64, device=z0.device)
        come = level < (1 - left)[:, None]
        intensity = torch.ones_like(level)
        if self.spread:
            come, reached = self._spread(alignment, come, t.double()[:, None] - self.time(level), generator)
            intensity = (self.unit(t)[:, None] - self.spread * (1 - reached)) / unit[:, None]
        return _state(alignment, come, t.double(), left, intensity, unit)

    def sample_edit(self, alignment: Alignment, generator: Generator | None = None) -> EditState:
        r"""What there is just before one of the edits of a row, or after them all, at a time such as that may have.

        The weights are such that the average of weight times anything equals its integral over all times, in the unit
        of rates, and that the row's loss varies little: of E edits m are left, m drawn evenly from 0 to E; for m above
        0 it is the moment of the next one, and the weight (E + 1) / m, whatever the schedule. Raises ValueError for a
        path with ``spread``, on which edits do not come one by one.
        """
        if self.spread:
            raise ValueError(f"sample_edit: expected a path without spread, got {self.spread}")
        z0, z1 = alignment
        rows: dict[str, Any] = {"dtype": torch.float64, "device": z0.device}
        level = draw_uniform(z0.shape, generator, **rows).where(z0 != z1, 2.0)
        chance = draw_uniform((2, z0.shape[0]), generator, **rows)
        edits = (z0 != z1).sum(1)
        made = ((edits + 1) * chance[0]).long().clamp(max=edits)
        ahead = torch.nn.functional.pad(level, (0, 1), value=2.0).sort(1).values.gather(1, made[:, None]).squeeze(1)
        done = made == edits
        left = torch.where(done, -torch.expm1(torch.log(chance[1]) / (edits + 1)), 1 - ahead)
        weight = torch.where(done, 1 / left, (edits + 1) / (edits - made).clamp(min=1))
        come = level < torch.where(done, 1.5, ahead)[:, None]
        return _state(alignment, come, self.time(1 - left), left, torch.ones_like(level), weight)

    def _spread(
        self, alignment: Alignment, seeds: Tensor, age: Tensor, generator: Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Which pairs have been reached, (B, Z), and how many ends of what spreads are beside each."""
        width = seeds.shape[1]
        seeds = seeds & ((alignment.z0 != BLANK) | (alignment.z1 != BLANK))
        rate = (self.spread * age.where(seeds, 0.0)).expand(2, -1, -1)
        steps = torch.poisson(rate, generator).long()
        places = torch.arange(width, device=seeds.device)
        first, last = (places - steps[0]).clamp(min=-1), (places + steps[1]).clamp(max=width)
        count = seeds.long()
        marks = count.new_zeros(len(seeds), width + 2)
        begun = marks.scatter_add(1, first.clamp(min=0), count).cumsum(1)
        ended = marks.scatter_add(1, last + 1, count).cumsum(1)
        beside = marks.scatter_add(1, last + 1, count) + marks.scatter_add(
            1, (first - 1).where(first > 0, width), count
        )
        return (begun - ended)[:, :width] > 0, beside[:, :width].double()


def strip(z: Tensor) -> Ragged:
    """The sequences (B, Z) without their blanks, which are below 0.

    >>> from pyflowk.paths import strip
    >>> strip(torch.tensor([[-1, 3, -1, 4]])).row(0)
    tensor([3, 4])
    """
    there = z >= 0
    rows, width = z.shape
    place = (there.cumsum(1) - 1).where(there, width)
    lengths = there.sum(1)
    values = z.new_zeros(rows, width + 1).scatter(1, place, z)
    longest = int(lengths.max()) if rows and lengths.is_cpu and not transformed() else width  # a card is not asked
    return Ragged(values[:, :longest], lengths)


def _state(alignment: Alignment, come: Tensor, t: Tensor, left: Tensor, intensity: Tensor, weight: Tensor) -> EditState:
    z0, z1 = alignment
    now = torch.where(come, z1, z0)
    there = now != BLANK
    to_come = ~come & (z0 != z1)
    kind = torch.where(z0 == BLANK, INSERT, torch.where(z1 == BLANK, DELETE, SUBSTITUTE)).where(to_come, -1)
    position = there.cumsum(1).where(to_come, 0)  # a token's own number, or that of the last one to the left
    token = z1.clamp(min=0).where(to_come, 0)
    edits = Edits(kind, position, token)
    return EditState(strip(now), t, left, edits, intensity.where(to_come, 0.0), weight)


def _blanked(x: Ragged) -> Tensor:
    return x.values.long().where(x.mask, BLANK)
