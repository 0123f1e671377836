"""Glow: ActNorm, an invertible 1x1 convolution and a coupling, over and over, in several scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from torch import nn

from ..distributions import ClassConditionalGaussian, DiagonalGaussian, Distribution
from ..nets import MLP, ConvNet
from ..transforms import (
    ActNorm,
    Additive,
    Affine,
    Compose,
    Coupling,
    InvertibleConv1x1,
    Map,
    Reshape,
    Split,
    Squeeze,
    Transform,
)  # fmt: skip
from .model import FlowModel
from .option import (
    LAYERS,
    WIDTH,
    Activation,
    Classes,
    ContextDim,
    Dequantize,
    Levels,
    Limit,
    MemoryFlat,
    Option,
    one_of,
)
from .registry import register


def _is_image(shape: Sequence[int]) -> bool:
    """Whether it can be squeezed."""
    return len(shape) == 3 and shape[1] % 2 == 0 and shape[2] % 2 == 0


def _choose(shape: tuple[int, ...], options: dict[str, Any]) -> dict[str, Any]:
    return {"width": options["width"] or (32 if _is_image(shape) else 128)}


@register("glow", _choose)
def glow(
    shape: Sequence[int],
    *,
    levels: Levels = None,
    classes: Classes = None,
    context_dim: ContextDim = None,
    scales: Annotated[int, Option("scales of an image at most: each halves its sides", 1, LAYERS)] = 3,
    steps: Annotated[int, Option("steps of ActNorm, 1x1 convolution and coupling in a scale", 1, LAYERS)] = 8,
    coupling: Annotated[str, one_of("scale and shift, or shift alone", ("affine", "additive"))] = "affine",
    width: Annotated[int | None, Option("channels (32) or, for vectors, units (128) of the networks", 1, WIDTH)] = None,
    limit: Limit = 2.0,
    activation: Activation = "relu",
    dequantize: Dequantize = "uniform",
    memory_flat: MemoryFlat = False,
) -> FlowModel:
    """Glow, a flow whose channels are mixed by learned 1x1 convolutions (Kingma, Dhariwal, 2018, arXiv:1807.03039).

    Images (C, H, W): per scale a squeeze, ``steps`` times ActNorm, 1x1 convolution (one product does both) and
    coupling; then half of the channels leave, each of their elements under a Gaussian whose mean and log-scale a
    convolution tells from the half that stays. That is an affine coupling in front of the split, so the base of
    everything is one standard Gaussian and a temperature acts on every level; the last scale closes with an ActNorm,
    its own learned mean and scale. At most ``scales`` scales; a side that is odd or 2 ends the squeezing (28 -> 14
    -> 7). Anything else than images of even sides is flattened, and the networks are MLPs.

    ``coupling`` is "affine" or "additive"; networks have ``width`` channels (32, for minutes on a CPU; the paper has
    512) or units (128). With ``classes`` the base is a Gaussian per class and the couplings' networks know the class.
    ``dequantize`` is "uniform" or "variational"; ``memory_flat`` trains in the memory of one layer. Both directions
    cost the same. Raises ValueError for an unknown coupling and for less than one scale or step.

    >>> from pyflowk import zoo
    >>> zoo.glow((1, 8, 8), levels=17, steps=2).sample(2, temperature=0.7).shape
    torch.Size([2, 1, 8, 8])
    """
    assert width is not None  # it is chosen
    condition = dict[str, Any](context_dim=context_dim, classes=classes)
    map: Map = Affine(limit=limit) if coupling == "affine" else Additive()

    def net(seen: int, out: int, image: bool) -> nn.Module:
        if image:
            return ConvNet(seen, out, width, activation, **condition)
        return MLP(seen, out, width, 2, activation, **condition)

    def step(channels: int, image: bool) -> list[Transform]:
        moved = channels - channels // 2
        conditioner = net(channels // 2, map.params_per_element * moved, image)
        return [InvertibleConv1x1(channels, norm=ActNorm(channels)), Coupling(conditioner, map)]

    def prior(channels: int) -> Coupling:
        seen = channels // 2
        conv = nn.Conv2d(seen, 2 * (channels - seen), 3, padding=1)
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        return Coupling(conv, Affine(limit=limit))

    def scale(shape: Sequence[int], left: int) -> Compose:
        """One scale and, inside its Split, all that follow; the output is flat."""
        c, h, w = 4 * shape[0], shape[1] // 2, shape[2] // 2
        layers = [Squeeze(), *(layer for _ in range(steps) for layer in step(c, True))]
        if left == 1 or h % 2 or w % 2 or min(h, w) == 2:
            return Compose(*layers, ActNorm(c), Reshape((c, h, w), (c * h * w,)))
        kept = (c // 2, h, w)
        return Compose(*layers, prior(c), Split(scale(kept, left - 1), (c, h, w), (math.prod(kept),)))

    flat = (math.prod(shape),)
    if _is_image(shape):
        transform = scale(shape, scales)
    else:
        vector = [layer for _ in range(steps) for layer in step(flat[0], False)]
        transform = Compose(Reshape(shape, flat), *vector, ActNorm(flat[0]))
    base: Distribution = DiagonalGaussian(flat) if classes is None else ClassConditionalGaussian(flat, classes)
    options = {"dequantize": dequantize, "memory_flat": memory_flat, **condition}
    return FlowModel(shape, base, transform, levels=levels, **options)
