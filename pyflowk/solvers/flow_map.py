r"""Jumps along a flow map: samples in one, two or a few evaluations."""

from __future__ import annotations

import torch
from torch import Tensor

from ..nets.flow_map import FlowMap
from ..ops.describe import require_kind
from ..paths import Schedule
from .course import Course
from .sde import Chance

__all__ = ["flow_map"]


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
