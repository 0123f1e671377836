"""Generator matching: what a Markov process does, drift and jumps, is regressed on what it does given the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._checks import require_numbers
from ..nets.context import Network, drop_context
from ..ops.describe import described, require_kind
from ..ops.draw import draw_keys, draw_uniform
from ..ops.dtypes import state_dtype
from ..ops.path_sample import noise_of
from ..paths import Characteristics, CondOTJumps, JumpPath, Times, UniformTimes, Weight
from .matching import check_batch
from .nll import reduce

__all__ = ["DIVERGENCES", "GeneratorMatching", "bregman"]


def _log_det(target: Tensor, model: Tensor) -> Tensor:
    product = torch.linalg.solve(model.mT, target.mT)
    trace = product.diagonal(dim1=-2, dim2=-1).sum(-1)
    return trace - torch.linalg.slogdet(product).logabsdet - target.shape[-1]


DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "square": lambda target, model: (target - model).square() / 2,
    "kl": lambda target, model: torch.xlogy(target, target) - torch.xlogy(target, model) - target + model,
    "itakura_saito": lambda target, model: target / model - torch.log(target / model) - 1,
    "log_det": _log_det,
}
r"""Of :math:`\phi(a)` = :math:`|a|^2 / 2`, :math:`a \log a - a`, :math:`-\log a` and :math:`-\log \det a`."""


def bregman(target: Tensor, model: Tensor, kind: str = "square") -> Tensor:
    r"""Bregman's divergence :math:`D(a, b) = \phi(a) - \phi(b) - \langle a - b, \nabla \phi(b) \rangle` of a target a
    from what a model says, b, elementwise.

    ``kind`` is one of :data:`DIVERGENCES`: "square"; "kl", generalised to rates a, b >= 0; "itakura_saito", of numbers
    above 0; "log_det", of positive definite matrices in the last two dimensions. Whatever it is, of random targets the
    best b is their mean, as the target stands first: the other way round it would be another average. Raises ValueError
    for another kind. Banerjee et al., 2005; Holderrieth et al., 2024, arXiv:2410.20587.

    >>> import torch
    >>> from pyflowk.objectives import bregman
    >>> bregman(torch.tensor([0.0, 1.0, 2.0]), torch.ones(3), "kl")
    tensor([1.0000, 0.0000, 0.3863])
    """
    if kind not in DIVERGENCES:
        raise ValueError(f"kind: expected one of {', '.join(DIVERGENCES)}; got {kind!r}")
    return DIVERGENCES[kind](target, model)


@dataclass(frozen=True)
class GeneratorMatching:
    r"""Generator matching along a path that flow and jumps share:

    .. math:: \frac{w_t}{D} \sum_d \Big( f\, \tfrac12 (v - u)_d^2 + j \big[ D_\phi(\lambda^z_d, \lambda_d) +
        \lambda^z_d\, \mathrm{KL}(J^z_d \,\|\, J_d) \big] \Big).

    Called with a net that tells :class:`pyflowk.paths.Characteristics` of (t, x) or (t, x, context), such as
    :class:`pyflowk.nets.CharacteristicsField`, and x (B, \*event) of D elements, data: noise is standard normal, a time
    is drawn from ``times``, and the ``path``, a :class:`pyflowk.paths.JumpPath`, gives velocity, rates and landing
    laws given the data. What the net has is learned: a drift u, and jumps, with weights ``flow`` f, ``jump`` j. Rates
    are :math:`(1 - t) \lambda`, so that they are of order one; by "kl", the ``divergence`` of rates, and a ``weight``
    1 / (1 - t) the jumps' part is the rate at which the true process departs from the model's, the integral a bound on
    the divergence of their ends. "square" is the other divergence that takes rates of 0. The best net is the average
    over all data whatever the weights (Billera et al., 2025, arXiv:2511.16599, for those of time and place). For
    guidance a share ``dropout`` of the events is shown without its context. The result is (B,), or its mean or sum.

    Raises ValueError for an unknown divergence or reduction, for a drift along a path without a velocity, and for
    answers that are not shaped as x and the bins; TypeError for settings and answers of another kind. Cost: one
    evaluation of the net, and four passes over the bins. Holderrieth et al., 2024, arXiv:2410.20587.

    >>> import torch
    >>> from pyflowk.nets import CharacteristicsField, MLPField
    >>> from pyflowk.objectives import GeneratorMatching
    >>> from pyflowk.paths import CondOTJumps
    >>> net = CharacteristicsField(MLPField(2, 8, 1, outputs=2 * 10), flow=True, bins=8)
    >>> GeneratorMatching(CondOTJumps.reaching(1.0, 8))(net, torch.ones(3, 2)).shape
    torch.Size([3])
    """

    path: JumpPath = field(default_factory=lambda: CondOTJumps.reaching(1.0, 128))
    flow: float = 1.0
    jump: float = 1.0
    divergence: str = "kl"
    times: Times = field(default_factory=lambda: UniformTimes(most=1 - 1e-3))
    weight: Weight | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_kind("path", self.path, JumpPath, "a JumpPath, such as pyflowk.paths.CondOTJumps.reaching(1.0, 64)")
        require_kind("times", self.times, Callable, "a law of times, such as pyflowk.paths.UniformTimes()")
        if self.weight is not None:
            require_kind("weight", self.weight, Callable, "a function of the times (B,), or None for 1")
        require_numbers("GeneratorMatching", flow=self.flow, jump=self.jump, dropout=self.dropout)
        if self.divergence not in ("square", "kl"):
            raise ValueError(f"divergence: expected square or kl of rates that may be 0; got {self.divergence!r}")
        if self.dropout > 1:
            raise ValueError(f"dropout: expected a share from 0 to 1, got {self.dropout}")

    def __call__(
        self,
        net: Network | Callable[..., Characteristics],
        x: Tensor,
        context: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        reduction: str = "none",
    ) -> Tensor:
        check_batch(x, context)
        rows, device, x1 = x.shape[0], x.device, x.to(state_dtype(x))
        x0 = noise_of(draw_keys(rows, generator, device=device), x1)
        sample = self.path.sample(x0, x1, self.times(rows, generator, dtype=x1.dtype, device=device), generator)
        if self.dropout and context is not None:
            dropped = draw_uniform((rows,), generator, dtype=torch.float32, device=device) < self.dropout
            context = drop_context(context, dropped, net.no_context())  # type: ignore[union-attr]
        told = net(sample.t, sample.x_t) if context is None else net(sample.t, sample.x_t, context)
        if not isinstance(told, Characteristics):
            raise TypeError(f"net: expected pyflowk.paths.Characteristics; got {described(told)}")
        if told.drift is None and told.landing is None:
            raise ValueError("net: expected a drift, or jumps, or both; got neither")
        loss = torch.zeros_like(x1)
        if told.drift is not None:
            loss = loss + self.flow * bregman(self._fitting(sample.velocity, told.drift, "a drift"), told.drift)
        if told.intensity is not None and told.landing is not None:
            rate = self._fitting(sample.intensity, told.intensity, "an intensity")
            masses = self._fitting(sample.masses, told.landing, "landing logits")
            law = torch.log_softmax(told.landing, -1)
            told_of = torch.where((masses == 0) & (law == -math.inf), 0.0, masses * law)  # 0 log 0
            apart = (torch.xlogy(masses, masses) - told_of).sum(-1)
            loss = loss + self.jump * (self._of_rates(rate, told.intensity) + rate * apart)
        each = loss.reshape(rows, math.prod(x.shape[1:])).mean(1)
        return reduce(each if self.weight is None else self.weight(sample.t) * each, reduction)

    def _of_rates(self, rate: Tensor, intensity: Tensor) -> Tensor:
        """The divergence of rates from those of a logarithm, which may be minus infinity."""
        intensity = intensity.clamp(min=-1e3)
        if self.divergence == "square":
            return bregman(rate, intensity.exp())
        return torch.xlogy(rate, rate) - rate * intensity - rate + intensity.exp()

    def _fitting(self, target: Tensor | None, told: Tensor, what: str) -> Tensor:
        if target is None:
            raise ValueError(f"net: expected no drift along {self.path}, which has no flow; got one")
        if told.shape != target.shape:
            raise ValueError(f"net: expected {what} {tuple(target.shape)}; got {tuple(told.shape)}")
        return target
