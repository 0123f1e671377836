"""[SF]2M: velocity and score of a Schroedinger bridge are learned together, no equation being solved in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..distributions import Distribution
from ..nets.field import Field, as_field
from ..ops.divergence import as_slope
from ..paths import BrownianBridge, Pairing, Sinkhorn, Times, UniformTimes
from .matching import check_batch, check_choices, paired
from .nll import reduce

__all__ = ["SF2M"]


@dataclass(frozen=True)
class SF2M:
    r"""Simulation-free score and flow matching:
    :math:`\big( |v(t, x_t, c) - u|^2 + |\lambda_t\, s(t, x_t, c) + \epsilon|^2 \big) / D`.

    Called with two fields, or functions of (t, x) or (t, x, context), and x (B, \*event) of D elements, data. As in
    :class:`pyflowk.objectives.Matching` noise x0 is drawn from ``source`` (standard normal, if none is given), paired
    by ``pairing``, and a time drawn from ``times``; x_t, the target u and the noise :math:`\epsilon` are those of the
    :class:`pyflowk.paths.BrownianBridge` of ``sigma``. The second field learns :math:`s = \frac{\sigma^2}{2} \nabla
    \log p_t`, for which :math:`\lambda_t = 2 \sqrt{t (1 - t)} / \sigma`. The result is (B,), or its mean or sum.

    From there :math:`dx = v\, dt` and :math:`dx = (v + s)\, dt + \sigma\, dW` have the same distribution at every time,
    and so has, from the data back, :math:`dx = (v - s)\, dt + \sigma\, d\bar W`. They are the Schroedinger bridge if
    the pairs are those of the entropic plan, of the squared distance regularised by :math:`2 \sigma^2`, as they are
    by default, :class:`pyflowk.paths.Sinkhorn`: with pairs by chance, or of an exact plan, they are not.

    Raises ValueError unless sigma > 0, for an unknown reduction and for answers that are not shaped as x; TypeError for
    settings, events and contexts of another kind. Cost: one evaluation of both fields. Tong et al., 2024,
    arXiv:2307.03672.

    >>> import torch
    >>> from pyflowk.objectives import SF2M
    >>> from pyflowk.solvers import Fixed, sdeint
    >>> def velocity(t, x): return -x
    >>> def score(t, x): return -x / 2
    >>> SF2M(sigma=1.0)(velocity, score, torch.ones(3, 2)).shape
    torch.Size([3])
    >>> def drift(t, x): return velocity(t, x) + score(t, x)
    >>> sdeint(drift, 1.0, torch.zeros(3, 2), [0.0, 1.0], stepping=Fixed(20)).shape
    torch.Size([2, 3, 2])
    """

    sigma: float = 1.0
    pairing: Pairing | None = None
    times: Times = field(default_factory=lambda: UniformTimes(least=1e-3, most=1 - 1e-3))
    source: Distribution | None = None

    def __post_init__(self) -> None:
        BrownianBridge(self.sigma)  # an error, unless there is one
        check_choices(self.plan, self.times, self.source)

    @property
    def plan(self) -> Pairing:
        """The pairing, by default that of the entropic plan."""
        return Sinkhorn(2 * self.sigma**2) if self.pairing is None else self.pairing

    def __call__(
        self,
        velocity: Field | Callable[..., Tensor],
        score: Field | Callable[..., Tensor],
        x: Tensor,
        context: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        reduction: str = "none",
    ) -> Tensor:
        check_batch(x, context)
        x0, x1, context = paired(self.source, self.plan, x, context, generator)
        t = self.times(len(x1), generator, dtype=x1.dtype, device=x1.device)
        sample, noise = BrownianBridge(self.sigma).with_noise(x0, x1, t, generator)
        share = (2 / self.sigma * (t * (1 - t)).sqrt()).reshape(-1, *[1] * (x.dim() - 1))
        v, s = (as_slope(as_field(net)(t, sample.x_t, context), sample.x_t) for net in (velocity, score))
        flow, noises = v - sample.target, share * s + noise
        squares = (flow.square() + noises.square()).reshape(len(x), math.prod(x.shape[1:]))
        return reduce(squares.mean(1), reduction)
