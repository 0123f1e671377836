"""MAF: masked autoregressive flow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..flows import Base, ClassConditionalGaussian, DiagonalGaussian, GaussianMixture
from ..nets import MADE
from ..transforms import ActNorm, Affine, BatchNorm, Compose, Invert, MaskedAutoregressive, Reshape, Transform
from .model import FlowModel
from .registry import register

NORMALIZATIONS = ("actnorm", "batchnorm", "none")


@register("maf")
def maf(
    shape: Sequence[int],
    *,
    levels: int | None = None,
    classes: int | None = None,
    context_dim: int | None = None,
    blocks: int = 5,
    width: int = 128,
    depth: int = 2,
    residual: bool = False,
    components: int = 1,
    normalization: str = "actnorm",
    limit: float = 3.0,
    activation: str = "relu",
    dequantize: str = "uniform",
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
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization: expected one of {', '.join(NORMALIZATIONS)}; got {normalization!r}")
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
    base: Base = DiagonalGaussian((size,))
    if classes is not None:
        base = ClassConditionalGaussian((size,), classes)
    elif components != 1:
        base = GaussianMixture((size,), components)
    return FlowModel(shape, base, Compose(*layers), levels=levels, dequantize=dequantize, **condition)
