"""Residual flows: the identity plus a contraction, layer upon layer, for vectors and for images in several scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from ..distributions import ClassConditionalGaussian, DiagonalGaussian, Distribution
from ..nets import CONTRACTIVE_ACTIVATIONS, LipschitzConvNet, LipschitzMLP
from ..transforms import ActNorm, Compose, Exact, Reshape, Residual, Roulette, Split, Squeeze, Transform, Truncated
from .model import FlowModel
from .option import (
    LAYERS,
    WIDTH,
    Architecture,
    Classes,
    ContextDim,
    Dequantize,
    Levels,
    Option,
    by_architecture,
    one_of,
)
from .registry import register

TRAINING = ("roulette", "truncated")


@register("residual_flow", by_architecture(16, {"layers": 10, "width": 128}, {"layers": 4, "width": 32}))
def residual_flow(
    shape: Sequence[int],
    *,
    levels: Levels = None,
    classes: Classes = None,
    context_dim: ContextDim = None,
    architecture: Architecture = "auto",
    layers: Annotated[int | None, Option("number of layers (10) or, multiscale, in each scale (4)", 1, LAYERS)] = None,
    width: Annotated[int | None, Option("units (128) or, multiscale, channels (32) of a branch", 1, WIDTH)] = None,
    depth: Annotated[int, Option("hidden layers of a branch, vector only", 1, LAYERS)] = 3,
    lipschitz: Annotated[float, Option("Lipschitz constant that every branch is held to", above=0, below=1)] = 0.9,
    activation: Annotated[str, one_of("what the hidden units compute", CONTRACTIVE_ACTIVATIONS)] = "lipswish",
    training: Annotated[str, one_of("log-determinant: unbiased by roulette, or ten terms", TRAINING)] = "roulette",
    evaluation_terms: Annotated[int, Option("terms of the log-determinant in evaluation; 0: exact", 0, LAYERS)] = 20,
    exact_dims: Annotated[int, Option("up to so many dimensions log-determinants are exact", 0, WIDTH)] = 32,
    iterations: Annotated[int, Option("power iterations after each step of the optimiser", 1, LAYERS)] = 2,
    recompute: Annotated[bool, Option("compute the branches again in the backward pass, to save memory")] = False,
    dequantize: Dequantize = "uniform",
) -> FlowModel:
    """Residual flow, unbiased log-determinants by roulette (Chen et al., 2019, arXiv:1906.02735).

    ``architecture`` "vector" flattens the event: ``layers`` (10) times ActNorm and z = x + g(x), g a perceptron of
    ``depth`` hidden layers of ``width`` (128) held to a Lipschitz constant of ``lipschitz``. "multiscale" is for
    images (C, H, W): per scale ``layers`` (4; the paper has 16) times ActNorm and a branch of a 3 x 3, a 1 x 1 and a
    3 x 3 convolution with ``width`` (32; 512 there) channels, then a squeeze and half of the channels leave. A side
    that is odd or at most 4 ends the squeezing. "auto" takes "multiscale" for images of at least 16 x 16 pixels.

    ``training`` is "roulette" (Chen et al.) or "truncated" (i-ResNet: Behrmann et al., 2019, arXiv:1811.00995; biased,
    10 terms); in evaluation mode the series has ``evaluation_terms`` terms, 0 means exact. Layers of at most
    ``exact_dims`` dimensions are exact in both. ``iterations`` of the power method follow each step of the optimiser;
    ``recompute`` trades time for memory; ``dequantize`` is "uniform" or "variational". Sampling iterates each layer to
    rounding: about log(1e-7) / log(lipschitz) evaluations a layer at most. Raises ValueError for an unknown
    architecture or training.

    >>> from pyflowk import zoo
    >>> zoo.residual_flow((2,), layers=2).sample(3).shape
    torch.Size([3, 2])
    """
    assert layers is not None  # it is chosen
    options: dict[str, Any] = {
        "training": Roulette() if training == "roulette" else Truncated(10),
        "evaluation": Truncated(evaluation_terms) if evaluation_terms else Exact(),
        "exact_dims": exact_dims,
        "recompute": recompute,
    }
    condition: dict[str, Any] = {"context_dim": context_dim, "classes": classes}
    net: dict[str, Any] = {"lipschitz": lipschitz, "activation": activation, "iterations": iterations, **condition}
    transform: Transform
    if architecture == "vector":
        size = math.prod(shape)
        mlp: dict[str, Any] = {"width": width, "depth": depth, **net}
        parts: list[Transform] = [Reshape(shape, (size,))]
        for _ in range(layers):
            parts += [ActNorm(size), Residual(LipschitzMLP(size, **mlp), **options)]
        transform = Compose(*parts, ActNorm(size))
    else:
        transform = _scale(tuple(shape), layers, {"width": width, **net}, options)
    flat = (math.prod(shape),)
    base: Distribution = DiagonalGaussian(flat) if classes is None else ClassConditionalGaussian(flat, classes)
    return FlowModel(shape, base, transform, levels=levels, dequantize=dequantize, **condition)


def _scale(shape: tuple[int, ...], layers: int, net: dict[str, Any], options: dict[str, Any]) -> Transform:
    """One scale and, inside its Split, all that follow; the output is flat."""
    c, h, w = shape
    parts: list[Transform] = []
    for _ in range(layers):
        parts += [ActNorm(c), Residual(LipschitzConvNet(c, (h, w), **net), **options)]
    parts.append(ActNorm(c))
    if h % 2 == 1 or w % 2 == 1 or min(h, w) <= 4:
        return Compose(*parts, Reshape((c, h, w), (c * h * w,)))
    kept = (2 * c, h // 2, w // 2)
    inner = _scale(kept, layers, net, options)
    return Compose(*parts, Squeeze(), Split(inner, (4 * c, h // 2, w // 2), (math.prod(kept),)))
