"""RealNVP: affine couplings, for vectors and for images in several scales."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from ..nets import MLP, ResidualConvNet
from ..space import Space
from ..transforms import Affine, Compose, Transform
from .blocks import Net, by_architecture, condition, coupled, flatten, gaussian, multiscale, normed
from .flow_model import FlowModel
from .option import LAYERS, WIDTH, Architecture, Dequantizer, FlatMemory, Limit, Nonlinearity, Option
from .registry import register


@register("realnvp", by_architecture(8, vector={"width": 128}, multiscale={"width": 16}))
def realnvp(
    space: Space,
    *,
    architecture: Architecture = "auto",
    couplings: Annotated[int, Option("number of couplings, vector only", 1, LAYERS)] = 10,
    width: Annotated[int | None, Option("units (128) or, multiscale, channels (16) of the networks", 1, WIDTH)] = None,
    depth: Annotated[int, Option("hidden layers of a coupling's network, vector only", 1, LAYERS)] = 2,
    blocks: Annotated[int, Option("residual blocks of a coupling's network, multiscale only", 0, LAYERS)] = 1,
    limit: Limit = 2.0,
    activation: Nonlinearity = "relu",
    dequantize: Dequantizer = "uniform",
    memory_flat: FlatMemory = False,
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
    how = {"width": width, "activation": activation, **condition(space)}
    if architecture == "vector":
        transform = _vector(space, couplings, limit, partial(MLP, depth=depth, **how))
    else:
        transform = _images(space, limit, partial(ResidualConvNet, blocks=blocks, **how))
    return FlowModel(space, gaussian(space), transform, dequantize=dequantize, memory_flat=memory_flat)


def _vector(space: Space, couplings: int, limit: float, net: Net) -> Compose:
    masks = [("half", "alternating")[i // 2 % 2] for i in range(couplings)]
    layers = [coupled(space.dims, Affine(limit=limit), mask, i % 2 == 1, net) for i, mask in enumerate(masks)]
    return Compose(flatten(space), *normed(space.dims, layers))


def _images(space: Space, limit: float, net: Net) -> Compose:
    def couplings(mask: str, channels: int, number: int) -> list[Transform]:
        layers = [coupled(channels, Affine(limit=limit), mask, i % 2 == 1, net) for i in range(number)]
        return normed(channels, layers)

    return multiscale(
        space.shape,
        lambda shape, last: couplings("checkerboard", shape[0], 4 if last else 3),
        lambda shape: couplings("channel", shape[0], 3),
    )
