"""Invertible maps of one variable with their parameters handed in: what moves the elements of a coupling or a MAF."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.affine_coupling import (
    BOUNDS,
    additive_coupling,
    affine_coupling,
    affine_coupling_from_output,
    log_scale,
)
from ..ops.dtypes import state_dtype
from ..ops.masks import checkerboard, mask_code, slices
from .base import sum_event
from .pullback import Pullback


class Map(nn.Module):
    r"""What moves the transformed part: an invertible map of one variable, with its parameters handed in.

    A subclass gives ``params_per_element``, k, and ``forward(x, params, *, mask="half", swap=False, inverse=False) ->
    (y, ladj)``: x is (B, C, \*rest), params (B, k Ct, \*rest) for Ct transformed channels, ladj (B,); ``interleaved``
    tells whether the parameters of one element lie side by side. :class:`Elementwise` makes one of a function.

    The rest has defaults that hold for any map; where a subclass has its own ``forward``, they are in force again.

    >>> import torch
    >>> from pyflowk.transforms import Coupling, Map
    >>> class Stretch(Map):  # y = x e^s for the second half
    ...     params_per_element = 1
    ...     def forward(self, x, params, *, mask="half", swap=False, inverse=False):
    ...         still, moved = x.chunk(2, 1)
    ...         s = -params if inverse else params
    ...         return torch.cat((still, moved * s.exp()), 1), s.sum(1)
    >>> coupling, x = Coupling(torch.nn.Linear(2, 2), Stretch()), torch.randn(5, 4)
    >>> torch.allclose(coupling.inverse(coupling(x)[0])[0], x, atol=1e-5)
    True
    """

    params_per_element: int
    interleaved: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in vars(cls):  # what is told of the parent's map does not hold for this one
            for name in ("from_output", "made_options"):
                if name not in vars(cls):
                    setattr(cls, name, vars(Map)[name])

    def forward(
        self, x: Tensor, params: Tensor, *, mask: str = "half", swap: bool = False, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def from_output(
        self, z: Tensor, params: Tensor, grad_z: Tensor, grad_ladj: Tensor, pullback: Pullback, *, mask: str, swap: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(x, grad_x, grad_params) from the output, without grad mode; here the inverse, and the map again by autograd.

        Gradients of parameters of the map's own go to ``pullback``.
        """
        x = self(z, params, mask=mask, swap=swap, inverse=True)[0]
        leaf, given = x.detach().requires_grad_(), params.detach().requires_grad_()
        with torch.enable_grad():
            outputs = self(leaf, given, mask=mask, swap=swap, inverse=False)
        return x, *pullback.vjp(outputs, (grad_z, grad_ladj), (leaf, given), self, None)

    @property
    def made_options(self) -> dict[str, Any] | None:
        """The keywords that describe the map to :func:`pyflowk.ops.made_inverse`; None, where it does not know it."""
        return None

    @property
    def decode_options(self) -> dict[str, Any] | None:
        """The same for :func:`pyflowk.ops.causal_decode`."""
        return self.made_options


def require_map(who: str, map: Any) -> Map:
    """TypeError for what is no Map."""
    if not isinstance(map, Map):
        raise TypeError(f"{who} expects a Map (Elementwise makes one of a function), got {type(map).__name__}")
    return map


class Affine(Map):
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
        self, z: Tensor, params: Tensor, grad_z: Tensor, grad_ladj: Tensor, pullback: Pullback, *, mask: str, swap: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        return affine_coupling_from_output(
            z, params, grad_z, grad_ladj, mask=mask, swap=swap, bound=self.bound, limit=self.limit,
            interleaved=self.interleaved,
        )  # fmt: skip

    def gaussian(self, params: Tensor) -> tuple[Tensor, Tensor]:
        r"""Log-scales s and shifts t (\*rest, n) of interleaved parameters (\*rest, 2 n), in float32 or better: what
        noise becomes is Gaussian of this log-deviation and mean."""
        params = params.to(state_dtype(params))
        return log_scale(params[..., 0::2], BOUNDS[self.bound], self.limit), params[..., 1::2]

    @property
    def made_options(self) -> dict[str, Any]:
        return {"bound": self.bound, "limit": self.limit}

    def extra_repr(self) -> str:
        return f"bound={self.bound!r}, limit={self.limit}, interleaved={self.interleaved}"


class Additive(Map):
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

    @property
    def made_options(self) -> dict[str, Any]:
        return {"bound": "additive"}

    def from_output(
        self, z: Tensor, params: Tensor, grad_z: Tensor, grad_ladj: Tensor, pullback: Pullback, *, mask: str, swap: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        return affine_coupling_from_output(z, params, grad_z, grad_ladj, mask=mask, swap=swap, bound=None)


class Elementwise(Map):
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
