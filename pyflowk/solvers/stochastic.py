r"""Samplers that solve stochastic equations: all of those that keep the marginals of an affine path, and its corrector.

They take what :mod:`pyflowk.solvers.diffusion` says, under the same conditions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._checks import require_counts, require_numbers
from ..paths import Coefficients, Schedule
from .course import TINY, Course, rows
from .diffusion import AnyField, forgotten
from .sde import Chance

__all__ = ["DIFFUSIONS", "euler_maruyama", "predictor_corrector", "stochastic_heun"]

DIFFUSIONS: dict[str, Callable[[Tensor, Coefficients], Tensor]] = {
    "sde": lambda t, c: c.sigma * c.determinant / c.alpha,
    "sigma": lambda t, c: c.sigma,
    "constant": lambda t, c: torch.ones_like(t),
    "linear": lambda t, c: 1 - t,
    "decreasing": lambda t, c: ((torch.cos(math.pi * t) + 1) / 2).square(),
    "increasing_decreasing": lambda t, c: torch.sin(math.pi * t).square(),
}
"""Half of the square of the noise, by the names of Ma et al.: "sde" is that of the diffusion backwards in time."""


def _norm(x: Tensor) -> Tensor:
    """Of each row, beside it."""
    return x.norm(dim=tuple(range(1, x.dim())), keepdim=True) if x.dim() > 1 else x.abs()


NORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "rows": lambda noise, score, sigma: _norm(noise) / _norm(score),
    "batch": lambda noise, score, sigma: _norm(noise).mean(0, keepdim=True) / _norm(score).mean(0, keepdim=True),
    "expected": lambda noise, score, sigma: sigma,
}
"""How much longer noise is than the score, of rows (B, *event) at a time."""

LAST = ("mean", "denoise", "euler", "noise")


def euler_maruyama(
    field: AnyField,
    x: Tensor,
    schedule: Schedule,
    grid: Tensor,
    *,
    diffusion: str | Callable[[Tensor], Tensor] = "sigma",
    scale: float = 1.0,
    last: str = "mean",
    prediction: str = "velocity",
    context: Tensor | None = None,
    generator: Chance = None,
) -> Tensor:
    r"""Euler-Maruyama steps of :math:`dX = (v + w \nabla \log p_t)\,dt + \sqrt{2 w}\,dW`, whose marginals are those of
    the path whatever w is.

    :math:`w = c\,d(t)`, c = ``scale`` and d one of :data:`DIFFUSIONS` or a function of times (N,): "sigma"
    :math:`\sigma`, "sde" :math:`\sigma D / \alpha` with :math:`D = \alpha' \sigma - \alpha \sigma'` (of Song et al.'s
    equations, :math:`g^2 = 2 w`), "constant" 1, "linear" :math:`1 - t`, "decreasing" :math:`(1 + \cos \pi t)^2 / 4`,
    "increasing_decreasing" :math:`\sin^2 \pi t`. The ``last`` step is the "mean" of the others, without noise; the
    data as they are told, "denoise"; one of the velocity alone, "euler"; or none of these, "noise". Cost: one
    evaluation a step; of weak order 1. Raises ValueError for "sde" from a time without any data, where it is infinite,
    too. Song et al., 2021, arXiv:2011.13456; Ma et al., 2024, arXiv:2401.08740.

    >>> import torch
    >>> from pyflowk.paths import VP
    >>> from pyflowk.solvers import euler_maruyama, uniform_grid
    >>> euler_maruyama(lambda t, x: -x, torch.ones(1, 2), VP(), uniform_grid(8), prediction="score").shape
    torch.Size([1, 2])
    """
    course = Course(field, x, schedule, grid, prediction, context, generator).rise("euler_maruyama")
    drift, w = _equation(course, diffusion, scale)
    h = course.grid.diff()
    moves, fresh = _ended(course, course.still + h * drift, (2 * w * h).sqrt(), last)
    return course.walk(moves, fresh)


def stochastic_heun(
    field: AnyField,
    x: Tensor,
    schedule: Schedule,
    grid: Tensor,
    *,
    diffusion: str | Callable[[Tensor], Tensor] = "sigma",
    scale: float = 1.0,
    last: str = "mean",
    prediction: str = "velocity",
    context: Tensor | None = None,
    generator: Chance = None,
) -> Tensor:
    r"""Heun's steps of the equations of :func:`euler_maruyama`: drift and noise are averages over both ends of a step.

    The ``last`` step is one of euler_maruyama's, which does not look at its end. Of weak order 2 but for that. Cost:
    two evaluations a step. Kloeden and Platen, 1992, chapter 15.

    >>> import torch
    >>> from pyflowk.paths import VP
    >>> from pyflowk.solvers import stochastic_heun, uniform_grid
    >>> stochastic_heun(lambda t, x: -x, torch.ones(1, 2), VP(), uniform_grid(8), prediction="score").shape
    torch.Size([1, 2])
    """
    course = Course(field, x, schedule, grid, prediction, context, generator).rise("stochastic_heun")
    drift, w = _equation(course, diffusion, scale)
    h, spread = course.grid.diff(), (2 * w).sqrt()
    moves, fresh = _ended(course, course.still + h * drift, spread * h.sqrt(), last)
    (of_x, of_f), (drift_x, drift_f) = rows(moves), rows(drift)
    even = (spread[:-1] + spread[1:]) / 2 * h[:-1].sqrt()
    x = course.x
    for i in range(course.steps - 1):
        noise, told = course.noise(), course.ask(i, x)
        there = of_x[i] * x + of_f[i] * told + fresh[i] * noise
        begin = drift_x[i] * x + drift_f[i] * told
        end = drift_x[i + 1] * there + drift_f[i + 1] * course.ask(i + 1, there)
        x = x + h[i] / 2 * (begin + end) + even[i] * noise
    return of_x[-1] * x + of_f[-1] * course.ask(course.steps - 1, x) + fresh[-1] * course.noise()


def predictor_corrector(
    field: AnyField,
    x: Tensor,
    schedule: Schedule,
    grid: Tensor,
    *,
    corrections: int = 1,
    snr: float = 0.16,
    norms: str = "rows",
    prediction: str = "velocity",
    context: Tensor | None = None,
    generator: Chance = None,
) -> Tensor:
    r"""Steps of :func:`ddpm`, in front of each ``corrections`` steps of Langevin's at the same time: :math:`x +
    \epsilon s + \sqrt{2 \epsilon}\, n`, :math:`\epsilon = 2 a (r |n| / |s|)^2`.

    s is the score, :math:`a = (\alpha_t / \alpha_s)^2` for a step from t to s, r = ``snr``. ``norms`` are those of each
    of the "rows"; averages over the "batch", as published, on which every row then depends; or "expected", :math:`|n| /
    |s| = \sigma`, for events of few elements, whose score may be near 0; their ratio is at most ten times that. The
    last step has no noise. Cost: ``corrections`` + 1 evaluations a step. Song et al., 2021, arXiv:2011.13456,
    algorithms 2 to 5.

    >>> import torch
    >>> from pyflowk.paths import VP
    >>> from pyflowk.solvers import predictor_corrector, uniform_grid
    >>> predictor_corrector(lambda t, x: -x, torch.ones(1, 2), VP(), uniform_grid(8), prediction="score").shape
    torch.Size([1, 2])
    """
    require_counts("predictor_corrector", 0, corrections=corrections)
    require_numbers("predictor_corrector", snr=snr)
    if norms not in NORMS:
        raise ValueError(f"norms: expected one of {', '.join(NORMS)}; got {norms!r}")
    course = Course(field, x, schedule, grid, prediction, context, generator).rise("predictor_corrector")
    now, then, share = course.now, course.then, forgotten(course).clamp(min=0)
    data, noise = course.shares("data")[:, :-1], course.shares("noise")[:, :-1]
    of_x, of_f = rows(then.alpha * data + then.sigma * (1 - share).sqrt() * noise)
    score_x, score_f = rows(-noise / now.sigma)
    size, fresh = 2 * (now.alpha / then.alpha * snr).square(), then.sigma * share.sqrt()
    x = course.x
    for i in range(course.steps):
        for _ in range(corrections):
            score, drawn = score_x[i] * x + score_f[i] * course.ask(i, x), course.noise()
            step = size[i] * torch.minimum(NORMS[norms](drawn, score, now.sigma[i]), 10 * now.sigma[i]).square()
            x = x + step * score + (2 * step).sqrt() * drawn
        x = of_x[i] * x + of_f[i] * course.ask(i, x) + fresh[i] * course.noise()
    return x


def _equation(course: Course, diffusion: str | Callable[[Tensor], Tensor], scale: float) -> tuple[Tensor, Tensor]:
    """Shares of the drift (2, N) and w (N,) at the beginning of every step."""
    require_numbers("diffusion", scale=scale)
    t, now = course.grid[:-1], course.now
    if isinstance(diffusion, str):
        if diffusion not in DIFFUSIONS:
            raise ValueError(f"diffusion: expected one of {', '.join(DIFFUSIONS)}; got {diffusion!r}")
        w = scale * DIFFUSIONS[diffusion](t, now)
    else:
        w = scale * diffusion(t)
    if course.sees((~w.isfinite() | (w < 0)).any()):
        raise ValueError(
            f"diffusion: expected finite numbers that are not negative, got {diffusion} on {course.schedule}"
        )
    velocity, noise = course.shares("velocity")[:, :-1], course.shares("noise")[:, :-1]
    return velocity - w / now.sigma.clamp(min=TINY) * noise, w


def _ended(course: Course, moves: Tensor, fresh: Tensor, last: str) -> tuple[Tensor, Tensor]:
    """The steps with another last one."""
    if last not in LAST:
        raise ValueError(f"last: expected one of {', '.join(LAST)}; got {last!r}")
    if last == "noise":
        return moves, fresh
    end = moves[:, -1:]
    if last == "denoise":
        end = course.shares("data")[:, -2:-1]
    elif last == "euler":
        end = course.still[:, -1:] + course.grid.diff()[-1] * course.shares("velocity")[:, -2:-1]
    return torch.cat((moves[:, :-1], end), 1), torch.cat((fresh[:-1], torch.zeros_like(fresh[:1])))
