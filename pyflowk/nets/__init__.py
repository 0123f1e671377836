"""Networks: conditioners of couplings, vector fields. Plain torch modules, zero-initialised at the end.

Conditioners: `MLP`, `ConvNet`, `ResidualConvNet` (of `WeightNormConv2d`), and `MADE`, masked; a `ContextBias` lets a
condition in. Fields: `MLPField`, `ConvField`, whose `TimeLinear` and `TimeConv2d` hear the time. Contractions, each a
`LipschitzNet`: `LipschitzMLP`, `LipschitzConvNet`, of `SpectralLinear`, `SpectralConv2d` and `LipSwish`. Names that
they take: `ACTIVATIONS`, `FIELD_ACTIVATIONS`, `CONTRACTIVE_ACTIVATIONS`, `TIMES`.
"""

from .context import ACTIVATIONS, ContextBias
from .convnet import ConvNet
from .fields import FIELD_ACTIVATIONS, TIMES, ConvField, MLPField, TimeConv2d, TimeLinear
from .lipschitz import (
    CONTRACTIVE_ACTIVATIONS,
    LipschitzConvNet,
    LipschitzMLP,
    LipschitzNet,
    LipSwish,
)
from .made import MADE
from .mlp import MLP
from .resnet import ResidualConvNet, WeightNormConv2d
from .spectral import SpectralConv2d, SpectralLinear

__all__ = [
    "ACTIVATIONS",
    "CONTRACTIVE_ACTIVATIONS",
    "FIELD_ACTIVATIONS",
    "MADE",
    "MLP",
    "TIMES",
    "ContextBias",
    "ConvField",
    "ConvNet",
    "LipSwish",
    "LipschitzConvNet",
    "LipschitzMLP",
    "LipschitzNet",
    "MLPField",
    "ResidualConvNet",
    "SpectralConv2d",
    "SpectralLinear",
    "TimeConv2d",
    "TimeLinear",
    "WeightNormConv2d",
]
