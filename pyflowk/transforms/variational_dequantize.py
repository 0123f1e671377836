"""From integers to a density with noise that is learned."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.draw import draw_uniform
from ..ops.dtypes import state_dtype
from ..ops.modes import transformed
from .base import Transform, sum_event
from .dequantize import check_levels


class VariationalDequantize(Transform):
    r"""Add noise whose distribution depends on the integers: :math:`z = x + u,\ u \sim q(u \mid x)` on [0, 1).

    A conditional flow makes the noise: :math:`u = \sigma(g_x^{-1}(\epsilon))` with a logistic :math:`\epsilon`.
    ``noise`` is that g, a transform of events of x's shape (its ``inverse`` draws), which gets x, scaled to [-1, 1], as
    its context; where g is the identity, as it is at the start for zero-initialised networks, u is uniform.

    Forward's ladj is :math:`-\log q(u \mid x)`, so that a flow's log-density at x is on average a lower bound on
    :math:`\log P(x)`; the best q makes it tight, where uniform noise (:class:`Dequantize`) asks for a density that is
    flat on every cell. ``inverse`` rounds down, clamps to 0..levels-1, and gives :math:`\log q(u \mid x)` at the u that
    it cut off. x is (B, \*event) in any dtype.

    Cost: one pass of ``noise``, both directions. Raises ValueError for levels < 2, TypeError unless ``noise`` is a
    Transform, ValueError for one that draws random numbers. Ho, Chen, Srinivas, Duan, Abbeel, 2019, arXiv:1902.00275.

    >>> import torch
    >>> from pyflowk.nets import MLP
    >>> from pyflowk.transforms import Coupling, VariationalDequantize
    >>> dequantize = VariationalDequantize(4, Coupling(MLP(0, 4, context_dim=2), mask="all"))
    >>> z, ladj = dequantize(torch.tensor([[0.0, 3.0]]), generator=torch.Generator().manual_seed(0))
    >>> dequantize.inverse(z)[0].detach()
    tensor([[0., 3.]])
    """

    stochastic = True

    def __init__(self, levels: int, noise: Transform) -> None:
        super().__init__()
        if not isinstance(levels, int) or levels < 2:
            raise ValueError(f"VariationalDequantize expects levels to be an integer of at least 2, got {levels!r}")
        if not isinstance(noise, Transform):
            raise TypeError(f"VariationalDequantize expects a Transform for the noise, got {type(noise).__name__}")
        if noise.stochastic or noise.estimates_ladj:
            raise ValueError(f"VariationalDequantize expects a deterministic noise flow, got {type(noise).__name__}")
        self.levels, self.noise = levels, noise

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        x = x.to(state_dtype(x))
        if x.is_cpu and not transformed():
            check_levels(x, self.levels)
        eps = torch.finfo(x.dtype).eps
        start = draw_uniform(x.shape, generator, dtype=x.dtype, device=x.device).clamp(eps, 1 - eps).logit()
        logit, ladj = self.noise.inverse(start, self._scaled(x))
        # Close to 1 the sum would round up to the next integer: stop one rounding step before it.
        u = torch.sigmoid(logit).clamp(max=1 - self.levels * eps)
        return x + u, ladj + _log_slope(logit) - _log_slope(start)

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        x = z.floor().clamp(0, self.levels - 1)
        eps = torch.finfo(state_dtype(z)).eps
        logit = (z - x).to(state_dtype(z)).clamp(eps, 1 - eps).logit()
        end, ladj = self.noise(logit, self._scaled(x))
        return x, ladj + _log_slope(end) - _log_slope(logit)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        return self.forward(x, context, generator)[0]

    def _scaled(self, x: Tensor) -> Tensor:
        return x.to(state_dtype(x)) * (2 / (self.levels - 1)) - 1

    def extra_repr(self) -> str:
        return f"levels={self.levels}"


def _log_slope(logit: Tensor) -> Tensor:
    """log du/dl of u = sigmoid(l), which is also the log-density of the logistic distribution: (B,)."""
    return sum_event(F.logsigmoid(logit) + F.logsigmoid(-logit))
