"""What a network says of an event on an affine path, and the same said in other words."""

from __future__ import annotations

from torch import Tensor

from ..ops.times import as_time
from .schedules import Coefficients, Schedule

PREDICTIONS = ("velocity", "noise", "data", "score")


def convert(
    value: Tensor,
    x: Tensor,
    t: Tensor | float,
    schedule: Schedule,
    source: str,
    target: str,
    least: float = 1e-3,
) -> Tensor:
    r"""Say a prediction in other words: velocity, noise, data or score of events x on the affine path of a schedule.

    All are :math:`q = a_q x_1 + b_q x_0`: velocity :math:`(\alpha', \sigma')`, noise (0, 1), data (1, 0), score
    :math:`(0, -1/\sigma)`, and so is :math:`x = \alpha x_1 + \sigma x_0`. With :math:`[p, q] = a_p b_q - b_p a_q`,

    .. math:: r = ([r, q]\, x + [x, r]\, q) / [x, q],

    which is linear and therefore holds for averages over all pairs that pass through x: the score is
    :math:`\nabla \log p_t(x)` where the noise is standard normal and drawn beside the data.

    value and x are (B, \*event), t () or (B,). From a velocity one divides by :math:`\alpha' \sigma - \alpha \sigma'`
    alone, which few schedules let come near 0, from noise by :math:`\alpha`, from data by :math:`\sigma`, to a score by
    :math:`\sigma`; none of them is taken to be below ``least``, so that answers are finite at both ends, where x alone
    says nothing of the rest, and that there and back again is the identity wherever they are above. Raises ValueError
    for unknown names. Cost: one pass over the event.

    >>> import torch
    >>> from pyflowk.paths import CondOT, convert
    >>> convert(torch.tensor([[1.0]]), torch.tensor([[0.4]]), 0.3, CondOT(), "velocity", "data")
    tensor([[1.1000]])
    """
    for name in (source, target):
        if name not in PREDICTIONS:
            raise ValueError(f"prediction: expected one of {', '.join(PREDICTIONS)}; got {name!r}")
    if source == target:
        return value
    c = schedule.at(as_time(t, x)).beside(x)
    if source == "score":
        source, value = "noise", -c.sigma * value
    if target != source:
        value = _plain(value, x, c, source, "noise" if target == "score" else target, least)
    return -value / c.sigma.clamp(min=least) if target == "score" else value


def _plain(value: Tensor, x: Tensor, c: Coefficients, source: str, target: str, least: float) -> Tensor:
    """Between velocity, noise and data."""
    if target == source:
        return value
    shares: dict[str, tuple[Tensor | float, Tensor | float]] = {
        "velocity": (c.alpha_rate, c.sigma_rate), "noise": (0.0, 1.0), "data": (1.0, 0.0),
    }  # fmt: skip
    (a, b), (s, u) = shares[target], shares[source]
    divisor = {"velocity": -c.determinant, "noise": c.alpha, "data": -c.sigma}[source]
    divisor = divisor.clamp(min=least) if source == "noise" else divisor.clamp(max=-least)
    return ((a * u - b * s) * x + (c.alpha * b - c.sigma * a) * value) / divisor
