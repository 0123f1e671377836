"""Networks: conditioners of couplings, vector fields. Plain torch modules, zero-initialised at the end."""

from .context import ACTIVATIONS, ContextBias
from .convnet import ConvNet
from .lipschitz import (
    CONTRACTIVE_ACTIVATIONS,
    LipschitzConvNet,
    LipschitzMLP,
    LipschitzNet,
    LipSwish,
    SpectralConv2d,
    SpectralLinear,
)
from .mlp import MLP
from .resnet import ResidualConvNet, WeightNormConv2d

__all__ = [
    "ACTIVATIONS",
    "CONTRACTIVE_ACTIVATIONS",
    "MLP",
    "ContextBias",
    "ConvNet",
    "LipSwish",
    "LipschitzConvNet",
    "LipschitzMLP",
    "LipschitzNet",
    "ResidualConvNet",
    "SpectralConv2d",
    "SpectralLinear",
    "WeightNormConv2d",
]
