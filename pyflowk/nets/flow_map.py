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
    and x is (B, \*event). Papers that count from the data have 1 - t for t, 1 - s for r, and -u for u.

    One that is ``reversible`` goes back, too, to an end before its time: the same statements hold there. With a
    ``divergence`` the net gives twice the channels: behind u stands :math:`\delta(t, s, x)`, as many numbers, whose sum
    is the average divergence on the way, so that a jump changes a log-density by :math:`-(s - t) \sum_i \delta_i`
    (F2D2, which learns their sum). It fulfils the same statements, with :math:`\delta_i(t, t, x) = \partial v_i /
    \partial x_i` in place of v.

    Raises ValueError for times outside of [0, 1], and an end before its time unless it is reversible, on the CPU, where
    looking is free; for another prediction; and for a network of one time. Cost: the network. Geng et al., 2025,
    arXiv:2505.13447; Boffi et al., 2025, arXiv:2505.18825; data: Lu et al., 2026, arXiv:2601.22158; F2D2: Ai et al.,
    2025, arXiv:2512.02636.

    >>> import torch
    >>> from pyflowk.nets import FlowMap, MLPField
    >>> FlowMap(MLPField(2, width=8, interval=True)).jump(torch.tensor(0.0), torch.ones(1, 2), end=1.0)
    tensor([[1., 1.]], grad_fn=<AddBackward0>)
    """

    predicts = "velocity"
    hears_end = True

    def __init__(
        self,
        net: Field,
        prediction: str = "velocity",
        least: float = 0.05,
        *,
        reversible: bool = False,
        divergence: bool = False,
    ) -> None:
        super().__init__()
        require_numbers("FlowMap", least=least)
        if not (isinstance(net, Field) and net.hears_end):
            raise ValueError(f"FlowMap expects a field of an interval, such as MLPField(2, interval=True); got {net!r}")
        if prediction not in ("velocity", "data"):
            raise ValueError(f"prediction: expected velocity or data, got {prediction!r}")
        self.net, self.prediction, self.least = net, prediction, least
        self.reversible, self.divergence, self.takes_context = reversible, divergence, net.takes_context

    def forward(
        self, t: Tensor | float, x: Tensor, context: Tensor | None = None, end: Tensor | float | None = None
    ) -> Tensor:
        return self.mine(self.answer(t, x, context, end), x)

    def answer(
        self, t: Tensor | float, x: Tensor, context: Tensor | None = None, end: Tensor | float | None = None
    ) -> Tensor:
        """All that it says: u, and with a ``divergence`` beside it, along the channels, the shares of that."""
        if end is None:
            return self.as_velocity(self.net(t, x, context), t, x)
        check_interval(t, end, x, self.reversible)
        return self.as_velocity(self.net(t, x, context, end=end), t, x)

    def mine(self, answer: Tensor, x: Tensor) -> Tensor:
        """Of an answer (B, channels, *rest) at x what is u."""
        return answer[:, : x.shape[1]] if self.divergence else answer

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

    def jump_with_learned_ladj(
        self, t: Tensor | float, x: Tensor, context: Tensor | None = None, *, end: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        r""":math:`X_{t \to s}(x)`, and what its ``divergence`` says of the log-determinant (B,): no tangents."""
        if not self.divergence:
            raise ValueError("jump_with_learned_ladj: expected a FlowMap that tells a divergence; got one without")
        answer, gap = self.answer(t, x, context, end), as_time(end, x) - as_time(t, x)
        return x + beside(gap, x) * self.mine(answer, x), gap * answer[:, x.shape[1] :].flatten(1).sum(1)

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
        value, moved = self.answer_along(t, x, tangent, context, end, rate=rate, end_rate=end_rate)
        return self.mine(value, x), self.mine(moved, x)

    def answer_along(
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
        """``derivative`` of all that it says."""
        if end is not None:
            check_interval(t, end, x, self.reversible)
        with torch.autocast(x.device.type, enabled=False):
            value, moved = self.net.derivative(t, x, tangent, context, end, rate=rate, end_rate=end_rate)
            if self.prediction == "velocity":
                return value, moved
            left, u = 1 - as_time(t, x), self.as_velocity(value, t, x)
            falling = beside(rate * (left >= self.least).to(left.dtype), x) * self.mine(u, x)
            along = (self.mine(moved, x) - tangent + falling) / beside(left.clamp(min=self.least), x)
            return u, torch.cat((along, moved[:, x.shape[1] :]), 1) if self.divergence else along

    def as_velocity(self, value: Tensor, t: Tensor | float, x: Tensor) -> Tensor:
        """The velocity of x at t that a prediction, or the data themselves, mean; other channels as they are."""
        if self.prediction == "velocity":
            return value
        told, rest = value[:, : x.shape[1]], value[:, x.shape[1] :]
        u = (told - x) / beside((1 - as_time(t, x)).clamp(min=self.least), x)
        return torch.cat((u, rest), 1) if rest.shape[1] else u

    # ---- the velocity, as fields have it -----------------------------------------------------------------------------

    def no_context(self) -> Tensor | Ragged:
        return self.net.no_context()

    def with_tangents(
        self, t: Tensor, x: Tensor, tangents: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        value, images = self.net.with_tangents(t, x, tangents, context)
        if self.divergence:
            value, images = self.mine(value, x), images[:, :, : x.shape[1]]
        if self.prediction == "velocity":
            return value, images
        left = (1 - as_time(t, x)).clamp(min=self.least)
        return self.as_velocity(value, t, x), (images - tangents) / beside(left, tangents)

    @property
    def _plain(self) -> bool:
        """Whether the net is the velocity itself."""
        return self.prediction == "velocity" and not self.divergence

    def has_divergence(self, t: Tensor) -> bool:
        return self._plain and self.net.has_divergence(t)

    def with_divergence(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.net.with_divergence(t, x, context) if self._plain else super().with_divergence(t, x, context)

    def fused(self, times: Tensor, context: Tensor | None = None) -> FusedParameters | None:
        return self.net.fused(times, context) if self._plain else None

    def extra_repr(self) -> str:
        return f"prediction={self.prediction!r}, reversible={self.reversible}, divergence={self.divergence}"


def beside(t: Tensor, x: Tensor) -> Tensor:
    """Times () or (B,), ready to be multiplied with x (B, *event)."""
    return t.reshape(-1, *[1] * (x.dim() - 1)) if t.dim() else t


def check_interval(t: Tensor | float, end: Tensor | float, x: Tensor, reversible: bool = False) -> None:
    """ValueError, on the CPU, for times outside of [0, 1] and, unless reversible, an end before its time."""
    t, end = as_time(t, x), as_time(end, x)
    if not (t.is_cpu and t.numel() and end.numel()) or transformed():
        return
    if reversible:
        low, high = t.minimum(end).min().item(), t.maximum(end).max().item()
        if low < 0 or high > 1:
            raise ValueError(f"expected t and end within 0, noise, and 1, data; got times from {low:g} to {high:g}")
        return
    low, high, back = t.min().item(), end.max().item(), (end - t).min().item()
    if low < 0 or high > 1 or back < 0:
        raise ValueError(
            "expected 0 <= t <= end <= 1, noise to data, "
            f"got t from {low:g}, an end up to {high:g} and a gap of {back:g}"
        )
