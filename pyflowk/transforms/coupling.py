"""Coupling layers: one part of the event decides how the other is transformed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..nets.context import wants_context, with_context
from ..ops.masks import halves, identity_part, mask_code, transformed_channels
from ..shapes import expand_context
from .base import Transform
from .maps import Affine, Map, require_map
from .pullback import Pullback


class Coupling(Transform):
    r"""One part passes unchanged and parametrises the map of the other: :math:`z_b = f(x_b; \mathrm{net}(x_a))`.

    Args:
        net: any module from the identity part to the map's parameters, ``net(x_a)``, and ``net(x_a, context)`` where
            there is a context. With the masks "half", "channel" and "alternating" x_a holds the identity channels
            alone; for "checkerboard" it is x with zeros at the transformed positions; for "all" it is empty
            (B, 0, \*rest) and only the context speaks. The output is (B, k Ct, \*rest), k = ``map.params_per_element``,
            Ct transformed channels.
        map: :class:`Affine` (default), :class:`Additive`, :class:`RationalQuadratic`, :class:`Elementwise` of any
            function, or another :class:`Map`.
        mask: "half" (identity C//2 first; "channel" is another name for it), "alternating" (even indices),
            "checkerboard" (h + w even) or "all". ``swap`` exchanges the two parts.
        conditional: False keeps a context from the network; default: whether a :class:`pyflowk.nets.Network` takes
            one, True for any other module.

    Shapes: x (B, D) or (B, C, H, W); ladj (B,) as the map gives it. Half-precision network outputs beside a float32 x
    are fine (autocast). Errors: ValueError for an unknown mask or parameters of the wrong shape.
    Cost: one network evaluation and one pass in each direction. Dinh et al., 2017, arXiv:1605.08803.

    >>> import torch
    >>> from pyflowk.transforms import Coupling
    >>> coupling = Coupling(torch.nn.Linear(2, 4), mask="half")
    >>> x = torch.randn(5, 4)
    >>> z, ladj = coupling(x)
    >>> torch.allclose(coupling.inverse(z)[0], x, atol=1e-5), ladj.shape
    (True, torch.Size([5]))
    """

    def __init__(
        self,
        net: nn.Module,
        map: Map | None = None,
        mask: str = "half",
        swap: bool = False,
        conditional: bool | None = None,
    ) -> None:
        super().__init__()
        mask_code(mask, swap)
        self.net = net
        self.map = Affine() if map is None else require_map("Coupling", map)
        self.mask, self.swap = mask, swap
        self.conditional = wants_context(net, conditional)

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._move(x, context, inverse=False)

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._move(z, context, inverse=True)

    def backward_from_output(
        self, z: Tensor, grad_z: Tensor, grad_ladj: Tensor, context: Tensor | None, pullback: Pullback
    ) -> tuple[Tensor, Tensor]:
        seen = z.detach().requires_grad_()
        with torch.enable_grad():
            params = self._params(seen, identity_part(seen, self.mask, self.swap), context)
        x, grad_x, grad_params = self.map.from_output(
            z, params.detach(), grad_z, grad_ladj, pullback, mask=self.mask, swap=self.swap
        )
        (grad_seen,) = pullback.vjp((params,), (grad_params,), (seen,), self.net, context)
        return x, grad_x + grad_seen

    def _move(self, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        if x.dim() < 2:
            raise ValueError(f"Coupling expects (B, D) or (B, C, H, W), got {tuple(x.shape)}")
        if torch.compiler.is_compiling() and self.mask in ("half", "channel"):
            # network and map share one split, as one would write it by hand: Inductor then fuses as much of it
            still, moved = halves(x, self.swap)
            moved, ladj = self.map(moved, self._params(x, still, context), mask="all", swap=False, inverse=inverse)
            return torch.cat([moved, still] if self.swap else [still, moved], 1), ladj
        params = self._params(x, identity_part(x, self.mask, self.swap), context)
        return self.map(x, params, mask=self.mask, swap=self.swap, inverse=inverse)

    def _params(self, x: Tensor, part: Tensor, context: Tensor | None) -> Tensor:
        if context is None or not self.conditional:
            params = self.net(part)
        else:
            params = with_context(self.net, part, expand_context(context, x.shape[0]))
        channels = self.map.params_per_element * transformed_channels(x.shape[1], self.mask, self.swap)
        if params.shape != (x.shape[0], channels, *x.shape[2:]):
            raise ValueError(
                f"Coupling expects its network to return {(x.shape[0], channels, *x.shape[2:])} for x"
                f" {tuple(x.shape)}, mask {self.mask!r}, swap={self.swap}; got {tuple(params.shape)}"
            )
        return params

    def extra_repr(self) -> str:
        return f"mask={self.mask!r}, swap={self.swap}, conditional={self.conditional}"
