"""Neural spline flows: coupling or autoregressive layers with monotone rational-quadratic splines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch

from ..distributions import ClassConditionalGaussian, DiagonalGaussian, Distribution
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
from .option import LAYERS, WIDTH, Activation, Classes, ContextDim, Dequantize, Levels, MemoryFlat, Option, one_of
from .registry import register

LINEAR = ("permutation", "lu")


def _choose(shape: tuple[int, ...], options: dict[str, Any]) -> dict[str, Any]:
    return {"linear": options["linear"] or ("lu" if options["autoregressive"] else "permutation")}


@register("nsf", _choose)
def nsf(
    shape: Sequence[int],
    *,
    levels: Levels = None,
    classes: Classes = None,
    context_dim: ContextDim = None,
    autoregressive: Annotated[bool, Option("every element given those before it, not half given half")] = False,
    couplings: Annotated[int, Option("number of spline layers", 1, LAYERS)] = 6,
    bins: Annotated[int, Option("pieces of a spline", 1, 512)] = 8,
    bound: Annotated[float, Option("splines act on [-bound, bound], in standard deviations", above=0)] = 4.0,
    width: Annotated[int, Option("units of a hidden layer", 1, WIDTH)] = 128,
    depth: Annotated[int, Option("hidden layers of a network; autoregressive: blocks of two", 1, LAYERS)] = 2,
    activation: Activation = "relu",
    linear: Annotated[str | None, one_of("mixes elements between layers; None: lu if autoregressive", LINEAR)] = None,
    dequantize: Dequantize = "uniform",
    memory_flat: MemoryFlat = False,
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
    base: Distribution = DiagonalGaussian((size,)) if classes is None else ClassConditionalGaussian((size,), classes)
    options: dict[str, Any] = {"dequantize": dequantize, "memory_flat": memory_flat}
    return FlowModel(shape, base, Compose(*layers), levels=levels, **options, **condition)
