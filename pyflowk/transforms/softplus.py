"""Affine maps whose scales are soft from both sides."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.causal_decode import SOFT_ONE
from ..ops.dtypes import state_dtype
from .maps import Affine


class SoftplusAffine(Affine):
    r"""The map :math:`y = x\, \mathrm{softplus}(a + 0.5413) + b`, 1 and 0 for a = b = 0; a, b clipped softly.

    Parameters a and b of each element come side by side; with a ``clip`` c each is :math:`c \tanh(r / c)` of what
    comes, 0 leaves them as they are. Shapes and errors are those of :class:`Affine`; cost: one pass over the
    parameters, and its own. Raises ValueError for a clip below 0 or above 80. Gu et al., 2025, arXiv:2506.06276.

    >>> import torch
    >>> from pyflowk.transforms import SoftplusAffine
    >>> y, ladj = SoftplusAffine()(torch.ones(1, 2), torch.zeros(1, 4), mask="all")
    >>> y, ladj.abs() < 1e-6
    (tensor([[1., 1.]]), tensor([True]))
    """

    def __init__(self, clip: float = 4.0) -> None:
        super().__init__("none", interleaved=True)
        if not 0 <= clip <= 80:
            raise ValueError(f"clip: expected a number from 0 to 80, got {clip!r}")
        self.clip = float(clip)

    def forward(
        self, x: Tensor, params: Tensor, *, mask: str = "half", swap: bool = False, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        return super().forward(x, self._plain(params, 1), mask=mask, swap=swap, inverse=inverse)

    def gaussian(self, params: Tensor) -> tuple[Tensor, Tensor]:
        return super().gaussian(self._plain(params, -1))

    def _plain(self, params: Tensor, dim: int) -> Tensor:
        """Log-scales and shifts, side by side along a dimension."""
        params = params.to(state_dtype(params))
        raw = self.clip * torch.tanh(params / self.clip) if self.clip else params
        a, b = raw.unflatten(dim, (-1, 2)).unbind(dim + 1 if dim >= 0 else -1)
        rest = dim + 1 if dim >= 0 else -1
        return torch.stack((F.softplus(a + SOFT_ONE).log(), b), rest).flatten(dim if dim >= 0 else -2, rest)

    @property
    def decode_options(self) -> dict[str, Any]:
        return {"bound": "softplus", "limit": self.clip}

    def extra_repr(self) -> str:
        return f"clip={self.clip:g}"
