"""Rectified flow: straight lines between noise and data, learned again from the pairs that it makes itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from ..objectives import rectified_flow as objective_of_straight_lines
from ..ops.hutchinson import NOISES
from ..paths import TIME_LAWS, Times, start_times
from ..space import Space
from ..transforms.continuous import DIVERGENCES
from .blocks import by_network, condition, stepping, velocity
from .matching_model import MatchingModel
from .option import (
    WIDTH,
    Dropout,
    Method,
    Option,
    Patch,
    Steps,
    Tolerance,
    Velocity,
    VelocityActivation,
    VelocityDepth,
    VelocityTime,
    VelocityWidth,
    one_of,
)
from .registry import register

LAWS: dict[str, Times] = {
    **{name: TIME_LAWS[name]() for name in ("uniform", "u_shaped", "logit_normal", "mode", "cosmap")},
    "start": start_times,
}


def _choose(space: Space, options: dict[str, Any]) -> dict[str, Any]:
    """The network and its sizes; the exact divergence where it is cheap."""
    divergence = options["divergence"]
    if divergence == "auto":
        divergence = "exact" if space.dims <= 3 else "hutchinson"
    return {"divergence": divergence, **by_network(space, options)}


@register("rectified_flow", _choose)
def rectified_flow(
    space: Space,
    *,
    time_law: Annotated[str, one_of("how likely each time is in training; start: none but 0", LAWS)] = "uniform",
    architecture: Velocity = "auto",
    width: VelocityWidth = None,
    depth: VelocityDepth = None,
    patch: Patch = None,
    activation: VelocityActivation = None,
    time: VelocityTime = None,
    dropout: Dropout = 0.0,
    divergence: Annotated[str, one_of("of the field; auto: exact up to 3 elements", ("auto", *DIVERGENCES))] = "auto",
    probes: Annotated[int, Option("random directions of an estimate; an even number for hutch++", 1, WIDTH)] = 1,
    noise: Annotated[str, one_of("kind of the random directions", NOISES)] = "rademacher",
    method: Method = "rk4",
    steps: Steps = 20,
    rtol: Tolerance = 1e-5,
    atol: Tolerance = 1e-5,
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
    net = velocity(
        space, architecture, condition(space, dropout), width=width, depth=depth, patch=patch, activation=activation,
        time=time,
    )  # fmt: skip
    solver = {
        "divergence": divergence, "probes": probes, "noise": noise, "method": method,
        "stepping": stepping(method, steps, rtol, atol),
    }  # fmt: skip
    objective = replace(objective_of_straight_lines(), times=LAWS[time_law], dropout=dropout)
    return MatchingModel(space, net, objective, flat=architecture == "vector", solver=solver)
