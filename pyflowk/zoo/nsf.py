"""Neural spline flows: coupling or autoregressive layers with monotone rational-quadratic splines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..flows import Base, ClassConditionalGaussian, DiagonalGaussian
from ..nets import MADE, MLP
from ..ops.masks import transformed_channels
from ..transforms import (
    ActNorm,
    Compose,
    Coupling,
    LULinear,
    MaskedAutoregressive,
    Permute,
    RationalQuadratic,
    Reshape,
    Transform,
)
from .model import FlowModel
from .registry import register

LINEAR = ("permutation", "lu")


@register("nsf")
def nsf(
    shape: Sequence[int],
    *,
    levels: int | None = None,
    classes: int | None = None,
    context_dim: int | None = None,
    autoregressive: bool = False,
    couplings: int = 6,
    bins: int = 8,
    bound: float = 4.0,
    width: int = 128,
    depth: int = 2,
    activation: str = "relu",
    linear: str | None = None,
    dequantize: str = "uniform",
    memory_flat: bool = False,
) -> FlowModel:
    """Neural spline flow (Durkan, Bekasov, Murray, Papamakarios, 2019, arXiv:1906.04032), "C" or, autoregressive, "AR".

    The event is flattened; ``couplings`` times an ActNorm and a layer that moves elements by splines of ``bins`` pieces
    on [-bound, bound], the identity outside. A coupling layer moves one half, given by an MLP (``width``, ``depth``
    hidden layers) on the other half, and the halves take turns. With ``autoregressive`` a layer moves every element,
    given by those before it, through a residual MADE of ``depth`` blocks of two layers.

    ``linear`` mixes the elements in between: "lu", a learned matrix in LU factors between any two layers (default with
    ``autoregressive``), or "permutation", fixed and random, between autoregressive layers and behind every second
    coupling (default otherwise). ActNorm brings the data into the interval: a standard deviation is a unit.
    ``dequantize`` is "uniform" or "variational"; ``memory_flat`` trains in the memory of one layer. Both directions
    cost the same, autoregressive layers included. ValueError for an unknown ``linear``.

    >>> from pyflowk import zoo
    >>> zoo.nsf((2,), width=16).sample(3).shape
    torch.Size([3, 2])
    >>> zoo.nsf((5,), autoregressive=True, couplings=2, width=16).sample(3).shape
    torch.Size([3, 5])
    """
    linear = linear or ("lu" if autoregressive else "permutation")
    if linear not in LINEAR:
        raise ValueError(f"linear: expected one of {', '.join(LINEAR)}; got {linear!r}")
    size = math.prod(shape)
    condition = dict[str, Any](context_dim=context_dim, classes=classes)
    layers: list[Transform] = [Reshape(shape, (size,))]
    for i in range(couplings):
        swap = i % 2 == 1
        spline = RationalQuadratic(bins, bound)
        layers.append(ActNorm(size))
        if autoregressive:
            hidden = (width,) * (1 + 2 * depth)
            made = MADE(size, spline.params_per_element, hidden, activation, residual=True, **condition)
            layers.append(MaskedAutoregressive(made, spline))
        else:
            moved = transformed_channels(size, "half", swap)
            net = MLP(size - moved, spline.params_per_element * moved, width, depth, activation, **condition)
            layers.append(Coupling(net, spline, "half", swap))
        if i + 1 == couplings:
            break
        chance = torch.Generator().manual_seed(i)
        if linear == "lu":
            layers.append(LULinear(size, generator=chance))
        elif swap or autoregressive:
            layers.append(Permute.random(size, chance))
    base: Base = DiagonalGaussian((size,)) if classes is None else ClassConditionalGaussian((size,), classes)
    options: dict[str, Any] = {"dequantize": dequantize, "memory_flat": memory_flat}
    return FlowModel(shape, base, Compose(*layers), levels=levels, **options, **condition)
