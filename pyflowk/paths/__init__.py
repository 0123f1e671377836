"""Ways from noise, t = 0, to data, t = 1, without any network: what lies between two samples, and how it moves.

A `Path` gives a `PathSample`: an `AffinePath` has a `Schedule`, `CondOT`, `Lipman`, `Polynomial`, `Cosine`, `LinearVP`,
`VP`, `SubVP`, `VE` or `EDM`, each with its `Coefficients` at a time and by name in `SCHEDULES`; a `BrownianBridge` and
what is `Blurred` have noise of their own, a `GeodesicPath` leads along a manifold, and a `MixturePath` changes symbols
one by one, a `SimplexPath` makes them corners that rise out of noise. `convert` says a prediction, one of
`PREDICTIONS`, in other words. A `Pairing` says which noise goes with which event: `independent`, nearest by exact
`OptimalTransport` within a batch, drawn from an entropic plan by `Sinkhorn`, found among all rows by a `Semidiscrete`
transport, whose `SemidiscreteFit` says how even it is, or kept from it as `SeededPairs`, those that are `Given`, or a
flow's own, `FlowNoise`.

A `JumpPath` says which jumps lead there, and into which `Bins`, by a `JumpSample`: `CondOTJumps`, `MixtureJumps`, and
`minimal_jumps` of any density. What a process does are its `Characteristics`; those that share a path are `superposed`,
and `langevin` adds noise.

`Times` are those at which a path is looked at, drawn from a `TimeLaw`, by name in `TIME_LAWS`: `UniformTimes`,
`LogNormalTimes`, `LogitNormalTimes`, `ModeTimes`, `CosmapTimes`, `PowerTimes`, `ShiftedTimes` by `shift_time`, or
`UShapedTimes`, or all 0, `start_times`. A `Weight` says how much the error at each counts: `ErrorWeight` makes one
prediction's of another's, `LikelihoodWeight` makes nats, `MinSNRWeight` bounds the late ones, `UnitWeight` levels them,
`ImportanceWeight` undoes a law.

Sequences whose length changes have an `EditPath`, of noise that an `EditSource` makes, `empty`, `NoiseTokens` or
`Begun`, and data in an `Alignment`, `closest` or `leftmost` by an `Aligner`; its `EditState` holds the `Edits`, of the
kinds `EDITS`, that are still to come. `EditLogits` are what a field tells of them, of which `EditRates` and
`expected_edits` follow; `strip` drops blanks.
"""

from .affine import AffinePath
from .base import Path, PathSample
from .bridge import Blurred, BrownianBridge
from .edit_rates import EDITS, EditLogits, EditRates, Edits, expected_edits
from .edits import (
    Aligner,
    Alignment,
    Begun,
    EditPath,
    EditSource,
    EditState,
    NoiseTokens,
    closest,
    empty,
    leftmost,
    strip,
)
from .entropic import Sinkhorn
from .geodesic import GeodesicPath
from .jumps import (
    Bins,
    Characteristics,
    CondOTJumps,
    JumpPath,
    JumpSample,
    MixtureJumps,
    langevin,
    minimal_jumps,
    superposed,
)
from .mixture import MixturePath
from .pairing import OptimalTransport, Pairing, independent
from .pairs import FlowNoise, Given
from .prediction import PREDICTIONS, convert
from .schedules import (
    EDM,
    SCHEDULES,
    VE,
    VP,
    Coefficients,
    CondOT,
    Cosine,
    LinearVP,
    Lipman,
    Polynomial,
    Schedule,
    SubVP,
)
from .semidiscrete import SeededPairs, Semidiscrete, SemidiscreteFit
from .simplex import SimplexPath
from .times import (
    TIME_LAWS,
    CosmapTimes,
    LogitNormalTimes,
    LogNormalTimes,
    ModeTimes,
    PowerTimes,
    ShiftedTimes,
    TimeLaw,
    Times,
    UniformTimes,
    UShapedTimes,
    shift_time,
    start_times,
)
from .weights import ErrorWeight, ImportanceWeight, LikelihoodWeight, MinSNRWeight, UnitWeight, Weight

__all__ = [
    "EDITS",
    "EDM",
    "PREDICTIONS",
    "SCHEDULES",
    "TIME_LAWS",
    "VE",
    "VP",
    "AffinePath",
    "Aligner",
    "Alignment",
    "Begun",
    "Bins",
    "Blurred",
    "BrownianBridge",
    "Characteristics",
    "Coefficients",
    "CondOT",
    "CondOTJumps",
    "Cosine",
    "CosmapTimes",
    "EditLogits",
    "EditPath",
    "EditRates",
    "EditSource",
    "EditState",
    "Edits",
    "ErrorWeight",
    "FlowNoise",
    "GeodesicPath",
    "Given",
    "ImportanceWeight",
    "JumpPath",
    "JumpSample",
    "LikelihoodWeight",
    "LinearVP",
    "Lipman",
    "LogNormalTimes",
    "LogitNormalTimes",
    "MinSNRWeight",
    "MixtureJumps",
    "MixturePath",
    "ModeTimes",
    "NoiseTokens",
    "OptimalTransport",
    "Pairing",
    "Path",
    "PathSample",
    "Polynomial",
    "PowerTimes",
    "Schedule",
    "SeededPairs",
    "Semidiscrete",
    "SemidiscreteFit",
    "ShiftedTimes",
    "SimplexPath",
    "Sinkhorn",
    "SubVP",
    "TimeLaw",
    "Times",
    "UShapedTimes",
    "UniformTimes",
    "UnitWeight",
    "Weight",
    "closest",
    "convert",
    "empty",
    "expected_edits",
    "independent",
    "langevin",
    "leftmost",
    "minimal_jumps",
    "shift_time",
    "start_times",
    "strip",
    "superposed",
]
