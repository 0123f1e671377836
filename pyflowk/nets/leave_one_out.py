"""What a place holds, from what all others say of it and what is seen there itself."""

from __future__ import annotations

import torch
from torch import Tensor

from ..paths import MixturePath
from ..space import Ragged
from .field import Field

__all__ = ["LeaveOneOut"]

MOST = 1 - 1e-6
"""A larger share of data counts as this one: there is no doubt left, but logits stay finite."""


class LeaveOneOut(Field):
    r"""The posterior of data under even noise, by a field that need not learn how far to trust what it sees.

    A symbol x of a :class:`pyflowk.paths.MixturePath` with uniform noise is data with odds that are known: to the
    logits of the ``field``, what the others say of it, :math:`\log(1 + K \kappa_t / (1 - \kappa_t))` is added at x. It
    grows without bound towards the data, as the true posterior does and a network cannot. Raises ValueError for a
    masked path, of which a symbol is data or says nothing. Cost: that of the field. Gourevitch et al., 2026,
    arXiv:2605.22765.

    >>> import torch
    >>> from pyflowk.nets import FunctionField, LeaveOneOut
    >>> from pyflowk.paths import MixturePath
    >>> field = LeaveOneOut(FunctionField(lambda t, x: torch.zeros(1, 1, 3)), MixturePath(3, "uniform"))
    >>> field(torch.tensor(0.5), torch.tensor([[2]])).softmax(-1)  # (1 - k) / 3 + k, normalised
    tensor([[[0.1667, 0.1667, 0.6667]]])
    """

    def __init__(self, field: Field, path: MixturePath) -> None:
        super().__init__()
        if path.mask is not None:
            raise ValueError(f"LeaveOneOut expects a path with uniform noise, got {path}")
        self.field, self.path, self.takes_context = field, path, field.takes_context

    def no_context(self) -> Tensor | Ragged:
        return self.field.no_context()

    def forward(self, t: Tensor | float, x: Tensor | Ragged, context: Tensor | None = None) -> Tensor:
        logits = self.field(t, x, context)
        ids = x.values.where(x.mask, 0) if isinstance(x, Ragged) else x
        kappa = self.path.kappa(torch.as_tensor(t, dtype=torch.float32, device=ids.device)).clamp(max=MOST)
        trust = torch.log1p(self.path.symbols * kappa / (1 - kappa)).to(logits.dtype)
        trust = trust.reshape(*trust.shape, *[1] * (ids.dim() - trust.dim())).expand(ids.shape)
        return logits.scatter_add(-1, ids.long().unsqueeze(-1), trust.unsqueeze(-1))
