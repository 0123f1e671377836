"""IAF: inverse autoregressive flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from .maf import NORMALIZATIONS, autoregressive
from .model import FlowModel
from .option import LAYERS, WIDTH, Activation, Classes, ContextDim, Dequantize, Levels, Limit, Option, one_of
from .registry import register


@register("iaf")
def iaf(
    shape: Sequence[int],
    *,
    levels: Levels = None,
    classes: Classes = None,
    context_dim: ContextDim = None,
    blocks: Annotated[int, Option("number of autoregressive maps", 1, LAYERS)] = 5,
    width: Annotated[int, Option("units of a hidden layer", 1, WIDTH)] = 128,
    depth: Annotated[int, Option("hidden layers of a MADE; an odd number if residual", 1, LAYERS)] = 2,
    residual: Annotated[bool, Option("hidden layers in pre-activation residual blocks of two")] = False,
    components: Annotated[int, Option("Gaussians of the base, a learned mixture", 1, WIDTH)] = 1,
    normalization: Annotated[str, one_of("what stands in front of each map", NORMALIZATIONS)] = "actnorm",
    limit: Limit = 3.0,
    activation: Activation = "elu",
    dequantize: Dequantize = "uniform",
) -> FlowModel:
    """IAF, autoregressive layers in the direction of sampling (Kingma et al., 2016, arXiv:1606.04934).

    As :func:`maf`, with every autoregressive map inverted: a sample is one pass of dense networks, made for variational
    inference, and its density comes free with it. The density of given data is the sequential direction; it costs about
    the same by the incremental kernel, and its gradient is one sweep.

    Raises ValueError for an unknown normalisation, less than one component, or a mixture beside classes.

    >>> from pyflowk import zoo
    >>> zoo.iaf((6,), width=16).sample(2).shape
    torch.Size([2, 6])
    """
    return autoregressive(
        shape, True, levels=levels, classes=classes, context_dim=context_dim, blocks=blocks, components=components,
        normalization=normalization, limit=limit, dequantize=dequantize, hidden=(width,) * depth, residual=residual,
        activation=activation,
    )  # fmt: skip
