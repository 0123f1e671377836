"""Flow matching: a velocity learned by regression, no equation being solved in training."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from typing_extensions import Unpack

from ..manifolds import MANIFOLDS
from ..nets import Preconditioned
from ..objectives import Matching
from ..paths import (
    SCHEDULES,
    TIME_LAWS,
    AffinePath,
    GeodesicPath,
    OptimalTransport,
    Pairing,
    UnitWeight,
    Weight,
    independent,
)
from ..space import Space
from .blocks import by_network, solving, velocity
from .matching_model import MatchingModel
from .option import Method, Option, Steps, Tolerance, VelocityOptions, one_of
from .registry import FLOWS, register

STARTS = {name: schedule().at(torch.zeros((), device="cpu")) for name, schedule in SCHEDULES.items()}
PATHS = tuple(name for name, start in STARTS.items() if start.sigma <= 1)  # a plain network takes no wider noise
PAIRINGS: dict[str, Pairing] = {
    "independent": independent,
    "optimal_transport": OptimalTransport(),
    "gathered_optimal_transport": OptimalTransport(gather=True),
    "semidiscrete": OptimalTransport(),  # until all rows are known, and in validation
}
LAWS = tuple(name for name in TIME_LAWS if name not in ("log_normal", "shifted"))  # these ask for more than a name
HINTED = tuple(name for name in PATHS if STARTS[name].alpha > 0)  # there is data at the start


def _choose(space: Space, options: dict[str, Any]) -> dict[str, Any]:
    """The network with its sizes, the divergence, the sines that it sees."""
    path, manifold = options["path"], space.geometry
    if manifold is not None and (options["prediction"], options["pairing"]) != ("velocity", "independent"):
        asked = f"{options['prediction']} and {options['pairing']}"
        raise ValueError(f"prediction, pairing: expected velocity and independent on a manifold, got {asked}")
    if options["prediction"] == "noise" and path not in HINTED:
        raise ValueError(
            f"prediction: noise says nothing of the data where there is none, at t = 0 of path {path}; expected path "
            f"{' or '.join(HINTED)}"
        )
    frequency = (0.0 if manifold is None else 24.0) if options["frequency"] is None else options["frequency"]
    return {"frequency": frequency, **by_network(space, options)}


@register("flow_matching", _choose, (*FLOWS, *MANIFOLDS))
def flow_matching(
    space: Space,
    *,
    path: Annotated[str, one_of("shares of noise and data at each time", PATHS)] = "condot",
    prediction: Annotated[str, one_of("what the network learns", ("velocity", "noise", "data"))] = "velocity",
    pairing: Annotated[str, one_of("which noise of a batch goes with which event", PAIRINGS)] = "independent",
    time_law: Annotated[str, one_of("how likely each time is in training", LAWS)] = "uniform",
    frequency: Annotated[
        float | None, Option("of sines that a perceptron sees, too; 0: none; None: 24 on a manifold, else 0", 0, 1e6)
    ] = None,
    method: Method = "rk4",
    steps: Steps = 20,
    rtol: Tolerance = 1e-5,
    atol: Tolerance = 1e-5,
    **shared: Unpack[VelocityOptions],
) -> MatchingModel:
    """Flow matching, a flow trained by regression on velocities of paths (Lipman et al., 2023, arXiv:2210.02747).

    From standard normal noise x0 and an event x1 ``path`` makes x_t; the network, which sees x_t and t, learns the
    velocity of x_t or, as ``prediction`` says, its data x1, by what is left of them at unit scale
    (:class:`pyflowk.nets.Preconditioned`), or its noise x0 where the path starts with a little data. With ``pairing``
    "optimal_transport" each batch brings noise to events on the shortest ways, among equal labels or close numbers
    where there is a context: the velocity is straighter, and few steps do; "gathered_optimal_transport" takes the
    batches of all processes that train together for one, "semidiscrete" all rows, given labels or nothing, by a fit
    before the first step. Real numbers are brought to unit scale by the first batch, once; integers get even noise and
    lie in [-1, 1): samples are rounded down, and ``log_prob`` is a bound on the log-probability, as of other flows. A
    training step is one evaluation of the network, and its loss is no likelihood. With ``dropout`` (0.1) samples can be
    drawn with ``guidance``, and everything can be asked without a context.

    Samples take ``steps`` equal steps of a ``method``, options of ``sample``, or adaptive ones with steps=None (method
    "dopri5" or another with an error estimate); options of the same names here are those of densities, latents and
    trajectories. Equal steps of a perceptron's velocity run in one kernel call. ``divergence`` "auto" is exact for at
    most 3 elements and Hutchinson's estimate beyond, unbiased. ``architecture`` "vector" flattens the event; images
    (C, H, W) are seen by a "unet", which "auto" takes for them, a "dit", or "image", plain convolutions in one
    resolution. Raises ValueError for a network on images without an image, options that a network does not have, and
    noise on a path that starts without any data.

    With a ``frequency`` a perceptron learns structure of size 1 / frequency in few steps
    (:class:`pyflowk.nets.FourierField`), but runs no more in one kernel call. On a manifold noise is uniform, geodesics
    lead from it to the data, of which ``path`` says the share, samples stay on the manifold and ``log_prob`` is with
    respect to its volume (Chen and Lipman, 2024, arXiv:2302.03660).

    >>> from pyflowk import zoo
    >>> zoo.flow_matching((2,)).sample(3, method="euler", steps=4).shape
    torch.Size([3, 2])
    """
    net = velocity(space, shared, frequency or 0.0)
    schedule = SCHEDULES[path]()
    weight: Weight | None = None
    if prediction == "data":
        deviation = 1.0 if space.levels is None else 0.5
        net = Preconditioned(net, schedule, deviation, "velocity")  # which divides by nothing at either end
        prediction, weight = "velocity", UnitWeight(schedule, "velocity", deviation=deviation)
    way = AffinePath(schedule) if space.geometry is None else GeodesicPath(space.geometry, schedule)
    objective = Matching(way, prediction, PAIRINGS[pairing], TIME_LAWS[time_law](), weight, dropout=shared["dropout"])
    flat = shared["architecture"] == "vector" and space.geometry is None
    solver = solving(shared, method, steps, rtol, atol)
    return MatchingModel(space, net, objective, flat=flat, whole=pairing == "semidiscrete", solver=solver)
