"""zuko's layers on this package's kernels: https://github.com/probabilists/zuko."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from ..ops.rq_spline import LARGEST_SOFTCLIP
from ._maps import AffineMap, Map, SplineMap
from ._masked import Cheap, Masked, Unsupported, activation_of, chain, context_shift, coupled, masked
from ._verify import ROWS, numbers

PACKAGES = {"zuko": "LazyTransform"}  # and the base class of its layers


class Fused(Transform):
    """A transform of vectors: `run(x, inverse) -> (y, ladj)` over any leading dimensions."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, run: Callable[[Tensor, bool], tuple[Tensor, Tensor]], inverse: bool = False) -> None:
        super().__init__()
        self.run, self.inverse = run, inverse

    @property
    def inv(self) -> Transform:
        return Fused(self.run, not self.inverse)

    def _call(self, x: Tensor) -> Tensor:
        return self.run(x, self.inverse)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.run(y, not self.inverse)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.run(x, self.inverse)[1]

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.run(x, self.inverse)


def install(layer: Any) -> str:
    """Put kernels into a layer; what they do, in words. Raises Unsupported."""
    kind = type(layer).__name__
    if kind == "UnconditionalTransform":
        raise Cheap
    if kind not in ("MaskedAutoregressiveTransform", "GeneralCouplingTransform", "ElementWiseTransform"):
        raise Unsupported("no kernel for it")
    map = map_of(layer)
    if kind == "MaskedAutoregressiveTransform":
        layer.add_module("pyflowk", _network(layer, map))
        layer.forward = functools.partial(_fused, layer)
        return f"MADE, every unit once both ways, {map.name}"
    if isinstance(map, AffineMap):
        if kind == "ElementWiseTransform":
            raise Cheap
        try:
            layer.add_module("pyflowk", _network(layer, map))
        except Unsupported as reason:
            raise Cheap from reason
        layer.forward = functools.partial(_fused, layer)
        return f"coupling in one call, {map.name}"
    layer._pyflowk_map = map
    if kind == "ElementWiseTransform":
        layer.forward = functools.partial(_elementwise, layer)
    else:
        layer.meta = functools.partial(_meta, layer)
    return f"coupling, {map.name}" if kind == "GeneralCouplingTransform" else map.name


def evaluate(layer: Any, z: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(y, ladj, x) of a layer at x = z, or at random numbers."""
    kind = type(layer).__name__
    if kind == "ElementWiseTransform":
        context = layer.hyper.in_features if hasattr(layer, "hyper") else 0
        features = layer.hyper.out_features // layer.total if context else len(layer.phi[0])
    elif kind == "GeneralCouplingTransform":
        features = len(layer.mask)
        context = layer.hyper.in_features - int(layer.mask.sum())
    else:
        features = layer.hyper.out_features // layer.total
        context = layer.hyper.in_features - features
    x = numbers(ROWS, features, scale=3) if z is None else z
    transform = layer(numbers(ROWS, context) if context else None)
    return (*(transform.inv if inverse else transform).call_and_ladj(x), x)


def map_of(layer: Any) -> Map:
    """The univariate transformation of a layer, by the names and defaults of its constructor."""
    constructor: Any = layer.univariate
    given: dict[str, Any] = {}
    while isinstance(constructor, functools.partial):
        if constructor.args:
            raise Unsupported("its univariate map is built with positional arguments")
        constructor, given = constructor.func, {**constructor.keywords, **given}
    name = getattr(constructor, "__name__", type(constructor).__name__)
    if name not in ("MonotonicAffineTransform", "MonotonicRQSTransform"):
        raise Unsupported(f"no kernel for the map {name}")
    defaults = {key: p.default for key, p in inspect.signature(constructor).parameters.items()}
    options = {**defaults, **given}
    shapes = [tuple(shape) for shape in layer.shapes]
    if name == "MonotonicAffineTransform" and shapes == [(), ()]:
        return AffineMap("softclip", -math.log(options["slope"]), (1, 0))
    bins = shapes[0][0] if shapes[0] else 0
    if name == "MonotonicRQSTransform" and 2 <= bins <= 64 and shapes == [(bins,), (bins,), (bins - 1,)]:
        if not math.exp(-LARGEST_SOFTCLIP) <= options["slope"] < 1:
            raise Unsupported(f"a spline of least slope {options['slope']}")
        return SplineMap.softclipped(bins, float(options["bound"]), float(options["slope"]))
    raise Unsupported(f"no kernel for {name} of parameters {shapes}")


def _network(layer: Any, map: Map) -> Masked:
    """The network in kernel form, if it is a chain of linear layers and one known activation, or residual blocks."""
    coupling = type(layer).__name__ == "GeneralCouplingTransform"
    linears, blocks = _linears(layer), list(layer.hyper)[1:-1]
    residual = {type(block).__name__ == "Residual" for block in blocks}
    if residual == {True}:
        options = {"activation": activation_of([block[1] for block in blocks]), "residual": "bare"}
    elif True in residual:
        raise Unsupported("residual blocks of several widths")
    else:
        options = {"activation": chain(layer.hyper, "Linear" if coupling else "MaskedLinear")[1]}
    if coupling:
        shapes = [tuple(m.weight.shape) for m in linears]
        still, moved = layer.mask.nonzero().squeeze(1), (~layer.mask).nonzero().squeeze(1)
        return coupled(shapes, still, moved, map, options, grouped=True).built_for(_structure(layer))
    features = len(linears[-1].mask) // layer.total
    if len(linears) == 1 and linears[0].mask.shape[1] > features:
        raise Unsupported("a context without hidden layers")
    return masked([m.mask for m in linears], features, map, options).built_for(_structure(layer))


def _linears(layer: Any) -> list[Any]:
    """The linear layers of the network in their order."""
    parts = [part for block in layer.hyper for part in (block if isinstance(block, nn.Sequential) else [block])]
    return [part for part in parts if hasattr(part, "weight")]


def _structure(layer: Any) -> list[Tensor]:
    """The masks that a state dict brings along."""
    return [layer.mask] if hasattr(layer, "mask") else [m.mask for m in _linears(layer)]


# ---- what the layers' methods become ---------------------------------------------------------------------------------


def _flat(run: Callable[..., tuple[Tensor, Tensor]], x: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """A map of rows over any leading dimensions; params (*, D, P)."""
    shape = torch.broadcast_shapes(x.shape, params.shape[:-1])
    rows, flat = x.expand(shape).reshape(-1, shape[-1]), params.expand(*shape, params.shape[-1])
    y, ladj = run(rows, flat.reshape(-1, *flat.shape[-2:]), inverse)
    return y.view(shape), ladj.view(shape[:-1])


def _meta(layer: Any, c: Tensor | None, x: Tensor) -> Fused:
    """The map of the layer's elements, its parameters from x and c: as the layer's own `meta`."""
    if c is not None:
        shape = torch.broadcast_shapes(x.shape[:-1], c.shape[:-1])
        x = torch.cat([x.expand(*shape, x.shape[-1]), c.expand(*shape, c.shape[-1])], -1)
    params = layer.hyper(x).unflatten(-1, (-1, layer.total))
    return Fused(lambda x, inverse: _flat(layer._pyflowk_map, x, params, inverse))


def _elementwise(layer: Any, c: Tensor | None = None) -> Transform:
    if c is None:
        params = torch.cat([p.flatten(1) for p in layer.phi], 1)
    else:
        params = layer.hyper(c).unflatten(-1, (-1, layer.total))
    return Fused(lambda x, inverse: _flat(layer._pyflowk_map, x, params, inverse))


def _fused(layer: Any, c: Tensor | None = None) -> Transform:
    network: Masked = layer.pyflowk
    if not network.serves(_structure(layer)):
        return type(layer).forward(layer, c)

    def run(x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        if network.at_once(x, inverse):
            own = type(layer).forward(layer, c)
            return (own.inv if inverse else own).call_and_ladj(x)
        linears = _linears(layer)
        shape, shift = x.shape, None
        if c is not None:
            shift = context_shift(linears[0], c, network.sort(0))
            shape = torch.Size([*torch.broadcast_shapes(x.shape[:-1], c.shape[:-1]), x.shape[-1]])
            shift = shift.expand(*shape[:-1], shift.shape[-1]).reshape(-1, shift.shape[-1])
        rows = x.expand(shape).reshape(-1, shape[-1])
        layers = [(m.weight, m.bias) for m in linears]
        y, ladj = network(rows, layers, shift, inverse)
        return y.view(shape), ladj.view(shape[:-1])

    return Fused(run)
