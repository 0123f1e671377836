"""Objectives with a name: their conditional paths as published, their pairs and times, and what they refuse."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pyflowk.distributions import DiagonalGaussian, Uniform
from pyflowk.objectives import Matching, data_matching, i_cfm, ot_cfm, rectified_flow, sb_cfm, target_fm, vp_cfm
from pyflowk.paths import LogitNormalTimes, OptimalTransport, Sinkhorn, UniformTimes, independent

D, TIME = torch.float64, 0.3
X0, X1 = torch.tensor([[0.7]], dtype=D).expand(4000, 1), torch.tensor([[-1.1]], dtype=D).expand(4000, 1)
RIGHT = math.pi / 2


def swap(x0: Tensor, x1: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> tuple:
    return x0.flip(0), x1, context


#: Objective, mean and deviation of x_t, and the target where x_t is, of noise 0.7 and data -1.1 at t = 0.3.
TABLE: list[tuple[Matching, float, float, object]] = [
    (target_fm(0.2), 0.3 * -1.1 + 0.76 * 0.7, 0, lambda x: (-1.1 - 0.8 * x) / 0.76),
    (i_cfm(), 0.3 * -1.1 + 0.7 * 0.7, 0, lambda x: -1.8 + 0 * x),
    (i_cfm(0.1), 0.3 * -1.1 + 0.7 * 0.7, 0.1, lambda x: -1.8 + 0 * x),
    (rectified_flow(), 0.3 * -1.1 + 0.7 * 0.7, 0, lambda x: -1.8 + 0 * x),
    (ot_cfm(0.1, swap), 0.3 * -1.1 + 0.7 * 0.7, 0.1, lambda x: -1.8 + 0 * x),
    (sb_cfm(0.5, swap), 0.3 * -1.1 + 0.7 * 0.7, 0.5 * math.sqrt(0.21), lambda x: 0.4 / 0.42 * (x - 0.16) - 1.8),
    (vp_cfm(), math.cos(RIGHT * 0.3) * 0.7 + math.sin(RIGHT * 0.3) * -1.1, 0,
     lambda x: RIGHT * (math.cos(RIGHT * 0.3) * -1.1 - math.sin(RIGHT * 0.3) * 0.7) + 0 * x),
]  # fmt: skip


@pytest.mark.parametrize("matching, mean, deviation, target", TABLE)
def test_conditional_paths_as_published(matching: Matching, mean: float, deviation: float, target: object) -> None:
    sample = matching.path.sample(X0, X1, TIME, torch.Generator().manual_seed(0))
    assert sample.x_t.mean().item() == pytest.approx(mean, abs=1e-12 + 4 * deviation / math.sqrt(4000))
    assert sample.x_t.std().item() == pytest.approx(deviation, rel=0.05, abs=1e-12)
    torch.testing.assert_close(sample.target, target(sample.x_t))  # type: ignore[operator]


def test_pairs_and_times() -> None:
    assert {make().pairing for make in (target_fm, i_cfm, vp_cfm, rectified_flow)} == {independent}
    assert ot_cfm(pairing=swap).pairing is swap is sb_cfm(pairing=swap).pairing
    assert sb_cfm().times == UniformTimes(least=1e-3, most=1 - 1e-3) and i_cfm().times == UniformTimes()
    assert sb_cfm(0.5).pairing == Sinkhorn(0.5) and ot_cfm().pairing == OptimalTransport()
    source = Uniform((1,))
    assert all(make(source=source).source is source for make in (i_cfm, rectified_flow, vp_cfm))


def test_optimal_pairs_leave_nothing_to_average_and_one_step_suffices() -> None:
    """Between Gaussians on the line: sorted pairs, of covariance s0 s1, whose velocity is constant along its ways."""
    s0, s1, m1 = 1.0, 0.5, 2.0

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        t = t.reshape(-1, 1)
        return m1 + (s1 - s0) * (x - t * m1) / ((1 - t) * s0 + t * s1)

    x = m1 + s1 * torch.randn(1000, 1, dtype=D, generator=torch.Generator().manual_seed(1))
    left = {
        make: make()(velocity, x, generator=torch.Generator().manual_seed(0), reduction="mean").item()
        for make in (ot_cfm, i_cfm)
    }
    assert left[ot_cfm] < 0.01 < 0.5 < left[i_cfm]
    x0 = torch.linspace(-2, 2, 9, dtype=D).unsqueeze(1)
    torch.testing.assert_close(x0 + velocity(torch.zeros(9, dtype=D), x0), m1 + s1 * x0)


def test_predicted_data_are_weighed_as_velocities() -> None:
    """The published loss, by hand: both velocities divide by the same clipped rest of the time."""
    x, guess, t = X1[:3], torch.tensor([[0.2], [0.0], [-0.4]], dtype=D), torch.tensor([0.2, 0.9, 0.99], dtype=D)
    matching = replace(data_matching(), pairing=lambda *_: (X0[:3], x, None), times=lambda *_, **__: t)
    rest = (1 - t).clamp(min=0.05).unsqueeze(1)
    x_t = t.unsqueeze(1) * x + (1 - t).unsqueeze(1) * X0[:3]
    known = ((guess - x_t) / rest - (x - x_t) / rest).square().squeeze(1)
    torch.testing.assert_close(matching(lambda t, x: guess, x), known)
    assert data_matching().prediction == "data" and data_matching().times == LogitNormalTimes(-0.8, 0.8)


def test_what_they_refuse() -> None:
    with pytest.raises(ValueError, match="target_fm expects standard normal noise as its source, got Uniform"):
        target_fm(source=Uniform((1,)))
    with pytest.raises(ValueError, match="target_fm expects standard normal noise as its source, got Diagonal"):
        target_fm(source=DiagonalGaussian((1,), learned=True))
    assert target_fm(source=DiagonalGaussian((1,))).source is not None
    with pytest.raises(ValueError, match="BrownianBridge expects sigma to be above 0, got 0"):
        sb_cfm(0.0)
    with pytest.raises(ValueError, match="Blurred expects sigma to be a finite number of at least 0, got -1"):
        i_cfm(-1)
