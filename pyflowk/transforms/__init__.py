"""Invertible maps with log-determinants, one file per map.

Every one obeys :class:`Transform`: ``forward(x, context=None, generator=None) -> (z, ladj)`` from data to noise and
``inverse(z, context=None, generator=None) -> (x, ladj)`` back. A transform gets its network handed in.

Of data: `Dequantize`, `VariationalDequantize`, `GaussianNoise`, `Scale`, `Logit`, `Standardize`, `check_levels`. Of
shapes: `Reshape`, `Patches`, `Squeeze`, `Split`, `Flip`, `Permute`. Learned: `ActNorm`, `BatchNorm`, `Elementwise`,
`InvertibleConv1x1`, `LULinear`, which a `SingularTransformError` stops. By networks: `Coupling` and
`MaskedAutoregressive`, of a `Map` (`Affine`, `SoftplusAffine`, `Additive`, `RationalQuadratic`); `Causal`, token by
token or by a `Decoding` that reports what it has `Solved`; `Continuous`, `observed` for its `Integrals`; `Residual` of
a `Contraction`, its log-determinant `Exact`, `Truncated` or `Roulette`, its inverse failing by `InverseDidNotConverge`,
and `NotAContraction`. Of transforms: `Compose`, `Invert`, `Pullback`, `MemoryFlat`. Tests: `check_invertibility` gives
an `InvertibilityReport` of a `LayerError` each; `check_contraction`.
"""

from ..ops import SingularTransformError
from .actnorm import ActNorm
from .autoregressive import MaskedAutoregressive
from .base import Compose, Invert, Transform
from .batchnorm import BatchNorm
from .causal import Causal
from .check import InvertibilityReport, LayerError, check_invertibility
from .continuous import Continuous, Integrals, observed
from .conv1x1 import InvertibleConv1x1, LULinear
from .coupling import Coupling
from .decoding import Decoding, Solved
from .dequantize import Dequantize, check_levels
from .fixed_point import InverseDidNotConverge
from .logdet import Exact, Roulette, Truncated
from .logit import Logit
from .maps import Additive, Affine, Elementwise, Map
from .memory_flat import MemoryFlat
from .noise import GaussianNoise
from .patches import Patches
from .permute import Flip, Permute
from .pullback import Pullback
from .reshape import Reshape
from .residual import Contraction, NotAContraction, Residual, check_contraction
from .scale import Scale, Standardize
from .softplus import SoftplusAffine
from .spline import RationalQuadratic
from .split import Split
from .squeeze import Squeeze
from .variational_dequantize import VariationalDequantize

__all__ = [
    "ActNorm",
    "Additive",
    "Affine",
    "BatchNorm",
    "Causal",
    "Compose",
    "Continuous",
    "Contraction",
    "Coupling",
    "Decoding",
    "Dequantize",
    "Elementwise",
    "Exact",
    "Flip",
    "GaussianNoise",
    "Integrals",
    "InverseDidNotConverge",
    "Invert",
    "InvertibilityReport",
    "InvertibleConv1x1",
    "LULinear",
    "LayerError",
    "Logit",
    "Map",
    "MaskedAutoregressive",
    "MemoryFlat",
    "NotAContraction",
    "Patches",
    "Permute",
    "Pullback",
    "RationalQuadratic",
    "Reshape",
    "Residual",
    "Roulette",
    "Scale",
    "SingularTransformError",
    "SoftplusAffine",
    "Solved",
    "Split",
    "Squeeze",
    "Standardize",
    "Transform",
    "Truncated",
    "VariationalDequantize",
    "check_contraction",
    "check_invertibility",
    "check_levels",
    "observed",
]
