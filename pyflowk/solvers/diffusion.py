r"""Samplers of diffusions, on any affine path and for any prediction, that walk by what a field says of data and noise.

All take ``field(t, x, context=None)``, a :class:`pyflowk.nets.Field` or a function, what it predicts, x (B, \*event) at
the first time of a ``grid`` (N + 1,), the ``schedule`` of the path, and give what is there at the last; from a start t
= 0 without any data x is :math:`N(0, \sigma_0^2)`. They hold for a source that is standard normal and drawn beside the
data. The ``generator`` is one for all rows or one a row, whose noise then does not depend on the others. Steps are made
of numbers that are known before the first; with x on a card a walk can be captured as one CUDA graph. Raises
TypeError or ValueError for grids, events, generators, settings and answers that do not fit, for noise or score as
prediction where there is no data, and for data or score where there is no noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._checks import require_numbers
from ..nets.field import Field
from ..paths import Schedule
from .course import TINY, Course, rows
from .sde import Chance

__all__ = ["curved_euler", "ddim", "ddpm", "dpmpp_2m", "edm_heun", "overshooting"]

AnyField = Field | Callable[..., Tensor]


def ddim(
    field: AnyField,
    x: Tensor,
    schedule: Schedule,
    grid: Tensor,
    *,
    eta: float = 0.0,
    prediction: str = "velocity",
    context: Tensor | None = None,
    generator: Chance = None,
) -> Tensor:
    r"""DDIM: :math:`x_s = \alpha_s \hat x_1 + \sqrt{\sigma_s^2 - v}\, \hat x_0 + \sqrt v\, n` with
    :math:`v = \eta^2 \sigma_s^2 (1 - (\alpha_t \sigma_s / \alpha_s \sigma_t)^2)`.

    Without fresh noise, ``eta=0``, these are Euler's steps in :math:`x / \alpha` and :math:`\sigma / \alpha`, exact
    where data and noise are told the same all the way, of order 1; on straight lines they are Euler's. They lead back
    from data to noise on a grid that falls, too, as long as noise can be told at its first time. ``eta=1`` draws from
    the posterior of DDPM. Cost: one evaluation a step. Song et al., 2021, arXiv:2010.02502.

    >>> import torch
    >>> from pyflowk.paths import VP
    >>> from pyflowk.solvers import ddim, uniform_grid
    >>> ddim(lambda t, x: x * VP().at(t).sigma, torch.ones(1, 2), VP(), uniform_grid(8), prediction="noise").shape
    torch.Size([1, 2])
    """
    require_numbers("ddim", eta=eta)
    if eta > 1:
        raise ValueError(f"ddim expects eta from 0 to 1, got {eta}")
    course = Course(field, x, schedule, grid, prediction, context, generator)
    if prediction in ("data", "score") and course.sees((course.now.sigma == 0).any()):
        raise ValueError(f"prediction: {prediction} says nothing of the noise at a time without any on {schedule}")
    return _refreshed(course, eta**2 * forgotten(course.rise("ddim with fresh noise")) if eta else None)


def ddpm(
    field: AnyField,
    x: Tensor,
    schedule: Schedule,
    grid: Tensor,
    *,
    prediction: str = "velocity",
    context: Tensor | None = None,
    generator: Chance = None,
) -> Tensor:
    r"""DDPM's ancestral sampling: every step is drawn from the posterior of :math:`x_s` given :math:`x_t` and the data,
    which are what the field says they are.

    :func:`ddim` with ``eta=1``. Ho et al., 2020, arXiv:2006.11239.

    >>> import torch
    >>> from pyflowk.paths import Cosine
    >>> from pyflowk.solvers import ddpm, uniform_grid
    >>> ddpm(lambda t, x: torch.full_like(x, 3), torch.ones(1, 2), Cosine(), uniform_grid(8), prediction="data")
    tensor([[3., 3.]])
    """
    return ddim(field, x, schedule, grid, eta=1.0, prediction=prediction, context=context, generator=generator)


def curved_euler(
    field: AnyField,
    x: Tensor,
    schedule: Schedule,
    grid: Tensor,
    *,
    refresh: float = 0.0,
    prediction: str = "velocity",
    context: Tensor | None = None,
    generator: Chance = None,
) -> Tensor:
    r"""Euler's steps along the path, a share of the variance of the noise being drawn again at each: :math:`x_s =
    \alpha_s \hat x_1 + \sigma_s (\sqrt{1 - r}\, \hat x_0 + \sqrt r\, n)`, r = ``refresh`` from 0 to 1.

    r = 0 is :func:`ddim`; one above 0 forgets the more the more steps there are, so that it suits few. Cost: one
    evaluation a step. Liu et al., 2023, arXiv:2209.03003.

    >>> import torch
    >>> from pyflowk.paths import CondOT
    >>> from pyflowk.solvers import curved_euler, uniform_grid
    >>> curved_euler(lambda t, x: 3 - x, torch.ones(1, 2), CondOT(), uniform_grid(1), refresh=0.5)
    tensor([[3., 3.]])
    """
    require_numbers("curved_euler", refresh=refresh)
    if refresh > 1:
        raise ValueError(f"curved_euler expects refresh from 0 to 1, got {refresh}")
    course = Course(field, x, schedule, grid, prediction, context, generator).rise("curved_euler")
    return _refreshed(course, torch.full_like(course.grid[1:], refresh) if refresh else None)


def overshooting(
    field: AnyField,
    x: Tensor,
    schedule: Schedule,
    grid: Tensor,
    *,
    overshoot: float = 1.0,
    prediction: str = "velocity",
    context: Tensor | None = None,
    generator: Chance = None,
) -> Tensor:
    r"""Steps that go too far, to :math:`o = s + c h (1 - s)`, at most 1, and come back by noise: :math:`x_s = a x_o +
    b n`, :math:`a = \alpha_s / \alpha_o`, :math:`b^2 = \sigma_s^2 - a^2 \sigma_o^2`.

    c is ``overshoot``, h the step from t to s; c = 0 is :func:`ddim`. Cost: one evaluation a step. Hu et al., 2024,
    arXiv:2411.19415.

    >>> import torch
    >>> from pyflowk.paths import CondOT
    >>> from pyflowk.solvers import overshooting, uniform_grid
    >>> overshooting(lambda t, x: 3 - x, torch.ones(1, 2), CondOT(), uniform_grid(1), overshoot=2)
    tensor([[3., 3.]])
    """
    require_numbers("overshooting", overshoot=overshoot)
    course = Course(field, x, schedule, grid, prediction, context, generator).rise("overshooting")
    s, h = course.grid[1:], course.grid.diff()
    far = schedule.at((s + overshoot * h * (1 - s)).clamp(max=1))
    back = course.then.alpha / far.alpha
    reached = far.alpha * course.shares("data")[:, :-1] + far.sigma * course.shares("noise")[:, :-1]
    fresh = (course.then.sigma.square() - (back * far.sigma).square()).clamp(min=0).sqrt()
    return course.walk(back * reached, fresh if overshoot else None)


def dpmpp_2m(
    field: AnyField,
    x: Tensor,
    schedule: Schedule,
    grid: Tensor,
    *,
    prediction: str = "velocity",
    context: Tensor | None = None,
    generator: Chance = None,
) -> Tensor:
    r"""DPM-Solver++ (2M): with :math:`l = \log (\alpha / \sigma)`, :math:`h = l_s - l_t` and the step before it,

    .. math:: x_s = (\sigma_s / \sigma_t)\, x + \alpha_s (1 - e^{-h}) (\hat x_1 +
        (\hat x_1 - \hat x_1^{\text{before}})\, h / 2 h^{\text{before}}).

    Of order 2. The first step, and one from where there is no data or to where there is no noise, is :func:`ddim`'s. A
    grid that falls begins where there is noise.
    Nothing is drawn from the generator. Cost: one evaluation a step. Lu et al., 2022, arXiv:2211.01095.

    >>> import torch
    >>> from pyflowk.paths import CondOT
    >>> from pyflowk.solvers import dpmpp_2m, uniform_grid
    >>> dpmpp_2m(lambda t, x: torch.full_like(x, 3.0), torch.ones(1, 2), CondOT(), uniform_grid(4), prediction="data")
    tensor([[3., 3.]])
    """
    course = Course(field, x, schedule, grid, prediction, context, generator)
    if course.sees((course.now.sigma == 0).any()):
        raise ValueError(
            f"grid: expected noise at its first time for dpmpp_2m, got none at {course.grid[0]:g}; see ddim"
        )
    data, (now, then) = rows(course.shares("data")), (course.now, course.then)
    h = (course.at.alpha.log() - course.at.sigma.log()).diff()
    ahead = torch.cat((torch.zeros_like(h[:1]), h[1:] / (2 * h[:-1])))
    ahead = ahead.where(ahead.isfinite() & h.isfinite(), 0.0)
    kept = then.sigma / now.sigma
    gained = then.alpha - kept * now.alpha  # alpha_s (1 - e^-h)
    x, before = course.x, course.x
    for i in range(course.steps):
        told = data[0][i] * x + data[1][i] * course.ask(i, x)
        x = kept[i] * x + gained[i] * (told + ahead[i] * (told - before))
        before = told
    return x


def edm_heun(
    field: AnyField,
    x: Tensor,
    schedule: Schedule,
    grid: Tensor,
    *,
    churn: float = 0.0,
    churn_noise: float = 1.0,
    churn_min: float = 0.0,
    churn_max: float = float("inf"),
    prediction: str = "velocity",
    context: Tensor | None = None,
    generator: Chance = None,
) -> Tensor:
    r"""Heun's steps of :math:`d(x / \alpha) = \hat x_0\, d(\sigma / \alpha)`, the last one Euler's, with noise added in
    front of each.

    With :math:`\tilde\sigma = \sigma / \alpha` from ``churn_min`` to ``churn_max``, noise of ``churn_noise`` times the
    deviation that it lacks leads back to :math:`\tilde\sigma (1 + \min(S / N, \sqrt 2 - 1))`, S = ``churn``, but not
    past the schedule's beginning. A step from where there is no data is Euler's. Of order 2 without churn. Cost: two
    evaluations a step. Karras et al., 2022, arXiv:2206.00364, algorithm 2.

    >>> import torch
    >>> from pyflowk.paths import EDM
    >>> from pyflowk.solvers import edm_heun, karras_grid
    >>> edm_heun(lambda t, x: 0 * x, 80 * torch.ones(1, 2), EDM(), karras_grid(8, EDM()), prediction="data")
    tensor([[0., 0.]])
    """
    require_numbers("edm_heun", churn=churn, churn_noise=churn_noise, churn_min=churn_min)
    course = Course(field, x, schedule, grid, prediction, context, generator).rise("edm_heun")
    now, then, times, fresh = course.now, course.then, course.grid[:-1], None
    if churn:
        ratio = now.sigma / now.alpha
        more = min(churn / course.steps, 2**0.5 - 1)
        stirred = (ratio >= churn_min) & (ratio <= churn_max) & ratio.isfinite()
        times = torch.where(stirred, schedule.time(-2 * torch.log((1 + more) * ratio)), times)
        back = schedule.at(times)
        lacking = ((back.sigma / back.alpha).square() - ratio.square()).clamp(min=0).sqrt()
        fresh = torch.where(stirred, churn_noise * back.alpha * lacking, 0.0)
        rescale, now = torch.where(stirred, back.alpha / now.alpha, 1.0), back
    noise = [rows(course.shares("noise", t)) for t in (times, course.grid[1:])]
    data = rows(course.shares("data", times))
    half = torch.where(now.alpha > 0, then.sigma - then.alpha * now.sigma / now.alpha.clamp(min=TINY), 0.0) / 2
    clock, x = times.to(course.x.dtype).unbind(), course.x
    for i in range(course.steps):
        if fresh is not None:
            x = rescale[i] * x + fresh[i] * course.noise()
        told = course.ask_at(clock[i], x)
        first = noise[0][0][i] * x + noise[0][1][i] * told
        x = then.alpha[i] * (data[0][i] * x + data[1][i] * told) + then.sigma[i] * first
        if i + 1 < course.steps:
            second = noise[1][0][i] * x + noise[1][1][i] * course.ask(i + 1, x)
            x = x + half[i] * (second - first)
    return x


def forgotten(course: Course) -> Tensor:
    """The share (N,) of the noise's variance at the end of a step that was not in its beginning, given the data."""
    kept = course.now.alpha * course.then.sigma / (course.then.alpha * course.now.sigma)
    return 1 - kept.square()


def _refreshed(course: Course, share: Tensor | None) -> Tensor:
    """Steps along the path, a share (N,) of whose noise is drawn again."""
    data, noise = course.shares("data")[:, :-1], course.shares("noise")[:, :-1]
    sigma = course.then.sigma
    if share is None:
        return course.walk(course.then.alpha * data + sigma * noise)
    kept = sigma * (1 - share).clamp(min=0).sqrt()
    return course.walk(course.then.alpha * data + kept * noise, sigma * share.clamp(min=0).sqrt())
