"""Score matching: diffusions learn by :class:`Matching` too, on their schedules, by their weights and times."""

from __future__ import annotations

from ..paths import (
    EDM,
    VP,
    AffinePath,
    ErrorWeight,
    LikelihoodWeight,
    LogNormalTimes,
    Schedule,
    UniformTimes,
    UnitWeight,
    Weight,
)
from .matching import Matching

__all__ = ["edm_matching", "score_matching"]

LATEST = 1 - 1e-5
"""The last time that diffusions are trained at; behind it is hardly any noise that could be told."""


def score_matching(
    schedule: Schedule | None = None,
    prediction: str = "noise",
    weighting: str = "simple",
    latest: float = LATEST,
    dropout: float = 0.0,
) -> Matching:
    r"""Denoising score matching on the schedule of a diffusion, :class:`pyflowk.paths.VP` if none is given.

    The network predicts noise, "score", "data" or "velocity". ``weighting`` "simple" is :math:`|\sigma s_\theta +
    x_0|^2`, that of the noise and of DDPM, whatever is predicted; "likelihood" :math:`\tfrac12 g^2 |s_\theta + x_0 /
    \sigma|^2`, a bound on the likelihood in nats per element, with :math:`g^2 = 2 \sigma (\alpha' \sigma - \alpha
    \sigma') / \alpha` of the diffusion; "none" is the error of the prediction itself. Times are uniform up to
    ``latest``. It equals flow matching on the same path but for weight and prediction.

    Raises ValueError for names that there are not. Vincent, 2011; Ho et al., 2020, arXiv:2006.11239; Song et al., 2021,
    arXiv:2011.13456 and arXiv:2101.09258.

    >>> from pyflowk.objectives import score_matching
    >>> from pyflowk.paths import SubVP
    >>> score_matching(SubVP()).path
    AffinePath(SubVP(beta_min=0.1, beta_max=20.0))
    """
    schedule = VP() if schedule is None else schedule
    weights: dict[str, Weight | None] = {
        "simple": ErrorWeight(schedule, prediction, "noise"),
        "likelihood": LikelihoodWeight(schedule, prediction),
        "none": None,
    }
    if weighting not in weights:
        raise ValueError(f"weighting: expected one of {', '.join(weights)}; got {weighting!r}")
    return Matching(
        AffinePath(schedule), prediction, times=UniformTimes(most=latest), weight=weights[weighting], dropout=dropout
    )


def edm_matching(
    schedule: Schedule | None = None,
    deviation: float = 0.5,
    mean: float = -1.2,
    std: float = 1.2,
    prediction: str = "data",
    dropout: float = 0.0,
) -> Matching:
    r"""EDM's loss, made for a network that predicts the data as :class:`pyflowk.nets.Preconditioned` makes it do.

    :math:`|D - x_1|^2 / c_{\text{out}}^2`, 1 at every time for data :math:`N(0, s^2)` and such a network that gives 0,
    s being the ``deviation``; :math:`\log (\sigma / \alpha) \sim N(m, \text{std}^2)`. The schedule may be any, and is
    :class:`pyflowk.paths.EDM` if none is given; of another prediction it is the same loss. Karras et al., 2022,
    arXiv:2206.00364, table 1.

    >>> from pyflowk.objectives import edm_matching
    >>> edm_matching().times.mean
    -1.2
    """
    schedule = EDM() if schedule is None else schedule
    return Matching(
        AffinePath(schedule),
        prediction,
        times=LogNormalTimes(schedule, mean, std),
        weight=UnitWeight(schedule, prediction, deviation=deviation),
        dropout=dropout,
    )
