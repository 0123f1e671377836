"""Consistency held to the exact end of trajectories of Gaussian data, and what networks learn of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.nets import Field, MLPField
from pyflowk.objectives import ConsistencyMatching
from pyflowk.objectives.matching import paired
from pyflowk.paths import AffinePath, CondOT, Cosine, independent
from pyflowk.solvers import consistency, uniform_grid
from tests.solvers.gaussian import M, S, best

GRID = uniform_grid(1)


class Exact(Field):
    """What means the end of the trajectory through x, f = m + s (x - alpha m) / s_t, as a velocity."""

    def forward(self, t: Any, x: Tensor, context: Any = None) -> Tensor:
        c = Cosine().at(torch.as_tensor(t, dtype=x.dtype)).beside(x)
        end = M + S * (x - c.alpha * M) / ((c.alpha * S).square() + c.sigma.square()).sqrt()
        return (end - c.alpha * x) * math.pi / 2 / c.sigma


class Velocity(Field):
    def forward(self, t: Any, x: Tensor, context: Any = None) -> Tensor:
        return torch.vmap(best(Cosine(), "velocity"))(t, x)


def data(n: int) -> Tensor:
    return M + S * torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def losses(n: int = 1000, **settings: Any) -> Tensor:
    return ConsistencyMatching(**settings)(Exact(), data(n), generator=torch.Generator().manual_seed(0))


def test_the_exact_end_does_not_change_along_trajectories() -> None:
    assert losses(teacher=Velocity()).max() < 1e-20
    assert losses(teacher=Velocity(), warmup=0.5).max() > 1e-3
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    torch.testing.assert_close(consistency(Exact(), x, Cosine(), GRID), M + S * x)


def test_two_times_share_their_noise() -> None:
    """The formula at noise 1, half way round: the ends that both times mean, by the gap between their noise."""
    (x0, x1, _), c = paired(None, independent, data(4), None, torch.Generator().manual_seed(0)), 0.00054
    less = 1 - 0.25 * (1 + 8 / (1 + math.e))
    angle = torch.tensor([1.0, less], dtype=torch.float64).atan()[:, None, None]
    x, f = angle.cos() * x1 + angle.sin() * x0, Exact()
    spread = ((angle.cos() * S).square() + angle.sin().square()).sqrt()
    ends = M + S * (x - angle.cos() * M) / spread
    known = (((ends[0] - ends[1]).square().sum(1) + c**2).sqrt() - c) / (1 - less)
    objective = ConsistencyMatching(
        derivative="difference", ratio=0.25, times=lambda n, g, **like: torch.full((n,), 0.5, **like)
    )
    torch.testing.assert_close(objective(f, data(4), generator=torch.Generator().manual_seed(0)), known)
    whole = ConsistencyMatching(derivative="difference", ratio=1.0)  # the later time is that of the data
    assert whole(MLPField(1, 4, 1), data(50).float()).isfinite().all()


@pytest.mark.parametrize("derivative", ["exact", "difference"])
def test_what_a_network_learns_ends_as_data(derivative: str) -> None:
    torch.manual_seed(0)
    net = MLPField(1, 32, 2, "silu")
    optimizer, x = torch.optim.Adam(net.parameters(), 5e-3), data(4096).float()
    draws = torch.Generator().manual_seed(0)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for step in range(300):
        objective = ConsistencyMatching(
            derivative=derivative, warmup=min(1.0, step / 60), ratio=0.5 ** (1 + step // 60)
        )
        optimizer.zero_grad()
        rows = x[torch.randint(len(x), (256,), generator=draws)]
        objective(net, rows, generator=draws, reduction="mean").backward()
        optimizer.step()
        plan.step()
    x0 = torch.linspace(-2, 2, 9)[:, None]
    with torch.no_grad():
        assert (consistency(net, x0, Cosine(), GRID) - (M + S * x0)).abs().max() < 0.3


def test_fresh_noise_and_what_does_not_fit() -> None:
    x = torch.randn(20_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = consistency(Exact(), x, Cosine(), uniform_grid(3), generator=torch.Generator().manual_seed(1))
    assert abs(drawn.mean() - M) < 0.02 and abs(drawn.std() - S) < 0.02
    for settings, match in (
        ({"path": AffinePath(CondOT())}, r"expected the velocity of AffinePath\(Cosine"),
        ({"derivative": "none"}, "derivative: expected exact or difference"),
        ({"warmup": 1.5}, "expected warmup up to 1"),
        ({"ratio": 0.0}, "ratio above 0"),
    ):
        with pytest.raises(ValueError, match=match):
            ConsistencyMatching(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps"):
        consistency(Exact(), x, Cosine(), uniform_grid(0))
