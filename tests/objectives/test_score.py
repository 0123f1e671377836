"""Score matching as matching: the losses as published, from one draw of noise and time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyflowk.nets import Preconditioned
from pyflowk.objectives import Matching, edm_matching, score_matching
from pyflowk.paths import EDM, PREDICTIONS, VE, VP, CondOT, LogNormalTimes, Schedule, SubVP, convert

D = torch.float64
PATHS: list[Schedule] = [VP(), SubVP(), VE()]
X = torch.linspace(-2, 2, 12, dtype=D).reshape(6, 2)


def drawn(matching: Matching) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of each event of a network that predicts 0.3 x, the noise and the times that it saw."""
    seen = []

    def net(t: Tensor, x: Tensor) -> Tensor:
        seen.append((t, x))
        return 0.3 * x

    loss = matching(net, X, generator=torch.Generator().manual_seed(0))
    ((t, x_t),) = seen
    alpha, sigma, *_ = matching.path.schedule.at(t).beside(X)  # type: ignore[attr-defined]
    return loss, (x_t - alpha * X) / sigma, t


@pytest.mark.parametrize("schedule", PATHS, ids=str)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_weights_make_the_losses_of_diffusions(schedule: Schedule, prediction: str) -> None:
    s = torch.linspace(0, 1, 6, dtype=D)
    for weighting in ("simple", "likelihood", "none"):
        loss, noise, t = drawn(score_matching(schedule, prediction, weighting))
        c = schedule.at(t).beside(X)
        x_t = c.alpha * X + c.sigma * noise
        score = convert(0.3 * x_t, x_t, t, schedule, prediction, "score")
        s = 1 - t
        beta = 0.1 + s * 19.9
        square = {
            VP: beta, SubVP: beta * -torch.expm1(-2 * s * 0.1 - s**2 * 19.9),
            VE: 2 * (0.01 * 5000**s) ** 2 * math.log(5000),
        }[type(schedule)]  # fmt: skip
        errors = {
            "simple": (c.sigma * score + noise).square().mean(1),
            "likelihood": square / 2 * (score + noise / c.sigma).square().mean(1),
            "none": (0.3 * x_t - convert(noise, x_t, t, schedule, "noise", prediction)).square().mean(1),
        }
        torch.testing.assert_close(loss, errors[weighting], rtol=1e-6, atol=1e-9)
        assert t.max() <= 1 - 1e-5


def test_the_loss_of_edm_begins_at_one_at_every_time() -> None:
    x = 0.7 * torch.randn(20_000, 1, dtype=D, generator=torch.Generator().manual_seed(1))
    for schedule in (EDM(), CondOT()):
        matching, seen = edm_matching(schedule, deviation=0.7), []

        def net(t: Tensor, x: Tensor) -> Tensor:
            seen.append(t)  # noqa: B023
            return torch.zeros_like(x)

        field = Preconditioned(net, schedule, 0.7)
        loss = matching(field, x, generator=torch.Generator().manual_seed(0))
        assert loss.mean().item() == pytest.approx(1, abs=0.05)
        for part in loss[seen[0].argsort()].chunk(4):
            assert part.mean().item() == pytest.approx(1, abs=0.1)
        heard = 4 * seen[0]
        assert heard.mean().item() == pytest.approx(-1.2, abs=0.05) and heard.std().item() == pytest.approx(
            1.2, rel=0.03
        )


def test_defaults_and_what_they_refuse() -> None:
    assert score_matching().path.schedule == VP() and score_matching().prediction == "noise"
    assert edm_matching().times == LogNormalTimes(EDM()) and edm_matching().prediction == "data"
    assert score_matching(dropout=0.1).dropout == edm_matching(dropout=0.1).dropout == 0.1
    with pytest.raises(ValueError, match="weighting: expected one of simple, likelihood, none; got 'other'"):
        score_matching(weighting="other")
    with pytest.raises(ValueError, match="prediction: expected one of velocity"):
        score_matching(prediction="speed")
    with pytest.raises(ValueError, match="UnitWeight expects deviation to be above 0, got 0"):
        edm_matching(deviation=0)
