"""MAF: masked autoregressive flow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from ..distributions import ClassConditionalGaussian, DiagonalGaussian, Distribution, GaussianMixture
from ..nets import MADE
from ..transforms import ActNorm, Affine, BatchNorm, Compose, Invert, MaskedAutoregressive, Reshape, Transform
from .model import FlowModel
from .option import LAYERS, WIDTH, Activation, Classes, ContextDim, Dequantize, Levels, Limit, Option, one_of
from .registry import register

NORMALIZATIONS = ("actnorm", "batchnorm", "none")


@register("maf")
def maf(
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
    activation: Activation = "relu",
    dequantize: Dequantize = "uniform",
) -> FlowModel:
    """MAF, a stack of masked autoregressive layers (Papamakarios, Pavlakou, Murray, 2017, arXiv:1705.07057).

    The event is flattened; ``blocks`` times a normalisation and an affine autoregressive map by a MADE of ``depth``
    hidden layers of ``width`` units (``residual``: an odd depth of pre-activation blocks), the order of the elements
    reversed in every second one. ``normalization``: "actnorm", "batchnorm" as in the paper (a row's training loss then
    depends on its mates), or "none". ``components`` > 1 makes the base a learned mixture of Gaussians (MAF MoG); with
    ``classes`` the base has one Gaussian per class. The condition also enters every MADE.

    Density is one pass of the networks; sampling costs about the same. Raises ValueError for an unknown normalisation,
    less than one component, or a mixture beside classes.

    >>> from pyflowk import zoo
    >>> zoo.maf((6,), width=16).sample(2).shape
    torch.Size([2, 6])
    """
    return autoregressive(
        shape, False, levels=levels, classes=classes, context_dim=context_dim, blocks=blocks, components=components,
        normalization=normalization, limit=limit, dequantize=dequantize, hidden=(width,) * depth, residual=residual,
        activation=activation,
    )  # fmt: skip


def autoregressive(
    shape: Sequence[int],
    inverse: bool,
    *,
    levels: int | None,
    classes: int | None,
    context_dim: int | None,
    blocks: int,
    components: int,
    normalization: str,
    limit: float,
    dequantize: str,
    **made: Any,
) -> FlowModel:
    """Normalisations and autoregressive maps in turn; with ``inverse`` the maps run the other way round (IAF)."""
    if made["residual"] and len(made["hidden"]) % 2 == 0:
        raise ValueError(f"depth: expected an odd number of hidden layers if residual, got {len(made['hidden'])}")
    if components != 1 and classes is not None:
        raise ValueError("expected components=1 beside classes: the base has one Gaussian per class")
    size = math.prod(shape)
    condition: dict[str, Any] = {"context_dim": context_dim, "classes": classes}
    layers: list[Transform] = [Reshape(shape, (size,))]
    for i in range(blocks):
        if normalization != "none":
            layers.append(ActNorm(size) if normalization == "actnorm" else BatchNorm(size))
        net = MADE(size, order="reversed" if i % 2 else None, **made, **condition)
        layer = MaskedAutoregressive(net, Affine(limit=limit))
        layers.append(Invert(layer) if inverse else layer)
    base: Distribution = DiagonalGaussian((size,))
    if classes is not None:
        base = ClassConditionalGaussian((size,), classes)
    elif components != 1:
        base = GaussianMixture((size,), components)
    return FlowModel(shape, base, Compose(*layers), levels=levels, dequantize=dequantize, **condition)
