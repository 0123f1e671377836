"""What the systems of the zoo have in common: what a space asks for, couplings, chains in one scale or in several."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import vjp

from ..distributions import ClassConditionalGaussian, DiagonalGaussian, Distribution
from ..metrics import energy_score
from ..nets import MLP, ConvField, ConvNet, DiT, Field, FourierField, MLPField, UNet
from ..ops.masks import transformed_channels
from ..solvers import Adaptive, Fixed, Operator
from ..solvers.ode.methods import estimates_error
from ..solvers.ode.stepping import Stepping
from ..space import TEXTS, Space
from ..transforms import (
    ActNorm,
    Affine,
    Compose,
    Coupling,
    Dequantize,
    Logit,
    Map,
    Reshape,
    Scale,
    Split,
    Squeeze,
    Transform,
    VariationalDequantize,
)
from .model import GenerativeModel
from .option import Chooser, DivergenceOptions, NetworkOptions

DRAWS = 8
"""Samples by which an event is judged."""
Net = Callable[[int, int], nn.Module]
"""(channels it sees, channels it gives) -> a coupling's network."""


# ---- what a space asks for -------------------------------------------------------------------------------------------


def condition(space: Space, dropout: float = 0.0) -> dict[str, Any]:
    """The arguments of a network, or of a field, that tell it what its context is; and that it may be dropped."""
    if dropout and space.context is None:
        raise ValueError(f"dropout: expected 0 where there is no context to drop, got {dropout}")
    known: dict[str, Any] = {"context_dim": space.context_dim, "classes": space.classes}
    return {**known, "droppable": True} if dropout else known


def gaussian(space: Space) -> Distribution:
    """The base of flat events: standard normal, or one learned Gaussian per label."""
    flat = (space.dims,)
    return DiagonalGaussian(flat) if space.classes is None else ClassConditionalGaussian(flat, space.classes)


def flatten(space: Space) -> Reshape:
    """The map from events to vectors."""
    return Reshape(space.shape, (space.dims,))


def unsquash(space: Space, dequantize: str = "uniform") -> list[Transform]:
    """The maps from integers 0..levels-1 to real numbers; none for real data."""
    if dequantize not in ("uniform", "variational"):
        raise ValueError(f"dequantize: expected uniform or variational, got {dequantize!r}")
    levels = space.levels
    if levels is None:
        if dequantize == "variational":
            raise ValueError("dequantize: expected integer data (levels=) for variational noise, got real data")
        return []
    dequantizers = [Dequantize(levels)] if dequantize == "uniform" else _learned_noise(levels, space.shape)
    return [*dequantizers, Scale(1 / levels), Logit(0.05)]


def centred(space: Space) -> list[Transform]:
    """The maps from integers 0..levels-1, with even noise, to real numbers in [-1, 1); none for real data."""
    return [] if space.levels is None else [Dequantize(space.levels), Scale(2 / space.levels, -1)]


def seen_inside(operator: Operator, front: Transform, z: Tensor, context: Any) -> tuple[Operator, Tensor]:
    """An operator on events as one on what the affine maps of ``front`` make of them, shaped as z, and what it shows at
    0. Noise that was added to integers is on average half of one."""
    layers = front.layers()
    affine = Compose(*(layer for layer in layers if not layer.stochastic))
    events, pull = vjp(lambda z: affine.to_data(z, context), torch.zeros_like(z))[:2]
    adjoint, half = operator.transposed(events), 0.5 * (len(affine.layers()) < len(layers))

    def forward(z: Tensor) -> Tensor:
        return operator.forward(affine.to_data(z, context) - events)

    return Operator(forward, lambda y: pull(adjoint(y))[0]), operator.forward(events - half)


def _learned_noise(levels: int, shape: tuple[int, ...], width: int = 32) -> list[Transform]:
    """A location and a scale for each element, then a coupling each way, by networks that see the integers."""
    if len(shape) == 3:
        masks = (("all", False), ("checkerboard", False), ("checkerboard", True))
        nets = [
            ConvNet(0 if mask == "all" else shape[0], 2 * shape[0], width, context_channels=shape[0])
            for mask, _ in masks
        ]
        return [VariationalDequantize(levels, Compose(*(Coupling(n, Affine(), *m) for n, m in zip(nets, masks))))]
    size = math.prod(shape)
    noise = Coupling(MLP(0, 2 * size, width, context_dim=size), Affine(), "all")
    return [Reshape(shape, (size,)), VariationalDequantize(levels, noise), Reshape((size,), shape)]


def stepping(method: str, steps: int | None, rtol: float, atol: float) -> Stepping:
    """So many equal steps of a solver, or adaptive ones, where its method can; ValueError where it cannot."""
    if steps is not None:
        return Fixed(steps)
    if not estimates_error(method):
        raise ValueError(f"steps: expected a number of steps for {method}, which cannot choose them; got None")
    return Adaptive(rtol, atol)


def solving(shared: DivergenceOptions, method: str, steps: int | None, rtol: float, atol: float) -> dict[str, Any]:
    """What a Continuous takes beside its field."""
    estimate = {"divergence": shared["divergence"], "probes": shared["probes"], "noise": shared["noise"]}
    return {**estimate, "method": method, "stepping": stepping(method, steps, rtol, atol)}


def score_of_samples(
    model: GenerativeModel, front: Transform, x: Tensor, context: Any, generator: Generator | None
) -> Tensor:
    """The energy score (B,) of samples as a model draws them for each event, in units of what its network sees: what
    tells how good they are where the loss of training does not."""
    rows, many = x.shape[0], None if context is None else context.repeat_interleave(DRAWS, 0)
    y = model.sample(rows * DRAWS, many, generator)
    unit = Compose(*(layer for layer in front.layers() if not layer.stochastic))
    x, y = unit.to_noise(x), unit.to_noise(y)
    return energy_score(x, y.reshape(rows, DRAWS, *x.shape[1:]))


# ---- layers ----------------------------------------------------------------------------------------------------------


def coupled(channels: int, map: Map, mask: str, swap: bool, net: Net, conditional: bool | None = None) -> Coupling:
    """A coupling whose network has the sizes that the mask and the map ask for."""
    moved = transformed_channels(channels, mask, swap)
    seen = channels if mask == "checkerboard" else channels - moved
    return Coupling(net(seen, map.params_per_element * moved), map, mask, swap, conditional)


def normed(channels: int, layers: Iterable[Transform]) -> list[Transform]:
    """An ActNorm in front of each layer, which then sees data of unit scale."""
    return [part for layer in layers for part in (ActNorm(channels), layer)]


def multiscale(
    shape: tuple[int, ...],
    scale: Callable[[tuple[int, ...], bool], list[Transform]],
    squeezed: Callable[[tuple[int, ...]], list[Transform]] = lambda shape: [],
) -> Compose:
    """One scale of images (C, H, W) and, inside its Split, all that follow; the output is flat.

    A scale is ``scale(shape, last)``, a squeeze, ``squeezed(shape)``, and half of the channels leave; a side that is
    odd or at most 4 makes it the last, which has the first part alone.
    """
    c, h, w = shape
    last = h % 2 == 1 or w % 2 == 1 or min(h, w) <= 4
    layers = scale(shape, last)
    if last:
        return Compose(*layers, Reshape(shape, (c * h * w,)))
    whole, kept = (4 * c, h // 2, w // 2), (2 * c, h // 2, w // 2)
    layers += [Squeeze(), *squeezed(whole)]
    return Compose(*layers, Split(multiscale(kept, scale, squeezed), whole, (math.prod(kept),)))


# ---- velocities ------------------------------------------------------------------------------------------------------

SIZES = {"vector": (128, 3), "image": (32, 3), "unet": (16, 1), "dit": (64, 4)}
"""Width and depth of each network where nobody says."""
TIME_SCALE = 1000.0
"""That of the waves of time which deep networks hear, where nobody says."""
LAYERED = {"activation": "silu", "time": "concat", "patch": 1}
"""Options that not every network has: the first two are those of "vector" and "image", the last is that of "dit"."""


def network_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the network of a model by its config, with which another system makes the same one.

    >>> network_of({"name": "flow_matching", "width": 64, "depth": 2, "rtol": 1e-5})
    {'width': 64, 'depth': 2, 'time_scale': 1000.0}
    """
    return {key: config[key] for key in NetworkOptions.__annotations__ if key in config} | {
        "time_scale": config.get("time_scale", TIME_SCALE)
    }


def velocity(
    space: Space,
    shared: NetworkOptions,
    frequency: float = 0.0,
    *,
    interval: bool = False,
    late: bool = False,
    time_scale: float = TIME_SCALE,
    answers: int = 1,
) -> Field:
    """The network of an architecture, of events or, "vector", of flat ones, as :func:`by_network` has chosen it.

    On a manifold it sees what that says of points; with a ``frequency`` a perceptron sees as many sines as it is wide;
    of an ``interval`` it hears both ends, a deep one ``late`` one after the other. ``time_scale`` is that of the waves
    of time that deep networks hear. It gives so many ``answers`` for each number that it sees.
    """
    chosen: dict[str, Any] = {**shared}
    architecture, width, depth = (chosen[name] for name in ("architecture", "width", "depth"))
    known = {**condition(space, chosen["dropout"]), "interval": interval}
    heard = {"activation": chosen["activation"], "time": chosen["time"], **known}
    if frequency and architecture != "vector":
        raise ValueError(f"frequency: expected 0 for architecture {architecture}, got {frequency}")
    if architecture == "vector":
        seen = space.dims if space.geometry is None else space.geometry.embedded

        def make(numbers: int) -> Field:
            return MLPField(numbers, width, depth, outputs=answers * numbers, **heard)

        return FourierField(seen, (width + 1) // 2, frequency, make) if frequency else make(seen)
    channels, *sides = space.shape
    if architecture == "image":
        return ConvField(channels, width, depth, outputs=answers * channels, **heard)
    known |= {"late": late, "time_scale": time_scale, "outputs": answers * channels}
    if architecture == "dit":
        return DiT(channels, chosen["patch"], width, depth, **known)
    levels = 1
    while min(sides) >= 8 and levels < 4:  # the last has less than 8 pixels a side: there, in the middle, it attends
        sides, levels = [(side + 1) // 2 for side in sides], levels + 1
    return UNet(channels, width, (1, *[2] * (levels - 1)), depth, (), **known)


def by_network(space: Space, options: dict[str, Any]) -> dict[str, Any]:
    """Chooses the network, and the divergence of a velocity, for "auto", and what is None of the network's options.

    >>> from pyflowk.space import Space
    >>> names = ("width", "depth", "patch", "activation", "time")
    >>> chosen = by_network(Space((1, 28, 28)), {"architecture": "dit", "divergence": "auto", **dict.fromkeys(names)})
    >>> chosen["depth"], chosen["patch"], chosen["divergence"]
    (4, 4, 'hutchinson')
    """
    architecture, shape = options["architecture"], space.shape
    if architecture == "auto":
        architecture = "unet" if len(shape) == 3 and space.manifold is None else "vector"
    if architecture != "vector" and space.manifold is not None:
        raise ValueError(f"architecture: expected vector for events on the {space.manifold}, got {architecture}")
    if architecture != "vector" and len(shape) != 3:
        raise ValueError(f"architecture: {architecture} expects events (C, H, W), got {shape}; vector takes any")
    usual = {**dict(zip(("width", "depth"), SIZES[architecture], strict=True)), **LAYERED}
    own = {"dit": ("patch",), "unet": ()}.get(architecture, ("activation", "time"))
    for name, plain in LAYERED.items():
        if name not in own and options[name] not in (None, plain):
            raise ValueError(f"{name}: expected None for architecture {architecture}, got {options[name]!r}")
    if architecture == "dit":
        usual["patch"] = fitting_patch(shape, options["patch"])
    found = {name: options[name] or value for name, value in usual.items()}
    estimate = {"divergence": cheap(space, options)} if "divergence" in options else {}
    return {"architecture": architecture, **estimate, **found}


def fitting_patch(shape: tuple[int, ...], patch: int | None) -> int:
    """How many pixels a side, or numbers of flat events, a token has: as given, or the fewest for 4 to 64 tokens.

    Of those that cut images into so many it is no single pixel, if others do. Raises ValueError for one that does not
    cut the event.

    >>> fitting_patch((1, 28, 28), None), fitting_patch((1, 8, 8), None), fitting_patch((63,), None)
    (4, 2, 1)
    """
    sides = shape[1:] if len(shape) == 3 else (math.prod(shape),)
    divisors = [p for p in range(1, max(sides) + 1) if not any(side % p for side in sides)]
    if patch is not None and patch not in divisors:
        raise ValueError(f"patch: expected a common divisor of the sides of {shape}, got {patch}")
    fitting = [p for p in divisors if 4 * p ** len(sides) <= math.prod(sides) <= 64 * p ** len(sides)] or [1]
    coarse = next((p for p in fitting if p > 1), fitting[0])  # fewer tokens learn more in the same time
    return patch or (coarse if len(shape) == 3 else fitting[0])


def beside(space: Space, dropout: float) -> Field:
    """The usual network for such events, to learn beside a flow; it hears of no text."""
    if space.context is not None and space.context.kind in TEXTS:
        space, dropout = replace(space, context=None), 0.0
    options: Any = dict.fromkeys(("width", "depth", "patch", "activation", "time"))
    options |= {"architecture": "auto", "dropout": dropout}
    chosen: Any = {**options, **by_network(space, options)}
    return velocity(space, chosen)


# ---- choices ---------------------------------------------------------------------------------------------------------


def cheap(space: Space, options: dict[str, Any]) -> str:
    """The divergence, exact for "auto" where that costs no more than an estimate is worth."""
    dims = space.dims if space.geometry is None else space.geometry.dim
    if options["divergence"] == "auto":
        return "exact" if dims <= 3 else "hutchinson"
    return str(options["divergence"])


def by_architecture(side: int, vector: dict[str, Any], multiscale: dict[str, Any]) -> Chooser:
    """Chooses "multiscale" for "auto" on images of at least ``side`` x ``side`` pixels, and the sizes that are None.

    >>> from pyflowk.space import Space
    >>> choose = by_architecture(8, vector={"width": 128}, multiscale={"width": 16})
    >>> choose(Space((1, 8, 8)), {"architecture": "auto", "width": None})
    {'architecture': 'multiscale', 'width': 16}
    """

    def choose(space: Space, options: dict[str, Any]) -> dict[str, Any]:
        architecture, shape = options["architecture"], space.shape
        if architecture == "auto":
            architecture = "multiscale" if len(shape) == 3 and min(shape[1:]) >= side else "vector"
        if architecture == "multiscale" and len(shape) != 3:
            raise ValueError(f"architecture: multiscale expects events (C, H, W), got {shape}; auto, vector take any")
        sizes = vector if architecture == "vector" else multiscale
        left = {name: size for name, size in sizes.items() if options[name] is None}
        return {"architecture": architecture, **left}

    return choose


def beginning(space: Space, prefix: str) -> Tensor:
    """The symbols of a text that samples begin with; ValueError where they are none of the space's, or too many."""
    if not prefix:
        return torch.zeros(0, dtype=torch.int64)
    if not space.is_text:
        raise ValueError(f"prefix: expected a model of text, which has an alphabet or a tokenizer, got one of {space}")
    symbols = space.encode(prefix)
    if len(symbols) > space.shape[0]:
        raise ValueError(f"prefix: expected at most {space.shape[0]} symbols, got {len(symbols)}")
    return symbols
