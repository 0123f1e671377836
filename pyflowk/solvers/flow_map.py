r"""Jumps along a flow map: samples in one, two or a few evaluations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..nets.field import Field
from ..nets.flow_map import FlowMap
from ..ops.describe import require_kind
from ..paths import Schedule
from .course import Course, rows
from .sde import Chance

__all__ = ["consistency", "flow_map"]


def flow_map(
    field: FlowMap,
    x: Tensor,
    schedule: Schedule,
    grid: Tensor,
    *,
    renoise: bool = False,
    context: Tensor | None = None,
    generator: Chance = None,
) -> Tensor:
    r"""Jumps :math:`x \leftarrow X_{t \to s}(x)` of a flow map from each time of a ``grid`` (N + 1,) to the next.

    x (B, \*event) at the first time becomes what is there at the last; one step from 0 to 1 is a sample. With
    ``renoise`` each step jumps to the data and, but for the last, back with fresh noise, :math:`\alpha_s X_{t \to 1}(x)
    + \sigma_s n`: an error of one jump is then forgotten by the next, but the map of x is none of the flow. It holds
    for a source that is standard normal and drawn beside the data, whose path has the ``schedule``. The ``generator``
    is one for all rows or one a row. Raises TypeError for what is no :class:`pyflowk.nets.FlowMap`; TypeError or
    ValueError for events and grids that do not fit, and a grid that falls.
    Cost: one evaluation a step. Geng et al., 2025, arXiv:2505.13447; fresh noise: Song et al., 2023, arXiv:2303.01469.

    >>> import torch
    >>> from pyflowk.nets import FlowMap, MLPField
    >>> from pyflowk.paths import CondOT
    >>> from pyflowk.solvers import flow_map, uniform_grid
    >>> flow_map(FlowMap(MLPField(2, interval=True)), torch.zeros(3, 2), CondOT(), uniform_grid(1)).shape
    torch.Size([3, 2])
    """
    require_kind("field", field, FlowMap, "a pyflowk.nets.FlowMap, which jumps")
    course = Course(field, x, schedule, grid, "velocity", context, generator).rise("flow_map")
    x, times = course.x, course.times
    for i in range(course.steps):
        if not renoise or i + 1 == course.steps:
            x = field.jump(times[i], x, context, end=times[i + 1])
            continue
        data = field.jump(times[i], x, context, end=torch.ones_like(times[i]))
        x = course.then.alpha[i].to(x.dtype) * data + course.then.sigma[i].to(x.dtype) * course.noise()
    return x


def consistency(
    field: Field | Callable[..., Tensor],
    x: Tensor,
    schedule: Schedule,
    grid: Tensor,
    *,
    prediction: str = "velocity",
    context: Tensor | None = None,
    generator: Chance = None,
) -> Tensor:
    r"""What a field says of the data at each time of a ``grid``, brought back to the next with fresh noise:
    :math:`x \leftarrow \alpha_s f(t, x) + \sigma_s n`.

    Of a consistency model (:class:`pyflowk.objectives.ConsistencyMatching`) one step from 0 to 1 is a sample, and a few
    are better ones. x is (B, \*event) at the first time; the ``prediction`` of the field means f on the affine path of
    the ``schedule``. The ``generator`` is one for all rows or one a row. Errors are those of
    :func:`pyflowk.solvers.ddim`. Cost: one evaluation a step. Song et al., 2023, arXiv:2303.01469, algorithm 1.

    >>> import torch
    >>> from pyflowk.paths import Cosine
    >>> from pyflowk.solvers import consistency, uniform_grid
    >>> consistency(lambda t, x: x, torch.ones(1, 2), Cosine(), uniform_grid(1), prediction="data")
    tensor([[1., 1.]])
    """
    course = Course(field, x, schedule, grid, prediction, context, generator).rise("consistency")
    x, (of_x, of_f) = course.x, rows(course.shares("data").to(course.x.dtype))
    alpha, sigma = (c.to(x.dtype).unbind() for c in course.then[:2])
    for i in range(course.steps):
        data = of_x[i] * x + of_f[i] * course.ask(i, x)
        x = alpha[i] * data + sigma[i] * course.noise()
    return x
