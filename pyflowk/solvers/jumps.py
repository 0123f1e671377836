r"""Samplers of Markov processes that move, diffuse and jump from noise, t = 0, to data, t = 1.

They take ``net(t, x, context=None)``, which tells :class:`pyflowk.paths.Characteristics` of x (B, \*event) at the first
time of a ``grid`` (N + 1,) that rises; the :class:`pyflowk.paths.JumpPath` of its jumps; and give a :class:`Jumped`.
The last step to t = 1, where rates are infinite, goes to the "mean" of the data that the drift tells, :math:`x + (1 -
t) v`, with no chance in it; or is a "draw", one of Euler's steps with the safe gate, which a process without a drift
takes anyway. Raises TypeError or ValueError for grids, events, generators, settings and answers that do not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from .._checks import require_numbers
from ..ops.describe import described, require_kind
from ..ops.divergence import as_slope
from ..ops.dtypes import state_dtype
from ..ops.modes import transformed
from ..paths import Characteristics, JumpPath, langevin, superposed
from .grids import check_grid
from .sde import Chance, check_chance, noise_like, uniform_like

__all__ = ["GATES", "Jumped", "jump_euler", "jump_thinning"]

Process = Callable[..., Characteristics]

GATES: dict[str, Callable[[Tensor, Tensor, Tensor, JumpPath], Tensor]] = {
    "naive": lambda rate, t, s, path: (s - t) / (1 - t) * rate,
    "safe": lambda rate, t, s, path: -torch.expm1(-(s - t) / (1 - t) * rate),
    "integrated": lambda rate, t, s, path: -torch.expm1(-path.growth(t, s) * rate),
}
r"""How likely a jump is in a step from t to s at a rate :math:`(1 - t) \lambda`: :math:`h \lambda`, :math:`1 - e^{-h
\lambda}`, or that of the integral along the path, for an x that stays."""

LAST = ("mean", "draw")

CANDIDATES = 100_000
"""At most so many between two times of a grid, by thinning."""


class Jumped(NamedTuple):
    r"""Where a walk ended, ``x`` (B, \*event), and ``saturated`` (B,): the share of its chances to jump that were told
    to be above 1, and count as 1. The steps, or the headroom, are too small for what is above 0."""

    x: Tensor
    saturated: Tensor


def jump_euler(
    net: Process,
    x: Tensor,
    path: JumpPath,
    grid: Tensor,
    *,
    gate: str = "integrated",
    share: float | None = None,
    noise: float = 0.0,
    last: str = "mean",
    context: Tensor | None = None,
    generator: Chance = None,
) -> Jumped:
    r"""Euler's steps: :math:`x \leftarrow y` where a coordinate jumps, else :math:`x + h u + \sqrt{h \Sigma}\, n`.

    Of a process with a drift and jumps the jumps are mixed in by ``share``, 1 for jumps alone, 0 for the flow alone,
    half of each if nothing is said; ``noise`` c is that of :func:`pyflowk.paths.langevin`, of the flow. ``gate`` is one
    of :data:`GATES`. The ``generator`` is one for all rows or one a row, whose draws then do not depend on the others.
    Of weak order 1. Cost: one evaluation a step. Holderrieth et al., 2024, arXiv:2410.20587.

    >>> import torch
    >>> from pyflowk.paths import Bins, Characteristics, MixtureJumps
    >>> from pyflowk.solvers import jump_euler, uniform_grid
    >>> def net(t, x):  # all data are above 0
    ...     return Characteristics(None, None, torch.zeros_like(x), torch.tensor([0.0, 99.0]).expand(*x.shape, 2))
    >>> found = jump_euler(net, torch.full((1, 2), -2.0), MixtureJumps(Bins(-1, 1, 2)), uniform_grid(50, 0.0, 0.99))
    >>> found.saturated
    tensor([0.])
    """
    process = _Process(net, path, share, noise, last, context, generator)
    if gate not in GATES:
        raise ValueError(f"gate: expected one of {', '.join(GATES)}; got {gate!r}")
    x, times, arrives = _begun(x, grid, generator)
    saturated = x.new_zeros(len(x))
    for t, s in zip(times[:-1], times[1:] if not arrives else times[1:-1]):
        x, above = process.step(process.ask(t, x), x, t, s, gate)
        saturated = saturated + above / (len(times) - 1)
    return Jumped(process.arrive(x, times[-2]) if arrives else x, saturated)


def jump_thinning(
    net: Process,
    x: Tensor,
    path: JumpPath,
    grid: Tensor,
    *,
    headroom: float = 1.0,
    last: str = "mean",
    context: Tensor | None = None,
    generator: Generator | None = None,
) -> Jumped:
    r"""Jumps alone, one coordinate of an event at a time, at the times when they come: by thinning, without any step.

    Between two times of the grid candidates come at ``headroom`` times the sum over the coordinates of the larger of
    the rates at both ends, and are accepted in the proportion that rates then have: exact where rates do not pass
    between the times what they are at both, times the headroom. A drift is not followed. Cost: three evaluations a
    candidate, as many times as the event has that meets most. Raises ValueError for infinite rates, RuntimeError for
    those of more than 100 000 candidates between two times. Lewis and Shedler, 1979.

    >>> import torch
    >>> from pyflowk.paths import Bins, Characteristics, MixtureJumps
    >>> from pyflowk.solvers import jump_thinning, uniform_grid
    >>> def net(t, x):
    ...     return Characteristics(None, None, torch.zeros_like(x), torch.tensor([0.0, 99.0]).expand(*x.shape, 2))
    >>> jump_thinning(net, torch.full((1, 2), -2.0), MixtureJumps(Bins(-1, 1, 2)), uniform_grid(5, 0.0, 0.99)).x.shape
    torch.Size([1, 2])
    """
    process = _Process(net, path, None, 0.0, last, context, generator)
    require_numbers("jump_thinning", headroom=headroom)
    if headroom < 1:
        raise ValueError(f"jump_thinning expects headroom to be at least 1, got {headroom}")
    x, times, arrives = _begun(x, grid, generator)
    met, above = x.new_zeros(len(x)), x.new_zeros(len(x))
    for t, s in zip(times[:-1], times[1:] if not arrives else times[1:-1]):
        clock = t.expand(len(x))
        for tried in count():
            bound = headroom * torch.maximum(process.rates(clock, x)[0], process.rates(s, x)[0]).sum(1)
            _check_rates(bound, s - clock, tried)
            clock = clock - torch.log1p(-uniform_like(clock, generator)) / bound
            comes = clock < s
            if not comes.any():
                x = torch.where(bound.isnan().reshape(-1, *[1] * (x.dim() - 1)), math.nan, x)
                break
            clock = torch.where(comes, clock, s)
            rates, landing = process.rates(clock, x)
            total = rates.sum(1)
            met, above = met + comes, above + (comes & (total > bound * (1 + 1e-5)))
            accepted = comes & (uniform_like(clock, generator) * bound < total)
            place = (uniform_like(clock, generator) * total).unsqueeze(1) < rates.cumsum(1)
            moves = (place.cumsum(1) == 1) & place & accepted.unsqueeze(1)
            x = torch.where(moves.reshape(x.shape), path.bins.land(landing, uniform_like(x, generator)), x)
    return Jumped(process.arrive(x, times[-2]) if arrives else x, above / met.clamp(min=1))


def _check_rates(bound: Tensor, left: Tensor, tried: int) -> None:
    """Refuse rates that are infinite, or with which the time that is left would see no end."""
    if bound.isinf().any():
        raise ValueError(f"jump_thinning: expected finite rates, at times below 1 in {bound.dtype}; got infinite ones")
    if (tried + bound * left > CANDIDATES).any():
        rate = float(bound.nan_to_num().max())
        raise RuntimeError(f"jump_thinning: more than {CANDIDATES} candidates between two times, at the rate {rate:g}")


def _flat(x: Tensor) -> Tensor:
    """Events (B, *event) as (B, D)."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _begun(x: Tensor, grid: Tensor, generator: Chance) -> tuple[Tensor, Tensor, bool]:
    """The events and the times of a walk, checked, and whether it ends at 1."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 1:
        raise TypeError(f"x: expected a floating-point tensor (B, *event); got {described(x)}")
    check_chance(generator, x)
    times = check_grid(grid)
    if times.is_cpu and not transformed() and times[0] > times[-1]:
        raise ValueError("grid: expected times that rise, from noise to data; got others")
    arrives = bool(times.to(state_dtype(x))[-1] == 1)  # which in float32 more times are
    return x.to(state_dtype(x)), times.to(x.device, state_dtype(x)), arrives


@dataclass
class _Process:
    """A net and how it is followed."""

    net: Process
    path: JumpPath
    share: float | None
    noise: float
    last: str
    context: Tensor | None
    generator: Chance

    def __post_init__(self) -> None:
        require_kind("net", self.net, Callable, "a function of (t, x) or (t, x, context)")
        require_kind("path", self.path, JumpPath, "a JumpPath, such as pyflowk.paths.CondOTJumps.reaching(1.0, 64)")
        require_numbers("jump_euler", noise=self.noise, share=self.share or 0.0)
        if (self.share or 0.0) > 1:
            raise ValueError(f"share: expected a number from 0 to 1, got {self.share}")
        if self.last not in LAST:
            raise ValueError(f"last: expected one of {', '.join(LAST)}; got {self.last!r}")

    def ask(self, t: Tensor, x: Tensor) -> Characteristics:
        """What the net tells, checked."""
        told = self.net(t, x) if self.context is None else self.net(t, x, self.context)
        if not isinstance(told, Characteristics):
            raise TypeError(f"net: expected pyflowk.paths.Characteristics; got {described(told)}")
        for part in told[:3]:
            if part is not None:
                as_slope(part, x)
        if (told.intensity is None) != (told.landing is None) or (told.drift is None and told.intensity is None):
            raise ValueError("net: expected a drift, intensity and landing of jumps, or all of them; got another part")
        if told.landing is not None and told.landing.shape != (*x.shape, self.path.bins.count):
            expected = (*x.shape, self.path.bins.count)
            raise ValueError(f"net: expected logits {expected} of landing; got {tuple(told.landing.shape)}")
        return told

    def mixed(self, told: Characteristics, t: Tensor, x: Tensor) -> Characteristics:
        """The flow with its noise and the jumps, in their shares."""
        flow, jumps = Characteristics(*told[:2]), Characteristics(None, None, *told[2:])
        share = 0.5 if self.share is None else self.share
        if told.drift is None or told.intensity is None:
            alone = float(told.drift is None)
            if self.share not in (None, alone):
                raise ValueError(f"share: expected {alone:g} of what has {'jumps' if alone else 'a drift'} alone")
            share = alone
        if self.noise:
            flow = langevin(flow, t, x, self.noise)
        return superposed(jumps, flow, share)

    def step(self, told: Characteristics, x: Tensor, t: Tensor, s: Tensor, gate: str) -> tuple[Tensor, Tensor | float]:
        """Where a step leads, and the share of the chances above 1."""
        drift, variance, intensity, landing = self.mixed(told, t, x)
        moved = x if drift is None else x + (s - t) * drift
        if variance is not None:
            moved = moved + ((s - t) * variance).sqrt() * noise_like(x, self.generator)
        if intensity is None or landing is None:
            return moved, 0.0
        chance = GATES[gate](intensity.exp(), t, s, self.path)
        jumps, u = uniform_like(x, self.generator) < chance, uniform_like(x, self.generator)
        moved = torch.where(chance.isnan(), chance, moved)
        if x.is_cpu and not transformed():  # where it may be seen which those few are
            moved = moved.masked_scatter(jumps, self.path.bins.land(landing[jumps], u[jumps]))
        else:
            moved = torch.where(jumps, self.path.bins.land(landing, u), moved)
        return moved, _flat(chance > 1).to(x.dtype).mean(1)

    def arrive(self, x: Tensor, t: Tensor) -> Tensor:
        """The last step, to the time 1."""
        told = self.ask(t, x)
        if told.drift is not None and self.last == "mean":
            return x + (1 - t) * told.drift
        return self.step(told, x, t, torch.ones_like(t), "safe")[0]

    def rates(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of jumps alone, (B, D) at times () or (B,), and the logits of where they land."""
        told = self.ask(t, x)
        if told.intensity is None or told.landing is None:
            raise ValueError("net: expected jumps; got a drift alone")
        return _flat(told.intensity.exp()) / (1 - t).reshape(-1, 1), told.landing
