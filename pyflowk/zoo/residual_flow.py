"""Residual flows: the identity plus a contraction, layer upon layer, for vectors and for images in several scales."""

from __future__ import annotations

from typing import Annotated, Any

from ..nets import CONTRACTIVE_ACTIVATIONS, LipschitzConvNet, LipschitzMLP
from ..space import Space
from ..transforms import ActNorm, Compose, Exact, Residual, Roulette, Transform, Truncated
from .blocks import by_architecture, condition, flatten, gaussian, multiscale, normed
from .flow_model import FlowModel
from .option import LAYERS, WIDTH, Architecture, Dequantizer, Option, one_of
from .registry import register

TRAINING = ("roulette", "truncated")


@register("residual_flow", by_architecture(16, {"layers": 10, "width": 128}, {"layers": 4, "width": 32}))
def residual_flow(
    space: Space,
    *,
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
    dequantize: Dequantizer = "uniform",
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
    net: dict[str, Any] = {
        "width": width, "lipschitz": lipschitz, "activation": activation, "iterations": iterations, **condition(space),
    }  # fmt: skip

    def scale(shape: tuple[int, ...], last: bool) -> list[Transform]:
        c, h, w = shape
        branches = [LipschitzConvNet(c, (h, w), **net) for _ in range(layers)]
        return [*normed(c, (Residual(branch, **options) for branch in branches)), ActNorm(c)]

    if architecture == "vector":
        size = space.dims
        branches = [LipschitzMLP(size, depth=depth, **net) for _ in range(layers)]
        parts = normed(size, (Residual(branch, **options) for branch in branches))
        transform = Compose(flatten(space), *parts, ActNorm(size))
    else:
        transform = multiscale(space.shape, scale)
    return FlowModel(space, gaussian(space), transform, dequantize=dequantize)
