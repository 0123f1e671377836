"""The layers of nflows, and of normflows which are made of the same parts, on this package's kernels.

https://github.com/bayesiains/nflows, https://github.com/VincentStimper/normalizing-flows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._maps import AffineMap, Map, SplineMap
from ._masked import Cheap, Masked, Unsupported, activation_of, chain, coupled, masked
from ._verify import ROWS, numbers

PACKAGES = {"nflows": "Transform", "normflows": "Flow"}  # and the base class of their layers
#: Neither a spline nor a network that is run more than once.
_CHEAP = (
    "ActNorm", "AffineConstFlow", "AffineCoupling", "AffineTransform", "BatchNorm", "IdentityTransform",
    "InvertibleAffine", "LULinear", "MaskedAffineFlow", "Merge", "Permutation", "Permute", "PointwiseAffineTransform",
    "RandomPermutation", "ReversePermutation", "Split", "Squeeze", "_LULinear", "_Permutation", "_RandomPermutation",
)  # fmt: skip
Pair = tuple[Tensor, Tensor]


def install(layer: Any) -> str:
    """Put kernels into a layer of either package; what they do, in words. Raises Unsupported."""
    kind = type(layer).__name__
    if kind in _AUTOREGRESSIVE:
        return _install_autoregressive(layer, _AUTOREGRESSIVE[kind](layer))
    if kind in _AFFINE_COUPLING:
        return _install_affine_coupling(layer)
    if kind in _COUPLING:
        if not layer.num_transform_features:
            raise Cheap
        layer._pyflowk_map = _COUPLING[kind](layer)
        layer._coupling_transform_forward = functools.partial(_coupling, layer, inverse=False)
        layer._coupling_transform_inverse = functools.partial(_coupling, layer, inverse=True)
        return f"coupling, {layer._pyflowk_map.name}"
    if kind == "PiecewiseRationalQuadraticCDF":
        layer._pyflowk_map = _spline(layer, layer.unnormalized_widths.shape[-1], 1.0)
        layer._spline = functools.partial(_shared_spline, layer)
        return layer._pyflowk_map.name
    raise Cheap if kind in _CHEAP else Unsupported("no kernel for it")


def evaluate(layer: Any, z: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(y, ladj, x) of a layer at x = z, or at random numbers; a coupling's network may be anything and is left out."""
    kind = type(layer).__name__
    if kind in _AUTOREGRESSIVE:
        made = layer.autoregressive_net
        x = numbers(ROWS, made.initial_layer.in_features, scale=3) if z is None else z
        context = numbers(ROWS, made.context_layer.in_features) if hasattr(made, "context_layer") else None
        return (*(layer.inverse if inverse else layer)(x, context), x)
    if kind in _AFFINE_COUPLING:
        parts = _AFFINE_COUPLING[kind](layer)
        x = numbers(ROWS, len(parts.still) + len(parts.moved), scale=3) if z is None else z
        return (*(layer.inverse if inverse else layer)(x), x)
    if kind in _COUPLING:
        x = numbers(ROWS, layer.num_transform_features, scale=3) if z is None else z
        params = numbers(ROWS, x.shape[1] * layer._transform_dim_multiplier())
        method = layer._coupling_transform_inverse if inverse else layer._coupling_transform_forward
        return (*method(inputs=x, transform_params=params), x)
    x = numbers(ROWS, *layer.unnormalized_widths.shape[:-1], scale=3) if z is None else z
    return (*layer._spline(x, inverse=inverse), x)


# ---- maps ------------------------------------------------------------------------------------------------------------


def _spline(layer: Any, bins: int, scale: float) -> SplineMap:
    if layer.tails != "linear":  # they refuse, or pass on, what lies outside; our circle goes round it
        raise Unsupported("a spline without linear tails")
    bound = layer.tail_bound
    if isinstance(bound, Tensor):  # one a feature, which a state dict may change
        raise Unsupported("a spline whose bound is a tensor")
    least = float(layer.min_bin_width), float(layer.min_bin_height), float(layer.min_derivative)
    if not 2 <= bins <= 64:
        raise Unsupported(f"a spline of {bins} bins")
    return SplineMap.softplus(bins, float(bound), *least, scale)


def _scale(net: Any) -> float:
    """They divide the logits by the root of a width that some networks tell."""
    width = getattr(net, "hidden_features", None) or getattr(net, "hidden_channels", None)
    return 1 / math.sqrt(width) if isinstance(width, int) else 1.0


def _coupling_spline(layer: Any) -> SplineMap:
    return _spline(layer, layer.num_bins, _scale(layer.transform_net))


def _autoregressive_spline(layer: Any) -> SplineMap:
    return _spline(layer, layer.num_bins, _scale(layer.autoregressive_net))


_AUTOREGRESSIVE: dict[str, Callable[[Any], Map]] = {
    "MaskedAffineAutoregressiveTransform": lambda layer: AffineMap("softplus", 1e-3, (0, 1)),
    "MaskedAffineAutoregressive": lambda layer: AffineMap("floored_sigmoid", 1e-3, (0, 1)),
    "MaskedPiecewiseRationalQuadraticAutoregressiveTransform": _autoregressive_spline,
    "MaskedPiecewiseRationalQuadraticAutoregressive": _autoregressive_spline,
}
_COUPLING = {
    "PiecewiseRationalQuadraticCouplingTransform": _coupling_spline,
    "PiecewiseRationalQuadraticCoupling": _coupling_spline,
}


# ---- autoregressive layers -------------------------------------------------------------------------------------------


def _install_autoregressive(layer: Any, map: Map) -> str:
    made = layer.autoregressive_net
    _require_kernel(made)
    masks = _masks(made)
    if _merged(made):
        masks[:2] = [masks[1] @ masks[0]]
    features = made.initial_layer.in_features
    options = {"activation": _activation(made), "residual": _residual(made)}
    network = masked(masks, features, map, options).built_for(_masks(made))
    layer.add_module("pyflowk", network)
    layer.forward = functools.partial(_autoregressive, layer, inverse=False)
    layer.inverse = functools.partial(_autoregressive, layer, inverse=True)
    return f"MADE, every unit once both ways, {map.name}"


def _require_kernel(made: Any) -> None:
    """Raises Unsupported for what the kernels do not compute."""
    if type(getattr(made, "preprocessing", None)).__name__ not in ("NoneType", "Identity"):
        raise Unsupported("a network with preprocessing")
    blocks = list(made.blocks)
    residual = bool(blocks) and hasattr(blocks[0], "linear_layers")
    if any(getattr(b, "use_batch_norm", False) or getattr(b, "batch_norm", None) is not None for b in blocks):
        raise Unsupported("batch norm within the network")
    if any(b.dropout.p > 0 for b in blocks):
        raise Unsupported("dropout within the network")
    if residual and "normflows" in type(made).__module__.split(".") and hasattr(made, "context_layer"):
        raise Unsupported("gates that depend on the context within the network")


def _network(made: Any) -> list[Any]:
    """The masked layers in their order."""
    inner = [linear for b in made.blocks for linear in (b.linear_layers if hasattr(b, "linear_layers") else [b.linear])]
    return [made.initial_layer, *inner, made.final_layer]


def _masks(made: Any) -> list[Tensor]:
    return [linear.mask for linear in _network(made)]


def _activation(made: Any) -> str:
    return activation_of([b.activation for b in made.blocks] + ([made.activation] if _activates(made) else []))


def _activates(made: Any) -> bool:
    """Whether an activation follows the first layer, or what a context adds to it: nflows, but not normflows."""
    return hasattr(made, "activation")


def _residual(made: Any) -> bool | str:
    if not len(made.blocks):
        return "linear" if getattr(made, "use_residual_blocks", True) else False
    return "linear" if hasattr(made.blocks[0], "linear_layers") else False


def _merged(made: Any) -> bool:
    """Whether no activation stands between the first two layers, which then are one (normflows without residuals)."""
    return not _activates(made) and _residual(made) is False


def _autoregressive(layer: Any, inputs: Tensor, context: Tensor | None = None, *, inverse: bool) -> Pair:
    made, kernels = layer.autoregressive_net, layer.pyflowk
    if not kernels.serves(_masks(made)) or kernels.at_once(inputs, inverse):
        return _own(layer, inverse)(inputs, context)
    network = _network(made)
    layers = [(m.weight, m.bias) for m in network]
    if _merged(made):
        (first, first_bias), (second, second_bias) = ((m.weight * m.mask, m.bias) for m in network[:2])
        layers[:2] = [(second @ first, F.linear(first_bias, second, second_bias))]
    shift = None if context is None else _shift(made, context, kernels)
    return kernels(inputs, layers, shift, inverse)


def _own(layer: Any, inverse: bool) -> Callable[..., Pair]:
    """The layer's method as its package has it."""
    return functools.partial(getattr(type(layer), "inverse" if inverse else "forward"), layer)


def _shift(made: Any, context: Tensor, kernels: Masked) -> Tensor:
    """What the context adds to the hidden layers: to the first one, and in a residual network to every block's."""
    first = made.context_layer(context)
    if _activates(made):
        first = made.activation(first)
    parts = [first[:, kernels.sort(0)]]
    if _residual(made):
        for number, block in enumerate(made.blocks):
            inner = block.context_layer(context)[:, kernels.sort(1 + 2 * number)]
            parts += [inner, torch.zeros_like(inner)]
    return torch.cat(parts, 1)


# ---- affine couplings ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Coupling:
    options: dict[str, Any]
    still: Tensor
    moved: Tensor
    map: AffineMap
    grouped: bool


def _coupling_of_nflows(layer: Any) -> _Coupling:
    net = layer.transform_net
    if type(net).__name__ != "ResidualNet" or net.context_features is not None or layer.unconditional_transform:
        raise Unsupported("no residual network without a context")
    _require_kernel(net)
    additive = type(layer).__name__ == "AdditiveCouplingTransform"
    map = AffineMap("additive", 1.0, (0,)) if additive else AffineMap("floored_sigmoid", 1e-3, (1, 0))
    options = {"activation": activation_of([b.activation for b in net.blocks]), "residual": "linear"}
    return _Coupling(options, layer.identity_features, layer.transform_features, map, False)


def _coupling_of_normflows(layer: Any) -> _Coupling:
    split, coupling, _ = layer.flows
    if split.mode not in ("channel", "channel_inv") or (coupling.scale and coupling.scale_map != "exp"):
        raise Unsupported("another split, or another scale than exp")
    map = AffineMap("none", 1.0, (1, 0)) if coupling.scale else AffineMap("additive", 1.0, (0,))
    linears, activation = chain(_chain(layer), "Linear")
    counts = linears[0].in_features, linears[-1].out_features // len(map.places)
    still, moved = torch.arange(sum(counts)).split(counts)
    if split.mode == "channel_inv":
        still, moved = still + counts[1], moved - counts[0]
    return _Coupling({"activation": activation}, still, moved, map, True)


def _chain(block: Any) -> Any:
    """The layers of a block's network."""
    net = getattr(block.flows[1].param_map, "net", block.flows[1].param_map)
    if not isinstance(net, nn.Sequential):
        raise Unsupported("another network than a chain of layers")
    return net


def _linears(layer: Any) -> list[Any]:
    return _network(layer.transform_net) if hasattr(layer, "transform_net") else list(_chain(layer))[0::2]


def _split(layer: Any) -> list[Tensor]:
    """Which features are moved, where a state dict tells."""
    return [layer.identity_features, layer.transform_features] if hasattr(layer, "transform_features") else []


_AFFINE_COUPLING: dict[str, Callable[[Any], _Coupling]] = {
    "AdditiveCouplingTransform": _coupling_of_nflows,
    "AffineCouplingTransform": _coupling_of_nflows,
    "AffineCouplingBlock": _coupling_of_normflows,
}


def _install_affine_coupling(layer: Any) -> str:
    try:
        parts = _AFFINE_COUPLING[type(layer).__name__](layer)
        shapes = [tuple(m.weight.shape) for m in _linears(layer)]
        network = coupled(shapes, parts.still, parts.moved, parts.map, parts.options, parts.grouped)
        network.built_for(_split(layer))
    except Unsupported as reason:
        raise Cheap from reason
    layer.add_module("pyflowk", network)
    layer.forward = functools.partial(_affine_coupling, layer, inverse=False)
    layer.inverse = functools.partial(_affine_coupling, layer, inverse=True)
    return f"coupling in one call, {parts.map.name}"


def _affine_coupling(layer: Any, inputs: Tensor, context: Tensor | None = None, *, inverse: bool) -> Pair:
    # a context is a mistake: its own package says so
    kernels = layer.pyflowk
    if context is not None or not kernels.serves(_split(layer)) or kernels.at_once(inputs, inverse):
        return _own(layer, inverse)(inputs, context)
    return kernels(inputs, [(m.weight, m.bias) for m in _linears(layer)], None, inverse)


# ---- what the layers' methods become ---------------------------------------------------------------------------------


def _coupling(layer: Any, inputs: Tensor, transform_params: Tensor, *, inverse: bool) -> Pair:
    map = layer._pyflowk_map
    grouped = transform_params.unflatten(1, (inputs.shape[1], -1)).movedim(2, -1)
    if inputs.dim() == 2:
        return map(inputs, grouped, inverse)
    flat = grouped.reshape(inputs.shape[0], -1, map.params_per_element)
    y, ladj = map(inputs.reshape(inputs.shape[0], -1), flat, inverse)
    return y.view(inputs.shape), ladj


def _shared_spline(layer: Any, inputs: Tensor, inverse: bool = False) -> Pair:
    params = torch.cat([layer.unnormalized_widths, layer.unnormalized_heights, layer.unnormalized_derivatives], -1)
    rows = inputs.flatten(1)
    shared = params.reshape(1, rows.shape[1], -1).expand(rows.shape[0], -1, -1)
    y, ladj = layer._pyflowk_map(rows, shared, inverse)
    return y.view(inputs.shape), ladj
