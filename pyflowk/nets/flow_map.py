r"""The map of a flow from one time to a later one, by the average velocity in between: one evaluation a jump."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import require_numbers
from ..ops.modes import transformed
from ..ops.times import as_time
from ..shapes import expand_context
from ..space import Ragged
from .field import Field, FusedParameters

__all__ = ["FlowMap"]


class FlowMap(Field):
    r"""The average velocity :math:`u(t, s, x)` of a flow from t to a later time s, its ``end``, and the jump there:

    .. math:: X_{t \to s}(x) = x + (s - t)\, u(t, s, x), \qquad u(t, t, x) = v(t, x).

    Without an ``end`` it is the velocity v, and so a :class:`Field` like any other, which solvers integrate. With v the
    three statements below say the same of u; each is what a network can be held to
    (:class:`pyflowk.objectives.FlowMapMatching`), D being the derivative along the flow,
    :math:`\partial_t + v \cdot \nabla`:

    .. math:: u = v + (s - t)\, D u, \qquad u + (s - t)\, \partial_s u = v(s, X_{t \to s}), \qquad
        X_{m \to s} \circ X_{t \to m} = X_{t \to s}.

    ``net`` is a field of an ``interval``; where it predicts the "data" at the end of a straight line instead of the
    "velocity", :math:`u = (\hat x - x) / \max(1 - t, \mathrm{least})`. Times are () or (B,) from 0, noise, to 1, data,
    and x is (B, \*event). Papers that count from the data have 1 - t for t, 1 - s for r, and -u for u. Raises
    ValueError for times outside of [0, 1] and an end before its time, on the CPU, where looking is free; for another
    prediction; and for a network of one time. Cost: the network. Geng et al., 2025, arXiv:2505.13447; Boffi et al.,
    2025, arXiv:2505.18825; data: Lu et al., 2026, arXiv:2601.22158.

    >>> import torch
    >>> from pyflowk.nets import FlowMap, MLPField
    >>> FlowMap(MLPField(2, width=8, interval=True)).jump(torch.tensor(0.0), torch.ones(1, 2), end=1.0)
    tensor([[1., 1.]], grad_fn=<AddBackward0>)
    """

    predicts = "velocity"
    hears_end = True

    def __init__(self, net: Field, prediction: str = "velocity", least: float = 0.05) -> None:
        super().__init__()
        require_numbers("FlowMap", least=least)
        if not (isinstance(net, Field) and net.hears_end):
            raise ValueError(f"FlowMap expects a field of an interval, such as MLPField(2, interval=True); got {net!r}")
        if prediction not in ("velocity", "data"):
            raise ValueError(f"prediction: expected velocity or data, got {prediction!r}")
        self.net, self.prediction, self.least = net, prediction, least
        self.takes_context = net.takes_context

    def forward(
        self, t: Tensor | float, x: Tensor, context: Tensor | None = None, end: Tensor | float | None = None
    ) -> Tensor:
        if end is None:
            return self.as_velocity(self.net(t, x, context), t, x)
        check_interval(t, end, x)
        return self.as_velocity(self.net(t, x, context, end=end), t, x)

    def jump(self, t: Tensor | float, x: Tensor, context: Tensor | None = None, *, end: Tensor | float) -> Tensor:
        r""":math:`X_{t \to s}(x)`: where the flow takes x (B, \*event) from t to its ``end``."""
        gap = as_time(end, x) - as_time(t, x)
        return x + beside(gap, x) * self(t, x, context, end)

    def jump_with_ladj(
        self, t: Tensor | float, x: Tensor, context: Tensor | None = None, *, end: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        r""":math:`X_{t \to s}(x)` and :math:`\log |\det \partial X / \partial x|` (B,), exactly, by as many tangents as
        x has elements."""
        rows, size = x.shape[0], x.shape[1:].numel()
        start, last = (as_time(time, x).expand(rows) for time in (t, end))
        unit = torch.eye(size, dtype=x.dtype, device=x.device)
        along = unit.reshape(size, *x.shape[1:]).repeat(rows, *[1] * (x.dim() - 1))
        many = [each.repeat_interleave(size, 0) for each in (start, x, last)]
        given = expand_context(context, rows)
        given = None if given is None else given.repeat_interleave(size, 0)
        u, images = self.derivative(many[0], many[1], along, given, many[2])
        gap = last - start
        jacobian = unit + gap[:, None, None] * images.reshape(rows, size, size)  # transposed, which its determinant is
        first = u.reshape(rows, size, *x.shape[1:])[:, 0]
        return x + beside(gap, x) * first, torch.linalg.slogdet(jacobian)[1]

    def derivative(
        self,
        t: Tensor | float,
        x: Tensor,
        tangent: Tensor,
        context: Tensor | None = None,
        end: Tensor | float | None = None,
        *,
        rate: float = 0.0,
        end_rate: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """As of every :class:`Field`, and without autocast: it is a small difference of large numbers."""
        if end is not None:
            check_interval(t, end, x)
        with torch.autocast(x.device.type, enabled=False):
            value, moved = self.net.derivative(t, x, tangent, context, end, rate=rate, end_rate=end_rate)
            if self.prediction == "velocity":
                return value, moved
            left = 1 - as_time(t, x)
            u, falling = self.as_velocity(value, t, x), beside(rate * (left >= self.least).to(left.dtype), x)
            return u, (moved - tangent + falling * u) / beside(left.clamp(min=self.least), x)

    def as_velocity(self, value: Tensor, t: Tensor | float, x: Tensor) -> Tensor:
        """The velocity of x at t that a prediction, or the data themselves, mean."""
        if self.prediction == "velocity":
            return value
        return (value - x) / beside((1 - as_time(t, x)).clamp(min=self.least), x)

    # ---- the velocity, as fields have it -----------------------------------------------------------------------------

    def no_context(self) -> Tensor | Ragged:
        return self.net.no_context()

    def with_tangents(
        self, t: Tensor, x: Tensor, tangents: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        value, images = self.net.with_tangents(t, x, tangents, context)
        return self.as_velocity(value, t, x), self.as_velocity(images, t, tangents)

    def has_divergence(self, t: Tensor) -> bool:
        return self.prediction == "velocity" and self.net.has_divergence(t)

    def with_divergence(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.prediction == "velocity":
            return self.net.with_divergence(t, x, context)
        return super().with_divergence(t, x, context)

    def fused(self, times: Tensor, context: Tensor | None = None) -> FusedParameters | None:
        return self.net.fused(times, context) if self.prediction == "velocity" else None

    def extra_repr(self) -> str:
        return f"prediction={self.prediction!r}"


def beside(t: Tensor, x: Tensor) -> Tensor:
    """Times () or (B,), ready to be multiplied with x (B, *event)."""
    return t.reshape(-1, *[1] * (x.dim() - 1)) if t.dim() else t


def check_interval(t: Tensor | float, end: Tensor | float, x: Tensor) -> None:
    """ValueError, on the CPU, for times outside of [0, 1] and an end before its time."""
    t, end = as_time(t, x), as_time(end, x)
    if not (t.is_cpu and t.numel() and end.numel()) or transformed():
        return
    low, high, back = t.min().item(), end.max().item(), (end - t).min().item()
    if low < 0 or high > 1 or back < 0:
        raise ValueError(
            "expected 0 <= t <= end <= 1, noise to data, "
            f"got t from {low:g}, an end up to {high:g} and a gap of {back:g}"
        )
