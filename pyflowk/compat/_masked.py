"""Masked networks of other packages on their own weights and masks, packed for the MADE kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.made import MadeLayout, made_forward, made_inverse
from ._maps import Map


class Unsupported(Exception):
    """Why a layer is left as it is."""


class Cheap(Unsupported):
    """It is left as it is because no kernel would make it faster."""


class Masked(nn.Module):
    """A masked network and its map in one kernel call, both directions; it owns no parameters.

    Args:
        masks: of every layer, (rows, columns), the output layer last; the first ``features`` columns of the first
            layer are x, the others a context.
        features: D.
        params: of a coordinate; those of feature 0 come first in the output.
        map: what they do to it.
        options: of :func:`pyflowk.ops.made_inverse`: activation, residual.

    Order and degrees are read off the masks: any network whose features can be sorted so that each depends on earlier
    ones only. What a mask forbids is packed as zero. Raises Unsupported where they cannot be sorted so.
    """

    def __init__(self, masks: Sequence[Tensor], features: int, params: int, map: Map, options: dict[str, Any]) -> None:
        super().__init__()
        masks = [mask.detach().cpu() != 0 for mask in masks]
        inner = [masks[0][:, :features], *masks[1:]]
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
        self.hidden, self.features, self.map = layout.hidden, features, map
        self.options = {**options, **map.options}
        # the packed numbers' places among [0, biases, matrices] of the network as it is
        rows = (torch.arange(features)[:, None] * params + torch.tensor(list(map.places))).flatten()
        sizes = [len(mask) for mask in masks]
        biases = (1 + torch.arange(sum(sizes))).split(sizes)
        table, at = [torch.zeros(1, dtype=torch.int64), *biases[:-1], biases[-1][rows]], 1 + sum(sizes)
        for number, mask in enumerate(masks):
            place = torch.where(mask, at + torch.arange(mask.numel()).view(mask.shape), 0)
            place = place[:, :features] if number == 0 else place
            table.append((place[rows] if number == len(masks) - 1 else place).flatten())
            at += mask.numel()
        sorts = [torch.tensor(d).argsort(stable=True) for d in degrees]
        for name, value in {"plan": layout.plan, "source": torch.cat(table)[layout.source]}.items():
            self.register_buffer(name, value, persistent=False)
        for number, value in enumerate(sorts):  # of the units of every hidden layer, by rising degree
            self.register_buffer(f"sort{number}", value, persistent=False)
        self._cache: tuple[Any, Tensor] | None = None

    def sort(self, number: int) -> Tensor:
        """The units of a hidden layer by rising degree: the order of a shift."""
        return getattr(self, f"sort{number}")

    def forward(
        self, x: Tensor, layers: Sequence[tuple[Tensor, Tensor]], shift: Tensor | None, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        """x (B, D) by the network of these (weight, bias), the output layer last; shift as the op takes it."""
        weights = self._packed(layers)
        op = made_inverse if inverse else made_forward
        shift = None if shift is None else shift.to(x.dtype)
        return op(x, weights, shift, self.plan, self.hidden, **self.options)  # type: ignore[arg-type]

    def _packed(self, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        parts = [part for layer in layers for part in layer]
        wanted = torch.is_grad_enabled() and any(p.requires_grad for p in parts)
        # tensors that are no parameters say nothing of their version
        fresh = torch.compiler.is_compiling() or any(type(p) is not nn.Parameter or p.is_inference() for p in parts)
        if wanted or fresh:
            return self._pack(layers)
        key = torch.is_inference_mode_enabled(), [(p.data_ptr(), p._version, p.dtype, p.device) for p in parts]
        if self._cache is None or self._cache[0] != key:
            self._cache = key, self._pack(layers)
        return self._cache[1]

    def _pack(self, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        layers = [*layers[:-1], self.map.for_kernels(*layers[-1])]
        parts = [*(bias for _, bias in layers), *(weight.flatten() for weight, _ in layers)]
        flat = torch.cat([parts[0].new_zeros(1), *parts])
        return flat.index_select(0, self.source)  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in {"hidden": self.hidden, **self.options}.items())


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


def context_shift(layer: nn.Module, context: Tensor, features: int, order: Tensor) -> Tensor:
    """What the context columns of a masked first layer add to its units, in that order."""
    weight = (layer.mask * layer.weight)[:, features:]  # type: ignore[operator]
    return F.linear(context, weight[order])
