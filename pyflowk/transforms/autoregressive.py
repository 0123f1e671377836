"""Masked autoregressive maps: each coordinate is moved with parameters made from those before it."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ..ops.made import MADE_ACTIVATIONS, made_forward, made_inverse
from ..ops.modes import plain_autograd
from .base import Transform, zero_ladj
from .maps import Affine, Map, require_map
from .pullback import Pullback


class Walk(Protocol):
    """The network one coordinate at a time."""

    def params(self, i: int, x: list[Tensor]) -> Tensor: ...


class Made(Protocol):
    """What MaskedAutoregressive asks of its network: that of :class:`pyflowk.nets.MADE`."""

    features: int
    params_per_element: int
    activation: str
    residual: bool
    interleaved: bool
    takes_context: bool
    order: list[int]
    share: float

    def __call__(self, x: Tensor, context: Tensor | None = None) -> Tensor: ...
    def packed(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor, tuple[int, ...]]: ...
    def walk(self, x: Tensor, context: Tensor | None) -> Walk: ...


class MaskedAutoregressive(Transform):
    r"""Every coordinate mapped by the ones before: :math:`z_i = f(x_i; \mathrm{made}(x_0 \ldots x_{i-1}))`.

    Args:
        made: a :class:`pyflowk.nets.MADE` of ``map.params_per_element`` parameters an element.
        map: :class:`Affine` (default), :class:`Additive`, :class:`RationalQuadratic`, :class:`Elementwise`, or another
            :class:`Map`.

    x is (B, D); ladj (B,). ``forward`` (density) is one pass of the network. ``inverse`` (sampling) costs about the
    same for an affine, additive or spline map: :func:`pyflowk.ops.made_inverse` computes every hidden unit once, and
    the gradient through it is one sweep of the same cost with no more memory than one pass, whatever D. Other maps, and
    activations without a kernel, take D small steps in torch, each hidden unit still computed once. The network runs in
    its own precision under autocast too: both directions must see the same parameters.
    ``Invert(MaskedAutoregressive(...))`` is the inverse autoregressive flow.

    Raises ValueError for x that is not (B, D), a network with another number of parameters or another layout than the
    map's, and a context that is missing.
    Papamakarios, Pavlakou, Murray, 2017, arXiv:1705.07057; Kingma et al., 2016, arXiv:1606.04934; splines: Durkan et
    al., 2019, arXiv:1906.04032.

    >>> import torch
    >>> from pyflowk.nets import MADE
    >>> from pyflowk.transforms import MaskedAutoregressive
    >>> maf = MaskedAutoregressive(MADE(3, hidden=(16,)))
    >>> x = torch.randn(5, 3)
    >>> torch.allclose(maf.inverse(maf(x)[0])[0], x), maf(x)[1].shape
    (True, torch.Size([5]))
    """

    def __init__(self, made: Made, map: Map | None = None) -> None:
        super().__init__()
        self.made: Made = made
        self.map = Affine() if map is None else require_map("MaskedAutoregressive", map)
        if made.params_per_element != self.map.params_per_element:
            raise ValueError(
                f"MaskedAutoregressive expects a network of {self.map.params_per_element} parameters an element for "
                f"this map, got one of {made.params_per_element}"
            )
        if self.map.interleaved != made.interleaved:
            raise ValueError(
                f"MaskedAutoregressive expects network and map to agree on interleaved, got {made.interleaved} and "
                f"{self.map.interleaved}"
            )

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(x)
        context = self._wanted(context)
        options = self._options() if x.is_cpu and self._pays(x.shape[0]) else None
        if options is not None:
            return made_forward(x, *self.made.packed(x, context), **options)
        with torch.autocast(x.device.type, enabled=False):
            return self.map(x, self.made(x, context), mask="all", swap=False, inverse=False)

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(z)
        context = self._wanted(context)
        options = self._options()
        if options is not None:
            return made_inverse(z, *self.made.packed(z, context), **options)
        found: list[Tensor] = []
        total = zero_ladj(z)
        with torch.autocast(z.device.type, enabled=False):
            walk = self.made.walk(z, context)
            for i, feature in enumerate(self.made.order):
                params = walk.params(i, found)
                x, ladj = self.map(z[:, feature : feature + 1], params, mask="all", swap=False, inverse=True)
                found.append(x)
                total = total + ladj
        back = sorted(range(len(found)), key=self.made.order.__getitem__)
        return torch.cat([found[i] for i in back], 1), total

    def backward_from_output(
        self, z: Tensor, grad_z: Tensor, grad_ladj: Tensor, context: Tensor | None, pullback: Pullback
    ) -> tuple[Tensor, Tensor]:
        x = self.inverse(z, context)[0].detach().requires_grad_()
        with torch.enable_grad():
            outputs = self(x, context)
        (grad_x,) = pullback.vjp(outputs, (grad_z, grad_ladj), (x,), self, context)
        return x.detach(), grad_x

    def _pays(self, rows: int) -> bool:
        """Whether the kernel is faster on so many rows than products of whole matrices, which a card has for all: with
        a gradient, its weights are packed at every call, and it computes the units again on its way back."""
        if not torch.is_grad_enabled():
            return True
        return rows >= 512 and self.made.share <= 0.65 and plain_autograd()

    def _options(self) -> dict[str, Any] | None:
        """The keywords of the MADE ops; None, where they do not know the map or the activation."""
        map = self.map.made_options
        if map is None or self.made.activation not in MADE_ACTIVATIONS:
            return None
        return {"activation": self.made.activation, "residual": self.made.residual, **map}

    def _wanted(self, context: Tensor | None) -> Tensor | None:
        return context if self.made.takes_context else None

    def _check(self, x: Tensor) -> None:
        if x.dim() != 2 or x.shape[1] != self.made.features:
            raise ValueError(f"MaskedAutoregressive expects (B, {self.made.features}), got {tuple(x.shape)}")
