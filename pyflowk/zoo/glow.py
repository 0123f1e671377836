"""Glow: ActNorm, an invertible 1x1 convolution and a coupling, over and over, in several scales."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Any

from torch import nn

from ..nets import MLP, ConvNet
from ..space import Space
from ..transforms import (
    ActNorm,
    Additive,
    Affine,
    Compose,
    InvertibleConv1x1,
    Map,
    Reshape,
    Split,
    Squeeze,
    Transform,
)  # fmt: skip
from .blocks import Net, condition, coupled, flatten, gaussian
from .flow_model import FlowModel
from .option import LAYERS, WIDTH, Dequantizer, FlatMemory, Limit, Nonlinearity, Option, one_of
from .registry import register


def _squeezes(shape: tuple[int, ...]) -> bool:
    """Whether it can be squeezed."""
    return len(shape) == 3 and shape[1] % 2 == 0 and shape[2] % 2 == 0


def _choose(space: Space, options: dict[str, Any]) -> dict[str, Any]:
    return {"width": options["width"] or (32 if _squeezes(space.shape) else 128)}


@register("glow", _choose)
def glow(
    space: Space,
    *,
    scales: Annotated[int, Option("scales of an image at most: each halves its sides", 1, LAYERS)] = 3,
    steps: Annotated[int, Option("steps of ActNorm, 1x1 convolution and coupling in a scale", 1, LAYERS)] = 8,
    coupling: Annotated[str, one_of("scale and shift, or shift alone", ("affine", "additive"))] = "affine",
    width: Annotated[int | None, Option("channels (32) or, for vectors, units (128) of the networks", 1, WIDTH)] = None,
    limit: Limit = 2.0,
    activation: Nonlinearity = "relu",
    dequantize: Dequantizer = "uniform",
    memory_flat: FlatMemory = False,
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
    map: Map = Affine(limit=limit) if coupling == "affine" else Additive()

    def net(kind: type[MLP | ConvNet], **more: Any) -> Net:
        return partial(kind, width=width, activation=activation, **more, **condition(space))

    def chain(channels: int, net: Net) -> list[Transform]:
        parts: list[Transform] = []
        for _ in range(steps):
            last = coupled(channels, map, "half", False, net)  # the first to draw its weights
            parts += [InvertibleConv1x1(channels, norm=ActNorm(channels)), last]
        return parts

    def scale(shape: tuple[int, ...], left: int) -> Compose:
        """One scale and, inside its Split, all that follow; the output is flat."""
        c, h, w = 4 * shape[0], shape[1] // 2, shape[2] // 2
        layers = [Squeeze(), *chain(c, net(ConvNet))]
        if left == 1 or h % 2 or w % 2 or min(h, w) == 2:
            return Compose(*layers, ActNorm(c), Reshape((c, h, w), (c * h * w,)))
        kept = (c // 2, h, w)
        prior = coupled(c, Affine(limit=limit), "half", False, _zero_convolution, conditional=False)
        return Compose(*layers, prior, Split(scale(kept, left - 1), (c, h, w), (math.prod(kept),)))

    if _squeezes(space.shape):
        transform = scale(space.shape, scales)
    else:
        transform = Compose(flatten(space), *chain(space.dims, net(MLP, depth=2)), ActNorm(space.dims))
    return FlowModel(space, gaussian(space), transform, dequantize=dequantize, memory_flat=memory_flat)


def _zero_convolution(seen: int, out: int) -> nn.Module:
    conv = nn.Conv2d(seen, out, 3, padding=1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv
