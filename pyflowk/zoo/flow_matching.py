"""Flow matching: a velocity learned by regression, no equation being solved in training."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from ..nets import FIELD_ACTIVATIONS, ConvField, Field, MLPField
from ..objectives import Matching
from ..ops.hutchinson import NOISES
from ..paths import SCHEDULES, AffinePath
from ..space import Space
from ..transforms.continuous import DIVERGENCES
from .blocks import condition, stepping
from .matching_model import MatchingModel
from .option import LAYERS, WIDTH, Dropout, Method, Option, Steps, Time, Tolerance, one_of
from .registry import register

STARTS = {name: schedule().at(torch.zeros((), device="cpu")) for name, schedule in SCHEDULES.items()}
PATHS = tuple(name for name, start in STARTS.items() if start.sigma <= 1)  # a plain network takes no wider noise
HINTED = tuple(name for name in PATHS if STARTS[name].alpha > 0)  # there is data at the start


def _choose(space: Space, options: dict[str, Any]) -> dict[str, Any]:
    """The architecture and its width; the exact divergence where it is cheap."""
    architecture, divergence, path = (options[name] for name in ("architecture", "divergence", "path"))
    if architecture == "auto":
        architecture = "image" if len(space.shape) == 3 else "vector"
    if architecture == "image" and len(space.shape) != 3:
        raise ValueError(f"architecture: image expects events (C, H, W), got {space.shape}; vector takes any")
    width = options["width"] or {"vector": 128, "image": 32}[architecture]
    if options["prediction"] == "noise" and path not in HINTED:
        raise ValueError(
            f"prediction: noise says nothing of the data where there is none, at t = 0 of path {path}; expected path "
            f"{' or '.join(HINTED)}"
        )
    if divergence == "auto":
        divergence = "exact" if space.dims <= 3 else "hutchinson"
    return {"architecture": architecture, "width": width, "divergence": divergence}


@register("flow_matching", _choose)
def flow_matching(
    space: Space,
    *,
    path: Annotated[str, one_of("shares of noise and data at each time", PATHS)] = "condot",
    prediction: Annotated[str, one_of("what the network learns", ("velocity", "noise", "data"))] = "velocity",
    architecture: Annotated[
        str, one_of("perceptron, or convolutions; auto: by the shape", ("auto", "vector", "image"))
    ] = "auto",
    width: Annotated[int | None, Option("units (128) or, image, channels (32) of a hidden layer", 1, WIDTH)] = None,
    depth: Annotated[int, Option("hidden layers of the network", 1, LAYERS)] = 3,
    activation: Annotated[str, one_of("what the hidden units compute", FIELD_ACTIVATIONS)] = "silu",
    time: Time = "concat",
    dropout: Dropout = 0.0,
    divergence: Annotated[str, one_of("of the field; auto: exact up to 3 elements", ("auto", *DIVERGENCES))] = "auto",
    probes: Annotated[int, Option("random directions of an estimate; an even number for hutch++", 1, WIDTH)] = 1,
    noise: Annotated[str, one_of("kind of the random directions", NOISES)] = "rademacher",
    method: Method = "rk4",
    steps: Steps = 20,
    rtol: Tolerance = 1e-5,
    atol: Tolerance = 1e-5,
) -> MatchingModel:
    """Flow matching, a flow trained by regression on velocities of paths (Lipman et al., 2023, arXiv:2210.02747).

    From standard normal noise x0 and an event x1, drawn apart, ``path`` makes x_t; the network, which sees x_t and t,
    learns the velocity of x_t or, as ``prediction`` says, its data x1, or its noise x0 where the path is "vp". Real
    numbers are brought to unit scale by the first batch, once; integers get even noise and lie in [-1, 1): samples are
    rounded down, and ``log_prob`` is a bound on the log-probability, as of other flows. A training step is one
    evaluation of the network, and its loss is no likelihood. With ``dropout`` (0.1) samples can be drawn with
    ``guidance``, and everything can be asked without a context.

    Samples take ``steps`` equal steps of a ``method``, options of ``sample``, or adaptive ones with steps=None (method
    "dopri5" or another with an error estimate); options of the same names here are those of densities, latents and
    trajectories. Equal steps of a perceptron's velocity run in one kernel call. ``divergence`` "auto" is exact for at
    most 3 elements and Hutchinson's estimate beyond, unbiased. ``architecture`` "vector" flattens the event; "image",
    which "auto" takes for (C, H, W), is convolutions without any downsampling. Raises ValueError for an image network
    without an image, and for noise on a path that starts without any data.

    >>> from pyflowk import zoo
    >>> zoo.flow_matching((2,)).sample(3, method="euler", steps=4).shape
    torch.Size([3, 2])
    """
    vector = architecture == "vector"
    sizes: dict[str, Any] = {
        "width": width,
        "depth": depth,
        "activation": activation,
        "time": time,
        **condition(space, dropout),
    }
    net: Field = MLPField(space.dims, **sizes) if vector else ConvField(space.shape[0], **sizes)
    solver = {
        "divergence": divergence, "probes": probes, "noise": noise, "method": method,
        "stepping": stepping(method, steps, rtol, atol),
    }  # fmt: skip
    objective = Matching(AffinePath(SCHEDULES[path]()), prediction, dropout=dropout)
    return MatchingModel(space, net, objective, flat=vector, solver=solver)
