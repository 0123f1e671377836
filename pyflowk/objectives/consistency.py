"""Consistency: what a network says of the data is to be the same all along a trajectory, so that the noise will do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from .._checks import require_numbers
from ..nets.context import drop_context
from ..nets.field import Field, as_field
from ..nets.flow_map import beside
from ..ops.describe import require_kind
from ..ops.divergence import as_slope
from ..ops.draw import draw_uniform
from ..ops.dtypes import state_dtype
from ..paths import AffinePath, Cosine, LogNormalTimes, Path, PathSample, Times, convert
from ..shapes import expand_context
from .matching import Matching, check_batch, paired
from .nll import reduce

__all__ = ["ConsistencyMatching"]

UNIT = 2 / math.pi
"""Of time in an angle of the quarter of a circle."""
LOUDEST, HUBER = 1e4, 0.00054
"""The most noise beside the data that is told from more; what rounds off the distance, a root of the elements."""


@dataclass(frozen=True)
class ConsistencyMatching(Matching):
    r"""The data f(t, x) at the end of the trajectory through x, from f being constant along it and f(1, x) = x.

    As :class:`Matching`, on a quarter of a circle, :class:`pyflowk.paths.Cosine`, where the net's "velocity" F means
    :math:`f = \alpha x + \tfrac{2}{\pi} \sigma F`; one step from noise, f(0, x), is a sample
    (:func:`pyflowk.solvers.consistency`). ``derivative`` says by what f is held:

    - "exact", the continuous limit (sCM): F is drawn towards :math:`\mathrm{sg}[F + g / (|g| + c)]`, where g is the
      change of f along v, by one tangent, in units of the angle: :math:`g = \alpha^2 (\tilde v - \tilde F) + w\, \alpha
      \sigma\, (x + D \tilde F)` with :math:`\tilde v = \tfrac{2}{\pi} v`. ``warmup`` is w, which grows from 0 to 1 in
      the first steps of a training, and ``offset`` c;
    - "difference", two times that share their noise (ECT): :math:`(\sqrt{|f(t, x_t) - \mathrm{sg} f(s, x_s)|^2 + c^2}
      - c) / (\nu_t - \nu_s)`, for noise :math:`\nu = \sigma / \alpha` and :math:`\nu_s = \nu_t (1 - \rho\,(1 + 8 /
      (1 + e^{\nu_t})))`, at least 0. ``ratio`` is :math:`\rho`, which halves as a training goes on.

    v is the velocity of the pair, or that of a ``teacher``. The loss says little: its tangents depend on what is
    learned. Raises ValueError for a path or a prediction that is not this, and for settings out of range, else as
    Matching. Cost: "exact" the network and a tangent, "difference" two evaluations. Song et al., 2023,
    arXiv:2303.01469; Lu, Song, 2025, arXiv:2410.11081; Geng et al., 2025, arXiv:2406.14548.

    >>> import torch
    >>> from pyflowk.nets import MLPField
    >>> from pyflowk.objectives import ConsistencyMatching
    >>> ConsistencyMatching()(MLPField(2, width=8), torch.ones(3, 2)).shape
    torch.Size([3])
    """

    path: Path = field(default_factory=lambda: AffinePath(Cosine()))
    times: Times = field(default_factory=lambda: LogNormalTimes(Cosine(), -1.0, 1.4))
    derivative: str = "exact"
    teacher: Field | None = None
    warmup: float = 1.0
    offset: float = 0.1
    ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_numbers("ConsistencyMatching", warmup=self.warmup, offset=self.offset, ratio=self.ratio)
        if str(self.path) != str(AffinePath(Cosine())) or self.prediction != "velocity":
            raise ValueError(f"expected the velocity of AffinePath(Cosine()), got {self.prediction} of {self.path}")
        if self.derivative not in ("exact", "difference"):
            raise ValueError(f"derivative: expected exact or difference, got {self.derivative!r}")
        if not (self.warmup <= 1 and 0 < self.ratio <= 1 and self.offset > 0):
            raise ValueError(
                "expected warmup up to 1, ratio above 0 and up to 1 and an offset above 0; got "
                f"{self.warmup}, {self.ratio} and {self.offset}"
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
        warmup: float | None = None,
        ratio: float | None = None,
    ) -> Tensor:
        """The loss, (B,); ``warmup`` and ``ratio`` are those of this step, in place of its own."""
        check_batch(x, context)
        rows = x.shape[0]  # the length of a tensor is a constant to torch.export
        x0, x1, context = paired(self.source, self.pairing, x, context, generator)
        t = self.times(rows, generator, dtype=state_dtype(x), device=x.device)
        sample, asked = self.path.sample(x0, x1, t, generator), as_field(net)
        context = expand_context(context, rows)
        if self.dropout and context is not None:
            dropped = draw_uniform((rows,), generator, dtype=torch.float32, device=x.device) < self.dropout
            context = drop_context(context, dropped, asked.no_context())
        told = as_slope(asked(t, sample.x_t, context), x1)
        if self.derivative == "exact":
            change = self._change(asked, told, sample, context, self.warmup if warmup is None else warmup)
            wanted = UNIT * told.detach() + change
            errors = (UNIT * told - wanted).square().flatten(1).mean(1)
        else:
            errors = self._apart(asked, told, sample, x0, x1, context, self.ratio if ratio is None else ratio)
        weight = self._weight_of(sample)
        return reduce(errors if weight is None else weight * errors, reduction)

    @torch.no_grad()
    def _change(self, net: Field, told: Tensor, sample: PathSample, context: Tensor | None, warmup: float) -> Tensor:
        """The normalised change of f along the trajectory, towards which F is drawn."""
        t, x = sample.t, sample.x_t
        v = sample.target if self.teacher is None else self.teacher(t, x, context)
        along = net.derivative(t, x, v, context, rate=1.0)[1]
        c = self.path.schedule.at(t).beside(x)  # type: ignore[attr-defined]
        change = c.alpha**2 * UNIT * (v - told) + warmup * c.alpha * c.sigma * (x + UNIT**2 * along)
        return change / (beside(change.flatten(1).norm(dim=1), x) + self.offset)

    def _apart(
        self, net: Field, told: Tensor, sample: PathSample, x0: Tensor, x1: Tensor, context: Tensor | None,
        ratio: float,
    ) -> Tensor:  # fmt: skip
        """How far what is told of the data at a time is from what is told a little later, (B,)."""
        schedule, size = self.path.schedule, x1[0].numel() if len(x1) else 0  # type: ignore[attr-defined]
        now = schedule.at(sample.t)
        noise = (now.sigma / now.alpha).clamp(max=LOUDEST)
        less = noise * (1 - ratio * (1 + 8 * torch.sigmoid(-noise))).clamp(min=0)
        with torch.no_grad():
            later = self.path.sample(x0, x1, schedule.time(-2 * less.log()))
            wanted = self._data(later, as_slope(net(later.t, later.x_t, context), x1))
        squares = (self._data(sample, told) - wanted).square().flatten(1).sum(1)
        least = HUBER**2 * size
        return ((squares + least).sqrt() - least**0.5) / (noise - less)

    def _data(self, sample: PathSample, told: Tensor) -> Tensor:
        return convert(told, sample.x_t, sample.t, self.path.schedule, "velocity", "data")  # type: ignore[attr-defined]
