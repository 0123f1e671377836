"""Networks of other packages on their own weights, packed for the MADE kernels: masked ones, and those of couplings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.kept import Kept
from ..ops.made import MADE_ACTIVATIONS, made_forward, made_inverse
from ..ops.made_layout import MadeLayout
from ..ops.modes import transformed
from ._maps import AffineMap, Map

Layer = tuple[Tensor, Tensor]
_NARROW = 16_384  # packed numbers up to which the gradient of a coupling is faster here than in torch


class Unsupported(Exception):
    """Why a layer is left as it is."""


class Cheap(Unsupported):
    """It is left as it is because no kernel would make it faster."""


class Masked(nn.Module):
    """A masked network and its map in one kernel call, both directions; it owns no parameters.

    Args:
        shapes: of every layer's weight, the output layer last.
        places: of the kernels' network, (weight, bias) of every layer: where each number stands in the flattened weight
            or bias as it is, -1 where it is zero, and among the output biases where an element stays as it is. The
            columns of the first layer are the features, whatever context it has; the output rows are the parameters
            of feature 0, of feature 1, ...
        map: what they do to it.
        options: of :func:`pyflowk.ops.made_inverse`: activation, residual.

    Order and degrees are read off the places: any network whose features can be sorted so that each depends on earlier
    ones only. Raises Unsupported where they cannot be sorted so.
    """

    moved: Tensor | None  # the features that the kernels move exactly, where the others come back but for a rounding

    def __init__(
        self, shapes: Sequence[tuple[int, int]], places: Sequence[Layer], map: Map, options: dict[str, Any]
    ) -> None:
        super().__init__()
        weights, biases = [weight for weight, _ in places], [bias for _, bias in places]
        features, params = weights[0].shape[1], len(map.places)
        inner = [weight >= 0 for weight in weights]
        order = _order(inner, features, params)
        rank = torch.tensor(order).argsort()  # of a feature
        degrees, before = [], rank + 1
        for mask in inner[:-1]:
            before = torch.where(mask, before, 0).amax(1).clamp(max=features - 1)
            degrees.append(before.tolist())
        covered = [*(torch.tensor(d) for d in degrees), rank.repeat_interleave(params)]
        for seen, mask, degree in zip([rank + 1, *covered], inner, covered, strict=False):
            if (mask & (seen > degree[:, None])).any():
                raise Unsupported("a hidden unit that sees every feature")
        layout = MadeLayout(degrees, order, params, interleaved=True)
        self.hidden, self.map, self.options = layout.hidden, map, {**options, **map.options}
        # the packed numbers' places among [0, the identity's parameters, biases, weights] of the network as it is
        rows = (torch.arange(features)[:, None] * params + torch.tensor(list(map.places))).flatten()
        weights[-1], biases[-1] = weights[-1][rows], biases[-1][rows]
        still = biases[-1] < 0
        table, at = [torch.zeros(1, dtype=torch.int64)], 1 + params
        for bias, (count, _) in zip(biases, shapes, strict=True):
            table.append(torch.where(bias < 0, 1 + torch.arange(len(bias)) % params, at + bias))
            at += count
        for weight, (count, columns) in zip(weights, shapes, strict=True):
            table.append(torch.where(weight < 0, 0, at + weight).flatten())
            at += count * columns
        for name, value in {"plan": layout.plan, "source": torch.cat(table)[layout.source]}.items():
            self.register_buffer(name, value, persistent=False)
        for number, of_layer in enumerate(degrees):  # the units of every hidden layer, by rising degree
            self.register_buffer(f"sort{number}", torch.tensor(of_layer).argsort(stable=True), persistent=False)
        coupling = bool(still.any())
        rounds = coupling and not map.has_identity
        self.register_buffer("moved", ~still[::params] if rounds else None, persistent=False)
        #: nothing is left out of a coupling's matrices, so that computing the units again for the gradient may not pay
        self._wide = coupling and len(layout.source) > _NARROW
        self._coupling = coupling
        self._kept, self._fits = Kept(), Kept()
        self._structure: list[Tensor] = []
        self._sure = self._same = True
        self.register_load_state_dict_post_hook(_doubt)

    def built_for(self, structure: Sequence[Tensor]) -> Masked:
        """Note the masks, or lists of features, that the layer holds and this network was built from."""
        self._structure, self._sure = [part.detach().cpu().clone() for part in structure], True
        return self

    def serves(self, structure: Sequence[Tensor]) -> bool:
        """Whether it is faster than the layer's own code and those are what it was built for: a state dict may bring
        others. On another device than the CPU they are read after a load only."""
        if self._wide and torch.is_grad_enabled():
            return False
        if transformed() or not self._structure:
            return True
        if all(part.is_cpu for part in structure):
            return self._fits.get(structure, lambda: self._built_for(structure))
        if not self._sure:
            self._same, self._sure = self._built_for(structure), True
        return self._same

    def at_once(self, x: Tensor, inverse: bool) -> bool:
        """Whether this direction is the layer's own: on a card, where parameters that are all made at once are torch's
        products either way, which need no packed weights, and an affine map is few launches."""
        return x.is_cuda and isinstance(self.map, AffineMap) and (self._coupling or not inverse)

    def _built_for(self, structure: Sequence[Tensor]) -> bool:
        pairs = zip(structure, self._structure, strict=True)
        return all(torch.equal(now.to("cpu", built.dtype), built) for now, built in pairs)

    def sort(self, number: int) -> Tensor:
        """The units of a hidden layer by rising degree: the order of a shift."""
        return getattr(self, f"sort{number}")

    def forward(self, x: Tensor, layers: Sequence[Layer], shift: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        """x (B, D) by the network of these (weight, bias), the output layer last; shift as the op takes it."""
        weights = self._packed(layers)
        op = made_inverse if inverse else made_forward
        shift = None if shift is None else shift.to(x.dtype)
        y, ladj = op(x, weights, shift, self.plan, self.hidden, **self.options)  # type: ignore[arg-type]
        return (y if self.moved is None else torch.where(self.moved, y, x)), ladj

    def _packed(self, layers: Sequence[Layer]) -> Tensor:
        return self._kept.get([part for layer in layers for part in layer], lambda: self._pack(layers))

    def _pack(self, layers: Sequence[Layer]) -> Tensor:
        layers = [*layers[:-1], self.map.for_kernels(*layers[-1])]
        first = layers[0][0].new_tensor((0.0, *self.map.identity))
        flat = torch.cat([first, *(bias for _, bias in layers), *(weight.flatten() for weight, _ in layers)])
        return flat.index_select(0, self.source)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in {"hidden": self.hidden, **self.options}.items())


def _doubt(network: Any, incompatible_keys: Any) -> None:
    network._sure = False


def masked(masks: Sequence[Tensor], features: int, map: Map, options: dict[str, Any]) -> Masked:
    """A network with these masks, whose first columns are the features and whose other ones a context."""
    shapes = [(len(mask), mask.shape[1]) for mask in masks]
    places = [(_where(mask.cpu() != 0), torch.arange(len(mask))) for mask in masks]
    places[0] = places[0][0][:, :features], places[0][1]
    return Masked(shapes, places, map, options)


def coupled(
    shapes: Sequence[tuple[int, int]],
    still: Tensor,
    moved: Tensor,
    map: Map,
    options: dict[str, Any],
    grouped: bool,
) -> Masked:
    """A coupling: features `moved` get parameters from features `still`, which the network's first columns read.

    grouped: the output rows are the parameters of the first moved feature, of the second, ...; otherwise all first
    parameters, all second ones, ...
    """
    if len(shapes) < 2:
        raise Unsupported("a network without hidden layers")
    still, moved = still.cpu(), moved.cpu()
    features, params = len(still) + len(moved), len(map.places)
    places = [(_where(torch.ones(shape)), torch.arange(shape[0])) for shape in shapes]
    if shapes[-1][0] != len(moved) * params or shapes[0][1] < len(still):
        raise Unsupported("a network of other sizes than its coupling")
    first = torch.full((shapes[0][0], features), -1).index_copy(1, still, places[0][0][:, : len(still)])
    rows = torch.arange(shapes[-1][0])
    rows = rows.view(-1, params) if grouped else rows.view(params, -1).t()
    last = [part[rows] for part in places[-1]]  # (moved, params, ...)
    last = [torch.full((features, *part.shape[1:]), -1).index_copy(0, moved, part).flatten(0, 1) for part in last]
    places[0], places[-1] = (first, places[0][1]), (last[0], last[1])
    return Masked(shapes, places, map, options)


def chain(net: Sequence[Any], kind: str) -> tuple[list[Any], str]:
    """The layers of that kind in a chain of such layers and one known activation in between, and its name."""
    linears, activations = list(net)[0::2], list(net)[1::2]
    if len(linears) == len(activations) or any(
        type(m).__name__ != kind or m.bias is None or m.weight.dim() != 2 for m in linears
    ):
        raise Unsupported(f"a network that is no chain of {kind} layers and activations")
    return linears, activation_of(activations)


def activation_of(modules: Sequence[Any]) -> str:
    """The kernels' name of the one activation that all of these modules or functions are."""
    names = [getattr(module, "__name__", type(module).__name__).lower() for module in modules] or ["relu"]
    name = {"leakyrelu": "leaky_relu"}.get(names[0], names[0])
    slopes = {getattr(m, "negative_slope", 0.01) for m in modules}
    if name == "leaky_relu" and slopes == {0.0}:
        name, slopes = "relu", {0.01}
    usual = all(getattr(m, "alpha", 1.0) == 1.0 for m in modules) and slopes <= {0.01}
    if len(set(names)) > 1 or name not in MADE_ACTIVATIONS or not usual:
        raise Unsupported(f"no kernel for the activation {', '.join(sorted(set(names)))}")
    return name


def _where(mask: Tensor) -> Tensor:
    """The number of each element that is not zero, -1 elsewhere."""
    return torch.where(mask != 0, torch.arange(mask.numel()).view(mask.shape), -1)


def _order(masks: Sequence[Tensor], features: int, params: int) -> list[int]:
    """The features, every one after those that it depends on."""
    reach = masks[0].float()
    for mask in masks[1:]:
        reach = (mask.float() @ reach > 0).float()
    depends = reach.view(features, params, features).amax(1)
    left, order, waiting = depends.sum(1), [], torch.ones(features, dtype=torch.bool)
    while waiting.any():
        ready = waiting & (left == 0)
        if not ready.any():
            raise Unsupported("a network whose features depend on each other in a circle")
        order += ready.nonzero().flatten().tolist()
        waiting &= ~ready
        left = left - depends[:, ready].sum(1)
    return order


def context_shift(layer: nn.Module, context: Tensor, order: Tensor) -> Tensor:
    """What the context, the last columns of a first layer, adds to its units in that order."""
    weight: Tensor = layer.weight if getattr(layer, "mask", None) is None else layer.mask * layer.weight  # type: ignore
    return F.linear(context, weight[order][:, -context.shape[-1] :])
