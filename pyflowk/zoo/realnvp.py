"""RealNVP: affine couplings, for vectors and for images in several scales."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..flows import Base, ClassConditionalGaussian, DiagonalGaussian
from ..nets import MLP, ResidualConvNet
from ..ops.masks import transformed_channels
from ..transforms import ActNorm, Affine, Compose, Coupling, Reshape, Split, Squeeze, Transform
from .model import FlowModel
from .registry import register


@register("realnvp")
def realnvp(
    shape: Sequence[int],
    *,
    levels: int | None = None,
    classes: int | None = None,
    context_dim: int | None = None,
    architecture: str = "auto",
    couplings: int = 10,
    width: int | None = None,
    depth: int = 2,
    blocks: int = 1,
    limit: float = 2.0,
    activation: str = "relu",
    dequantize: str = "uniform",
    memory_flat: bool = False,
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
    if architecture == "auto":
        architecture = "multiscale" if len(shape) == 3 and min(shape[1:]) >= 8 else "vector"
    condition = {"context_dim": context_dim, "classes": classes}
    transform: Transform
    if architecture == "vector":
        mlp = {"width": width or 128, "depth": depth, "activation": activation, **condition}
        transform = _vector(shape, couplings, limit, mlp)
    elif architecture == "multiscale" and len(shape) == 3:
        net = {"width": width or 16, "blocks": blocks, "activation": activation, **condition}
        transform = _scale(shape, limit, net)
    else:
        raise ValueError(
            f"architecture: expected auto, vector or (for images) multiscale, got {architecture!r}, {shape=}"
        )
    flat = (math.prod(shape),)
    base: Base = DiagonalGaussian(flat) if classes is None else ClassConditionalGaussian(flat, classes)
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
