"""Flow maps: a network learns the average velocity between two times, and so to jump from noise to data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from .._checks import require_numbers
from ..nets.context import drop_context
from ..nets.field import Field
from ..nets.flow_map import FlowMap, beside
from ..ops.describe import described, require_kind
from ..ops.divergence import as_slope
from ..ops.draw import draw_uniform
from ..ops.dtypes import state_dtype
from ..paths import LogitNormalTimes, PathSample, Times
from ..shapes import expand_context
from .matching import Matching, check_batch, paired
from .nll import reduce

__all__ = ["FLOW_MAPS", "FlowMapMatching"]

CHOICES = {
    "condition": ("eulerian", "lagrangian", "semigroup"),
    "derivative": ("exact", "difference"),
    "tangent": ("conditional", "own"),
    "order": ("mask", "sort", "clamp"),
}


@dataclass(frozen=True)
class FlowMapMatching(Matching):
    r"""The average velocity u(t, s, x) of :class:`pyflowk.nets.FlowMap`, by one of the three statements that define it.

    As :class:`Matching`, whose ``path``, ``pairing``, ``source``, ``weight`` and ``dropout`` it has, it draws noise for
    each event and t by ``times``, which gives x on its way and its velocity there, v. The first ``fm_fraction`` of the
    rows learn :math:`u(t, t, x) = v`, plain flow matching, without which u = 0 would do; the others, of an end s > t,
    what the ``condition`` says, where sg holds still what stands in it:

    - "eulerian": :math:`u = \mathrm{sg}[v + (s - t)\, D u]`, D the derivative along ``tangent``: v itself
      ("conditional", MeanFlow), or the network's own u(t, t, x) ("own", improved MeanFlow);
    - "lagrangian": :math:`u + (s - t)\, \partial_s u = \mathrm{sg}[v(s, X_{t \to s}(x))]`, of its own velocity:
      terminal velocity matching, Lagrangian self-distillation;
    - "semigroup": :math:`u(t, s, x) = \mathrm{sg}[\lambda u(t, m, x) + (1 - \lambda)\, u(m, s, X_{t \to m}(x))]`, for
      :math:`m = t + \lambda (s - t)` and a uniform :math:`\lambda`: SplitMeanFlow.

    Derivatives are "exact", by one tangent, or by ``derivative`` "difference", over a share ``step``, a, of the
    interval: :math:`D u = (1 - a)\,(u(t', s, x + (t' - t) v) - u) / (s - t) a` with :math:`t' = t + a (s - t)`, which
    is alpha-Flow and at a = 1 leaves v. A ``teacher``, a velocity, takes the place of v, and of its own, in the
    condition. Ends are drawn by ``ends``, by ``times`` if None, and put in ``order``: "mask" sorts those of rows with
    an interval alone, "sort" of all before the first get none (so their t is the lesser of two), "clamp" takes
    :math:`\max(t, s)`.

    With ``guidance`` w > 0 the network learns the guided velocity :math:`(1 - \kappa)(v + w (v - u_\emptyset)) + \kappa
    u_c` with :math:`u_\emptyset, u_c = u(t, t, x)` of its own without and with the context, :math:`\kappa` the
    ``guidance_mix``, for rows that keep their context and times within ``guidance_times``: samples are then drawn
    without any. The squared error e, averaged over elements, is weighted by :math:`(e D + c)^{-p}` with p the
    ``power``, c the ``offset`` and D elements. At its best the loss is what is left of the variance of v, not 0, and
    with those weights or along v itself it may rise while the map gets better: in evaluation mode all rows count alike,
    and tangents are the network's own, so that losses of different steps compare.

    Raises ValueError for settings out of range, TypeError for a network that is no FlowMap; else as Matching. Cost:
    the network on all rows, and on those with an interval a tangent or one or two evaluations more; twice that
    backwards for a "lagrangian". MeanFlow: Geng et al., 2025, arXiv:2505.13447, whose times run from data to noise;
    improved: arXiv:2512.02012; alpha-Flow: Zhang et al., 2025, arXiv:2510.20771; SplitMeanFlow: Guo et al., 2025,
    arXiv:2507.16884; Lagrangian: Boffi et al., 2025, arXiv:2505.18825, Zhou et al., 2025, arXiv:2511.19797.

    >>> import torch
    >>> from pyflowk.nets import FlowMap, MLPField
    >>> from pyflowk.objectives import FlowMapMatching
    >>> FlowMapMatching()(FlowMap(MLPField(2, width=8, interval=True)), torch.ones(3, 2)).shape
    torch.Size([3])
    """

    times: Times = field(default_factory=lambda: LogitNormalTimes(0.4, 1.0))
    ends: Times | None = None
    order: str = "mask"
    fm_fraction: float = 0.75
    condition: str = "eulerian"
    derivative: str = "exact"
    step: float = 0.1
    tangent: str = "conditional"
    teacher: Field | None = None
    guidance: float = 0.0
    guidance_mix: float = 0.0
    guidance_times: tuple[float, float] = (0.0, 1.0)
    power: float = 1.0
    offset: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}; got {getattr(self, name)!r}")
        numbers = {name: getattr(self, name) for name in ("fm_fraction", "step", "guidance", "power", "offset")}
        require_numbers("FlowMapMatching", **numbers, guidance_mix=self.guidance_mix)
        if self.prediction != "velocity":
            raise ValueError(f"prediction: expected velocity, which a FlowMap makes of data; got {self.prediction!r}")
        if not (self.fm_fraction <= 1 and 0 < self.step <= 1 and self.guidance_mix < 1):
            raise ValueError(
                f"expected fm_fraction and step up to 1, step above 0 and guidance_mix below 1; got "
                f"{self.fm_fraction}, {self.step} and {self.guidance_mix}"
            )
        if self.teacher is not None:
            require_kind("teacher", self.teacher, Field, "a Field, which tells the velocity")

    def __call__(
        self,
        net: Field | Callable[..., Tensor],
        x: Tensor,
        context: Tensor | None = None,
        *,
        generator: Generator | None = None,
        reduction: str = "none",
    ) -> Tensor:
        check_batch(x, context)
        rows = x.shape[0]  # the length of a tensor is a constant to torch.export
        if not isinstance(net, FlowMap):
            raise TypeError(f"net: expected a pyflowk.nets.FlowMap, which knows two times; got {described(net)}")
        x0, x1, context = paired(self.source, self.pairing, x, context, generator)
        t, end = self._intervals(rows, generator, dtype=state_dtype(x), device=x.device)
        sample = self.path.sample(x0, x1, t, generator)
        context, dropped = expand_context(context, rows), None
        if self.dropout and context is not None:
            dropped = draw_uniform((rows,), generator, dtype=torch.float32, device=x.device) < self.dropout
            context = drop_context(context, dropped, net.no_context())
        v = sample.target if net.prediction == "velocity" else net.as_velocity(x1, t, sample.x_t)
        v = self._guided(net, sample, v, context, dropped)
        predicted = as_slope(net(t, sample.x_t, context, end), v)
        cut = self._matched(rows)  # rows before it learn the velocity, as a flow does
        if cut < rows:
            there, context = sample.x_t[cut:], None if context is None else context[cut:]
            ahead, wanted = self._held(net, predicted[cut:], t[cut:], end[cut:], there, v[cut:], context, generator)
            predicted, v = torch.cat((predicted[:cut], ahead)), torch.cat((v[:cut], wanted))
        errors = (predicted - v).square().flatten(1)
        means = errors.mean(1)
        if self.power and net.training:
            means = means * (errors.detach().sum(1) + self.offset) ** -self.power
        weight = self._weight_of(sample)
        return reduce(means if weight is None else weight * means, reduction)

    def _matched(self, rows: int) -> int:
        return int(rows * self.fm_fraction)

    def _intervals(self, n: int, generator: Generator | None, **like: Any) -> tuple[Tensor, Tensor]:
        """Times and ends (n,), the first of them without a gap."""
        t = self.times(n, generator, **like)
        end = (self.times if self.ends is None else self.ends)(n, generator, **like)
        low, high = t.minimum(end), t.maximum(end)
        none = torch.arange(n, device=t.device) < self._matched(n)
        if self.order == "clamp":
            return t, torch.where(none, t, high)
        start = low if self.order == "sort" else torch.where(none, t, low)
        return start, torch.where(none, start, high)

    @torch.no_grad()
    def _guided(
        self, net: FlowMap, sample: PathSample, v: Tensor, context: Tensor | None, dropped: Tensor | None
    ) -> Tensor:
        """The velocity to learn, further than the context where there is guidance."""
        if not self.guidance or context is None:
            return v
        mix, (first, last), t, x = self.guidance_mix, self.guidance_times, sample.t, sample.x_t
        none = drop_context(context, torch.ones_like(t, dtype=torch.bool), net.no_context())
        guided = (1 - mix) * (v + self.guidance * (v - net(t, x, none)))
        if mix:
            guided = guided + mix * net(t, x, context)
        active = (t >= first) & (t <= last)
        return torch.where(beside(active if dropped is None else active & ~dropped, v), guided, v)

    def _held(
        self,
        net: FlowMap,
        u: Tensor,
        t: Tensor,
        end: Tensor,
        x: Tensor,
        v: Tensor,
        context: Tensor | None,
        generator: Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """What of u is held, and to what, at rows x that have an interval and the velocity v."""
        gap, a = beside(end - t, x), self.step
        if self.condition == "lagrangian":
            if self.derivative == "exact":
                held = u + gap * net.derivative(t, x, torch.zeros_like(x), context, end, end_rate=1.0)[1]
            else:
                held = (u - (1 - a) * net(t, x, context, t.lerp(end, 1 - a))) / a
            with torch.no_grad():
                return held, (self.teacher or net)(end, x + gap * u, context)
        with torch.no_grad():
            if self.condition == "semigroup":
                share = draw_uniform((len(t),), generator, dtype=t.dtype, device=t.device)
                middle, part = t.lerp(end, share), beside(share, x)
                first = net(t, x, context, middle)
                return u, part * first + (1 - part) * net(middle, x + part * gap * first, context, end)
            if self.teacher is not None:
                v = self.teacher(t, x, context)
            along = v if self.tangent == "conditional" and net.training else net(t, x, context)
            if self.derivative == "exact":
                return u, v + gap * net.derivative(t, x, along, context, end, rate=1.0)[1]
            later = net(t.lerp(end, a), x + a * gap * along, context, end)
            return u, v + (1 - a) / a * (later - u)


FLOW_MAPS: dict[str, dict[str, Any]] = {
    "mean_flow": {},
    "improved_mean_flow": {"tangent": "own", "fm_fraction": 0.5},
    "alpha_flow": {"derivative": "difference", "fm_fraction": 0.5},
    "terminal_velocity": {"condition": "lagrangian", "fm_fraction": 0.5, "power": 0.0},
    "split_mean_flow": {"condition": "semigroup", "fm_fraction": 0.5, "power": 0.0},
}
"""The settings of the objectives that have a name: FlowMapMatching(**FLOW_MAPS["mean_flow"])."""
