"""Ways from noise, t = 0, to data, t = 1, without any network: what lies between two samples, and how it moves.

A `Path` gives a `PathSample`: an `AffinePath` has a `Schedule`, `CondOT`, `Lipman`, `Polynomial`, `Cosine`, `LinearVP`,
`VP` or `VE`, each with its `Coefficients` at a time and by name in `SCHEDULES`. `convert` says a prediction, one of
`PREDICTIONS`, in other words. A `Pairing` says which noise goes with which event: `independent`, those that are
`Given`, or a flow's own, `FlowNoise`; `Times` are those at which a path is looked at: `uniform_times`.
"""

from .affine import AffinePath
from .base import Path, PathSample
from .pairing import Pairing, independent
from .pairs import FlowNoise, Given
from .prediction import PREDICTIONS, convert
from .schedules import SCHEDULES, VE, VP, Coefficients, CondOT, Cosine, LinearVP, Lipman, Polynomial, Schedule
from .times import Times, uniform_times

__all__ = [
    "PREDICTIONS",
    "SCHEDULES",
    "VE",
    "VP",
    "AffinePath",
    "Coefficients",
    "CondOT",
    "Cosine",
    "FlowNoise",
    "Given",
    "LinearVP",
    "Lipman",
    "Pairing",
    "Path",
    "PathSample",
    "Polynomial",
    "Schedule",
    "Times",
    "convert",
    "independent",
    "uniform_times",
]
