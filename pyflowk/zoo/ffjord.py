"""FFJORD: continuous flows with a stochastic trace, for vectors and for images in several scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..flows import Base, ClassConditionalGaussian, DiagonalGaussian
from ..nets import ConvField, MLPField
from ..objectives.rnode import rnode
from ..transforms import ActNorm, Compose, Continuous, Reshape, Split, Squeeze, Transform
from .model import FlowModel
from .registry import register


class ContinuousModel(FlowModel):
    """A FlowModel whose training loss adds the regularisers of RNODE, in nats per event."""

    kinetic = jacobian = 0.0

    @property
    def loss_unit(self) -> str | None:
        return None if self._regularised else "nats"

    @property
    def _regularised(self) -> bool:
        return bool(self.training and (self.kinetic or self.jacobian))

    def loss(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        if not self._regularised:
            return super().loss(x, context, generator)
        weights: dict[str, Any] = {"kinetic": self.dims * self.kinetic, "jacobian": self.dims * self.jacobian}
        return rnode(self, x, context, per_dim=False, generator=generator, **weights)


@register("ffjord")
def ffjord(
    shape: Sequence[int],
    *,
    levels: int | None = None,
    classes: int | None = None,
    context_dim: int | None = None,
    dequantize: str = "uniform",
    architecture: str = "auto",
    width: int | None = None,
    depth: int = 3,
    flows: int = 1,
    activation: str | None = None,
    time: str = "concatsquash",
    divergence: str = "auto",
    probes: int = 1,
    noise: str = "rademacher",
    method: str = "rk4",
    steps: int | None = 8,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    kinetic: float = 0.0,
    jacobian: float = 0.0,
    steer: float = 0.0,
) -> ContinuousModel:
    """FFJORD, free-form continuous flows with an unbiased trace (Grathwohl et al., 2019, arXiv:1810.01367).

    ``architecture`` "vector" flattens the event: ``flows`` MLP fields of ``depth`` hidden layers (``width`` 64, tanh),
    an ActNorm before each. "multiscale" is for images: per scale ``flows`` convolutional fields (``width`` 32,
    softplus), a squeeze, as many again, then half of the channels leave; a side that is odd or at most 4 ends it.
    "auto" takes "multiscale" for images of at least 8 x 8 pixels.

    ``divergence`` "auto" is exact for at most 3 elements and Hutchinson's estimate beyond, whose ``probes`` are drawn
    anew for every call: densities are then unbiased estimates. ``steps`` Runge-Kutta steps (in one kernel call for
    vectors), or steps=None for adaptive ones (method "dopri5"). ``kinetic`` and ``jacobian`` are the weights of RNODE
    (arXiv:2002.02798, 0.01 there), ``steer`` that of STEER (arXiv:2006.10711), in training only.
    ``dequantize`` is "uniform" or "variational". Both directions cost the same; sampling needs no trace. Raises
    ValueError for "multiscale" without an image.

    >>> from pyflowk import zoo
    >>> zoo.ffjord((2,)).sample(3).shape
    torch.Size([3, 2])
    """
    if architecture == "auto":
        architecture = "multiscale" if len(shape) == 3 and min(shape[1:]) >= 8 else "vector"
    size, condition = math.prod(shape), dict[str, Any](context_dim=context_dim, classes=classes)
    if divergence == "auto":
        divergence = "exact" if size <= 3 else "hutchinson"
    solver: dict[str, Any] = {
        "divergence": divergence, "probes": probes, "noise": noise, "method": method, "steps": steps, "rtol": rtol,
        "atol": atol, "steer": steer,
    }  # fmt: skip
    transform: Transform
    net: dict[str, Any]
    if architecture == "vector":
        net = {"width": width or 64, "depth": depth, "activation": activation or "tanh", "time": time, **condition}
        layers: list[Transform] = [Reshape(shape, (size,))]
        for _ in range(flows):
            layers += [ActNorm(size), Continuous(MLPField(size, **net), **solver)]
        transform = Compose(*layers)
    elif architecture == "multiscale" and len(shape) == 3:
        net = {"width": width or 32, "depth": depth, "activation": activation or "softplus", "time": time, **condition}
        transform = _scale(shape, flows, net, solver)
    else:
        raise ValueError(
            f"architecture: expected auto, vector or (for images) multiscale, got {architecture!r}, {shape=}"
        )
    base: Base = DiagonalGaussian((size,)) if classes is None else ClassConditionalGaussian((size,), classes)
    model = ContinuousModel(shape, base, transform, levels=levels, dequantize=dequantize, **condition)
    model.kinetic, model.jacobian = kinetic, jacobian
    return model


def _scale(shape: Sequence[int], flows: int, net: dict[str, Any], solver: dict[str, Any]) -> Transform:
    """One scale and, inside its Split, all that follow; the output is flat."""
    c, h, w = shape
    layers = _flows(c, flows, net, solver)
    if h % 2 == 1 or w % 2 == 1 or min(h, w) <= 4:
        return Compose(*layers, Reshape((c, h, w), (c * h * w,)))
    squeezed, kept = (4 * c, h // 2, w // 2), (2 * c, h // 2, w // 2)
    layers += [Squeeze(), *_flows(4 * c, flows, net, solver)]
    return Compose(*layers, Split(_scale(kept, flows, net, solver), squeezed, (math.prod(kept),)))


def _flows(channels: int, number: int, net: dict[str, Any], solver: dict[str, Any]) -> list[Transform]:
    layers: list[Transform] = []
    for _ in range(number):
        layers += [ActNorm(channels), Continuous(ConvField(channels, **net), **solver)]
    return layers
