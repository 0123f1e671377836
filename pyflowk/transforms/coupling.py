"""Coupling layers: one part of the event decides how the other is transformed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from ..ops.affine_coupling import additive_coupling, affine_coupling, affine_coupling_from_output
from ..ops.dtypes import state_dtype
from ..ops.masks import checkerboard, halves, identity_part, mask_code, slices, transformed_channels
from .base import Transform, sum_event
from .pullback import Pullback


class Map(Protocol):
    """What moves the transformed part: an invertible map of one variable, with its parameters handed in.

    A map that knows its gradients from its output may offer ``from_output(z, params, grad_z, grad_ladj, *, mask, swap)
    -> (x, grad_x, grad_params)``, all without grad mode; the others are inverted and run again for autograd.
    """

    params_per_element: int

    def __call__(self, x: Tensor, params: Tensor, *, mask: str, swap: bool, inverse: bool) -> tuple[Tensor, Tensor]: ...


class Affine(nn.Module):
    r"""The map :math:`y = x e^s + t` with a bounded log-scale: two parameters per element.

    bound "tanh": :math:`s = c \tanh(r / c)` with c = ``limit``; "sigmoid": :math:`s = \log\sigma(r + 2)`; "none":
    :math:`s = r`. ``interleaved`` tells the layout of the network's output: raw scales and shifts in turn, or all
    scales first. Shapes, errors and masks are those of :func:`pyflowk.ops.affine_coupling`; cost: one pass, both
    directions. Raises ValueError for an unknown bound or a limit that is not positive.

    Dinh, Sohl-Dickstein, Bengio, 2017, arXiv:1605.08803; bound "sigmoid": Kingma, Dhariwal, 2018, arXiv:1807.03039.

    >>> import torch
    >>> from pyflowk.transforms import Affine
    >>> Affine("none")(torch.ones(1, 2), torch.tensor([[0.0, 3.0]]))
    (tensor([[1., 4.]]), tensor([0.]))
    """

    params_per_element = 2

    def __init__(self, bound: str = "tanh", limit: float = 2.0, interleaved: bool = False) -> None:
        super().__init__()
        if bound not in ("tanh", "sigmoid", "none"):
            raise ValueError(f"Affine expects bound 'tanh', 'sigmoid' or 'none', got {bound!r}")
        if not 0 < limit <= 80:
            raise ValueError(f"Affine expects a positive limit of at most 80, got {limit!r}")
        self.bound, self.limit, self.interleaved = bound, float(limit), interleaved

    def forward(
        self, x: Tensor, params: Tensor, *, mask: str = "half", swap: bool = False, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        return affine_coupling(
            x, params, mask=mask, swap=swap, bound=self.bound, limit=self.limit,
            interleaved=self.interleaved, inverse=inverse,
        )  # fmt: skip

    def from_output(
        self, z: Tensor, params: Tensor, grad_z: Tensor, grad_ladj: Tensor, *, mask: str, swap: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(x, grad_x, grad_params) from the output."""
        return affine_coupling_from_output(
            z, params, grad_z, grad_ladj, mask=mask, swap=swap, bound=self.bound, limit=self.limit,
            interleaved=self.interleaved,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"bound={self.bound!r}, limit={self.limit}, interleaved={self.interleaved}"


class Additive(nn.Module):
    r"""The map :math:`y = x + t`, log-determinant 0: one parameter per element.

    Shapes, errors and masks are those of :func:`pyflowk.ops.additive_coupling`; cost: one pass, both directions.
    Dinh, Krueger, Bengio, 2015, arXiv:1410.8516.

    >>> import torch
    >>> from pyflowk.transforms import Additive
    >>> Additive()(torch.ones(1, 2), torch.tensor([[3.0]]), swap=True)
    (tensor([[4., 1.]]), tensor([0.]))
    """

    params_per_element = 1

    def forward(
        self, x: Tensor, params: Tensor, *, mask: str = "half", swap: bool = False, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        return additive_coupling(x, params, mask=mask, swap=swap, inverse=inverse)

    def from_output(
        self, z: Tensor, params: Tensor, grad_z: Tensor, grad_ladj: Tensor, *, mask: str, swap: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(x, grad_x, grad_params) from the output."""
        return affine_coupling_from_output(z, params, grad_z, grad_ladj, mask=mask, swap=swap, bound=None)


class Elementwise(nn.Module):
    r"""Adapt a function that knows no masks: :math:`y_i = f(x_i; \theta_i)` on the transformed part only.

    ``function(x, params, inverse=False) -> (y, log_slope)`` works on x (B, n, \*rest) and params
    (B, k n, \*rest), k = ``params_per_element``, and gives the log-derivative of the direction it was asked for,
    element by element. Under a checkerboard it sees zeros at the identity positions, so that no gradient of theirs can
    spoil the others'.

    Cost: that of the function and one copy of x. Raises ValueError for an unknown mask; the function is left to check
    its parameters.

    >>> import torch
    >>> from pyflowk.transforms import Elementwise
    >>> def cubic(x, params, inverse=False):
    ...     root = x.sign() * x.abs() ** (1 / 3) if inverse else x
    ...     slope = torch.log(3 * root**2)
    ...     return (root, -slope) if inverse else (root**3, slope)
    >>> Elementwise(cubic, 1)(torch.full((1, 2), 2.0), torch.zeros(1, 1))
    (tensor([[2., 8.]]), tensor([2.4849]))
    """

    def __init__(self, function: Callable[..., tuple[Tensor, Tensor]], params_per_element: int) -> None:
        super().__init__()
        self.function, self.params_per_element = function, params_per_element

    def forward(
        self, x: Tensor, params: Tensor, *, mask: str = "half", swap: bool = False, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        code = mask_code(mask, swap)
        params = params.to(state_dtype(x))  # half-precision networks must not bring the map down with them
        if mask == "all":
            y, log_slope = self.function(x, params, inverse=inverse)
            return y, sum_event(log_slope)
        if mask == "checkerboard":
            moved = checkerboard(x, code)
            y, log_slope = self.function(x.masked_fill(~moved, 0), params, inverse=inverse)
            return torch.where(moved, y, x), sum_event(log_slope.masked_fill(~moved, 0))
        part = slices(x.shape[1], code)[1]
        y, log_slope = self.function(x[:, part], params, inverse=inverse)
        return torch.slice_scatter(x.to(y.dtype), y, 1, part.start, part.stop, part.step or 1), sum_event(log_slope)


class Coupling(Transform):
    r"""One part passes unchanged and parametrises the map of the other: :math:`z_b = f(x_b; \mathrm{net}(x_a))`.

    Args:
        net: any module from the identity part to the map's parameters, ``net(x_a)``, or ``net(x_a, context)`` when a
            context is given and its forward takes a second argument (``conditional`` overrides that test). With the
            masks "half", "channel" and "alternating" x_a holds the identity channels alone; for "checkerboard" it is
            x with zeros at the transformed positions; for "all" it is empty (B, 0, \*rest) and only the context
            speaks. The output is (B, k Ct, \*rest), k = ``map.params_per_element``, Ct transformed channels.
        map: :class:`Affine` (default), :class:`Additive`, :class:`Elementwise` of any function, or anything that
            obeys :class:`Map`.
        mask: "half" (identity C//2 first; "channel" is another name for it), "alternating" (even indices),
            "checkerboard" (h + w even) or "all". ``swap`` exchanges the two parts.

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
        self.map: Map = Affine() if map is None else map
        self.mask, self.swap = mask, swap
        self.conditional = _takes_context(net) if conditional is None else conditional

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
        fixed = params.detach()
        from_output = getattr(self.map, "from_output", None)
        if from_output is not None:
            x, grad_x, grad_params = from_output(z, fixed, grad_z, grad_ladj, mask=self.mask, swap=self.swap)
            (grad_seen,) = pullback.vjp((params,), (grad_params,), (seen,), self.net, context)
            return x, grad_x + grad_seen
        x = self.map(z, fixed, mask=self.mask, swap=self.swap, inverse=True)[0]
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            outputs = self.map(leaf, params, mask=self.mask, swap=self.swap, inverse=False)
        grad_seen, grad_x = pullback.vjp(outputs, (grad_z, grad_ladj), (seen, leaf), self, context)
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
        params = self.net(part) if context is None or not self.conditional else self.net(part, context)
        channels = self.map.params_per_element * transformed_channels(x.shape[1], self.mask, self.swap)
        if params.shape != (x.shape[0], channels, *x.shape[2:]):
            raise ValueError(
                f"Coupling expects its network to return {(x.shape[0], channels, *x.shape[2:])} for x"
                f" {tuple(x.shape)}, mask {self.mask!r}, swap={self.swap}; got {tuple(params.shape)}"
            )
        return params

    def extra_repr(self) -> str:
        return f"mask={self.mask!r}, swap={self.swap}, conditional={self.conditional}"


def _takes_context(net: nn.Module) -> bool:
    """Whether the network says that it takes a context, or its forward has a second argument."""
    declared = getattr(net, "takes_context", None)
    if declared is not None:
        return bool(declared)
    parameters = list(inspect.signature(net.forward).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)
