"""NICE: additive couplings and one learned scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from ..distributions import ClassConditionalGaussian, DiagonalGaussian, Distribution
from ..nets import MLP
from ..transforms import ActNorm, Additive, Compose, Coupling, Reshape, Transform
from .model import FlowModel
from .option import LAYERS, WIDTH, Activation, Classes, ContextDim, Dequantize, Levels, MemoryFlat, Option
from .registry import register


@register("nice")
def nice(
    shape: Sequence[int],
    *,
    levels: Levels = None,
    classes: Classes = None,
    context_dim: ContextDim = None,
    couplings: Annotated[int, Option("number of additive couplings", 1, LAYERS)] = 4,
    width: Annotated[int, Option("units of a hidden layer", 1, WIDTH)] = 256,
    depth: Annotated[int, Option("hidden layers of a coupling's network", 1, LAYERS)] = 4,
    activation: Activation = "relu",
    dequantize: Dequantize = "uniform",
    memory_flat: MemoryFlat = False,
) -> FlowModel:
    """NICE, a flow of volume-preserving couplings and a final scaling (Dinh, Krueger, Bengio, 2015, arXiv:1410.8516).

    The event is flattened; ``couplings`` additive couplings exchange the even and the odd elements in turn, each by an
    MLP of ``depth`` hidden layers of ``width`` units; one learned scale per element follows (an ActNorm, which also
    centres), and another stands in front to bring the data to unit scale. ``dequantize`` is "uniform" or
    "variational"; ``memory_flat`` trains in the memory of one layer. Both directions cost the same.

    >>> from pyflowk import zoo
    >>> zoo.nice((6,)).sample(2).shape
    torch.Size([2, 6])
    """
    size = math.prod(shape)
    layers: list[Transform] = [Reshape(shape, (size,)), ActNorm(size)]
    for i in range(couplings):
        moved = size // 2 if i % 2 == 0 else size - size // 2
        net = MLP(size - moved, moved, width, depth, activation, context_dim, classes)
        layers.append(Coupling(net, Additive(), mask="alternating", swap=i % 2 == 1))
    layers.append(ActNorm(size))
    base: Distribution = DiagonalGaussian((size,)) if classes is None else ClassConditionalGaussian((size,), classes)
    options = {"dequantize": dequantize, "memory_flat": memory_flat, "classes": classes, "context_dim": context_dim}
    return FlowModel(shape, base, Compose(*layers), levels=levels, **options)  # type: ignore[arg-type]
