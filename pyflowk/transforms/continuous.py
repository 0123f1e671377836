"""Continuous flows: an ordinary differential equation carries data to noise, its divergence the density."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..manifolds import Manifold
from ..nets.context import wants_context
from ..nets.field import Field, as_field
from ..ops.cnf_trajectory import MOST_STAGES, cnf_trajectory, stage_times
from ..ops.describe import described
from ..ops.divergence import draw_probes, exact_divergence, hutchinson, hutchplusplus
from ..ops.draw import draw_uniform
from ..ops.dtypes import state_dtype
from ..ops.hutchinson import NOISES, Probes
from ..shapes import expand_context
from ..solvers import Adaptive, Backsolve, Fixed, manifold_odeint, odeint
from ..solvers.ode.adjoint import Adjoint, adjoint_for
from ..solvers.ode.methods import TABLEAUS, estimates_error
from ..solvers.ode.stepping import Stepping, stepping_for
from ..solvers.ode.unexpected import unexpected
from .base import Transform, zero_ladj

DIVERGENCES = ("exact", "hutchinson", "hutch++")
#: up to this many dimensions D tangents beside the state are cheaper than leaving the whole-trajectory kernel.
SMALL = 8


class Integrals(NamedTuple):
    """What one solve adds up for every row (B,): the log-determinant, int |f|^2 |dt| and int |df/dx|_F^2 |dt|."""

    ladj: Tensor
    kinetic: Tensor
    jacobian: Tensor


class Continuous(Transform):
    r"""The flow of :math:`dx/dt = f(t, x, c)` with noise at t = 0 and data at t = 1.

    ``forward`` integrates from 1 to 0, ``inverse`` from 0 to 1; ladj is
    :math:`\int \mathrm{tr}(\partial f / \partial x)\,dt` along the way.

    Args:
        field: a :class:`pyflowk.nets.Field`, or any function (or module) that gives dx/dt, (B, \*event): it is called
            ``field(t, x)``, and ``field(t, x, context)`` where there is a context; t is () or (B,).
        divergence: "exact" (D tangents, or one matrix product where the field has one); "hutchinson" and "hutch++"
            estimate it with ``probes`` random directions of the kind ``noise``, drawn once a solve: ladj is then
            unbiased.
        method, stepping, adjoint: of :mod:`pyflowk.solvers`: ``Fixed(steps)`` are that many for the whole way; if not
            given, every row steps by itself, with ``Adaptive(rtol=1e-5, atol=1e-5)``. Fixed steps of a
            :class:`pyflowk.nets.MLPField` (of a field whose ``fused`` is not None) run in one call of
            :func:`pyflowk.ops.cnf_trajectory`.
        mode: "forward" or "reverse", how tangents are made: see :func:`pyflowk.ops.divergence.hutchinson`.
        steer: in training mode the noise's end is drawn from U(-steer, steer) at every solve, by ``generator``.
        manifold: where events lie on one, a :class:`pyflowk.manifolds.Manifold`: the field is then a
            :class:`pyflowk.nets.TangentField` there (or wraps one), every step ends on the manifold, by
            :func:`pyflowk.solvers.manifold_odeint`, and ladj is that of volumes on it.
        conditional: False keeps a context from the field; default: whether the Field takes one, True for a function.

    ``to_data`` computes no divergence. ``transport`` integrates between any two times, ``stepped`` takes other steps,
    :func:`observed` gives the regularisers of RNODE from the same pass. Cost: the solver's evaluations of the field,
    each with its tangents. Raises ValueError for unknown names and what does not go together, SolverError where
    adaptive steps cannot go on.

    Chen et al., 2018, arXiv:1806.07366; Grathwohl et al., 2019, arXiv:1810.01367; "steer": Ghosh et al., 2020,
    arXiv:2006.10711.

    >>> import torch
    >>> from pyflowk.solvers import Fixed
    >>> from pyflowk.transforms import Continuous
    >>> z, ladj = Continuous(lambda t, x: x, method="rk4", stepping=Fixed(20))(torch.ones(1, 2))
    >>> z, ladj.round(decimals=4)
    (tensor([[0.3679, 0.3679]]), tensor([-2.]))
    """

    moves_in_time = True

    def __init__(
        self,
        field: Any,
        *,
        divergence: str = "exact",
        probes: int = 1,
        noise: str = "rademacher",
        method: str = "dopri5",
        stepping: Stepping | None = None,
        adjoint: Adjoint | None = None,
        mode: str = "forward",
        steer: float = 0.0,
        manifold: Manifold | None = None,
        conditional: bool | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        if others:
            raise unexpected("Continuous", others)
        as_field(field)
        for name, value, known in (
            ("divergence", divergence, DIVERGENCES), ("noise", noise, NOISES), ("mode", mode, ("forward", "reverse")),
        ):  # fmt: skip
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}; got {value!r}")
        if not isinstance(probes, (int, Integral)):
            raise TypeError(f"probes: expected an integer; got {described(probes)}")
        if not isinstance(steer, (int, float, Real)):
            raise TypeError(f"steer: expected a number; got {described(steer)}")
        if probes < 1 or (divergence == "hutch++" and probes % 2):
            raise ValueError(f"probes: expected at least one, and an even number for hutch++; got {probes}")
        if stepping is None and not estimates_error(method):
            raise ValueError(f"stepping: expected Fixed(steps) for {method}, which estimates no error; got None")
        stepping, adjoint = stepping_for(method, stepping or Adaptive(rtol=1e-5, atol=1e-5)), adjoint_for(adjoint)
        if isinstance(adjoint, Backsolve) and (isinstance(stepping, Fixed) or not isinstance(field, nn.Module)):
            raise ValueError("adjoint: expected a field that is a module, and adaptive steps, beside Backsolve")
        if not 0 <= steer < 1:
            raise ValueError(f"steer: expected a number in [0, 1); got {steer}")
        self.field, self.conditional = field, wants_context(field, conditional)
        self.divergence, self.probes, self.noise, self.mode = divergence, probes, noise, mode
        self.method, self.stepping, self.adjoint, self.steer = method, stepping, adjoint, steer
        self.manifold = manifold
        self.estimates_ladj = divergence != "exact" or steer > 0  # both draw from the caller's generator
        self._observers: list[list[Integrals]] = []

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.transport(x, 1.0, self._noise_time(generator), context, generator)

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.transport(z, self._noise_time(generator), 1.0, context, generator)

    def to_data(self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        return self.move(z, 0.0, 1.0, context)

    def move(self, x: Tensor, start: float, stop: float, context: Tensor | None = None) -> Tensor:
        """The state at time ``stop`` that comes from x (B, *event) at ``start``; no divergence."""
        x, context = self._arguments(x, context)
        if (fused := self._fused(x, start, stop, context)) is not None:
            return fused(x.new_empty((x.shape[0], 0, x.shape[1])))[0]
        field = self._field
        return self._solve(lambda t, y: field(t.reshape(-1) if t.dim() else t, y, context), x, start, stop, context)

    def stepped(self, method: str, stepping: Stepping, field: Field | None = None) -> Continuous:
        """The flow of the same field, which it shares, or of one in its place, in other steps; errors as usual."""
        return Continuous(
            self.field if field is None else field, divergence=self.divergence, probes=self.probes, noise=self.noise,
            method=method, stepping=stepping, adjoint=self.adjoint, mode=self.mode, steer=self.steer,
            manifold=self.manifold, conditional=self.conditional,
        ).train(self.training)  # fmt: skip

    def velocity(self, time: float, x: Tensor, context: Tensor | None = None) -> Tensor:
        """dx/dt (B, *event) at a time, where x (B, *event) is."""
        x, context = self._arguments(x, context)
        return self._field(torch.full((), time, dtype=x.dtype, device=x.device), x, context)

    def transport(
        self,
        x: Tensor,
        start: float,
        stop: float,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The state at time ``stop`` that comes from x at ``start``, and its log-determinant (B,).

        The log-determinant is the integral of the divergence on the way.
        """
        x, context = self._arguments(x, context)
        exact = self.divergence == "exact"
        probes = None if exact else draw_probes(x, self.probes, self.noise, generator)
        closed = exact and self._field.has_divergence(x.new_zeros(()))
        fused = None if self.divergence == "hutch++" else self._fused(x, start, stop, context)
        if fused is not None and (not exact or x.shape[1] <= SMALL or not closed):
            if probes is None:
                directions = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(x.shape[0], -1, -1)
            else:
                directions = probes.directions(x)
            y, (ladj, kinetic, jacobian) = fused(directions)
        else:
            y, ladj, kinetic, jacobian = self._augmented(x, start, stop, context, probes, closed)
        for observer in self._observers:
            sign = 1.0 if stop >= start else -1.0
            observer.append(Integrals(ladj, sign * kinetic, sign * jacobian))
        return y, ladj

    # ---- the two ways ------------------------------------------------------------------------------------------------

    def _fused(self, x: Tensor, start: float, stop: float, context: Tensor | None) -> Any:
        """probes -> (state, integrals) by the whole-trajectory kernel, or None where it cannot serve."""
        rows = TABLEAUS[self.method].a[1:] if self.method in TABLEAUS else ()  # Adams methods are none
        if not isinstance(self.stepping, Fixed) or self.stepping.perturb or not 1 <= len(rows) <= MOST_STAGES:
            return None
        if x.dim() != 2:
            return None
        steps = self.stepping.count(stop - start)
        field = self._field.fused(stage_times(rows, start, stop, steps, x), context)
        if field is None or field.weights.dtype != x.dtype:
            return None
        bias = None if field.bias is None else field.bias.expand(x.shape[0], -1)

        def run(probes: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            scale = 1.0 if self.divergence == "exact" else 1 / max(1, probes.shape[1])
            path, integrals = cnf_trajectory(
                x, probes, field.weights, field.shifts, gates=field.gates, bias=bias, width=field.width,
                depth=field.depth, activation=field.activation, method=rows, steps=steps,
                step=(stop - start) / steps, scale=scale,
            )  # fmt: skip
            return path[:, -1], integrals.unbind(1)

        return run

    def _augmented(
        self, x: Tensor, start: float, stop: float, context: Tensor | None, probes: Probes | None, closed: bool
    ) -> tuple[Tensor, ...]:
        """The state with its three integrals, through the solver; the regularisers only where somebody looks."""
        watched, field = bool(self._observers), self._field

        def slopes(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            y, at = state[0], t.reshape(-1) if t.dim() else t
            if closed and not watched and field.has_divergence(at):
                return field.with_divergence(at, y, context)

            def f(y: Tensor) -> Tensor:
                return field(at, y, context)

            def tangents(y: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
                return field.with_tangents(at, y, e, context)

            if probes is None:
                value, divergence, jacobian = exact_divergence(f, y, self.mode, tangents)
            else:
                estimate = hutchinson if self.divergence == "hutchinson" else hutchplusplus
                value, divergence, jacobian = estimate(f, y, probes, self.mode, tangents)
            rates = (divergence, value.flatten(1).square().sum(1), jacobian)
            return value, *rates[: 3 if watched else 1]

        zeros = (zero_ladj(x),) * (3 if watched else 1)
        y, *integrals = self._solve(slopes, (x, *zeros), start, stop, context)
        return y, *integrals, *(zero_ladj(x),) * (3 - len(integrals))

    def _solve(self, f: Any, state: Any, start: float, stop: float, context: Tensor | None) -> Any:
        stepping, adjoint = self.stepping, self.adjoint
        adaptive = not isinstance(stepping, Fixed)
        if isinstance(stepping, Fixed):
            stepping = Fixed(stepping.count(stop - start), perturb=stepping.perturb)
        if isinstance(adjoint, Backsolve) and adjoint.params is None:
            adjoint = replace(adjoint, params=[*self.field.parameters(), *([] if context is None else [context])])
        parts = (state,) if isinstance(state, Tensor) else state
        x = parts[0]
        sound = x.flatten(1).isfinite().all(1).reshape(-1, *[1] * (x.dim() - 1))
        if adaptive:  # a row that is NaN from the start would be an error of an adaptive solve
            rest = 0.0 if self.manifold is None else self.manifold.origin(x.dtype, x.device)
            parts = (torch.where(sound, x, rest), *parts[1:])
        begin = parts[0] if isinstance(state, Tensor) else parts
        way: dict[str, Any] = {"method": self.method, "stepping": stepping, "adjoint": adjoint}
        if self.manifold is None:
            solution = odeint(f, begin, [start, stop], **way)
        else:
            solution = manifold_odeint(f, begin, [start, stop], self.manifold, **way)
        if isinstance(state, Tensor):
            return torch.where(sound, solution[-1], math.nan) if adaptive else solution[-1]
        ends = [part[-1] for part in solution]
        if adaptive:
            ends = [torch.where(sound.reshape(-1, *[1] * (end.dim() - 1)), end, math.nan) for end in ends]
        return tuple(ends)

    # ---- small things ------------------------------------------------------------------------------------------------

    @property
    def _field(self) -> Field:
        """The field with all that may be asked of one; a function stays what the user handed in, in the state dict."""
        return as_field(self.field, self.conditional)

    def _arguments(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if x.dim() < 2:
            raise ValueError(f"Continuous expects (B, *event); got {tuple(x.shape)}")
        return x.to(state_dtype(x)), expand_context(context, x.shape[0]) if self.conditional else None

    def _noise_time(self, generator: torch.Generator | None) -> float:
        if not (self.training and self.steer):
            return 0.0
        device = "cpu" if generator is None else generator.device
        return self.steer * (2 * draw_uniform((), generator, dtype=torch.float32, device=device).item() - 1)

    def extra_repr(self) -> str:
        probes = "" if self.divergence == "exact" else f", probes={self.probes}"
        return f"divergence={self.divergence!r}{probes}, method={self.method!r}, stepping={self.stepping}"


@contextmanager
def observed(module: nn.Module) -> Iterator[list[Integrals]]:
    """Note the :class:`Integrals` of every solve that a Continuous inside ``module`` makes in the ``with`` block.

    >>> import torch
    >>> from pyflowk.solvers import Fixed
    >>> from pyflowk.transforms import Continuous, observed
    >>> flow = Continuous(lambda t, x: x, method="rk4", stepping=Fixed(20))
    >>> with observed(flow) as solves:
    ...     z, ladj = flow(torch.ones(1, 2))
    >>> solves[0].kinetic, solves[0].jacobian.round(decimals=4)  # 1 - e^-2 and the integral of |I|_F^2
    (tensor([0.8647]), tensor([2.]))
    """
    solves: list[Integrals] = []
    layers = [layer for layer in module.modules() if isinstance(layer, Continuous)]
    for layer in layers:
        layer._observers.append(solves)
    try:
        yield solves
    finally:
        for layer in layers:
            layer._observers = [known for known in layer._observers if known is not solves]
