"""Does a map come back to where it started?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Transform


@dataclass(frozen=True)
class LayerError:
    """One line of a report; ``max_error`` and ``rms_error`` in units of the layer's own input, ladj in nats."""

    name: str
    max_error: float
    rms_error: float
    ladj_error: float


@dataclass(frozen=True)
class InvertibilityReport:
    """Round-trip errors per layer and of the whole (the last entry); ``print`` shows a table."""

    layers: tuple[LayerError, ...]

    @property
    def max_error(self) -> float:
        """The largest |inverse(forward(x)) - x| of the whole chain."""
        return self.layers[-1].max_error

    def __str__(self) -> str:
        width = max(len(layer.name) for layer in self.layers)
        lines = [f"{'layer':<{width}}  max error  rms error  ladj error"]
        lines += [
            f"{e.name:<{width}}  {e.max_error:9.2e}  {e.rms_error:9.2e}  {e.ladj_error:10.2e}" for e in self.layers
        ]
        return "\n".join(lines)


@torch.no_grad()
def check_invertibility(
    transform: Transform, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
) -> InvertibilityReport:
    r"""Measure :math:`|f^{-1}(f(x)) - x|` and :math:`|\mathrm{ladj}_f + \mathrm{ladj}_{f^{-1}}|`, layer by layer.

    x is (B, \*event). Each layer of a (nested) Compose is tried on the input that reaches it; the last line, "whole",
    is the complete round trip. The transform, of a Flow its ``transform``, is in evaluation mode for the check. Errors
    that are not finite are reported as they are; where a log-determinant is estimated, its column shows the noise of
    the estimates.

    Cost: two forward and two inverse passes. Raises TypeError for what is no Transform.

    >>> from pyflowk.transforms import Compose, Flip, Scale, check_invertibility
    >>> import torch
    >>> print(check_invertibility(Compose(Scale(2.0), Flip()), torch.ones(2, 3)))
    layer    max error  rms error  ladj error
    0 Scale   0.00e+00   0.00e+00    0.00e+00
    1 Flip    0.00e+00   0.00e+00    0.00e+00
    whole     0.00e+00   0.00e+00    0.00e+00
    """
    if not isinstance(transform, Transform):
        raise TypeError(
            f"check_invertibility expects a Transform, such as flow.transform, got {type(transform).__name__}"
        )
    modes = [(module, module.training) for module in transform.modules()]
    transform.eval()
    try:
        layers, h = [], x
        for i, layer in enumerate(transform.layers()):
            z, error = _round_trip(f"{i} {type(layer).__name__}", layer, h, context, generator)
            layers.append(error)
            h = z
        layers.append(_round_trip("whole", transform, x, context, generator)[1])
    finally:
        for module, training in modes:
            module.training = training
    return InvertibilityReport(tuple(layers))


def _round_trip(
    name: str, transform: Transform, x: Tensor, context: Tensor | None, generator: torch.Generator | None
) -> tuple[Tensor, LayerError]:
    z, ladj = transform(x, context, generator)
    back, ladj_back = transform.inverse(z, context, generator)
    error = (back.double() - x.double()).abs()
    if x.numel() == 0:
        return z, LayerError(name, 0.0, 0.0, 0.0)
    ladj_error = (ladj.double() + ladj_back.double()).abs().max()
    return z, LayerError(name, error.max().item(), error.square().mean().sqrt().item(), ladj_error.item())
