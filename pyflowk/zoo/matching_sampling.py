"""How systems that learn by matching draw samples: methods, grids and guidance by the names that options call them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from torch import Generator, Tensor

from ..nets import Field, VelocityField
from ..objectives import Matching
from ..paths import AffinePath, Cosine, Schedule, independent
from ..solvers import (
    DIFFUSIONS,
    METHODS,
    Fixed,
    Guided,
    clock_grid,
    ddim,
    ddpm,
    difference,
    dpmpp_2m,
    edm_heun,
    euler_maruyama,
    karras_grid,
    odeint,
    power_grid,
    predictor_corrector,
    projected,
    resolution_shift,
    shifted_grid,
    stochastic_heun,
    uniform_grid,
    zero_star,
)
from .flow_model import FlowSampling
from .option import Option, Steps, Tolerance, one_of, require_usual

DIRECTIONS = {"plain": (difference, 0.0), "zero-star": (zero_star, 0.04), "projected": (projected(), 0.0)}
"""Kinds of guidance: in which direction, and until when nothing moves."""

GRIDS: dict[str, Callable[[int, Schedule, int], Tensor]] = {
    "uniform": lambda steps, schedule, dims: uniform_grid(steps),
    "quadratic": lambda steps, schedule, dims: power_grid(steps),
    "cosine": lambda steps, schedule, dims: clock_grid(steps, schedule, Cosine()),
    "log_snr": lambda steps, schedule, dims: karras_grid(steps, schedule, math.inf),
    "karras": lambda steps, schedule, dims: karras_grid(steps, schedule),
    "resolution": lambda steps, schedule, dims: shifted_grid(steps, resolution_shift(dims)),
}
"""The times of so many steps on a schedule, for events of so many elements."""

SAMPLERS: dict[str, Callable[[Any, Schedule, int], Callable[..., Tensor]]] = {
    "ddim": lambda chosen, schedule, dims: partial(ddim, eta=chosen.eta),
    "ddpm": lambda chosen, schedule, dims: ddpm,
    "dpmpp_2m": lambda chosen, schedule, dims: dpmpp_2m,
    "edm_heun": lambda chosen, schedule, dims: partial(edm_heun, churn=chosen.churn),
    "euler_maruyama": lambda chosen, schedule, dims: partial(euler_maruyama, diffusion=_diffusion(chosen, schedule)),
    "stochastic_heun": lambda chosen, schedule, dims: partial(stochastic_heun, diffusion=_diffusion(chosen, schedule)),
    "predictor_corrector": lambda chosen, schedule, dims: partial(
        predictor_corrector, norms="rows" if dims >= 64 else "expected"
    ),
}
"""Samplers of :mod:`pyflowk.solvers` with the settings that are chosen, for events of so many elements."""


HEARD = {"eta": ("ddim",), "churn": ("edm_heun",), "diffusion": ("euler_maruyama", "stochastic_heun")}
"""The methods that an option is for, where it is not for all."""


@dataclass(frozen=True)
class MatchingSampling(FlowSampling):
    """How to get from noise to data, and how far guidance goes beyond the context.

    ValueError for an option that the method does not hear of, or that says how to guide where there is no guidance.
    """

    method: Annotated[str, one_of("solver of the equation, or sampler of a diffusion", (*METHODS, *SAMPLERS))] = "rk4"
    steps: Steps = 20
    grid: Annotated[str, one_of("how the steps are spaced", GRIDS)] = "uniform"
    rtol: Tolerance = 1e-5
    atol: Tolerance = 1e-5
    eta: Annotated[float, Option("fresh noise of ddim: 0 none, 1 as ddpm", 0, 1)] = 0.0
    churn: Annotated[float, Option("noise added by edm_heun over all steps", least=0)] = 0.0
    diffusion: Annotated[str, one_of("noise of euler_maruyama and stochastic_heun", ("auto", *DIFFUSIONS))] = "auto"
    guidance: Annotated[float, Option("how much further than the context: 0 not at all, -1 samples without it")] = 0.0
    guidance_kind: Annotated[str, one_of("in which direction: see solvers.Guided", DIRECTIONS)] = "plain"
    guidance_from: Annotated[float, Option("time from which there is guidance, 0 noise and 1 data", 0, 1)] = 0.0
    guidance_until: Annotated[float, Option("time until which there is guidance", 0, 1)] = 1.0

    def __post_init__(self) -> None:
        adaptive = self.method in METHODS and self.steps is None
        for name in ("rtol", "atol", *HEARD):
            value, usual, methods = getattr(self, name), getattr(type(self), name), HEARD.get(name, ())
            if value != usual and not (self.method in methods if methods else adaptive):
                where = f"is for {' and '.join(methods) or 'steps=None, of a solver that chooses them'}"
                raise ValueError(f"{name}: {where}; got {value!r} with {self.method} in {self.steps} steps")
        if not self.guidance:
            require_usual(self, "guidance_kind", "guidance_from", "guidance_until", without="guidance")

    @property
    def integrates(self) -> bool:
        """Whether the equation is solved in equal or adaptive steps, so that samples have a density."""
        return self.method in METHODS and self.grid == "uniform"


def guided(field: Field, chosen: MatchingSampling) -> Field:
    """The field with the guidance that is chosen."""
    if not chosen.guidance:
        return field
    if chosen.guidance_from > chosen.guidance_until:
        got = f"{chosen.guidance_from} and {chosen.guidance_until}"
        raise ValueError(f"guidance_from, guidance_until: expected two times in order, got {got}")
    (direction, still), times = DIRECTIONS[chosen.guidance_kind], (chosen.guidance_from, chosen.guidance_until)
    return Guided(field, chosen.guidance, direction=direction, interval=times, still=still)


def walk(
    objective: Matching,
    field: Field,
    x: Tensor,
    start: float,
    context: Tensor | None,
    generator: Generator | None,
    chosen: MatchingSampling,
) -> Tensor:
    """Where events x (B, *event) at a time come by a sampler, or by a method on a grid, along the velocity that a field
    has learned; ValueError for one that does not hold for its objective."""
    path, method, dims = objective.path, chosen.method, math.prod(x.shape[1:])
    if not isinstance(path, AffinePath):
        asked = f"{method} on a {chosen.grid} one"
        raise ValueError(f"method, grid: expected a solver of the equation on a uniform grid on a {path}, got {asked}")
    if chosen.steps is None:
        raise ValueError(f"steps: expected a number of steps for {method} on a {chosen.grid} grid, got None")
    if start == 1:
        return x
    grid = GRIDS[chosen.grid](chosen.steps, path.schedule, dims)
    if start:
        grid = torch.cat((torch.tensor([start], dtype=grid.dtype), grid[grid > start]))
    if method in METHODS:
        velocity = guided(field, chosen)
        return odeint(lambda t, y: velocity(t, y, context), x, grid, method=method, stepping=Fixed())[-1]
    noise = {"ddim": chosen.eta, "dpmpp_2m": 0.0, "edm_heun": chosen.churn}.get(method, 1.0)
    if noise and objective.pairing is not independent:
        raise ValueError(f"method: expected one without fresh noise where noise and data are paired, got {method}")
    prediction: str = "velocity"
    if isinstance(field, VelocityField) and not chosen.guidance:  # what it says, without a way there and back
        prediction, field = str(field.prediction), field.net
    sampler = SAMPLERS[method](chosen, path.schedule, dims)
    return sampler(
        guided(field, chosen), x, path.schedule, grid, prediction=prediction, context=context, generator=generator
    )


def _diffusion(chosen: MatchingSampling, schedule: Schedule) -> str:
    """That of the diffusion backwards in time, where it begins with some data: else it is infinite there."""
    if chosen.diffusion != "auto":
        return chosen.diffusion
    return "sde" if schedule.at(torch.zeros((), device="cpu")).alpha > 0 else "sigma"
