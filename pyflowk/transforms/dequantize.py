"""From integers to a density and back."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.draw import draw_uniform
from ..ops.dtypes import state_dtype
from ..ops.modes import transformed
from .base import Transform, zero_ladj


def check_levels(x: Tensor, levels: int, name: str = "x", what: str = "levels") -> None:
    """Raise ValueError for numbers in x that are no integers of 0..levels-1; NaN is let through, to come out as NaN.

    >>> import torch
    >>> from pyflowk.transforms import check_levels
    >>> check_levels(torch.tensor([0, 3]), levels=4)
    """
    if not x.numel():
        return
    low, high = (float(end) for end in torch.aminmax(x))
    if low < 0 or high > levels - 1:
        raise ValueError(f"{name}: expected integers 0 to {levels - 1} ({levels} {what}), got {low:g} to {high:g}")
    if not x.is_floating_point() or torch.equal(x, x.round()):
        return
    broken = x[(x - x.round()).abs() > 0]
    if len(broken):  # what is left is NaN
        raise ValueError(f"{name}: expected integers 0 to {levels - 1} ({levels} {what}), got {broken[0].item():g}")


class Dequantize(Transform):
    r"""Add uniform noise to integers: :math:`z = x + u,\ u \sim U[0, 1)`; ``inverse`` rounds down.

    x holds 0..levels-1 in any dtype, z lies in [0, levels), float32 or float64. Both log-determinants are 0, so that a
    flow's log-density at z is, on average over u, a lower bound on log P(x), and the cells' integrals sum to one:
    bits per dimension need no constant. ``inverse`` clamps to 0..levels-1.

    Cost: one random number per element; the inverse one pass. Raises ValueError for levels < 2, and on the CPU for
    other values than the integers 0..levels-1 (elsewhere looking would stall the device: ``Dataset`` checks them once).
    Theis, van den Oord, Bethge, 2016, arXiv:1511.01844.

    >>> from pyflowk.transforms import Dequantize
    >>> import torch
    >>> dequantize = Dequantize(levels=4)
    >>> z, ladj = dequantize(torch.tensor([[0, 3]]), generator=torch.Generator().manual_seed(0))
    >>> dequantize.inverse(z)[0]
    tensor([[0., 3.]])
    """

    stochastic = True

    def __init__(self, levels: int) -> None:
        super().__init__()
        if not isinstance(levels, int) or levels < 2:
            raise ValueError(f"Dequantize expects levels to be an integer of at least 2, got {levels!r}")
        self.levels = levels

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        dtype = state_dtype(x)
        if x.is_cpu and not transformed():
            check_levels(x, self.levels)
        noise = draw_uniform(x.shape, generator, dtype=dtype, device=x.device)
        # Close to 1 the sum would round up to the next integer: stop one rounding step before it.
        noise = noise.clamp(max=1 - self.levels * torch.finfo(dtype).eps)
        return x.to(dtype) + noise, zero_ladj(x)

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return z.floor().clamp(0, self.levels - 1), zero_ladj(z)

    def extra_repr(self) -> str:
        return f"levels={self.levels}"
