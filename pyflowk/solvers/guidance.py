"""Guidance: how much further than its context a sampler goes, as fields around a field."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._checks import require_counts, require_numbers
from ..nets.context import drop_context
from ..nets.field import Field, as_field
from ..ops.divergence import push_forward
from ..ops.dtypes import state_dtype
from ..ops.modes import transformed
from ..ops.times import as_time
from ..shapes import expand_context
from ..space import Ragged, cat

__all__ = ["Guided", "difference", "projected", "zero_star"]

Difference = Callable[[Tensor, Tensor], Tensor]
"""(what is predicted with the context, without it or by a weaker field) -> the direction to go further in."""


def difference(strong: Tensor, weak: Tensor) -> Tensor:
    """The plain difference of two predictions (B, *event): that of classifier-free guidance and of autoguidance."""
    return strong - weak


def zero_star(strong: Tensor, weak: Tensor) -> Tensor:
    r"""The difference to the best multiple of the weak prediction: :math:`v_c - s v_u,\ s = v_c \cdot v_u / |v_u|^2`.

    (B, \*event), the multiple one for each row, 0 where the weak prediction is. Fan et al., 2025, arXiv:2503.18886.

    >>> import torch
    >>> from pyflowk.solvers import zero_star
    >>> zero_star(torch.tensor([[3.0, 1.0]]), torch.tensor([[2.0, 0.0]]))
    tensor([[0., 1.]])
    """
    return strong - _along(strong, weak)


def projected(parallel: float = 0.0, radius: float = math.inf) -> Difference:
    r"""A difference cut to a length of ``radius``, its part along the strong prediction multiplied by ``parallel``.

    That part adds contrast and saturation, the rest what the context says. There is no momentum over steps: a field
    knows its time and place alone, so that any solver may take it. Raises ValueError for ``parallel`` below 0 or a
    ``radius`` that is not above 0. Sadat et al., 2024, arXiv:2410.02416, which guides predictions of the data: there,
    wrap a network that makes those.

    >>> import torch
    >>> from pyflowk.solvers import projected
    >>> projected(parallel=0.5)(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    tensor([[ 0.5000, -1.0000]])
    """
    require_numbers("projected", parallel=parallel)
    if not radius > 0:
        raise ValueError(f"projected expects radius to be above 0, got {radius}")

    def direction(strong: Tensor, weak: Tensor) -> Tensor:
        moved = strong - weak
        if radius < math.inf:
            moved = moved * (radius / _dot(moved, moved).clamp(min=radius**2).sqrt())
        return moved - (1 - parallel) * _along(moved, strong)

    return direction


class Guided(Field):
    r"""A field that goes further than its context: :math:`v_c + w\,(v_c - v_u)`, v_u without the context.

    Weight 0 is the conditional field itself, whose scale :math:`s = 1 + w` others call 1; -1 is the one without a
    context. For any prediction, but what is said here of velocities: guide the network before
    :class:`pyflowk.nets.VelocityField` where it matters, as it does for ``projected`` and ``rescale``.

    Args:
        field: a :class:`pyflowk.nets.Field` that was trained on rows without their context (``Matching(dropout=0.1)``)
            and is evaluated once, for both.
        weight: w, a finite number.
        other: autoguidance: a weaker field (smaller, or of an earlier step of training), with the same context, in
            place of ``field`` without one. It may be a function.
        direction: what takes the place of the difference: ``zero_star``, or ``projected()``.
        interval: the times, from noise (0) to data (1), between which there is guidance.
        still: until this time the velocity is 0, as CFG-Zero* has it for the first steps (0.04).
        rescale: this share of the result gets the deviation of v_c, by row.
        channels: guidance of the first so many channels alone.

    Of symbols the logits are guided, which is :math:`p_c^{1 + w} / p_u^w` once they are normalised. A context is
    needed, one row per event or one for all. Raises ValueError for a field that knows no "no context",
    without a context and for numbers out of range. Where it is not active (outside of the interval, if one time is for
    all rows, on the CPU) the field alone is evaluated. Cost: the field for twice as many rows. Ho, Salimans, 2022,
    arXiv:2207.12598; interval: Kynkaanniemi et al., 2024, arXiv:2404.07724; autoguidance: Karras et al., 2024,
    arXiv:2406.02507; rescale: Lin et al., 2023, arXiv:2305.08891.

    >>> import torch
    >>> from pyflowk.nets import MLPField
    >>> from pyflowk.solvers import Fixed, Guided, odeint
    >>> field, label = Guided(MLPField(2, classes=10, droppable=True), weight=2.0), torch.tensor([3])
    >>> odeint(lambda t, x: field(t, x, label), torch.zeros(5, 2), [0.0, 1.0], method="rk4", stepping=Fixed(4)).shape
    torch.Size([2, 5, 2])
    """

    def __init__(
        self,
        field: Field,
        weight: float,
        *,
        other: Field | Callable[..., Tensor] | None = None,
        direction: Difference = difference,
        interval: tuple[float, float] = (0.0, 1.0),
        still: float = 0.0,
        rescale: float = 0.0,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        if not math.isfinite(weight):
            raise ValueError(f"weight: expected a finite number, got {weight}")
        low, high = interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"interval: expected two times from 0 (noise) to 1 (data), in order; got {interval}")
        require_numbers("Guided", still=still, rescale=rescale)
        if still > 1 or rescale > 1:
            raise ValueError(f"expected still and rescale from 0 to 1, got {still} and {rescale}")
        if channels is not None:
            require_counts("Guided", channels=channels)
        self.field = as_field(field)
        self.predicts = self.field.predicts
        self.other = None if other is None else as_field(other)
        if self.other is None:
            self.field.no_context()  # an error, if there is none
        self.weight, self.direction, self.interval = weight, direction, (low, high)
        self.still, self.rescale, self.channels = still, rescale, channels
        fields = (self.field,) if self.other is None else (self.field, self.other)
        self.takes_time = any(f.takes_time for f in fields) or self.interval != (0.0, 1.0) or still > 0

    def no_context(self) -> Tensor | Ragged:
        return self.field.no_context()

    def forward(self, t: Tensor, x: Any, context: Tensor | None = None) -> Tensor:
        t = as_time(t, x.values if isinstance(x, Ragged) else x)
        if not self._active(t):
            return self.field(t, x, context)
        if self.other is not None:
            return self._guided(t, self.field(t, x, context), self.other(t, x, context))
        return self._guided(t, *self.field(*self._doubled(t, x, context)).chunk(2))

    def with_tangents(
        self, t: Tensor, x: Tensor, tangents: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        t = as_time(t, x)
        if not self._active(t):
            return self.field.with_tangents(t, x, tangents, context)
        if self.other is not None:
            both = [field.with_tangents(t, x, tangents, context) for field in (self.field, self.other)]
            values, images = (torch.stack(pair, -x.dim()) for pair in zip(*both))
        else:
            time, rows, both_contexts = self._doubled(t, x, context)
            found = self.field.with_tangents(time, rows, torch.cat((tangents, tangents)), both_contexts)
            values, images = (torch.stack(pair.chunk(2), -x.dim()) for pair in found)

        def rule(pair: Tensor) -> Tensor:
            strong, weak = pair.unbind(1)
            return torch.stack((self._guided(t, strong, weak), weak), 1)

        value, image = push_forward(rule, values, images)
        return value[:, 0], image[:, :, 0]

    def _active(self, t: Tensor) -> bool:
        """Whether there is anything to do at such times; True where they cannot be looked at."""
        if self.weight == 0:
            return False
        if not t.is_cpu or transformed() or not t.numel():
            return True
        low, high = (float(end) for end in t.detach().aminmax())
        return low < self.still or (high >= self.interval[0] and low <= self.interval[1])

    def _doubled(self, t: Tensor, x: Any, context: Tensor | None) -> tuple[Tensor, Any, Any]:
        """Times, places and contexts of both halves: as they are, and without a context."""
        n, device = (len(x), x.lengths.device) if isinstance(x, Ragged) else (x.shape[0], x.device)
        given = expand_context(context, n)
        if given is None:
            raise ValueError("guidance: expected a context, from which to go further; got none")
        dropped = torch.arange(2 * n, device=device) >= n
        contexts = drop_context(cat((given, given)), dropped, self.field.no_context())
        return torch.cat((t, t)) if t.dim() else t, cat((x, x)), contexts

    def _guided(self, t: Tensor, strong: Tensor, weak: Tensor) -> Tensor:
        """The rule for one time (), or one a row; where there is none the strong prediction stays as it is."""
        strong, weak = strong.to(state_dtype(strong)), weak.to(state_dtype(weak))
        guided = strong + self.weight * self.direction(strong, weak)
        if self.rescale:
            guided = guided + self.rescale * (_ratio_of_deviations(strong, guided) - 1) * guided
        if self.channels is not None:
            guided = torch.cat((guided[:, : self.channels], strong[:, self.channels :]), 1)
        at, (low, high) = t.reshape(*t.shape, *[1] * (strong.dim() - t.dim())), self.interval
        if (low, high) != (0.0, 1.0):
            guided = torch.where((at >= low) & (at <= high), guided, strong)
        return torch.where(at < self.still, 0.0, guided) if self.still else guided

    def extra_repr(self) -> str:
        return f"weight={self.weight}, interval={self.interval}"


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The scalar product of each row, (B, 1, ...)."""
    return (a * b).sum(tuple(range(1, a.dim())), keepdim=True)


def _along(a: Tensor, b: Tensor) -> Tensor:
    """The part of a along b, 0 where b is."""
    square = _dot(b, b)
    return _dot(a, b) / torch.where(square == 0, 1.0, square) * b


def _ratio_of_deviations(a: Tensor, b: Tensor) -> Tensor:
    """The deviation over the elements of each row of a in those of b's, (B, 1, ...); 1 where one of them has none."""
    dims = tuple(range(1, a.dim()))
    of_a, of_b = ((v - v.mean(dims, keepdim=True)).square().mean(dims, keepdim=True) for v in (a, b))
    none = (of_a == 0) | (of_b == 0)
    return torch.where(none, 1.0, of_a / torch.where(none, 1.0, of_b)).sqrt()
