"""A network that predicts noise, data or score, as a velocity: values, tangents and what it is a field of."""

from __future__ import annotations

import pytest
import torch

from pyflowk.nets import FunctionField, MLPField, VelocityField
from pyflowk.paths import VP, CondOT, Cosine, Schedule, convert
from pyflowk.solvers import Fixed
from pyflowk.transforms import Continuous
from tests.paths.oracles import PAIR

X = torch.tensor([[-2.0], [0.37], [1.1]], dtype=torch.float64)


@pytest.mark.parametrize("prediction", ["noise", "data", "score", "velocity"])
@pytest.mark.parametrize("schedule", [VP(), Cosine()], ids=str)
def test_the_best_prediction_means_the_velocity_of_the_mixture(schedule: Schedule, prediction: str) -> None:
    net = FunctionField(lambda t, x: PAIR.predictions(x[:, 0], t.expand(len(x)), schedule)[prediction].unsqueeze(1))
    field = VelocityField(net, schedule, prediction)
    for t in (torch.tensor(0.6, dtype=torch.float64), torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)):
        known = PAIR.predictions(X[:, 0], t.expand(3), schedule)["velocity"]
        torch.testing.assert_close(field(t, X), known.unsqueeze(1), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("times", [0.6, (0.3, 0.6, 0.9)])
def test_tangents_by_hand_are_those_of_the_formula(times: float | tuple[float, ...]) -> None:
    torch.manual_seed(0)
    net = MLPField(2, 8, 2, context_dim=1).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.4)
    field, t = VelocityField(net, CondOT(), "data"), torch.tensor(times, dtype=torch.float64)
    x, c = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, 1, dtype=torch.float64)
    e = torch.randn(3, 4, 2, dtype=torch.float64)
    plain = FunctionField(lambda t, x, c: convert(net(t, x, c), x, t, CondOT(), "data", "velocity"))
    assert field.takes_context and field.fused(torch.zeros(1)) is None
    torch.testing.assert_close(field.with_tangents(t, x, e, c), plain.with_tangents(t, x, e, c))
    flow = Continuous(field, method="rk4", stepping=Fixed(4))
    z, ladj = flow(x, c)
    assert set(flow.state_dict()) == {f"field.net.{name}" for name in net.state_dict()}
    assert z.isfinite().all() and ladj.isfinite().all()  # though the field is asked at t = 1


def test_predictions_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="prediction: expected one of velocity, noise, data, score; got 'speed'"):
        VelocityField(lambda t, x: x, CondOT(), "speed")
