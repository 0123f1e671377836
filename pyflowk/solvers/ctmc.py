"""Samplers of symbols: chains in continuous time from noise, t = 0, to data, t = 1, by what a field says of the data.

A field answers symbols x (B, \\*event), or a `Ragged`, by logits (B, \\*event, K) of p(x1 | x_t), each place by itself:
that symbols are drawn independently of each other within a step is what all but `first_hitting` approximate.
Symbols that are ``known`` stay as they are: a prefix, or whatever stands around a gap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from .._checks import require_counts, require_numbers
from ..nets.field import Field, as_field
from ..ops.describe import require_data, require_kind
from ..ops.draw import draw_keys, later_keys
from ..ops.jump_step import jump_step
from ..ops.random_numbers import random_numbers
from ..paths import MixturePath
from ..paths.mixture import CORRECTORS
from ..space import Ragged
from .grids import check_grid

__all__ = ["EulerStep", "GibbsStep", "MixtureStep", "Tally", "Truncation", "jump_flow"]


@dataclass
class Tally:
    """What a sampler counts: calls of the field, rows it was asked about, symbols that steps by rates could have moved,
    and those of them whose rate times the step was above 1: the step was too long for it.

    >>> from pyflowk.solvers import Tally
    >>> Tally(symbols=100, saturated=5).saturation
    0.05
    """

    calls: int = 0
    rows: int = 0
    symbols: int = 0
    saturated: int = 0

    @property
    def saturation(self) -> float:
        """The share of saturated rates."""
        return self.saturated / max(1, self.symbols)


@dataclass(frozen=True)
class Truncation:
    """How the law of a symbol is sharpened before one is drawn: see :func:`pyflowk.ops.jump_step`."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


class Chances(NamedTuple):
    """Of each symbol, or of all: that it is drawn from data, that it is drawn from noise, and whether a rate is too
    large for the step."""

    jump: Tensor
    renoise: Tensor
    saturated: Tensor | None = None


class Step(Protocol):
    """How symbols x go from t to s > t; ``own`` gives the chance of each that it is data already."""

    def __call__(self, path: MixturePath, t: Tensor, s: Tensor, x: Tensor, own: Callable[[], Tensor]) -> Chances: ...


@dataclass(frozen=True)
class MixtureStep:
    r"""The step that is exact given the data: noise becomes data with chance :math:`(\kappa_s - \kappa_t) / (1 -
    \kappa_t)`.

    With ``psi`` below 1 it is taken with that chance, and else data are drawn for every symbol that is noise, and noise
    is laid on all of them anew, as at time s: the marginals stay, and mistakes can be mended. ``remask``, instead, is
    the chance that a symbol is masked again, :math:`1 - \psi = \sigma / (1 - \kappa_s)`, cut to what there may be.
    Raises ValueError for numbers outside of [0, 1], and for both. With a mask and one symbol it is exact. Gat et al.,
    2024, arXiv:2407.15595; remasking: Wang et al., 2025, arXiv:2503.00307; psi: Deschenaux et al., 2026,
    arXiv:2602.21185.

    >>> from pyflowk.solvers import MixtureStep
    >>> MixtureStep(psi=0.9)
    MixtureStep(psi=0.9, remask=0.0)
    """

    psi: float = 1.0
    remask: float = 0.0

    def __post_init__(self) -> None:
        require_numbers("MixtureStep", psi=self.psi, remask=self.remask)
        if self.psi > 1 or self.remask > 1 or (self.psi < 1 and self.remask > 0):
            raise ValueError(f"MixtureStep expects one of psi and remask, from 0 to 1, got {self.psi}, {self.remask}")

    def __call__(self, path: MixturePath, t: Tensor, s: Tensor, x: Tensor, own: Callable[[], Tensor]) -> Chances:
        before, after = path.kappa(t), path.kappa(s)
        left = 1 - after
        psi = torch.full_like(after, self.psi)
        if self.remask:
            most = (left / before.clamp(min=self.remask)).clamp(max=1)
            sigma = torch.minimum(most, torch.full_like(after, self.remask))
            psi = torch.where(left > 0, 1 - sigma / left.clamp(min=1e-12), 1.0).clamp(min=0)
        return Chances(psi * (after - before) / (1 - before) + (1 - psi) * after, (1 - psi) * left)


@dataclass(frozen=True)
class EulerStep:
    r"""A step of first order by rates: a symbol stays with chance :math:`e^{-h \lambda}`, however large its rate.

    Rates are those of :meth:`pyflowk.paths.MixturePath.rates`, at time t all through the step: a ``corrector`` above 0
    goes back and forth, by its ``kind``; a step to time 1 draws all that is still noise. Where the rate times the step
    is above 1 the step is too long: the tally counts these. Raises ValueError for a corrector below 0 and an unknown
    kind.

    >>> from pyflowk.solvers import EulerStep
    >>> EulerStep(corrector=2.0)
    EulerStep(corrector=2.0, kind='backward')
    """

    corrector: float = 0.0
    kind: str = "backward"

    def __post_init__(self) -> None:
        require_numbers("EulerStep", corrector=self.corrector)
        if self.kind not in CORRECTORS:
            raise ValueError(f"kind: expected one of {', '.join(CORRECTORS)}; got {self.kind!r}")

    def __call__(self, path: MixturePath, t: Tensor, s: Tensor, x: Tensor, own: Callable[[], Tensor]) -> Chances:
        forward, back = path.rates(t, own(), self.corrector, self.kind)
        h = (s - t).to(forward.dtype)
        if path.mask is not None:  # a mask is drawn, any other symbol is masked
            chances = -torch.expm1(-h * forward), -torch.expm1(-h * back)
            rate = torch.where(x == path.mask, forward, back)
        else:
            rate = forward + back
            chance, share = -torch.expm1(-h * rate), torch.where(rate > 0, forward / rate, 0.0)
            chances = chance * share, chance * (1 - share)
        jump, renoise = (torch.where(s < 1, c, end) for c, end in zip(chances, (1.0, 0.0)))
        return Chances(jump, renoise, h * rate > 1)


@dataclass(frozen=True)
class GibbsStep:
    r"""Draw some symbols anew given all others, at one time, where noise is uniform: :math:`p_t(x^i \mid x^{-i}) =
    \kappa\, p(x_1^i \mid x^{-i}) + (1 - \kappa) / K`.

    The posterior that a field learns has seen the symbol itself, which is taken out of it:
    :math:`\log p(x_1^i = a \mid x^{-i}) = \log p_{1 \mid t}(a) - 1[a = x^i] \log(1 + K \kappa / (1 - \kappa))`. One
    symbol (``count``) at a place that is drawn evenly keeps :math:`p_t` exactly; several at once do so up to what they
    have to do with each other. ``rounds`` are calls of the field. Gourevitch et al., 2026, arXiv:2605.22765.

    >>> from pyflowk.solvers import GibbsStep
    >>> GibbsStep(rounds=2)
    GibbsStep(rounds=2, count=1)
    """

    rounds: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        require_counts("GibbsStep", rounds=self.rounds, count=self.count)


def jump_flow(
    field: Field | Callable[..., Tensor],
    x: Tensor | Ragged,
    path: MixturePath,
    grid: Tensor,
    *,
    step: Step | None = None,
    gibbs: GibbsStep | None = None,
    known: Tensor | None = None,
    truncation: Truncation | None = None,
    context: Tensor | None = None,
    generator: Generator | None = None,
    tally: Tally | None = None,
) -> Tensor | Ragged:
    r"""Carry symbols x along the times of a grid, one call of the field a step.

    Args:
        field: answers (t, x, context) by logits of the data; one of :attr:`Field.takes_time` False is asked again only
            for rows that have changed.
        x: noise (B, \*event) of ``path`` at the first time, or a Ragged; int64.
        grid: times that rise, as :func:`uniform_grid` gives them; the last step to 1 draws all that is still noise.
        step: a :class:`MixtureStep`, if not given, or an :class:`EulerStep`.
        gibbs: rounds of :class:`GibbsStep` after every step but the last; for uniform noise.
        known: (B, \*event), True where x stays as it is. A mask says exactly what is known; a field that takes noise to
            be even everywhere hears of what is known as if it were noise.
        truncation: how laws are sharpened.

    Returns:
        Symbols of data, like x. Raises ValueError or TypeError for symbols out of range, grids that fall, logits that
        are not finite (with their place), and a GibbsStep on a masked path.

    >>> import torch
    >>> from pyflowk.paths import MixturePath
    >>> from pyflowk.solvers import jump_flow, uniform_grid
    >>> path = MixturePath(symbols=3)
    >>> x = jump_flow(lambda t, x: torch.zeros(2, 5, 3), path.noise(torch.zeros(2, 5)), path, uniform_grid(4))
    >>> x.shape, int(x.max()) < 3
    (torch.Size([2, 5]), True)
    """
    walk = Walk(field, x, path, known, truncation, context, generator, tally)
    if gibbs is not None and path.mask is not None:
        raise ValueError(f"gibbs: expected uniform noise, of which each symbol says something, got {path}")
    step, times = MixtureStep() if step is None else step, check_grid(grid)
    if times.is_cpu and times[0] > times[-1]:
        raise ValueError("grid: expected times that rise, from noise to data; got others")
    for i, (t, s) in enumerate(pairwise(times.to(walk.x.device))):
        logits = walk.ask(t)
        walk.move(logits, *walk.counted(step(path, t, s, walk.x, partial(walk.own, logits))))
        if gibbs is not None and i < len(times) - 2:
            _resample(walk, s, gibbs)
    return walk.end()


def _resample(walk: Walk, t: Tensor, gibbs: GibbsStep) -> None:
    kappa = walk.path.kappa(t)
    own = -torch.log1p(walk.path.symbols * kappa / (1 - kappa))
    for _ in range(gibbs.rounds):
        chosen = walk.some_of(walk.free, gibbs.count).float()
        walk.move(walk.ask(t), chosen * kappa, chosen * (1 - kappa), own)


def first_of(scores: Tensor, count: Tensor) -> Tensor:
    """The ``count`` (B, 1) highest scores of each row, True."""
    rank = scores.flatten(1).sort(dim=1, descending=True, stable=True).indices.argsort(dim=1)
    return (rank < count).reshape(scores.shape)


class Walk:
    """Symbols on their way, what of them may move, and what the field has last said of them."""

    def __init__(
        self, field: Field | Callable[..., Tensor], x: Tensor | Ragged, path: MixturePath, known: Tensor | None,
        truncation: Truncation | None, context: Tensor | None, generator: Generator | None, tally: Tally | None,
    ) -> None:  # fmt: skip
        if not isinstance(path, MixturePath):
            raise TypeError(f"path: expected a MixturePath, got {path!r}")
        self.field, self.path, self.context = as_field(field), path, context
        self.truncation = Truncation() if truncation is None else truncation
        self.tally = Tally() if tally is None else tally
        self.lengths = x.lengths if isinstance(x, Ragged) else None
        values = x.values.where(x.mask, 0) if isinstance(x, Ragged) else x
        path.check(values, mask=True)
        self.free = torch.ones_like(values, dtype=torch.bool) if not isinstance(x, Ragged) else x.mask
        if known is not None:
            require_kind("known", known, Tensor, "a tensor of True and False")
            require_data("known", known)
            if known.dtype != torch.bool or known.shape != values.shape:
                got = f"{tuple(known.shape)} {known.dtype}"
                raise ValueError(f"known: expected True and False {tuple(values.shape)}, got {got}")
            path.check(values[known])
            self.free = self.free & ~known
        self.x = values.long()
        self.keys, self.step = draw_keys(len(values), generator, device=values.device), 0
        self.places = 0
        self.asked: tuple[Tensor, Tensor] | None = None

    def ask(self, t: Tensor) -> Tensor:
        r"""Logits (B, \*event, K) at times () or (B,)."""
        if self.field.takes_time or self.asked is None:
            logits = self._asked(t, slice(None))
        else:
            before, logits = self.asked
            rows = (before != self.x).flatten(1).any(1).nonzero().flatten()
            if len(rows):
                logits = logits.index_copy(0, rows, self._asked(t, rows).to(logits.dtype))
        if not self.field.takes_time:
            self.asked = (self.x, logits)
        return logits

    def _asked(self, t: Tensor, rows: Tensor | slice) -> Tensor:
        x = self.x[rows]
        self.tally.calls, self.tally.rows = self.tally.calls + 1, self.tally.rows + len(x)
        context = self.context
        context = context[rows] if context is not None and len(context) == len(self.x) else context
        events = x if self.lengths is None else Ragged(x, self.lengths[rows])
        logits = self.field((t[rows] if t.dim() else t).float(), events, context)
        require_kind("field", logits, Tensor, "logits, a tensor, as its answer")
        require_data("field", logits)
        if logits.shape != (*x.shape, self.path.symbols):
            wanted = (*x.shape, self.path.symbols)
            raise ValueError(f"expected logits {wanted} of the field, got {tuple(logits.shape)}")
        return logits

    def own(self, logits: Tensor) -> Tensor:
        """How likely each symbol is data already."""
        if self.path.mask is not None:
            return (self.x != self.path.mask).float()
        return logits.float().log_softmax(-1).gather(-1, self.x.unsqueeze(-1)).squeeze(-1).exp()

    def counted(self, chances: Chances) -> tuple[Tensor, Tensor]:
        if chances.saturated is not None:
            self.tally.symbols += int(self.free.sum())
            self.tally.saturated += int((chances.saturated & self.free).sum())
        return chances.jump, chances.renoise

    def move(self, logits: Tensor, jump: Tensor, renoise: Tensor, own: Tensor | float = 0.0) -> None:
        """Symbols that are free jump or become noise by chance."""
        jump, renoise = (self._spread(chance) * self.free for chance in (jump, renoise))
        how = self.truncation
        self.x = jump_step(
            logits, self.x, self.keys, jump, step=self.step, renoise=renoise, own=own, mask=self.path.mask,
            temperature=how.temperature, top_k=how.top_k, top_p=how.top_p,
        )  # fmt: skip
        self.step += 1

    def _spread(self, chance: Tensor) -> Tensor:
        return chance.float().reshape(*chance.shape, *[1] * (self.x.dim() - chance.dim()))

    def even(self, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform numbers (B, size), others at each call; a row's own, whatever rows there are beside it."""
        self.places += 1
        return random_numbers(later_keys(self.keys, self.places), 1, size, "uniform", dtype)[:, 0]

    def some_of(self, where: Tensor, count: int) -> Tensor:
        """So many places of each row, drawn evenly of those where it is True, or all of them where there are fewer."""
        u = self.even(where.flatten(1).shape[1]).reshape(where.shape)
        return first_of(torch.where(where, u, -1.0), torch.full_like(where[:, :1].flatten(1).long(), count)) & where

    def masked(self, owner: str) -> Tensor:
        """What is still to be drawn of a masked path."""
        if self.path.mask is None:
            raise ValueError(f"{owner}: expected masks for noise, got {self.path}")
        return self.free & (self.x == self.path.mask)

    def end(self) -> Tensor | Ragged:
        return self.x if self.lengths is None else Ragged(self.x, self.lengths)
