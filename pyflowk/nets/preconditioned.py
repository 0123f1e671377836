"""Networks whose inputs and outputs have unit scale at every time, and which begin as the answer for Gaussian data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..ops.times import as_time
from ..paths import CondOT, Schedule
from ..paths.schedules import require_schedule
from ..space import Ragged
from .field import Field, as_field

__all__ = ["GaussianBaseline", "Preconditioned"]


class _Affine(Field):
    r"""A field :math:`a + k x + o\,F(\tau, (x - b) / n, c)` around a network F: all but x and c depends on the time."""

    def __init__(self, net: Field | Callable[..., Tensor], schedule: Schedule) -> None:
        super().__init__()
        require_schedule(schedule)
        self.net, self.schedule = as_field(net), schedule
        self.takes_context = self.net.takes_context

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        clock, centre, norm, offset, skip, out = self._numbers(t, x)
        return offset + skip * x + out * self.net(clock, (x - centre) / norm, context)

    def with_tangents(
        self, t: Tensor, x: Tensor, tangents: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        clock, centre, norm, offset, skip, out = self._numbers(t, x)
        beside = [c.unsqueeze(1) if c.dim() == x.dim() else c for c in (norm, skip, out)]
        value, images = self.net.with_tangents(clock, (x - centre) / norm, tangents / beside[0], context)
        return offset + skip * x + out * value, beside[1] * tangents + beside[2] * images

    def no_context(self) -> Tensor | Ragged:
        return self.net.no_context()

    def _numbers(self, t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        r""":math:`\tau`, () or (B,), and b, n, a, k and o, which broadcast against x."""
        raise NotImplementedError(f"{type(self).__name__} has no numbers")


class Preconditioned(_Affine):
    r"""EDM's preconditioning: the data that a network F predicts by what is left of them, on any affine path.

    With :math:`\tilde\sigma = \sigma / \alpha`, s the deviation of the data and :math:`n^2 = \sigma^2 + \alpha^2 s^2`,

    .. math:: D(t, x) = \frac{\alpha s^2}{n^2}\, x + \frac{\sigma s}{n}\, F\!\big(\tfrac14 \log \tilde\sigma,
        x / n\big),

    which are :math:`c_{\text{skip}}, c_{\text{out}}, c_{\text{in}}` and :math:`c_{\text{noise}}` without a pole at
    either end: :math:`\tilde\sigma` is taken to be from 1e-4 to 1e4 in the logarithm alone. What F sees and what it has
    to learn has unit variance for data :math:`N(0, s^2)`, of which a network that gives 0 is the exact average.
    ``net(t, x, context=None)`` is F, everything is (B, \*event); ``edm_matching`` of :mod:`pyflowk.objectives` has the
    loss that belongs to it. The same F as the "noise" or the "velocity", which ``prediction`` says, divides by nothing:

    .. math:: x_0 = \frac{\sigma}{n^2}\, x - \frac{\alpha s}{n} F, \quad
        v = \frac{\alpha \alpha' s^2 + \sigma \sigma'}{n^2}\, x + \frac{(\alpha' \sigma - \alpha \sigma') s}{n} F.

    Raises ValueError unless ``deviation`` is above 0, and for another prediction. Cost: the network and two passes over
    the event, tangents too. Karras et al., 2022, arXiv:2206.00364, section 5.

    >>> import torch
    >>> from pyflowk.nets import Preconditioned
    >>> from pyflowk.paths import EDM
    >>> field = Preconditioned(lambda t, x: torch.zeros_like(x), EDM(), deviation=0.625)
    >>> field(torch.tensor(0.5), torch.ones(1, 2))  # where the noise has the same deviation
    tensor([[0.5000, 0.5000]])
    """

    def __init__(
        self,
        net: Field | Callable[..., Tensor],
        schedule: Schedule,
        deviation: float = 0.5,
        prediction: str = "data",
    ) -> None:
        super().__init__(net, schedule)
        if not deviation > 0:
            raise ValueError(f"Preconditioned expects deviation to be above 0, got {deviation}")
        if prediction not in ("data", "noise", "velocity"):
            raise ValueError(f"prediction: expected data, noise or velocity, got {prediction!r}")
        self.deviation, self.prediction, self.predicts = float(deviation), prediction, prediction

    def _numbers(self, t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        c = self.schedule.at(as_time(t, x))
        clock = (c.sigma / c.alpha).clamp(1e-4, 1e4).log() / 4
        c = c.beside(x)
        s, norm = self.deviation, torch.hypot(c.sigma, self.deviation * c.alpha)
        nothing = torch.zeros_like(norm)
        skip, out = {
            "data": (s**2 * c.alpha, s * c.sigma),
            "noise": (c.sigma, -s * c.alpha),
            "velocity": (s**2 * c.alpha * c.alpha_rate + c.sigma * c.sigma_rate, s * c.determinant),
        }[self.prediction]
        return clock, nothing, norm, nothing, skip / norm.square(), out / norm

    def extra_repr(self) -> str:
        return f"{self.schedule}, deviation={self.deviation}, prediction={self.prediction!r}"


class GaussianBaseline(_Affine):
    r"""The velocity of Gaussian data on an affine path, and what a network F adds to it for those that are not.

    .. math:: v(t, x) = v_G(t, x) + \sqrt{\alpha'^2 s^2 + \sigma'^2}\; F(t, (x - \alpha m) / \sqrt C),\quad
        v_G = \alpha' m + (\alpha \alpha' s^2 + \sigma \sigma')\,(x - \alpha m) / C,

    with :math:`C = \alpha^2 s^2 + \sigma^2`: for data of mean m and deviation s, which may be anything that broadcasts
    against an event and become buffers, a network that gives 0 is the exact velocity, and the flow a fit of the first
    two moments. On straight lines, :class:`pyflowk.paths.CondOT` if no schedule is given, the root is
    :math:`\sqrt{1 + s^2}`. So data of any scale can be learned without being brought to unit scale first.

    Raises ValueError unless all deviations are above 0. Cost: the network and two passes over the event, tangents too.
    The form is that of flow-matching posterior estimation in sbi; the idea that of Karras et al., 2022.

    >>> import torch
    >>> from pyflowk.nets import GaussianBaseline
    >>> field = GaussianBaseline(lambda t, x: torch.zeros_like(x), mean=100.0, deviation=10.0)
    >>> field(torch.tensor(1.0), torch.tensor([[100.0, 110.0]]))
    tensor([[100., 110.]])
    """

    predicts = "velocity"

    def __init__(
        self,
        net: Field | Callable[..., Tensor],
        schedule: Schedule | None = None,
        mean: Tensor | float = 0.0,
        deviation: Tensor | float = 1.0,
    ) -> None:
        super().__init__(net, CondOT() if schedule is None else schedule)
        self.mean: Tensor
        self.deviation: Tensor
        for name, value in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.get_default_dtype()).clone())
        if not bool((self.deviation > 0).all()):
            raise ValueError(f"GaussianBaseline expects every deviation to be above 0, got {deviation}")

    def _numbers(self, t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        clock = as_time(t, x)
        c = self.schedule.at(clock).beside(x)
        mean, s = (b.reshape(*[1] * (x.dim() - b.dim()), *b.shape).to(x.dtype) for b in (self.mean, self.deviation))
        variance = (c.alpha * s).square() + c.sigma.square()
        skip = (c.alpha * c.alpha_rate * s.square() + c.sigma * c.sigma_rate) / variance
        centre, out = c.alpha * mean, torch.hypot(c.alpha_rate * s, c.sigma_rate)
        return clock, centre, variance.sqrt(), c.alpha_rate * mean - skip * centre, skip, out

    def extra_repr(self) -> str:
        return f"{self.schedule}"
