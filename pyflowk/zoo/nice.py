"""NICE: additive couplings and one learned scaling."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from ..nets import MLP
from ..space import Space
from ..transforms import ActNorm, Additive, Compose, Transform
from .blocks import condition, coupled, flatten, gaussian
from .flow_model import FlowModel
from .option import LAYERS, Dequantizer, FlatMemory, Nonlinearity, Option, Width
from .registry import register


@register("nice")
def nice(
    space: Space,
    *,
    couplings: Annotated[int, Option("number of additive couplings", 1, LAYERS)] = 4,
    width: Width = 256,
    depth: Annotated[int, Option("hidden layers of a coupling's network", 1, LAYERS)] = 4,
    activation: Nonlinearity = "relu",
    dequantize: Dequantizer = "uniform",
    memory_flat: FlatMemory = False,
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
    net = partial(MLP, width=width, depth=depth, activation=activation, **condition(space))
    layers: list[Transform] = [flatten(space), ActNorm(space.dims)]
    layers += [coupled(space.dims, Additive(), "alternating", i % 2 == 1, net) for i in range(couplings)]
    transform = Compose(*layers, ActNorm(space.dims))
    return FlowModel(space, gaussian(space), transform, dequantize=dequantize, memory_flat=memory_flat)
