"""zuko's layers on this package's kernels: https://github.com/probabilists/zuko."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform, constraints

from ..ops.made import MADE_ACTIVATIONS
from ..ops.rq_spline import LARGEST_SOFTCLIP
from ._maps import AffineMap, Map, SplineMap
from ._masked import Cheap, Masked, Unsupported, context_shift
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
    if isinstance(map, AffineMap) and kind != "MaskedAutoregressiveTransform":
        raise Cheap
    if kind == "MaskedAutoregressiveTransform":
        layer.add_module("pyflowk", _masked(layer, map))
        layer.forward = functools.partial(_autoregressive, layer)
        return f"MADE, every unit once both ways, {map.name}"
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
        return AffineMap("softclip", -math.log(options["slope"]), 1, 0)
    bins = shapes[0][0] if shapes[0] else 0
    if name == "MonotonicRQSTransform" and 2 <= bins <= 64 and shapes == [(bins,), (bins,), (bins - 1,)]:
        if not math.exp(-LARGEST_SOFTCLIP) <= options["slope"] < 1:
            raise Unsupported(f"a spline of least slope {options['slope']}")
        return SplineMap.softclipped(bins, float(options["bound"]), float(options["slope"]))
    raise Unsupported(f"no kernel for {name} of parameters {shapes}")


def _masked(layer: Any, map: Map) -> Masked:
    """The network in kernel form, if it is a plain chain of masked layers and one known activation."""
    linears, activations = list(layer.hyper)[0::2], list(layer.hyper)[1::2]
    if any(type(m).__name__ != "MaskedLinear" or m.bias is None for m in linears):
        raise Unsupported("a network that is no chain of masked layers, such as zuko's residual one")
    features = len(linears[-1].mask) // layer.total
    if len(linears) == 1 and linears[0].mask.shape[1] > features:
        raise Unsupported("a context without hidden layers")
    return Masked([m.mask for m in linears], features, layer.total, map, {"activation": activation_of(activations)})


def activation_of(modules: list[Any]) -> str:
    """The kernels' name of the one activation that all of these modules or functions are."""
    names = [getattr(module, "__name__", type(module).__name__).lower() for module in modules] or ["relu"]
    name = {"leakyrelu": "leaky_relu"}.get(names[0], names[0])
    usual = all(getattr(m, "alpha", 1.0) == 1.0 and getattr(m, "negative_slope", 0.01) == 0.01 for m in modules)
    if len(set(names)) > 1 or name not in MADE_ACTIVATIONS or not usual:
        raise Unsupported(f"no kernel for the activation {', '.join(sorted(set(names)))}")
    return name


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


def _autoregressive(layer: Any, c: Tensor | None = None) -> Transform:
    masked: Masked = layer.pyflowk

    def run(x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        linears = list(layer.hyper)[0::2]
        shape, shift = x.shape, None
        if c is not None:
            shift = context_shift(linears[0], c, masked.features, masked.sort(0))
            shape = torch.Size([*torch.broadcast_shapes(x.shape[:-1], c.shape[:-1]), x.shape[-1]])
            shift = shift.expand(*shape[:-1], shift.shape[-1]).reshape(-1, shift.shape[-1])
        rows = x.expand(shape).reshape(-1, shape[-1])
        layers = [(m.weight, m.bias) for m in linears]
        y, ladj = masked(rows, layers, shift, inverse)
        return y.view(shape), ladj.view(shape[:-1])

    return Fused(run)
