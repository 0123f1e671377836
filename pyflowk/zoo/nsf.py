"""Neural spline flows: coupling or autoregressive layers with monotone rational-quadratic splines."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import torch

from ..nets import MADE, MLP
from ..space import Space
from ..transforms import Compose, LULinear, MaskedAutoregressive, Permute, RationalQuadratic, Transform
from .blocks import condition, coupled, flatten, gaussian, normed
from .flow_model import FlowModel
from .option import LAYERS, Dequantizer, FlatMemory, Nonlinearity, Option, Width, one_of
from .registry import register

LINEAR = ("permutation", "lu")


def _choose(space: Space, options: dict[str, Any]) -> dict[str, Any]:
    return {"linear": options["linear"] or ("lu" if options["autoregressive"] else "permutation")}


@register("nsf", _choose)
def nsf(
    space: Space,
    *,
    autoregressive: Annotated[bool, Option("every element given those before it, not half given half")] = False,
    couplings: Annotated[int, Option("number of spline layers", 1, LAYERS)] = 6,
    bins: Annotated[int, Option("pieces of a spline", 1, 512)] = 8,
    bound: Annotated[float, Option("splines act on [-bound, bound], in standard deviations", above=0)] = 4.0,
    width: Width = 128,
    depth: Annotated[int, Option("hidden layers of a network; autoregressive: blocks of two", 1, LAYERS)] = 2,
    activation: Nonlinearity = "relu",
    linear: Annotated[str | None, one_of("mixes elements between layers; None: lu if autoregressive", LINEAR)] = None,
    dequantize: Dequantizer = "uniform",
    memory_flat: FlatMemory = False,
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
    spline = partial(RationalQuadratic, bins, bound)
    net = partial(MLP, width=width, depth=depth, activation=activation, **condition(space))
    how = {"hidden": (width,) * (1 + 2 * depth), "activation": activation, "residual": True, **condition(space)}

    def layer(swap: bool) -> Transform:
        if autoregressive:
            return MaskedAutoregressive(MADE(space.dims, spline().params_per_element, **how), spline())
        return coupled(space.dims, spline(), "half", swap, net)

    layers: list[Transform] = [flatten(space)]
    for i in range(couplings):
        swap = i % 2 == 1
        layers += normed(space.dims, [layer(swap)])
        if i + 1 == couplings:
            break
        chance = torch.Generator().manual_seed(i)
        if linear == "lu":
            layers.append(LULinear(space.dims, generator=chance))
        elif swap or autoregressive:
            layers.append(Permute.random(space.dims, chance))
    return FlowModel(space, gaussian(space), Compose(*layers), dequantize=dequantize, memory_flat=memory_flat)
