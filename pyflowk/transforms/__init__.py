"""Invertible maps with log-determinants, one file per map.

Every one obeys :class:`Transform`: ``forward(x, context=None) -> (z, ladj)`` from data to noise and
``inverse(z, context=None) -> (x, ladj)`` back. A transform gets its network handed in.
"""

from ..ops import SingularTransformError
from .actnorm import ActNorm
from .base import Compose, Invert, Transform
from .check import InvertibilityReport, LayerError, check_invertibility
from .conv1x1 import InvertibleConv1x1, LULinear
from .coupling import Additive, Affine, Coupling, Elementwise, Map
from .dequantize import Dequantize
from .logit import Logit
from .memory_flat import MemoryFlat
from .permute import Flip, Permute
from .pullback import Pullback
from .reshape import Reshape
from .scale import Scale, Standardize
from .split import Split
from .squeeze import Squeeze
from .variational_dequantize import VariationalDequantize

__all__ = [
    "ActNorm",
    "Additive",
    "Affine",
    "Compose",
    "Coupling",
    "Dequantize",
    "Elementwise",
    "Flip",
    "Invert",
    "InvertibilityReport",
    "InvertibleConv1x1",
    "LULinear",
    "LayerError",
    "Logit",
    "Map",
    "MemoryFlat",
    "Permute",
    "Pullback",
    "Reshape",
    "Scale",
    "SingularTransformError",
    "Split",
    "Squeeze",
    "Standardize",
    "Transform",
    "VariationalDequantize",
    "check_invertibility",
]
