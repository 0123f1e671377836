"""RealNVP: affine couplings, for vectors and for images in several scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from ..distributions import ClassConditionalGaussian, DiagonalGaussian, Distribution
from ..nets import MLP, ResidualConvNet
from ..ops.masks import transformed_channels
from ..transforms import ActNorm, Affine, Compose, Coupling, Reshape, Split, Squeeze, Transform
from .model import FlowModel
from .option import (
    LAYERS,
    WIDTH,
    Activation,
    Architecture,
    Classes,
    ContextDim,
    Dequantize,
    Levels,
    Limit,
    MemoryFlat,
    Option,
    by_architecture,
)
from .registry import register


@register("realnvp", by_architecture(8, vector={"width": 128}, multiscale={"width": 16}))
def realnvp(
    shape: Sequence[int],
    *,
    levels: Levels = None,
    classes: Classes = None,
    context_dim: ContextDim = None,
    architecture: Architecture = "auto",
    couplings: Annotated[int, Option("number of couplings, vector only", 1, LAYERS)] = 10,
    width: Annotated[int | None, Option("units (128) or, multiscale, channels (16) of the networks", 1, WIDTH)] = None,
    depth: Annotated[int, Option("hidden layers of a coupling's network, vector only", 1, LAYERS)] = 2,
    blocks: Annotated[int, Option("residual blocks of a coupling's network, multiscale only", 0, LAYERS)] = 1,
    limit: Limit = 2.0,
    activation: Activation = "relu",
    dequantize: Dequantize = "uniform",
    memory_flat: MemoryFlat = False,
) -> FlowModel:
    """RealNVP, a flow of affine coupling layers (Dinh, Sohl-Dickstein, Bengio, 2017, arXiv:1605.08803).

    ``architecture`` "vector" flattens the event: ``couplings`` times ActNorm and a coupling by an MLP (``width`` 128,
    ``depth``), whose masks take turns: halves and even/odd, each with both parts exchanged. "multiscale" is for images
    (C, H, W): per scale three checkerboard couplings, a squeeze, three channel couplings, then half of the channels
    leave; four checkerboard couplings end it; residual networks of ``width`` channels (16, for minutes on a CPU; the
    paper has 64) and ``blocks`` blocks. A side that is odd or at most 4 ends the squeezing (28 -> 14 -> 7), nothing is
    padded. "auto" takes "multiscale" for images of at least 8 x 8 pixels, "vector" for everything else.

    ActNorm stands for the paper's batch norm, so that a row's density does not depend on its mates. ``dequantize`` is
    "uniform" or "variational"; ``memory_flat`` trains in the memory of one layer.
    Both directions cost the same. Raises ValueError for an unknown architecture, or "multiscale" without an image.

    >>> from pyflowk import zoo
    >>> zoo.realnvp((1, 8, 8), levels=17).sample(2).shape
    torch.Size([2, 1, 8, 8])
    """
    condition = {"context_dim": context_dim, "classes": classes}
    transform: Transform
    if architecture == "vector":
        mlp = {"width": width, "depth": depth, "activation": activation, **condition}
        transform = _vector(shape, couplings, limit, mlp)
    else:
        net = {"width": width, "blocks": blocks, "activation": activation, **condition}
        transform = _scale(shape, limit, net)
    flat = (math.prod(shape),)
    base: Distribution = DiagonalGaussian(flat) if classes is None else ClassConditionalGaussian(flat, classes)
    options = {"dequantize": dequantize, "memory_flat": memory_flat}
    return FlowModel(shape, base, transform, levels=levels, **options, **condition)  # type: ignore[arg-type]


def _vector(shape: Sequence[int], couplings: int, limit: float, mlp: dict) -> Transform:
    size = math.prod(shape)
    layers: list[Transform] = [Reshape(shape, (size,))]
    for i in range(couplings):
        mask, swap = ("half", "alternating")[i // 2 % 2], i % 2 == 1
        moved = transformed_channels(size, mask, swap)
        net = MLP(size - moved, 2 * moved, **mlp)
        layers += [ActNorm(size), Coupling(net, Affine(limit=limit), mask, swap)]
    return Compose(*layers)


def _scale(shape: Sequence[int], limit: float, net: dict) -> Transform:
    """One scale and, inside its Split, all that follow; the output is flat."""
    c, h, w = shape
    last = h % 2 == 1 or w % 2 == 1 or min(h, w) <= 4
    layers = _couplings("checkerboard", c, 4 if last else 3, limit, net)
    if last:
        return Compose(*layers, Reshape((c, h, w), (c * h * w,)))
    squeezed = (4 * c, h // 2, w // 2)
    kept = (2 * c, h // 2, w // 2)
    layers += [Squeeze(), *_couplings("channel", 4 * c, 3, limit, net)]
    return Compose(*layers, Split(_scale(kept, limit, net), squeezed, (math.prod(kept),)))


def _couplings(mask: str, channels: int, number: int, limit: float, net: dict) -> list[Transform]:
    layers: list[Transform] = []
    for i in range(number):
        seen = channels if mask == "checkerboard" else channels // 2  # channels are even after a squeeze
        coupling = Coupling(ResidualConvNet(seen, 2 * seen, **net), Affine(limit=limit), mask, swap=i % 2 == 1)
        layers += [ActNorm(channels), coupling]
    return layers
