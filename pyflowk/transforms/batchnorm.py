"""Batch normalisation as an invertible layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._checks import require_counts, require_numbers
from ..ops.dtypes import state_dtype
from .base import Transform, varying


class BatchNorm(Transform):
    r"""Batch norm as a flow layer: :math:`z = (x - m) / \sqrt{v + \epsilon}\; e^{\gamma} + \beta`.

    x is (B, D); ladj = sum gamma - log(v + eps) / 2, the same for every row. In training mode m and v are the mean and
    variance of the batch (B >= 2), through which gradients flow and which the running statistics follow with
    ``momentum``; so a row's density then depends on its mates, and the log-determinant is that of the map with m and v
    held fixed, as in the paper. In evaluation mode, and in ``inverse`` in either mode, m and v are the running
    statistics: there the map is exactly invertible row by row. ``initialize(batch)`` sets them from one batch. A column
    that is constant up to rounding has no v of its own in that batch: its running variance serves, and stays.

    With several processes each normalises by its own part of the batch, and DistributedDataParallel broadcasts the
    running statistics of the first one (its default); :class:`ActNorm` has one set for all.

    Cost: one pass, two in training. Raises ValueError for x of another shape, and for a single row in training mode.
    Papamakarios, Pavlakou, Murray, 2017, arXiv:1705.07057, appendix B.

    >>> import torch
    >>> from pyflowk.transforms import BatchNorm
    >>> norm = BatchNorm(1, eps=0.0)
    >>> norm(torch.tensor([[1.0], [3.0]]))[0].flatten().tolist()
    [-1.0, 1.0]
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        require_counts("BatchNorm", features=features)
        require_numbers("BatchNorm", eps=eps, momentum=momentum)
        if not 0 < momentum <= 1:
            raise ValueError(f"BatchNorm expects momentum in (0, 1], got {momentum}")
        self.eps, self.momentum = float(eps), float(momentum)
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(x)
        x = x.to(state_dtype(x))
        mean, var = self.running_mean, self.running_var
        if self.training and x.shape[0]:
            mean, var = self._of_batch(x)
            self._follow(mean, var, self.momentum)
        log_scale = self._log_scale(var)
        return (x - mean) * log_scale.exp() + self.bias, self._ladj(x, log_scale)

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(z)
        log_scale = self._log_scale(self.running_var)
        x = (z.to(state_dtype(z)) - self.bias) * (-log_scale).exp() + self.running_mean
        return x, -self._ladj(z, log_scale)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Set the running statistics from the rows of the batch x that are finite (2 or more)."""
        self._check(x)
        self._follow(*self._of_batch(x[x.isfinite().all(1)].to(torch.float64)), 1.0)
        log_scale = self._log_scale(self.running_var)
        return (x.to(state_dtype(x)) - self.running_mean) * log_scale.exp() + self.bias

    def _of_batch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[0] < 2:
            raise ValueError(f"BatchNorm in training mode expects at least 2 rows, got {x.shape[0]}")
        mean, var = x.mean(0), x.var(0, correction=0)
        return mean, var.where(varying(mean, var.sqrt()), self.running_var.to(var.dtype))

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor, momentum: float) -> None:
        for kept, new in ((self.running_mean, mean), (self.running_var, var)):
            kept.lerp_(new.to(kept).where(new.isfinite(), kept), momentum)  # one NaN must not stay for ever

    def _log_scale(self, var: Tensor) -> Tensor:
        return self.log_scale - 0.5 * (var + self.eps).log()

    @staticmethod
    def _ladj(x: Tensor, log_scale: Tensor) -> Tensor:
        return log_scale.sum().to(state_dtype(x)).expand(x.shape[0])

    def _check(self, x: Tensor) -> None:
        if x.dim() != 2 or x.shape[1] != self.bias.numel():
            raise ValueError(f"BatchNorm expects (B, {self.bias.numel()}), got {tuple(x.shape)}")
