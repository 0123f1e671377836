"""The contract every invertible map obeys, and the two combinators."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.dtypes import state_dtype
from .pullback import Pullback

SMALLEST_SPREAD = 1e-30
"""Its inverse and the square of it stay within float32 and float64."""


class Transform(nn.Module):
    """An invertible map between data x and noise z that knows its log-determinant.

    ``forward(x, context=None, generator=None) -> (z, ladj)`` maps data to noise, ``inverse(z, context=None,
    generator=None) -> (x, ladj)`` maps noise to data. x is ``(B, *event)``; ladj is ``(B,)``, float32 (float64 for
    float64 x), on x's device, and is the log |det Jacobian| of the direction that was called: ``ladj_forward +
    ladj_inverse = 0`` along a round trip.

    The context has one row per event, or one row for all of them (:func:`pyflowk.shapes.expand_context`); a transform
    that has no use for it ignores it. The same holds for the generator, so that nobody asks who draws; the same seed
    gives the same value. Two flags tell what is random:

    - ``stochastic``: the map itself, in ``forward`` (:class:`Dequantize`).
    - ``estimates_ladj``: the log-determinant alone, in both directions (:class:`Residual`).

    ``moves_in_time``: the map is the flow of an equation, noise at time 0 and data at 1, that goes part of the way by
    ``move`` and ``transport`` (:class:`Continuous`). ``layers`` are the maps that it is a chain of: itself, usually.

    A subclass whose ``forward``, ``inverse``, ``to_noise``, ``to_data`` or ``initialize`` cannot be called so raises
    TypeError where it is defined. What it defines says by itself whether it ``has_inverse`` and ``starts_from_output``.

    ``to_data`` is the inverse for callers that want no log-determinant: what :meth:`Flow.sample` runs. ``to_noise`` is
    that of ``forward``; a subclass that has a ``forward`` of its own does not inherit its parent's.

    ``backward_from_output(z, grad_z, grad_ladj, context, pullback) -> (x, grad_x)`` is optional: the hook for
    :class:`MemoryFlat`. From the output and the gradients of both outputs it rebuilds the input x and its gradient;
    gradients of parameters and of the context go to ``pullback`` (:class:`Pullback`). It runs without grad mode,
    changes none of its arguments, runs a network at most once, and may return grad_z itself. Where a subclass has a
    ``forward`` of its own, its parent's hook is out of force, unless it says ``starts_from_output = True``.

    >>> import torch
    >>> from pyflowk.transforms import Compose, Scale, Transform
    >>> class Sinh(Transform):
    ...     def forward(self, x, context=None, generator=None):
    ...         return torch.sinh(x), torch.cosh(x).log().sum(1)
    ...     def inverse(self, z, context=None, generator=None):
    ...         return torch.asinh(z), -0.5 * torch.log1p(z * z).sum(1)
    >>> flow, x = Compose(Scale(0.5), Sinh()), torch.randn(3, 2)
    >>> torch.allclose(flow.inverse(flow(x)[0])[0], x, atol=1e-5)
    True
    """

    stochastic: bool = False
    estimates_ladj: bool = False
    moves_in_time: bool = False
    has_inverse: bool = False
    starts_from_output: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = vars(cls)
        for name in ("forward", "inverse", "to_noise", "to_data", "initialize"):
            if getattr(cls, name) is not getattr(Transform, name):  # its own, or that of any class it is made of
                _require_signature(cls, name)
        owner: Any = next(kind for kind in cls.__mro__ if "to_noise" in vars(kind))
        if owner is not Transform and cls.forward is not owner.forward:
            cls.to_noise = Transform.to_noise  # type: ignore[method-assign]
        cls.has_inverse = cls.has_inverse or cls.inverse is not Transform.inverse
        if "starts_from_output" not in own:
            parents = [base for base in cls.__bases__ if issubclass(base, Transform)]
            kept = any(base.starts_from_output and base.forward is cls.forward for base in parents)
            cls.starts_from_output = "backward_from_output" in own or kept

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} has no inverse")

    def backward_from_output(
        self, z: Tensor, grad_z: Tensor, grad_ladj: Tensor, context: Tensor | None, pullback: Pullback
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} has no backward_from_output")

    def to_noise(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """``forward`` without the log-determinant, cheaper where that one costs much."""
        return self(x, context, generator)[0]

    def to_data(self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """``inverse`` without the log-determinant, cheaper where that one costs much."""
        return self.inverse(z, context, generator)[0]

    def layers(self) -> tuple[Transform, ...]:
        """The maps that this one applies one after the other, none of which is a chain itself."""
        return (self,)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Set every data-dependent layer from one batch ``(B, *event)`` and return what the map makes of the batch."""
        return self(x, context, generator)[0]


def _require_signature(cls: type[Transform], name: str) -> None:
    """TypeError where a method does not take all that every transform is called with."""
    signature = inspect.signature(getattr(cls, name))
    ordered = [word for word in signature.parameters if word in ("context", "generator")] != ["generator", "context"]
    try:
        signature.bind(*("self", "x", "context", "generator"))
    except TypeError:
        ordered = False
    if not ordered:
        raise TypeError(
            f"{cls.__name__}.{name}: expected (self, x, context=None, generator=None), as every transform is called,"
            f" got {signature}"
        )


def zero_ladj(x: Tensor) -> Tensor:
    """The log-determinant of a map that preserves volume: zeros ``(B,)``."""
    return torch.zeros(x.shape[0], dtype=state_dtype(x), device=x.device)


def sum_event(x: Tensor) -> Tensor:
    """Sum over everything but the batch: ``(B, *event) -> (B,)`` in the dtype of log-determinants."""
    return x.flatten(1).sum(1, dtype=state_dtype(x))


@torch.no_grad()
def varying(mean: Tensor, std: Tensor, eps: float = 1e-6) -> Tensor:
    """Which columns of a batch have a spread to divide by: True where std exceeds what rounding alone would leave.

    That is ``eps`` times the column's mean, or times the widest column of the batch where no column is wider than 1:
    dividing what stays the same in one batch by its rounding would blow up the first row that differs. Finite columns
    only; mean and std (C,).
    """
    widest = std.nan_to_num(posinf=0.0).amax().clamp(max=1) if std.numel() else 0.0
    return (std > eps * mean.abs()) & (std > eps * widest) & (std > SMALLEST_SPREAD) & (std + mean.abs()).isfinite()


class Compose(Transform):
    r"""The maps applied one after the other: :math:`z = f_n(\ldots f_1(x))`, log-determinants added.

    Cost: the sum of its parts in each direction; ``inverse`` walks them backwards. ``Compose()`` is the identity.
    Nested Compose are allowed; ``compose[i]``, ``len`` and iteration work as on a list. Raises TypeError for anything
    that is not a Transform.

    >>> from pyflowk.transforms import Compose, Flip, Scale
    >>> import torch
    >>> z, ladj = Compose(Scale(2.0), Flip())(torch.tensor([[1.0, 3.0]]))
    >>> z, ladj
    (tensor([[6., 2.]]), tensor([1.3863]))
    """

    def __init__(self, *transforms: Transform) -> None:
        super().__init__()
        for t in transforms:
            if not isinstance(t, Transform):
                raise TypeError(f"Compose expects Transforms, got {type(t).__name__}")
        self.transforms = nn.ModuleList(transforms)
        self.stochastic = any(t.stochastic for t in transforms)
        self.estimates_ladj = any(t.estimates_ladj for t in transforms)

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        total = zero_ladj(x)
        for transform in self.transforms:
            x, ladj = transform(x, context, generator)
            total = total + ladj
        return x, total

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        total = zero_ladj(z)
        for transform in self._last_first():
            z, ladj = transform.inverse(z, context, generator)
            total = total + ladj
        return z, total

    def backward_from_output(
        self, z: Tensor, grad_z: Tensor, grad_ladj: Tensor, context: Tensor | None, pullback: Pullback
    ) -> tuple[Tensor, Tensor]:
        for transform in self._last_first():
            z, grad_z = pullback.layer(transform, z, grad_z, grad_ladj, context)
        return z, grad_z

    def to_noise(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        for transform in self.transforms:
            x = transform.to_noise(x, context, generator)  # type: ignore[operator]
        return x

    def to_data(self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        for transform in self._last_first():
            z = transform.to_data(z, context, generator)
        return z

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        for transform in self.transforms:
            x = transform.initialize(x, context, generator)  # type: ignore[operator]
        return x

    def layers(self) -> tuple[Transform, ...]:
        found: list[Transform] = []
        for transform in self.transforms:
            found += transform.layers()  # type: ignore[operator]
        return tuple(found)

    def _last_first(self) -> list[Any]:
        """A list: torch.compile walks a reversed ModuleList round and round once a layer has a loop on the device."""
        return [*self.transforms][::-1]

    def __len__(self) -> int:
        return len(self.transforms)

    def __getitem__(self, index: int) -> Transform:
        return self.transforms[index]  # type: ignore[return-value]

    def __iter__(self) -> Iterator[Transform]:
        return iter(self.transforms)  # type: ignore[arg-type]


class Invert(Transform):
    r"""A map taken the other way round: ``forward`` is the inner ``inverse``, and ``inverse`` the inner ``forward``.

    Cost: that of the inner map, directions exchanged. Raises ValueError for a stochastic map: its inverse
    cannot be evaluated at data. Data-dependent layers inside are set from the data that reach them only when
    they are initialised before they are wrapped.

    >>> from pyflowk.transforms import Invert, Scale
    >>> import torch
    >>> Invert(Scale(2.0))(torch.tensor([[4.0]]))
    (tensor([[2.]]), tensor([-0.6931]))
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        if not isinstance(transform, Transform):
            raise TypeError(f"Invert expects a Transform, got {type(transform).__name__}")
        if transform.stochastic:
            raise ValueError(f"Invert expects a deterministic transform, got stochastic {type(transform).__name__}")
        self.transform = transform
        self.estimates_ladj = transform.estimates_ladj

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.transform.inverse(x, context, generator)

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.transform(z, context, generator)
