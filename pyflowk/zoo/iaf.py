"""IAF: inverse autoregressive flow."""

from __future__ import annotations

from collections.abc import Sequence

from .maf import autoregressive
from .model import FlowModel
from .registry import register


@register("iaf")
def iaf(
    shape: Sequence[int],
    *,
    levels: int | None = None,
    classes: int | None = None,
    context_dim: int | None = None,
    blocks: int = 5,
    width: int = 128,
    depth: int = 2,
    residual: bool = False,
    components: int = 1,
    normalization: str = "actnorm",
    limit: float = 3.0,
    activation: str = "elu",
    dequantize: str = "uniform",
) -> FlowModel:
    """IAF, autoregressive layers in the direction of sampling (Kingma et al., 2016, arXiv:1606.04934).

    As :func:`maf`, with every autoregressive map inverted: a sample is one pass of dense networks, made for variational
    inference, and its density comes free with it. The density of given data is the sequential direction; it costs about
    the same by the incremental kernel, and its gradient is one sweep.

    Raises ValueError for an unknown normalisation, less than one component, or a mixture beside classes.

    >>> from pyflowk import zoo
    >>> zoo.iaf((6,), width=16).sample(2).shape
    torch.Size([2, 6])
    """
    return autoregressive(
        shape, True, levels=levels, classes=classes, context_dim=context_dim, blocks=blocks, components=components,
        normalization=normalization, limit=limit, dequantize=dequantize, hidden=(width,) * depth, residual=residual,
        activation=activation,
    )  # fmt: skip
