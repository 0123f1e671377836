"""MAF: masked autoregressive flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from ..distributions import Distribution, GaussianMixture
from ..nets import MADE
from ..space import Space
from ..transforms import ActNorm, Affine, BatchNorm, Compose, MaskedAutoregressive, Transform
from .blocks import condition, flatten, gaussian
from .flow_model import FlowModel
from .option import LAYERS, WIDTH, Dequantizer, Limit, Nonlinearity, Option, Width, one_of
from .registry import register

Blocks = Annotated[int, Option("number of autoregressive maps", 1, LAYERS)]
Depth = Annotated[int, Option("hidden layers of a MADE; an odd number if residual", 1, LAYERS)]
ResidualBlocks = Annotated[bool, Option("hidden layers in pre-activation residual blocks of two")]
Components = Annotated[int, Option("Gaussians of the base, a learned mixture", 1, WIDTH)]
Normalization = Annotated[str, one_of("what stands in front of each map", ("actnorm", "batchnorm", "none"))]


@register("maf")
def maf(
    space: Space,
    *,
    blocks: Blocks = 5,
    width: Width = 128,
    depth: Depth = 2,
    residual: ResidualBlocks = False,
    components: Components = 1,
    normalization: Normalization = "actnorm",
    limit: Limit = 3.0,
    activation: Nonlinearity = "relu",
    dequantize: Dequantizer = "uniform",
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
    maps = autoregressive(space, blocks, width, depth, residual, limit, activation)
    return FlowModel(space, mixture(space, components), chain(space, normalization, maps), dequantize=dequantize)


def autoregressive(
    space: Space, blocks: int, width: int, depth: int, residual: bool, limit: float, activation: str
) -> list[MaskedAutoregressive]:
    """Affine maps of every element given those before it, in every second one given those after it."""
    if residual and depth % 2 == 0:
        raise ValueError(f"depth: expected an odd number of hidden layers if residual, got {depth}")
    how = {"hidden": (width,) * depth, "residual": residual, "activation": activation, **condition(space)}
    nets = [MADE(space.dims, order="reversed" if i % 2 else None, **how) for i in range(blocks)]
    return [MaskedAutoregressive(net, Affine(limit=limit)) for net in nets]


def mixture(space: Space, components: int) -> Distribution:
    """One Gaussian, one per label, or a learned mixture."""
    if components == 1:
        return gaussian(space)
    if space.classes is not None:
        raise ValueError("expected components=1 beside classes: the base has one Gaussian per class")
    return GaussianMixture((space.dims,), components)


def chain(space: Space, normalization: str, maps: Sequence[Transform]) -> Compose:
    """Flat events, and a normalisation in front of every map."""
    layers: list[Transform] = [flatten(space)]
    for layer in maps:
        if normalization != "none":
            layers.append(ActNorm(space.dims) if normalization == "actnorm" else BatchNorm(space.dims))
        layers.append(layer)
    return Compose(*layers)
