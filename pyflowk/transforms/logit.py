"""From the unit interval to the real line."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.dtypes import state_dtype
from .base import Transform, sum_event


class Logit(Transform):
    r"""Unsquash the unit interval: :math:`p = \lambda + (1 - 2\lambda) x,\ z = \log p - \log(1 - p)`.

    x in [0, 1] of any event shape, z real;
    :math:`\mathrm{ladj} = \sum \log(1 - 2\lambda) - \log p - \log(1 - p)`. ``margin`` is :math:`\lambda`; with
    margin 0 the ends of the interval map to infinity. ``inverse`` may leave [0, 1] by up to
    :math:`\lambda / (1 - 2\lambda)`. Half precision is computed in float32.

    Cost: two logarithms per element; the inverse two exponentials. Raises ValueError unless 0 <= margin < 1/2.
    Dinh, Sohl-Dickstein, Bengio, 2017, arXiv:1605.08803, section 4.1.

    >>> from pyflowk.transforms import Logit
    >>> import torch
    >>> Logit(0.05)(torch.tensor([[0.5]]))
    (tensor([[0.]]), tensor([1.2809]))
    """

    def __init__(self, margin: float = 0.05) -> None:
        super().__init__()
        if not 0 <= margin < 0.5:
            raise ValueError(f"Logit expects 0 <= margin < 0.5, got {margin!r}")
        self.margin = float(margin)

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        p = self.margin + (1 - 2 * self.margin) * x.to(state_dtype(x))
        log_p, log_q = torch.log(p), torch.log1p(-p)
        return log_p - log_q, sum_event(math.log1p(-2 * self.margin) - log_p - log_q)

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        z = z.to(state_dtype(z))
        x = (torch.sigmoid(z) - self.margin) / (1 - 2 * self.margin)
        return x, sum_event(F.logsigmoid(z) + F.logsigmoid(-z) - math.log1p(-2 * self.margin))

    def extra_repr(self) -> str:
        return f"margin={self.margin}"
