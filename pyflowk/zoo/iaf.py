"""IAF: inverse autoregressive flow."""

from __future__ import annotations

from ..space import Space
from ..transforms import Invert
from .flow_model import FlowModel
from .maf import Blocks, Components, Depth, Normalization, ResidualBlocks, autoregressive, chain, mixture
from .option import Dequantizer, Limit, Nonlinearity, Width
from .registry import register


@register("iaf")
def iaf(
    space: Space,
    *,
    blocks: Blocks = 5,
    width: Width = 128,
    depth: Depth = 2,
    residual: ResidualBlocks = False,
    components: Components = 1,
    normalization: Normalization = "actnorm",
    limit: Limit = 3.0,
    activation: Nonlinearity = "elu",
    dequantize: Dequantizer = "uniform",
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
    maps = [Invert(map) for map in autoregressive(space, blocks, width, depth, residual, limit, activation)]
    return FlowModel(space, mixture(space, components), chain(space, normalization, maps), dequantize=dequantize)
