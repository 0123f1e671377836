"""Diffusions: a network learns to tell noise from data; samples lose their noise by an equation, or by chance."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from typing_extensions import Unpack

from ..nets import Preconditioned
from ..objectives import edm_matching, score_matching
from ..paths import EDM, PREDICTIONS, VE, VP, Cosine, ErrorWeight, Schedule, SubVP
from ..space import Space
from .blocks import by_network, solving, velocity
from .matching_model import MatchingModel
from .option import Method, Steps, Tolerance, VelocityOptions, one_of
from .registry import register

PROCESSES: dict[str, type[Schedule]] = {"vp": VP, "sub_vp": SubVP, "cosine": Cosine, "ve": VE, "edm": EDM}
PLAIN = {"vp": PREDICTIONS, "sub_vp": PREDICTIONS, "cosine": ("velocity", "data"), "ve": (), "edm": ()}
"""What a plain network may predict: noise, where there is some data in it, and not of a width beyond its inputs."""


def _choose(space: Space, options: dict[str, Any]) -> dict[str, Any]:
    """The network with its sizes, the divergence, the weighting that belongs to the prediction."""
    process, prediction = options["process"], options["prediction"]
    if prediction not in ("denoiser", *PLAIN[process]):
        expected = " or ".join(("denoiser", *PLAIN[process]))
        raise ValueError(f"prediction: expected {expected} of a network for process {process}, got {prediction}")
    weighting = options["weighting"]
    if weighting == "auto":
        weighting = "edm" if prediction == "denoiser" else "simple"
    return {"weighting": weighting, **by_network(space, options)}


@register("diffusion", _choose)
def diffusion(
    space: Space,
    *,
    process: Annotated[str, one_of("how data become noise", PROCESSES)] = "vp",
    prediction: Annotated[str, one_of("what the network learns", ("denoiser", *PREDICTIONS))] = "denoiser",
    weighting: Annotated[
        str, one_of("how much each time counts; auto: edm or simple", ("auto", "edm", "simple", "likelihood", "none"))
    ] = "auto",
    method: Method = "dopri5",
    steps: Steps = None,
    rtol: Tolerance = 1e-6,
    atol: Tolerance = 1e-6,
    **shared: Unpack[VelocityOptions],
) -> MatchingModel:
    """A diffusion by its score, as an equation and by chance (Song et al., 2021, arXiv:2011.13456).

    ``process`` says what becomes of the data: "vp" (also DDPM's), "sub_vp", "cosine", "ve" or "edm". The network learns
    as ``prediction`` says: "denoiser" is EDM's, preconditioned, which leaves a network nothing but what is not Gaussian
    (Karras et al., 2022, arXiv:2206.00364), with EDM's times and weights unless ``weighting`` says another; the others
    are learned plainly, "noise" as DDPM (Ho et al., 2020, arXiv:2006.11239), where the process allows it. "simple"
    weighs errors as those of the noise, "likelihood" by the diffusion, "none" as they are. Real numbers are brought to
    unit scale by the first batch, once; integers get even noise and lie in [-1, 1). With ``dropout`` (0.1) samples can
    be drawn with ``guidance``.

    Samples come by ``method``, an option of ``sample``: the best of few steps is "dpmpp_2m"; "ddim" with ``eta``,
    "ddpm", "edm_heun" with ``churn``, "euler_maruyama", "stochastic_heun", "predictor_corrector", or a solver of the
    probability flow, in ``steps`` on a ``grid``. Densities, latents and trajectories are those of the probability flow,
    solved as the options here say. Networks and errors are those of ``flow_matching``; ValueError for a prediction that
    a process has not.

    >>> from pyflowk import zoo
    >>> zoo.diffusion((2,), process="edm").sample(3, method="edm_heun", steps=4).shape
    torch.Size([3, 2])
    """
    net = velocity(space, shared)
    schedule, told = PROCESSES[process](), prediction
    deviation = 1.0 if space.levels is None else 0.5
    if prediction == "denoiser":
        told = "data" if process == "vp" else "velocity"  # exact up to the end, but for vp's, whose slope is infinite
        net = Preconditioned(net, schedule, deviation, told)
    if weighting == "edm":
        objective = edm_matching(schedule, deviation, prediction=told, dropout=shared["dropout"])
    else:
        objective = score_matching(schedule, told, weighting, dropout=shared["dropout"])
        if weighting == "none" and prediction == "denoiser":  # errors of the data that it tells
            objective = replace(objective, weight=ErrorWeight(schedule, told, "data"))
    solver = solving(shared, method, steps, rtol, atol)
    return MatchingModel(space, net, objective, flat=shared["architecture"] == "vector", solver=solver)
