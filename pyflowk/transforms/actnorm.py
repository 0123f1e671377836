"""Per-channel scale and shift set from the first batch, then learned."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .._checks import require_counts, require_numbers
from ..ops.dtypes import state_dtype
from .base import Transform, varying
from .pullback import Pullback


class ActNorm(Transform):
    r"""An affine map per feature or channel: :math:`z = x e^{a} + b`, :math:`\mathrm{ladj} = H W \sum a`.

    x is (B, C) or (B, C, \*rest); a (``log_scale``) and b (``bias``) are (C,). ``initialize(batch)`` chooses them so
    that each channel of z has mean 0 and variance 1 over the batch and all positions, over the batches of all
    processes when torch.distributed is initialised; without it the first forward in training mode does. Until then
    the map is the identity. Before torch.compile, call ``initialize``.

    A batch need not be a good one: a channel that is constant up to rounding (``eps`` times its mean) is centred and
    keeps its scale, numbers that are not finite are left out, and a batch of fewer than two numbers a channel (no row,
    one row of a vector) sets nothing: the next one will.

    The buffer ``initialized`` records that this has happened. The Python attribute ``is_initialized`` follows it when a
    state dict is loaded and before a forward would set anything, so that later steps never wait for the device.

    Cost: one pass, both directions. Raises ValueError for another number of channels.
    Kingma, Dhariwal, 2018, arXiv:1807.03039, section 3.1.

    >>> from pyflowk.transforms import ActNorm
    >>> import torch
    >>> norm = ActNorm(1)
    >>> norm.initialize(torch.tensor([[1.0], [3.0]])).flatten().round(decimals=3)
    tensor([-1.,  1.])
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        require_counts("ActNorm", channels=channels)
        require_numbers("ActNorm", eps=eps)
        self.eps = float(eps)
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.initialized: Tensor
        self.register_buffer("initialized", torch.tensor(False))
        self.is_initialized = False
        self.register_load_state_dict_post_hook(_mirror_flag)

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return ActNorm.to_noise(self, x), self._ladj(x)

    def to_noise(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        self._check(x)
        if self.training and self.unset:
            self._set_from(x)
        scale, bias = self._per_channel(x, self.log_scale.exp()), self._per_channel(x, self.bias)
        return torch.addcmul(bias, x.to(state_dtype(x)), scale)

    @property
    def unset(self) -> bool:
        """Whether a batch is still to set it. The buffer is looked at until it says no: copies of buffers come without
        a state dict, too."""
        if not (self.is_initialized or self.initialized.is_meta):
            self.is_initialized = bool(self.initialized)
        return not self.is_initialized

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(z)
        scale, bias = self._per_channel(z, (-self.log_scale).exp()), self._per_channel(z, self.bias)
        return (z - bias) * scale, -self._ladj(z)

    def backward_from_output(
        self, z: Tensor, grad_z: Tensor, grad_ladj: Tensor, context: Tensor | None, pullback: Pullback
    ) -> tuple[Tensor, Tensor]:
        x = self.inverse(z)[0]
        grad_x = grad_z * self._per_channel(z, self.log_scale.exp())
        # z - b = x e^a, so that grad_z (z - b) = grad_x x
        over = [0, *range(2, z.dim())]
        pullback.add(self.log_scale, (grad_x * x).sum(over) + self._positions(z) * grad_ladj.sum())
        pullback.add(self.bias, grad_z.sum(over))
        return x, grad_x

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Set scale and bias from the batch x (of all processes), again if it was done before."""
        self._check(x)
        self._set_from(x)
        return self.forward(x)[0]

    @torch.no_grad()
    def _set_from(self, x: Tensor) -> None:
        wide = x.detach().to(torch.float64).transpose(0, 1).flatten(1)
        finite = wide.isfinite()
        count, total = _over_processes(torch.stack((finite.sum(1).double(), wide.where(finite, 0).sum(1))))
        if not bool((count >= 2).any()):
            return
        mean = (total / count).nan_to_num(0, 0, 0)  # no number at all, or a sum beyond float64
        squares = _over_processes((wide - mean[:, None]).where(finite, 0).square().sum(1))
        std = (squares / count.clamp(min=1)).sqrt()
        std = std.where(varying(mean, std, self.eps), 1)
        self.log_scale.copy_(-std.log())
        self.bias.copy_(-mean / std)
        self.initialized.fill_(True)
        self.is_initialized = True

    def _ladj(self, x: Tensor) -> Tensor:
        """One number for all rows: a view of it, instead of a batch of equal numbers."""
        return (self._positions(x) * self.log_scale.sum()).to(state_dtype(x)).expand(x.shape[0])

    @staticmethod
    def _positions(x: Tensor) -> int:
        return math.prod(x.shape[2:])

    @staticmethod
    def _per_channel(x: Tensor, values: Tensor) -> Tensor:
        return values if x.dim() == 2 else values.reshape(-1, *[1] * (x.dim() - 2))

    def _check(self, x: Tensor) -> None:
        if x.dim() < 2 or x.shape[1] != self.log_scale.numel():
            raise ValueError(f"ActNorm expects (B, {self.log_scale.numel()}, *rest), got {tuple(x.shape)}")

    def extra_repr(self) -> str:
        return f"channels={self.log_scale.numel()}, is_initialized={self.is_initialized}"


def _over_processes(sums: Tensor) -> Tensor:
    """The sums over all processes of torch.distributed, in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
    return sums


def _mirror_flag(module: Any, incompatible_keys: Any) -> None:
    """After loading: copy the flag to the host once. A meta module has no values yet."""
    if not module.initialized.is_meta:
        module.is_initialized = bool(module.initialized)
