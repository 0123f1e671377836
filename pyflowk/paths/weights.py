r"""How much the squared error at each time counts: functions of the times, which know what an error means otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .._checks import require_numbers
from .prediction import PREDICTIONS
from .schedules import Coefficients, CondOT, Schedule
from .times import TimeLaw, UniformTimes

__all__ = ["ErrorWeight", "ImportanceWeight", "LikelihoodWeight", "MinSNRWeight", "UnitWeight", "Weight"]


class Weight(Protocol):
    """Whatever gives times (B,) the weights (B,) of their squared errors."""

    def __call__(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class _PredictionWeight:
    r"""A weight :math:`M_t / k^2` on an affine path, where the errors that one prediction makes of another are in the
    proportions k: velocity :math:`D = \alpha' \sigma - \alpha \sigma'`, noise :math:`\alpha`, data :math:`\sigma`,
    score :math:`\alpha / \sigma`. A subclass gives ``_common``, M; no divisor is taken to be below ``least``."""

    schedule: Schedule = field(default_factory=CondOT)
    prediction: str = "velocity"
    least: float = field(default=1e-3, kw_only=True)

    def __post_init__(self) -> None:
        _require_prediction(self.prediction)
        require_numbers(type(self).__name__, least=self.least)

    def __call__(self, t: Tensor) -> Tensor:
        c = self.schedule.at(t)
        return self._common(c) / _proportion(self.prediction, c, self.least).clamp(min=self.least).square()

    def _common(self, c: Coefficients) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no weight")


@dataclass(frozen=True)
class ErrorWeight(_PredictionWeight):
    r"""The weight by which the squared error of a ``prediction`` becomes that of another one, ``error``:

    .. math:: |\Delta v|^2 = (D / \alpha)^2 |\Delta x_0|^2 = (D / \sigma)^2 |\Delta x_1|^2,\quad
        |\Delta \nabla \log p|^2 = |\Delta x_0|^2 / \sigma^2.

    With it a network that predicts the data learns by the loss of its velocity, for instance: where
    :math:`\sigma` is below ``least`` the velocity is the one that :class:`pyflowk.nets.VelocityField` makes with that
    ``least``, of the prediction and of the target alike (Li, He, 2025, arXiv:2511.13720). Raises ValueError for unknown
    predictions. Cost: a few operations on (B,) numbers.

    >>> import torch
    >>> from pyflowk.paths import CondOT, ErrorWeight
    >>> ErrorWeight(CondOT(), "data", "velocity", least=0.05)(torch.tensor([0.0, 0.5, 0.75]))
    tensor([ 1.,  4., 16.])
    """

    error: str = "velocity"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_prediction(self.error)

    def __call__(self, t: Tensor) -> Tensor:
        return torch.ones_like(t) if self.prediction == self.error else super().__call__(t)

    def _common(self, c: Coefficients) -> Tensor:
        return _proportion(self.error, c, self.least).square()


@dataclass(frozen=True)
class LikelihoodWeight(_PredictionWeight):
    r"""The weight by which the loss, times the elements of an event, is in nats: :math:`\lambda'_t / 2` of the noise's.

    That is :math:`D / (\alpha \sigma)` for noise, :math:`\alpha / (\sigma D)` for velocity and half of the diffusion's
    :math:`g^2 = 2 \sigma D / \alpha` for the score. Over uniform times the loss exceeds the least that is possible by
    the Kullback-Leibler divergence of the data from what the diffusion with this prediction draws, but for that at its
    start. It grows without bound towards the ends, where no divisor is taken to be below ``least``. Raises ValueError
    for an unknown prediction. Song et al., 2021, arXiv:2101.09258; Kingma et al., 2021, arXiv:2107.00630.

    >>> import torch
    >>> from pyflowk.paths import VP, LikelihoodWeight
    >>> LikelihoodWeight(VP(), "score")(torch.tensor([0.5]))  # half of beta = 0.1 + 0.5 19.9
    tensor([5.0250])
    """

    def _common(self, c: Coefficients) -> Tensor:
        return c.alpha * c.determinant / c.sigma.clamp(min=self.least)


@dataclass(frozen=True)
class MinSNRWeight(_PredictionWeight):
    r"""The weight :math:`\min(\alpha^2 / \sigma^2, \gamma)` of the data's squared error, said for any prediction.

    Late times, of little noise, are kept from outweighing the others. Raises ValueError for an unknown prediction.
    Hang et al., 2023, arXiv:2303.09556.

    >>> import torch
    >>> from pyflowk.paths import CondOT, MinSNRWeight
    >>> MinSNRWeight(CondOT(), "data", gamma=5.0)(torch.tensor([0.0, 0.5, 0.9]))
    tensor([0., 1., 5.])
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_numbers("MinSNRWeight", gamma=self.gamma)

    def _common(self, c: Coefficients) -> Tensor:
        return torch.minimum(c.alpha.square(), self.gamma * c.sigma.square())


@dataclass(frozen=True)
class UnitWeight(_PredictionWeight):
    r"""The weight :math:`1 / s^2 + \alpha^2 / \sigma^2` of the data's squared error, said for any prediction.

    s is the ``deviation`` of the data: for such Gaussian data the loss of a network that says what is left of them,
    :class:`pyflowk.nets.Preconditioned`, is 1 at every time, to begin with. Raises ValueError unless s > 0, and for an
    unknown prediction. Karras et al., 2022, arXiv:2206.00364, :math:`1 / c_{\text{out}}^2`.

    >>> import torch
    >>> from pyflowk.paths import EDM, UnitWeight
    >>> UnitWeight(EDM(), "data", deviation=0.5)(torch.tensor([0.0, 0.5]))
    tensor([4.0002, 6.5600])
    """

    deviation: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.deviation > 0:
            raise ValueError(f"UnitWeight expects deviation to be above 0, got {self.deviation}")

    def _common(self, c: Coefficients) -> Tensor:
        return c.alpha.square() + (c.sigma / self.deviation).square()


@dataclass(frozen=True)
class ImportanceWeight:
    r"""The weight by which the loss over times ``drawn`` by one law is, on average, that over times of another:
    :math:`p_\text{wanted}(t) / p_\text{drawn}(t)`, uniform times if none are ``wanted``.

    So the noise of the gradient changes, and its average does not. No weight is above ``most``, which leaves out a part
    where the law draws next to nothing. Cost: two densities of (B,) numbers.

    >>> import torch
    >>> from pyflowk.paths import ImportanceWeight, PowerTimes
    >>> ImportanceWeight(PowerTimes(power=1.0))(torch.tensor([0.25, 0.5, 1.0]))
    tensor([2.0000, 1.0000, 0.5000])
    """

    drawn: TimeLaw
    wanted: TimeLaw = field(default_factory=UniformTimes)
    most: float = 100.0

    def __post_init__(self) -> None:
        require_numbers("ImportanceWeight", most=self.most)
        for name, law in (("drawn", self.drawn), ("wanted", self.wanted)):
            if not isinstance(law, TimeLaw):
                raise TypeError(f"{name}: expected a TimeLaw, which has a density; got {law!r}")

    def __call__(self, t: Tensor) -> Tensor:
        return (self.wanted.density(t) / self.drawn.density(t)).clamp(max=self.most)


def _proportion(prediction: str, c: Coefficients, least: float) -> Tensor:
    if prediction == "score":
        return c.alpha / c.sigma.clamp(min=least)
    return {"velocity": c.determinant, "noise": c.alpha, "data": c.sigma}[prediction]


def _require_prediction(prediction: str) -> None:
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction: expected one of {', '.join(PREDICTIONS)}; got {prediction!r}")
