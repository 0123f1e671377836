"""Ways from noise to data against circles, parabolas and lines."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyflowk.metrics import curvature, normalised_path_energy, path_energy, path_ratio, straightness

EVERY: list[Callable[..., Tensor]] = [straightness, curvature, path_ratio, path_energy]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_straightness_of_a_circle() -> None:
    """Half a circle of radius 1 at even speed: the chord moves at 2, the circle at pi, S = pi^2 - 4."""
    angle = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    circle = torch.stack((angle.cos(), angle.sin()), 1)[:, None]
    assert straightness(circle).item() == pytest.approx(math.pi**2 - 4, abs=1e-4)
    assert straightness(circle.flip(0), torch.linspace(5, 3, 2001)).item() == pytest.approx(math.pi**2 - 4, abs=1e-4)


def test_straightness_of_straight_ways_is_none_at_even_speed_alone() -> None:
    times = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=torch.float64)
    way = times[:, None, None] * normal(1, 5, 3)
    assert straightness(way, times).abs().max() < 1e-28 and (straightness(way) > 0.01).all()
    with pytest.raises(ValueError, match="times: expected them to rise or to fall"):
        straightness(way, torch.tensor([0.0, 0.5, 0.5, 1.0]))
    with pytest.raises(ValueError, match=r"times: expected \(4,\)"):
        straightness(way, times[:3])
    with pytest.raises(ValueError, match="at least 2 points"):
        straightness(way[:1])


def test_straightness_of_the_flow_between_gaussians() -> None:
    """From N(0, 1) to N(m, s^2) by independent pairs: s (2 - pi / 2); after one reflow the ways are straight."""
    t, s, m = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None, None], 0.5, 1.0
    x0 = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)  # of variance 1, and nothing else of them matters
    once = straightness(t * m + ((t * s) ** 2 + (1 - t) ** 2).sqrt() * x0).mean()
    assert once.item() == pytest.approx(0.2146018366, abs=1e-6)
    assert straightness((1 - t) * x0 + t * (m + s * x0)).max() < 1e-20


def test_length_energy_and_curvature_of_a_circle() -> None:
    """Half a circle of radius 1 at even speed: length pi over a chord of 2, energy pi^2, acceleration pi^2."""
    angle = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    circle = torch.stack((angle.cos(), angle.sin()), 1)[:, None].expand(-1, 3, -1)
    for metric, known in ((path_ratio, math.pi / 2), (path_energy, math.pi**2), (curvature, math.pi**4)):
        torch.testing.assert_close(metric(circle), torch.full((3,), known, dtype=torch.float64), rtol=1e-5, atol=0)
        times = torch.linspace(5, 3, 2001, dtype=torch.float64)
        torch.testing.assert_close(metric(circle.flip(0), times), metric(circle), rtol=1e-4, atol=0)


def test_uneven_times_of_a_parabola() -> None:
    """x = t^2: speed 2 t, energy 4/3, acceleration 2, straightness E(1 - 2 t)^2 = 1/3."""
    times = torch.linspace(0, 1, 4001, dtype=torch.float64) ** 1.3
    way = (times**2)[:, None]
    for metric, known in ((path_energy, 4 / 3), (curvature, 4.0), (straightness, 1 / 3), (path_ratio, 1.0)):
        assert metric(way, times).item() == pytest.approx(known, rel=1e-4)


def test_the_energy_of_optimal_transport_is_the_least() -> None:
    x0, x1 = normal(400, 2), 3 + normal(400, 2).flip(0)
    times = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None, None]
    straight = (1 - times) * x0 + times * (x0 + 3)  # a shift is the optimal map
    assert normalised_path_energy(straight, 18.0) < 1e-12
    crossed = (1 - times) * x0 + times * x1
    energy = (x1 - x0).square().sum(1)
    torch.testing.assert_close(path_energy(crossed), energy)
    assert normalised_path_energy(crossed, 18.0).item() == pytest.approx(energy.mean().item() / 18 - 1)
    for wrong, got in ((0.0, "0"), (math.nan, "nan"), (torch.ones(2), r"a tensor \(2,\), torch\.float64")):
        with pytest.raises(ValueError, match=f"squared_distance: expected a number above 0, got {got}$"):
            normalised_path_energy(crossed, wrong)


@pytest.mark.parametrize("metric", EVERY)
def test_one_number_a_way_of_any_shape(metric: Callable[..., Tensor]) -> None:
    way = normal(7, 4, 2, 3)
    found = metric(way)
    assert found.shape == (4,) and found.dtype == torch.float64
    torch.testing.assert_close(metric(way.float()), found, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(metric(way.flatten(2)), found)
    torch.testing.assert_close(metric(way[:, :1]), found[:1])
    assert metric(way[:, :0]).shape == (0,)
    way[2, 1] = math.nan
    assert metric(way).isnan().tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match=r"of at least \d points, got \(1, 4, 2, 3\)"):
        metric(way[:1])
