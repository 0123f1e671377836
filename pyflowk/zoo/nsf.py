"""Neural spline flows: couplings whose map is a monotone rational-quadratic spline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..flows import Base, ClassConditionalGaussian, DiagonalGaussian
from ..nets import MLP
from ..ops.masks import transformed_channels
from ..transforms import ActNorm, Compose, Coupling, Permute, RationalQuadratic, Reshape, Transform
from .model import FlowModel
from .registry import register


@register("nsf")
def nsf(
    shape: Sequence[int],
    *,
    levels: int | None = None,
    classes: int | None = None,
    context_dim: int | None = None,
    couplings: int = 6,
    bins: int = 8,
    bound: float = 4.0,
    width: int = 128,
    depth: int = 2,
    activation: str = "relu",
    dequantize: str = "uniform",
    memory_flat: bool = False,
) -> FlowModel:
    """Neural spline flow, coupling layers with splines (Durkan, Bekasov, Murray, Papamakarios, 2019, arXiv:1906.04032).

    The event is flattened; ``couplings`` times an ActNorm and a coupling that moves one half of the elements by splines
    of ``bins`` pieces on [-bound, bound], the identity outside, given by an MLP (``width``, ``depth``) on the other
    half. The halves take turns, and behind every second coupling a fixed random permutation mixes the elements.

    ActNorm brings the data into the interval: a standard deviation is a unit. ``dequantize`` is "uniform" or
    "variational"; ``memory_flat`` trains in the memory of one layer. Both directions cost the same.

    >>> from pyflowk import zoo
    >>> zoo.nsf((2,), width=16).sample(3).shape
    torch.Size([3, 2])
    """
    size = math.prod(shape)
    condition = dict[str, Any](context_dim=context_dim, classes=classes)
    layers: list[Transform] = [Reshape(shape, (size,))]
    for i in range(couplings):
        swap = i % 2 == 1
        spline = RationalQuadratic(bins, bound)
        moved = transformed_channels(size, "half", swap)
        net = MLP(size - moved, spline.params_per_element * moved, width, depth, activation, **condition)
        layers += [ActNorm(size), Coupling(net, spline, "half", swap)]
        if swap and i + 1 < couplings:
            layers.append(Permute.random(size, torch.Generator().manual_seed(i)))
    base: Base = DiagonalGaussian((size,)) if classes is None else ClassConditionalGaussian((size,), classes)
    options = {"dequantize": dequantize, "memory_flat": memory_flat}
    return FlowModel(shape, base, Compose(*layers), levels=levels, **options, **condition)  # type: ignore[arg-type]
