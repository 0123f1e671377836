"""Rectified flow: straight lines between noise and data, learned again from the pairs that it makes itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from typing_extensions import Unpack

from ..objectives import rectified_flow as objective_of_straight_lines
from ..paths import TIME_LAWS, Times, start_times
from ..space import Space
from .blocks import by_network, solving, velocity
from .matching_model import MatchingModel
from .option import Method, Steps, Tolerance, VelocityOptions, one_of
from .registry import register

LAWS: dict[str, Times] = {
    **{name: TIME_LAWS[name]() for name in ("uniform", "u_shaped", "logit_normal", "mode", "cosmap")},
    "start": start_times,
}


@register("rectified_flow", by_network)
def rectified_flow(
    space: Space,
    *,
    time_law: Annotated[str, one_of("how likely each time is in training; start: none but 0", LAWS)] = "uniform",
    method: Method = "rk4",
    steps: Steps = 20,
    rtol: Tolerance = 1e-5,
    atol: Tolerance = 1e-5,
    **shared: Unpack[VelocityOptions],
) -> MatchingModel:
    """Rectified flow, straight lines whose flow learns from its own ends (Liu et al., 2023, arXiv:2209.03003).

    At first it is flow matching on straight lines from noise drawn beside the data. Then `pyflowk reflow RUN` has it
    make pairs of noise and sample and learn them in place of the data, once or more often: the velocity becomes
    straight, and one Euler step does (``--sampling method=euler steps=1``). ``time_law`` "u_shaped" then puts the work
    where it is hard, "logit_normal" in the middle of the way; "start" looks at time 0 alone: with pairs that distils
    one step, which is then all that the velocity is for. Everything else is that of ``flow_matching``.

    >>> from pyflowk import zoo
    >>> zoo.rectified_flow((2,)).sample(3, method="euler", steps=1).shape
    torch.Size([3, 2])
    """
    net = velocity(space, shared)
    objective = replace(objective_of_straight_lines(), times=LAWS[time_law], dropout=shared["dropout"])
    solver = solving(shared, method, steps, rtol, atol)
    return MatchingModel(space, net, objective, flat=shared["architecture"] == "vector", solver=solver)
