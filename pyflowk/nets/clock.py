"""A velocity on another clock: time turned round, or a schedule that is chosen after training."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..ops.times import as_time
from ..paths import Schedule
from ..space import Ragged
from .field import Field, as_field

__all__ = ["RescheduledField", "ReversedField"]


class ReversedField(Field):
    r"""The same motion with the time turned round: :math:`-v(1 - \tau, x)`, data at :math:`\tau = 0`.

    From 0 to 1 it goes where ``net``, a :class:`Field` or a function as :func:`as_field` takes them, goes from 1 to 0,
    in the same steps: what expects data at time 0 can take it, and what was trained so becomes a velocity from noise to
    data. Shapes are those of ``net``. Cost: that of ``net``.

    >>> import torch
    >>> from pyflowk.nets import ReversedField
    >>> ReversedField(lambda t, x: t * x)(torch.tensor(0.25), torch.ones(1, 2))
    tensor([[-0.7500, -0.7500]])
    """

    def __init__(self, net: Field | Callable[..., Tensor]) -> None:
        super().__init__()
        self.net = as_field(net)
        self.takes_context = self.net.takes_context

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return -self.net(1 - as_time(t, x), x, context)

    def no_context(self) -> Tensor | Ragged:
        return self.net.no_context()

    def with_tangents(
        self, t: Tensor, x: Tensor, tangents: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        value, images = self.net.with_tangents(1 - as_time(t, x), x, tangents, context)
        return -value, -images

    def has_divergence(self, t: Tensor) -> bool:
        return self.net.has_divergence(t)

    def with_divergence(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        value, divergence = self.net.with_divergence(1 - as_time(t, x), x, context)
        return -value, -divergence


class RescheduledField(Field):
    r"""The velocity on another ``schedule`` than the affine path that it was ``trained`` on.

    At time r of :math:`(\bar\alpha, \bar\sigma)` the trained schedule has the same signal-to-noise ratio at some time
    t, and events there are those here divided by :math:`s = \bar\alpha / \alpha = \bar\sigma / \sigma`, taken as a
    ratio of norms, which no end makes 0 / 0. With :math:`D = \alpha' \sigma - \alpha \sigma'`, all at t,

    .. math:: \bar v(r, x) = \big( (\bar\alpha' \sigma - \bar\sigma' \alpha)\, v(t, x / s)
        + (\bar\sigma' \alpha' - \bar\alpha' \sigma')\, x / s \big) / D:

    no more than data and noise that v means, in the new shares. Every trajectory is s times one of the trained field,
    for any source, pairing and guidance: samples are the same, in steps that may be better spread. D is not taken to be
    below ``least``. Where the trained schedule does not go as far as the other one, its first or last time stands for
    the rest. Shapes are those of ``net``. Cost: that of ``net`` and a pass over the event, tangents too. Lipman et al.,
    2024, arXiv:2412.06264.

    >>> import torch
    >>> from pyflowk.nets import RescheduledField
    >>> from pyflowk.paths import CondOT, Cosine
    >>> towards = RescheduledField(lambda t, x: torch.ones_like(x) - x, CondOT(), Cosine())
    >>> towards(torch.tensor(0.0), torch.zeros(1, 2))
    tensor([[1.5708, 1.5708]])
    """

    def __init__(
        self, net: Field | Callable[..., Tensor], trained: Schedule, schedule: Schedule, least: float = 1e-3
    ) -> None:
        super().__init__()
        self.net = as_field(net)
        self.takes_context = self.net.takes_context
        self.trained, self.schedule, self.least = trained, schedule, least

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        then, scale, of_value, of_x = self._clock(t, x)
        x = x / scale
        return of_value * self.net(then, x, context) + of_x * x

    def no_context(self) -> Tensor | Ragged:
        return self.net.no_context()

    def with_tangents(
        self, t: Tensor, x: Tensor, tangents: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        then, scale, of_value, of_x = self._clock(t, x)
        wide = (c.unsqueeze(1) if c.dim() else c for c in (scale, of_value, of_x))
        x, (scale, of_value_wide, of_x_wide) = x / scale, wide
        tangents = tangents / scale
        value, images = self.net.with_tangents(then, x, tangents, context)
        return of_value * value + of_x * x, of_value_wide * images + of_x_wide * tangents

    def _clock(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The trained field's time, the scale of x, and the shares of velocity and x in the new velocity."""
        r = as_time(t, x)
        then = self.trained.time(self.schedule.log_snr(r))
        old, new = self.trained.at(then), self.schedule.at(r)
        scale = new.alpha.hypot(new.sigma) / old.alpha.hypot(old.sigma)
        divisor = old.determinant.clamp(min=self.least)
        of_value = (new.alpha_rate * old.sigma - new.sigma_rate * old.alpha) / divisor
        of_x = (new.sigma_rate * old.alpha_rate - new.alpha_rate * old.sigma_rate) / divisor
        shape = [-1, *[1] * (x.dim() - 1)] if r.dim() else []
        return then, scale.reshape(shape), of_value.reshape(shape), of_x.reshape(shape)
