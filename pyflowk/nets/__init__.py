"""Networks: conditioners of couplings, vector fields. Plain torch modules, zero-initialised at the end."""

from .context import ACTIVATIONS, ContextBias
from .convnet import ConvNet
from .mlp import MLP
from .resnet import ResidualConvNet, WeightNormConv2d

__all__ = ["ACTIVATIONS", "MLP", "ContextBias", "ConvNet", "ResidualConvNet", "WeightNormConv2d"]
