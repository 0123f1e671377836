"""Flow maps: a network learns the average velocity between two times, and so to jump from noise to data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from .._checks import require_counts, require_numbers
from ..nets.context import drop_context
from ..nets.field import Field
from ..nets.flow_map import FlowMap, beside
from ..ops.describe import described, require_kind
from ..ops.divergence import as_slope, divergence_shares
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


class _Rows(NamedTuple):
    """Where rows are, and to what end and how fast they move."""

    t: Tensor
    end: Tensor
    x: Tensor
    v: Tensor
    context: Tensor | None

    def part(self, where: slice) -> _Rows:
        context = None if self.context is None else self.context[where]
        return _Rows(self.t[where], self.end[where], self.x[where], self.v[where], context)


@dataclass(frozen=True)
class FlowMapMatching(Matching):
    r"""The average velocity u(t, s, x) of :class:`pyflowk.nets.FlowMap`, by one of the three statements that define it.

    As :class:`Matching`, whose ``path``, ``pairing``, ``source``, ``weight`` and ``dropout`` it has, it draws noise for
    each event and t by ``times``, which gives x on its way and its velocity there, v. The first ``fm_fraction`` of the
    rows, on average where they cannot be cut so, learn :math:`u(t, t, x) = v`, plain flow matching, without which u = 0
    would do; the others, of an end s > t, what the ``condition`` says, where sg holds still what stands in it:

    - "eulerian": :math:`u = \mathrm{sg}[v + (s - t)\, D u]`, D the derivative along ``tangent``: v itself
      ("conditional", MeanFlow), or the network's own u(t, t, x) ("own", improved MeanFlow);
    - "lagrangian": :math:`u + (s - t)\, \partial_s u = \mathrm{sg}[v(s, X_{t \to s}(x))]`, of its own velocity:
      terminal velocity matching, Lagrangian self-distillation;
    - "semigroup": :math:`u(t, s, x) = \mathrm{sg}[\lambda u(t, m, x) + (1 - \lambda)\, u(m, s, X_{t \to m}(x))]`, for
      :math:`m = t + \lambda (s - t)` and a uniform :math:`\lambda`: SplitMeanFlow.

    Derivatives are "exact", by one tangent, or by ``derivative`` "difference", over a share ``step``, a, of the
    interval: :math:`D u = (1 - a)\,(u(t', s, x + (t' - t) v) - u) / (s - t) a` with :math:`t' = t + a (s - t)`, which
    is alpha-Flow, and SoFlow but for weights, and at a = 1 leaves v. A ``teacher``, a velocity, takes the place of v,
    and of its own, in the condition. Ends are drawn by ``ends``, by ``times`` if None, and put in ``order``: "mask"
    sorts those of rows with an interval alone, "sort" of all before the first get none (so their t is the lesser of
    two), "clamp" takes :math:`\max(t, s)`. Half of the intervals of a ``reversible`` map lead back.

    What a map with a ``divergence`` says of that is held to the same, with the shares :math:`\partial v_i / \partial
    x_i` of the velocity that it has learned so far, or the teacher's, in place of v: by as many ``probes`` a row, or
    exactly, if None, by as many tangents as elements. A share ``cycle`` of :math:`|X_{s \to t}(X_{t \to s}(x)) - x|^2`,
    averaged over elements, is added for rows with an interval, so that a reversible map comes back from where it jumps
    (FALCON).

    With ``guidance`` w > 0 the network learns the guided velocity :math:`(1 - \kappa)(v + w (v - u_\emptyset)) + \kappa
    u_c` with :math:`u_\emptyset, u_c = u(t, t, x)` of its own without and with the context, :math:`\kappa` the
    ``guidance_mix``, for rows that keep their context and times within ``guidance_times``: samples are then drawn
    without any. The loss is the squared error e, averaged over elements; its gradient is weighted by :math:`(e D +
    c)^{-p}` with p the ``power``, c the ``offset`` and D elements, u and its divergence each by its own. At its best
    the loss is what is left of the variance of v, not 0, and along v itself it may rise while the map gets better: in
    evaluation mode tangents are the network's own, so that losses of different steps compare.

    Raises ValueError for settings out of range, and for a cycle of a map that is not reversible, TypeError for a
    network that is no FlowMap; else as Matching. Cost: the network on all rows, and on those with an interval a tangent
    or one or two evaluations more; twice that backwards for a "lagrangian"; the probes' tangents on most rows for a
    divergence, an evaluation for a cycle. MeanFlow: Geng et al., 2025, arXiv:2505.13447, whose times run from data to
    noise; improved: arXiv:2512.02012; alpha-Flow: Zhang et al., 2025, arXiv:2510.20771; SoFlow: Luo et al., 2025,
    arXiv:2512.15657; SplitMeanFlow: Guo et al., 2025, arXiv:2507.16884; Lagrangian: Boffi et al., 2025,
    arXiv:2505.18825, Zhou et al., 2025, arXiv:2511.19797; divergence: Ai et al., 2025, arXiv:2512.02636; cycle: Rehman
    et al., 2025, arXiv:2512.09914.

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
    probes: int | None = 1
    cycle: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}; got {getattr(self, name)!r}")
        numbers = {name: getattr(self, name) for name in ("fm_fraction", "step", "guidance", "power", "offset")}
        require_numbers("FlowMapMatching", **numbers, guidance_mix=self.guidance_mix, cycle=self.cycle)
        require_counts("FlowMapMatching", probes=1 if self.probes is None else self.probes)
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
        step: float | None = None,
    ) -> Tensor:
        """The loss, (B,); ``step`` is that of this call, in place of its own, 0 an exact derivative."""
        check_batch(x, context)
        n = x.shape[0]  # the length of a tensor is a constant to torch.export
        if not isinstance(net, FlowMap):
            raise TypeError(f"net: expected a pyflowk.nets.FlowMap, which knows two times; got {described(net)}")
        if self.cycle and not net.reversible:
            raise ValueError(f"cycle: expected 0 for a FlowMap that is not reversible; got {self.cycle}")
        x0, x1, context = paired(self.source, self.pairing, x, context, generator)
        cut = self._matched(n, generator, x.device)  # rows before it learn the velocity, as a flow does
        t, end = self._intervals(n, cut, generator, net.reversible, dtype=state_dtype(x), device=x.device)
        sample = self.path.sample(x0, x1, t, generator)
        context, dropped = expand_context(context, n), None
        if self.dropout and context is not None:
            dropped = draw_uniform((n,), generator, dtype=torch.float32, device=x.device) < self.dropout
            context = drop_context(context, dropped, net.no_context())
        v = sample.target if net.prediction == "velocity" else net.as_velocity(x1, t, sample.x_t)
        v = self._guided(net, sample, v, context, dropped)
        told, rows = net.answer(t, sample.x_t, context, end), _Rows(t, end, sample.x_t, v, context)
        near, far = rows.part(slice(cut)), rows.part(slice(cut, None))
        apart, wanted = told[:cut], self._with_shares(net, near.t, near.x, near.v, near.context, generator)
        back = v.new_zeros(len(t))
        if cut < len(t):
            held, ahead = self._held(net, told[cut:], far, generator, self.step if step is None else step)
            apart, wanted = torch.cat((apart, held)), torch.cat((wanted, ahead))
            if self.cycle:
                there = far.x + beside(far.end - far.t, far.x) * net.mine(told[cut:], far.x)
                missed = net.jump(far.end, there, far.context, end=far.t) - far.x
                back = torch.cat((back[:cut], self.cycle * missed.square().flatten(1).mean(1)))
        errors = (as_slope(apart, wanted) - wanted).square().split(v.shape[1], 1)
        loss = sum((self._weighed(each.flatten(1), net.training) for each in errors), back)
        weight = self._weight_of(sample)
        return reduce(loss if weight is None else weight * loss, reduction)

    def _weighed(self, errors: Tensor, training: bool) -> Tensor:
        """The mean of squared errors (B, D), whose gradient is small where they are large."""
        means = errors.mean(1)
        if not (self.power and training):
            return means
        weight = (errors.detach().sum(1) + self.offset) ** -self.power
        return weight * means + ((1 - weight) * means).detach()

    def _matched(self, rows: int, generator: Generator | None, device: torch.device) -> int:
        """How many rows learn the velocity: one more or less by chance, where the share of them is no integer."""
        share = rows * self.fm_fraction
        if share == int(share):
            return int(share)
        return int(share + draw_uniform((), generator, dtype=torch.float64, device=device))

    def _intervals(
        self, n: int, cut: int, generator: Generator | None, reversible: bool = False, **like: Any
    ) -> tuple[Tensor, Tensor]:
        """Times and ends (n,), of which so many have no gap."""
        t = self.times(n, generator, **like)
        end = (self.times if self.ends is None else self.ends)(n, generator, **like)
        low, high = t.minimum(end), t.maximum(end)
        none = torch.arange(n, device=t.device) < cut
        if self.order == "clamp":
            low = t
        elif self.order == "mask":
            low = torch.where(none, t, low)
        high = torch.where(none, low, high)
        if not reversible:
            return low, high
        back = draw_uniform((n,), generator, **like) < 0.5
        return torch.where(back, high, low), torch.where(back, low, high)

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

    @torch.no_grad()
    def _with_shares(
        self, net: FlowMap, t: Tensor, x: Tensor, v: Tensor, context: Tensor | None, generator: Generator | None
    ) -> Tensor:
        """The velocity v at x and, where the map has a divergence, beside it that of every element."""
        if not net.divergence:
            return v
        ask = (self.teacher or net).with_tangents
        with torch.autocast(x.device.type, enabled=False):
            shares = divergence_shares(lambda x, e: ask(t, x, e, context), x, self.probes, generator)
        return torch.cat((v, shares), 1)

    def _held(
        self,
        net: FlowMap,
        told: Tensor,
        rows: _Rows,
        generator: Generator | None,
        a: float,
    ) -> tuple[Tensor, Tensor]:
        """What of an answer is held, and to what, at rows that have an interval."""
        t, end, x, v, context = rows
        gap, exact = beside(end - t, x), self.derivative == "exact" or not a
        if self.condition == "lagrangian":
            if exact:
                held = told + gap * net.answer_along(t, x, torch.zeros_like(x), context, end, end_rate=1.0)[1]
            else:
                held = (told - (1 - a) * net.answer(t, x, context, t.lerp(end, 1 - a))) / a
            with torch.no_grad():
                there = x + gap * net.mine(told, x)
                v = (self.teacher or net)(end, there, context)
                return held, self._with_shares(net, end, there, v, context, generator)
        with torch.no_grad():
            if self.condition == "semigroup":
                share = draw_uniform((len(t),), generator, dtype=t.dtype, device=t.device)
                middle, part = t.lerp(end, share), beside(share, x)
                first = net.answer(t, x, context, middle)
                there = x + part * gap * net.mine(first, x)
                return told, part * first + (1 - part) * net.answer(middle, there, context, end)
            if self.teacher is not None:
                v = self.teacher(t, x, context)
            along = v if self.tangent == "conditional" and net.training else net(t, x, context)
            v = self._with_shares(net, t, x, v, context, generator)
            if exact:
                return told, v + gap * net.answer_along(t, x, along, context, end, rate=1.0)[1]
            later = net.answer(t.lerp(end, a), x + a * gap * along, context, end)
            return told, v + (1 - a) / a * (later - told)


def sigmoid_step(part: float) -> float:
    """The step of alpha-Flow when a part of a training, 0 to 1, is over: from 1 to 0, a derivative."""
    step = 1 / (1 + math.exp(25 * (part - 0.5)))
    return step if step >= 0.005 else 0.0


def exponential_step(part: float) -> float:
    """The step of SoFlow when a part of a training is over: from 0.1 to 0.002."""
    return float(0.1 * 0.02**part)


FLOW_MAPS: dict[str, dict[str, Any]] = {
    "mean_flow": {},
    "improved_mean_flow": {"tangent": "own", "fm_fraction": 0.5},
    "alpha_flow": {"derivative": "difference", "fm_fraction": 0.5},
    "soflow": {"derivative": "difference", "step": 0.002, "fm_fraction": 0.5},
    "terminal_velocity": {"condition": "lagrangian", "fm_fraction": 0.5, "power": 0.0},
    "split_mean_flow": {"condition": "semigroup", "fm_fraction": 0.5, "power": 0.0},
}
"""The settings of the objectives that have a name: FlowMapMatching(**FLOW_MAPS["mean_flow"])."""
CURRICULA: dict[str, Callable[[float], float]] = {"alpha_flow": sigmoid_step, "soflow": exponential_step}
"""By how much of a training is over, the ``step`` of those that have one."""
