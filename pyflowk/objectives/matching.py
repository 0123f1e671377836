"""Matching: a network learns the velocity, noise, data or score of a path from samples of noise and data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..distributions import DiagonalGaussian, Distribution
from ..nets.context import drop_context
from ..nets.field import Field, as_field
from ..ops.describe import described, require_kind
from ..ops.divergence import as_slope
from ..ops.draw import draw_keys, draw_uniform
from ..ops.dtypes import state_dtype
from ..ops.path_sample import noise_of
from ..paths import (
    PREDICTIONS,
    AffinePath,
    Pairing,
    Path,
    PathSample,
    Schedule,
    Times,
    UniformTimes,
    Weight,
    convert,
    independent,
)
from ..space import Ragged
from .nll import reduce

__all__ = ["Matching"]


@dataclass(frozen=True)
class Matching:
    r"""Conditional flow matching: :math:`w_t\,|f(t, x_t, c) - q|^2 / D`, with q the velocity of the path at x_t.

    Called with a field, or a function of (t, x) or (t, x, context) that is handed t as (B,), and x (B, \*event) of D
    elements, data: for each event noise x0 is drawn from ``source`` (standard normal, if none is given), ``pairing``
    says whose noise it is, and a time from ``times``; then x_t, its velocity and the weight come from ``path``. The
    field is trained to predict the velocity or, as ``prediction`` says, the "noise" x0, the "data" x1 or, on an affine
    path, the "score" :math:`-x_0 / \sigma_t`, of which :func:`pyflowk.paths.convert` makes the velocity. ``weight``, a
    function of the times, multiplies the path's: :class:`pyflowk.paths.ErrorWeight` makes one of these losses of
    another. The best field is the average of q over all pairs that pass through x_t, whatever the weight, where the
    loss is what is left of its variance, not 0; gradients are on average those of the squared distance to it. For
    guidance a share ``dropout`` of the events, drawn anew each time, is shown without its context to a field that can
    do without. The result is (B,), an average over elements, or its mean or sum.

    Raises ValueError for an unknown prediction or reduction, for a score on another path or of another source than
    standard normal noise, for dropout with a field that cannot do without, and for answers that are not shaped as x;
    TypeError for events, contexts and answers that are no tensors, and for settings of another kind.
    Cost: one evaluation of the field. Lipman et al., 2023, arXiv:2210.02747; Tong et al., 2024, arXiv:2302.00482;
    dropout: Ho, Salimans, 2022, arXiv:2207.12598.

    >>> import torch
    >>> from pyflowk.objectives import Matching
    >>> Matching(prediction="data")(lambda t, x: torch.zeros_like(x), torch.ones(3, 2), reduction="mean")
    tensor(1.)
    """

    path: Path = field(default_factory=AffinePath)
    prediction: str = "velocity"
    pairing: Pairing = independent
    times: Times = field(default_factory=UniformTimes)
    weight: Weight | None = None
    source: Distribution | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.path, Schedule):
            raise TypeError(f"path: expected a Path, got a schedule alone: say AffinePath({self.path})")
        require_kind("path", self.path, Path, "a Path, such as pyflowk.paths.AffinePath()")
        check_choices(self.pairing, self.times, self.source)
        if self.weight is not None:
            require_kind("weight", self.weight, Callable, "a function of the times (B,), or None for 1")
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction: expected one of {', '.join(PREDICTIONS)}; got {self.prediction!r}")
        if self.prediction == "score" and not isinstance(self.path, AffinePath):
            raise ValueError(f"prediction: score expects an AffinePath, whose noise has a deviation; got {self.path!r}")
        if self.prediction == "score" and not standard_normal(self.source):
            raise ValueError(f"prediction: score expects standard normal noise as its source, got {self.source!r}")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout: expected a share from 0 to 1, got {self.dropout}")

    def __call__(
        self,
        net: Field | Callable[..., Tensor],
        x: Tensor,
        context: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        reduction: str = "none",
    ) -> Tensor:
        check_batch(x, context)
        rows, device, dtype = x.shape[0], x.device, state_dtype(x)
        x0: Tensor | None = None
        if self.prediction in ("velocity", "data") and self.pairing is independent and is_normal(self.source, x):
            x1, keys = x.to(dtype), draw_keys(rows, generator, device=device)  # of noise that nobody looks at
            t = self.times(rows, generator, dtype=dtype, device=device)
            sample = self.path.sample_noise(keys, x1, t, generator)
        else:
            x0, x1, context = paired(self.source, self.pairing, x, context, generator)
            sample = self.path.sample(x0, x1, self.times(rows, generator, dtype=dtype, device=device), generator)
        predicting = as_field(net)
        if self.dropout and context is not None:
            dropped = draw_uniform((rows,), generator, dtype=torch.float32, device=device) < self.dropout
            context = drop_context(context, dropped, predicting.no_context())
        wanted = self._wanted(x0, x1, sample)
        predicted = as_slope(predicting(sample.t, sample.x_t, context), wanted)
        weight = self._weight_of(sample)
        if weight is None and reduction == "mean":
            return F.mse_loss(predicted, wanted)  # one node of autograd where there would be four
        squares = F.mse_loss(predicted, wanted, reduction="none")
        errors = (squares if squares.dim() == 2 else squares.reshape(rows, math.prod(x.shape[1:]))).mean(1)
        return reduce(errors if weight is None else weight * errors, reduction)

    def _weight_of(self, sample: PathSample) -> Tensor | None:
        if self.weight is None:
            return sample.weight
        own = self.weight(sample.t)
        return own if sample.weight is None else sample.weight * own

    def _wanted(self, x0: Tensor | None, x1: Tensor, sample: PathSample) -> Tensor:
        if self.prediction == "velocity" or x0 is None:
            return sample.target if self.prediction == "velocity" else x1
        if self.prediction == "score":
            return convert(x0, sample.x_t, sample.t, self.path.schedule, "noise", "score")  # type: ignore[attr-defined]
        return x0 if self.prediction == "noise" else x1


def check_choices(pairing: object, times: object, source: object) -> None:
    """TypeError for a pairing or a law of times that cannot be called, and for a source that is no Distribution."""
    require_kind("pairing", pairing, Callable, "a function that pairs, such as pyflowk.paths.OptimalTransport()")
    require_kind("times", times, Callable, "a law of times, such as pyflowk.paths.UniformTimes()")
    if isinstance(source, Tensor):
        raise TypeError("source: expected a Distribution, got a tensor: say pyflowk.distributions.Empirical(tensor)")
    if source is not None:
        require_kind("source", source, Distribution, "a Distribution, or None for standard normal noise")


def standard_normal(source: Distribution | None) -> bool:
    """Whether noise of the source, or without any, is what scores are known of."""
    return source is None or (isinstance(source, DiagonalGaussian) and not source.learned)


def check_batch(x: object, context: object) -> None:
    """TypeError for events or a context that are no tensors, ValueError for events without rows."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor of events (B, *event), got {described(x)}")
    if x.dim() == 0:
        raise ValueError("x: expected events (B, *event), got a tensor ()")
    if context is not None and not isinstance(context, (Tensor, Ragged)):
        raise TypeError(f"context: expected a tensor, one row per event of x, got {described(context)}")


def paired(
    source: Distribution | None, pairing: Pairing, x: Tensor, context: Tensor | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Noise of a source, standard normal if there is none, and events x, in pairs with their context."""
    x1 = x.to(state_dtype(x))
    if is_normal(source, x):
        x0 = noise_of(draw_keys(len(x), generator, device=x.device), x1)
    else:
        x0 = source.sample(len(x), context, generator)  # type: ignore[union-attr]
    return pairing(x0, x1, context, generator)


def is_normal(source: Distribution | None, x: Tensor) -> bool:
    """Whether a source is standard normal, and of events like x."""
    if source is None:
        return True
    return type(source) is DiagonalGaussian and not source.learned and source.shape == x.shape[1:]
