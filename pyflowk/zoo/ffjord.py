"""FFJORD: continuous flows with a stochastic trace, for vectors and for images in several scales."""

from __future__ import annotations

from typing import Annotated, Any

from torch import Generator, Tensor
from typing_extensions import Unpack

from ..nets import FIELD_ACTIVATIONS, ConvField, MLPField
from ..objectives.rnode import rnode
from ..space import Space
from ..transforms import Compose, Continuous, Transform
from .blocks import by_architecture, cheap, condition, flatten, gaussian, multiscale, normed, solving
from .flow_model import FlowModel
from .option import (
    LAYERS,
    WIDTH,
    Architecture,
    Dequantizer,
    DivergenceOptions,
    Method,
    Option,
    Steps,
    Time,
    Tolerance,
    one_of,
)
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

    def loss(self, x: Tensor, context: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        if not self._regularised:
            return super().loss(x, context, generator)
        weights: dict[str, Any] = {
            "kinetic": self.space.dims * self.kinetic,
            "jacobian": self.space.dims * self.jacobian,
        }
        return rnode(self.flow, *self._enter(x, context), per_dim=False, generator=generator, **weights)


def _choose(space: Space, options: dict[str, Any]) -> dict[str, Any]:
    """The architecture and its sizes; the exact divergence where it is cheap."""
    vector, multiscale = {"width": 64, "activation": "tanh"}, {"width": 32, "activation": "softplus"}
    return {"divergence": cheap(space, options), **by_architecture(16, vector, multiscale)(space, options)}


@register("ffjord", _choose)
def ffjord(
    space: Space,
    *,
    dequantize: Dequantizer = "uniform",
    architecture: Architecture = "auto",
    width: Annotated[int | None, Option("units (64) or, multiscale, channels (32) of the fields", 1, WIDTH)] = None,
    depth: Annotated[int, Option("hidden layers of a field", 1, LAYERS)] = 3,
    flows: Annotated[int, Option("number of fields, or in each half of a scale", 1, LAYERS)] = 1,
    activation: Annotated[
        str | None, one_of("units' function; None: tanh, multiscale softplus", FIELD_ACTIVATIONS)
    ] = None,
    time: Time = "concatsquash",
    method: Method = "rk4",
    steps: Steps = 8,
    rtol: Tolerance = 1e-5,
    atol: Tolerance = 1e-5,
    kinetic: Annotated[float, Option("weight of the squared speed in the training loss (RNODE)", least=0)] = 0.0,
    jacobian: Annotated[float, Option("weight of the squared Jacobian in the training loss (RNODE)", least=0)] = 0.0,
    steer: Annotated[float, Option("half-width of the random end time in training (STEER)", least=0, below=1)] = 0.0,
    **shared: Unpack[DivergenceOptions],
) -> ContinuousModel:
    """FFJORD, free-form continuous flows with an unbiased trace (Grathwohl et al., 2019, arXiv:1810.01367).

    ``architecture`` "vector" flattens the event: ``flows`` MLP fields of ``depth`` hidden layers (``width`` 64, tanh),
    an ActNorm before each. "multiscale" is for images: per scale ``flows`` convolutional fields (``width`` 32,
    softplus), a squeeze, as many again, then half of the channels leave; a side that is odd or at most 4 ends it.
    "auto" takes "multiscale" for images of at least 16 x 16 pixels: on smaller ones it learns less in the same time.

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
    net: dict[str, Any] = {"width": width, "depth": depth, "activation": activation, "time": time, **condition(space)}
    solver = {**solving(shared, method, steps, rtol, atol), "steer": steer}

    def fields(channels: int, kind: type[MLPField | ConvField]) -> list[Transform]:
        return normed(channels, [Continuous(kind(channels, **net), **solver) for _ in range(flows)])

    if architecture == "vector":
        transform = Compose(flatten(space), *fields(space.dims, MLPField))
    else:
        transform = multiscale(
            space.shape, lambda shape, last: fields(shape[0], ConvField), lambda shape: fields(shape[0], ConvField)
        )
    model = ContinuousModel(space, gaussian(space), transform, dequantize=dequantize)
    model.kinetic, model.jacobian = kinetic, jacobian
    return model
