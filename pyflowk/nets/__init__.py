"""Networks: conditioners of couplings, vector fields. Plain torch modules, zero-initialised at the end."""

from .context import ACTIVATIONS, ContextBias
from .mlp import MLP
from .resnet import ResidualConvNet, WeightNormConv2d

__all__ = ["ACTIVATIONS", "MLP", "ContextBias", "ResidualConvNet", "WeightNormConv2d"]
