"""What every system of the zoo can do; trainer and command line know this and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..distributions import Distribution
from ..flows import Flow
from ..nets import MLP, ConvNet
from ..objectives.nll import nll
from ..ops.modes import transformed
from ..shapes import check_events, expand_context, sample_shape
from ..transforms import (
    Affine,
    Compose,
    Coupling,
    Dequantize,
    Logit,
    MemoryFlat,
    Reshape,
    Scale,
    Transform,
    VariationalDequantize,
)  # fmt: skip


class GenerativeModel(nn.Module):
    """Base of every system: ``loss``, ``sample``, and ``log_prob`` where the system has one.

    Attributes:
        shape: the event's shape.
        levels: data are integers 0..levels-1 (in any dtype), or None for real numbers.
        classes, context_dim: the context is (B,) integer labels, or (B, context_dim) floats, or absent (both None).
        config: JSON values; the name, the shape and all options, enough to build the model again.
        loss_unit: "nats" where the loss is a negative log-likelihood (or a bound), which is told in bits per dimension
            for integer data; None for every other loss. It may differ between training and evaluation mode.

    Calling the model computes the loss, so that wrappers such as DistributedDataParallel work.
    """

    config: dict[str, Any]

    def __init__(
        self,
        shape: Sequence[int],
        levels: int | None = None,
        classes: int | None = None,
        context_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.shape = tuple(int(n) for n in shape)
        self.levels, self.classes, self.context_dim = levels, classes, context_dim
        self.config = {}

    @property
    def dims(self) -> int:
        """The number of elements of an event, for bits per dimension."""
        return math.prod(self.shape)

    @property
    def loss_unit(self) -> str | None:
        """The unit of the loss, "nats" or None."""
        return None

    def forward(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """The same as :meth:`loss`."""
        return self.loss(x, context, generator)

    def loss(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """The training loss per event, (B,)."""
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def sample(
        self, n: int | Sequence[int], context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """n events (n, *shape), in the units of the data; a shape in place of n as in :meth:`Flow.sample`."""
        raise NotImplementedError(f"{type(self).__name__} has no sampler")

    def log_prob(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Log-likelihood (B,) in nats per event."""
        raise NotImplementedError(f"{type(self).__name__} has no log-likelihood")

    def initialize(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> None:
        """Set data-dependent layers from one batch; nothing to do for a system that has none."""

    @property
    def conditional(self) -> bool:
        """Whether it needs a context."""
        return self.classes is not None or self.context_dim is not None

    def check_context(self, context: Tensor | None, rows: int) -> Tensor | None:
        """One row of context per event, or ValueError/TypeError; labels are range-checked where that is free."""
        if context is None:
            if self.conditional:
                wanted = f"labels (B,) below {self.classes}" if self.classes else f"a context (B, {self.context_dim})"
                raise ValueError(f"this model is conditional: expected {wanted}, got no context")
            return None
        if not self.conditional:
            raise ValueError("this model is unconditional (create it with classes= or context_dim=), but got a context")
        context = expand_context(context, rows)
        assert context is not None
        free = context.is_cpu and context.numel() > 0 and not transformed()
        if self.classes is not None and free and not 0 <= int(context.min()) <= int(context.max()) < self.classes:
            raise ValueError(f"expected labels in 0..{self.classes - 1}, got {context.min()}..{context.max()}")
        return context


class FlowModel(GenerativeModel):
    r"""A system that is one Flow, trained by maximum likelihood.

    ``levels`` puts Dequantize, Scale and Logit in front of ``transform``: :math:`\log p` is then a lower bound on the
    log-probability of the integers, one draw per call, and ``sample`` gives integers as floats; ``dequantize``
    "variational" learns the noise. ``memory_flat`` makes the Compose ``transform`` a :class:`MemoryFlat`, with the same
    state dict. Cost: one pass of the transform per call. Raises ValueError or TypeError for events or contexts of the
    wrong shape or kind, and for an unknown kind of noise or one without ``levels``.

    >>> from pyflowk.distributions import DiagonalGaussian
    >>> from pyflowk.transforms import Compose
    >>> from pyflowk.zoo import FlowModel
    >>> FlowModel((2,), DiagonalGaussian((2,)), Compose(), levels=4).sample(5).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        shape: Sequence[int],
        base: Distribution,
        transform: Transform,
        *,
        levels: int | None = None,
        classes: int | None = None,
        context_dim: int | None = None,
        dequantize: str = "uniform",
        memory_flat: bool = False,
    ) -> None:
        super().__init__(shape, levels, classes, context_dim)
        if memory_flat:
            transform = MemoryFlat(*(transform if isinstance(transform, Compose) else (transform,)))
        self.flow = Flow(base, Compose(*unsquash(levels, self.shape, dequantize), transform))

    @property
    def loss_unit(self) -> str | None:
        return "nats"

    def loss(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        return nll(self, x, context, generator=generator)

    def log_prob(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        check_events(x, self.shape)
        return self.flow.log_prob(x, self.check_context(context, x.shape[0]), generator)

    def sample(
        self,
        n: int | Sequence[int],
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        return self.flow.sample(n, self.check_context(context, math.prod(sample_shape(n))), generator, temperature)

    def initialize(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> None:
        check_events(x, self.shape)
        self.flow.initialize(x, self.check_context(context, x.shape[0]), generator)


def unsquash(levels: int | None, shape: Sequence[int], dequantize: str = "uniform") -> list[Transform]:
    """The maps from integers 0..levels-1 to real numbers; none for real data."""
    if dequantize not in ("uniform", "variational"):
        raise ValueError(f"dequantize: expected uniform or variational, got {dequantize!r}")
    if levels is None:
        if dequantize == "variational":
            raise ValueError("dequantize: expected integer data (levels=) for variational noise, got real data")
        return []
    dequantizers = [Dequantize(levels)] if dequantize == "uniform" else _learned_noise(levels, shape)
    return [*dequantizers, Scale(1 / levels), Logit(0.05)]


def _learned_noise(levels: int, shape: Sequence[int], width: int = 32) -> list[Transform]:
    """A location and a scale for each element, then a coupling each way, by networks that see the integers."""
    if len(shape) == 3:
        masks = (("all", False), ("checkerboard", False), ("checkerboard", True))
        nets = [
            ConvNet(0 if mask == "all" else shape[0], 2 * shape[0], width, context_channels=shape[0])
            for mask, _ in masks
        ]
        return [VariationalDequantize(levels, Compose(*(Coupling(n, Affine(), *m) for n, m in zip(nets, masks))))]
    size = math.prod(shape)
    noise = Coupling(MLP(0, 2 * size, width, context_dim=size), Affine(), "all")
    return [Reshape(shape, (size,)), VariationalDequantize(levels, noise), Reshape((size,), shape)]
