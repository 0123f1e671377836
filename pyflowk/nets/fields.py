"""The vector fields f(t, x, context) of continuous flows, t = 0 noise and t = 1 data: every layer hears the time."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import require_counts
from ..ops.activations import ACTIVATIONS
from ..ops.times import as_time
from .activations import FIELD_ACTIVATIONS
from .context import add_context, context_vector, make_context
from .dual import Dual, DualField
from .field import FusedParameters
from .time import Clock, TimeConv2d, TimeLinear

__all__ = ["ConvField", "MLPField"]


class MLPField(DualField):
    r"""A vector field on (B, features): ``depth`` hidden layers of ``width`` units, each of them hearing the time.

    ``field(t, x, context=None) -> dx/dt``, shaped as x; t is a number, a tensor () or one time a row (B,); one of an
    ``interval`` takes its ``end`` too, times likewise (:class:`FlowMap` says what for). ``time`` is
    that of :class:`TimeLinear`; ``activation`` one of tanh, softplus, silu, elu, sin. The condition (``classes`` or
    ``context_dim``) enters the first layer as if concatenated to x; a ``droppable`` one may be None. The last layer
    starts at zero: the flow starts as the identity. One of other ``outputs`` than features is no velocity, and has
    neither a fused form nor a divergence. Raises ValueError for unknown names, a depth below 1, a context missing or
    not wanted.

    ``fused(times, context)`` hands the field to the whole-trajectory kernel;
    ``with_divergence(t, x, context)`` is the exact divergence of a field with one or two hidden layers by one more
    matrix product: with d the slopes of the activations, div = d_2' (W_2 o (W_1 W_3)') d_1.

    Cost: depth + 1 matrix products. Grathwohl et al., 2019, arXiv:1810.01367.

    >>> import torch
    >>> from pyflowk.nets import MLPField
    >>> MLPField(2, width=8)(0.5, torch.ones(1, 2))
    tensor([[0., 0.]], grad_fn=<AddBackward0>)
    """

    def __init__(
        self,
        features: int,
        width: int = 64,
        depth: int = 3,
        activation: str = "tanh",
        time: str = "concatsquash",
        context_dim: int | None = None,
        classes: int | None = None,
        droppable: bool = False,
        interval: bool = False,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.outputs = features if outputs is None else outputs
        require_counts("MLPField", features=features, width=width, depth=depth, outputs=self.outputs)
        _check_activation(activation)
        self.features, self.width, self.depth, self.activation = features, width, depth, activation
        sizes = [features, *[width] * depth, self.outputs]
        self.layers = nn.ModuleList(
            TimeLinear(a, b, time, zero=i == depth, interval=interval) for i, (a, b) in enumerate(pairwise(sizes))
        )
        self.context = make_context(width, context_dim, classes, droppable)
        self.takes_context, self.hears_end = self.context is not None, interval

    def _run(self, clock: Clock, dual: Dual, context: Tensor | None) -> Dual:
        x, v = dual.value, dual.tangents
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, TimeLinear)
            x, v = F.linear(x, layer.weight), None if v is None else F.linear(v, layer.weight)
            if i == 0:
                x = add_context(x, self.context, context)
            x, v = layer._applied(x, clock, v)
            if i < self.depth:
                x, v = _activated(self.activation, x, v)
        return Dual(x, v)

    def fused(self, times: Tensor, context: Tensor | None = None) -> FusedParameters | None:
        """All that the kernel needs, for evaluations at ``times`` (T,)."""
        if self.outputs != self.features:
            return None
        bias = context_vector(self.context, context, 1 if context is None else context.shape[0])
        tables = [layer.gate_and_shift(times) for layer in self.layers]  # type: ignore[operator]
        gates = None if tables[0][0] is None else torch.cat([gate for gate, _ in tables], 1)
        weights = torch.cat([layer.weight.flatten() for layer in self.layers])  # type: ignore[operator]
        shifts = torch.cat([shift for _, shift in tables], 1)
        return FusedParameters(weights, gates, shifts, bias, self.width, self.depth, self.activation)

    def has_divergence(self, t: Tensor) -> bool:
        """Whether ``with_divergence`` takes such times: one for all rows, or matrices that no gate changes."""
        return (
            self.outputs == self.features
            and self.depth <= 2
            and (t.dim() == 0 or self.layers[0].time != "concatsquash")
        )

    def with_divergence(self, t: Tensor | float, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f(t, x) and its exact divergence (B,); ValueError unless ``has_divergence(t)``."""
        t = as_time(t, x)
        if not self.has_divergence(t):
            raise ValueError(
                "with_divergence expects at most two hidden layers, and one time for all rows if they have gates; got "
                f"{self.depth} and times {tuple(t.shape)}"
            )
        act, h = ACTIVATIONS[self.activation], x
        slopes: list[Tensor] = []
        matrices: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, TimeLinear)
            gate, shift = layer.gate_and_shift(t)
            matrix = layer.weight if gate is None else layer.weight * gate.unsqueeze(1)
            r = F.linear(h, matrix)
            if i == 0 and (bias := context_vector(self.context, context, x.shape[0])) is not None:
                r = r + (bias if gate is None else bias * gate)
            h = r + shift
            if i < self.depth:
                slopes.append(act.slope(h))
                h = act.value(h)
            matrices.append(matrix)
        loop = matrices[0] @ matrices[-1]  # (H_1, H_last): once through the output and in again
        if self.depth == 1:
            return h, slopes[0] @ loop.diagonal()
        return h, (slopes[1] @ (matrices[1] * loop.t()) * slopes[0]).sum(1)


class ConvField(DualField):
    r"""A vector field on images (B, C, H, W): ``depth`` hidden convolutions of ``width`` channels, zero at the start.

    As :class:`MLPField` in everything else; no downsampling inside. Cost: depth + 1 convolutions 3 x 3.
    Grathwohl et al., 2019, arXiv:1810.01367.

    >>> import torch
    >>> from pyflowk.nets import ConvField
    >>> ConvField(1, width=4)(0.5, torch.ones(2, 1, 4, 4)).shape
    torch.Size([2, 1, 4, 4])
    """

    def __init__(
        self,
        channels: int,
        width: int = 32,
        depth: int = 3,
        activation: str = "softplus",
        time: str = "concat",
        context_dim: int | None = None,
        classes: int | None = None,
        droppable: bool = False,
        interval: bool = False,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        outputs = channels if outputs is None else outputs
        require_counts("ConvField", channels=channels, width=width, depth=depth, outputs=outputs)
        _check_activation(activation)
        self.activation = activation
        sizes = [channels, *[width] * depth, outputs]
        self.layers = nn.ModuleList(
            TimeConv2d(a, b, 3, time, i == depth, interval) for i, (a, b) in enumerate(pairwise(sizes))
        )
        self.context = make_context(width, context_dim, classes, droppable)
        self.takes_context, self.hears_end = self.context is not None, interval

    def _run(self, clock: Clock, dual: Dual, context: Tensor | None) -> Dual:
        x, v = dual.value, dual.tangents
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, TimeConv2d)
            if i:
                x, v = _activated(self.activation, x, v)
            x, v = layer.with_tangents(clock, x, v)
            if i == 0:
                x = add_context(x, self.context, context)
        return Dual(x, v)


def _check_activation(activation: str) -> None:
    if activation not in FIELD_ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(FIELD_ACTIVATIONS)}; got {activation!r}")


def _activated(name: str, h: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The activation, and its tangents (B, K, ...) for those v of h."""
    act = ACTIVATIONS[name]
    return act.value(h), None if v is None else v * act.slope(h).unsqueeze(1)
