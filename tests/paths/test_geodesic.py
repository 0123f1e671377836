"""Geodesic paths: their target is the closed form, and following it leads to the data."""

from __future__ import annotations

import math

import pytest
import torch

from pyflowk.distributions import uniform_on
from pyflowk.manifolds import Manifold, manifold
from pyflowk.paths import VE, VP, AffinePath, Cosine, GeodesicPath, Lipman, Polynomial
from pyflowk.solvers import Fixed, manifold_odeint

SPACES = [("sphere", (3,)), ("torus", (2,)), ("so3", (3, 3)), ("sphere(2) x torus(1) x so3 x euclidean(2)", (14,))]
spaces = pytest.mark.parametrize("space", [manifold(*each) for each in SPACES], ids=[name for name, _ in SPACES])


def ends(space: Manifold, rows: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    draw = uniform_on(space).to(dtype)
    return draw.sample(rows, generator=torch.Generator().manual_seed(0)), draw.sample(
        rows, generator=torch.Generator().manual_seed(1)
    )


@spaces
def test_the_target_leads_to_what_is_left_of_the_way(space: Manifold) -> None:
    """kappa' / (1 - kappa) log_{x_t} x1, where that is finite; and the distance left is 1 - kappa of the whole."""
    x0, x1 = ends(space, 64)
    t = torch.linspace(0, 0.99, 64, dtype=torch.float64)
    sample = GeodesicPath(space, Cosine()).sample(x0, x1, t)
    share, rate = torch.sin(math.pi / 2 * t), math.pi / 2 * torch.cos(math.pi / 2 * t)
    factor = (rate / (1 - share)).reshape(-1, *[1] * (x1.dim() - 1))
    torch.testing.assert_close(sample.target, factor * space.log(sample.x_t, x1), rtol=1e-8, atol=1e-8)
    left = space.distance(sample.x_t, x1)
    torch.testing.assert_close(left, (1 - share) * space.distance(x0, x1), rtol=1e-9, atol=1e-9)
    assert (space.off(sample.x_t) < 1e-13).all()


@spaces
def test_the_end_is_reached_at_a_finite_speed(space: Manifold) -> None:
    x0, x1 = ends(space, 32, torch.float32)
    for t in (1.0, 1 - 1e-7):
        sample = GeodesicPath(space, Polynomial(2)).sample(x0, x1, t)
        speed = space.inner(sample.x_t, sample.target, sample.target).sqrt()
        torch.testing.assert_close(speed, 2 * space.distance(x0, x1), rtol=1e-4, atol=1e-4)
        assert space.distance(sample.x_t, x1).max() < 1e-5


@spaces
def test_the_equation_of_the_target_leads_to_the_data(space: Manifold) -> None:
    """The closed form as a field of x and t, which knows x0 no more, from noise to data."""
    x0, x1 = ends(space, 32)
    left = torch.linspace(0.0, 1 - 1e-3, 2, dtype=torch.float64)
    found = manifold_odeint(lambda t, x: space.log(x, x1) / (1 - t), x0, left, space, stepping=Fixed(50))[-1]
    assert space.distance(found, x1).max() < 0.01
    exact = GeodesicPath(space).sample(x0, x1, left[-1]).x_t
    torch.testing.assert_close(space.distance(found, exact), torch.zeros(32).double(), rtol=0, atol=5e-4)


def test_on_flat_space_it_is_the_affine_path() -> None:
    x0, x1 = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0))
    t, schedule = torch.linspace(0, 1, 9), Cosine()
    straight = GeodesicPath(manifold("euclidean", (3,)), Polynomial(3)).sample(x0, x1, t)
    for found, known in zip(straight, AffinePath(Polynomial(3)).sample(x0, x1, t), strict=True):
        torch.testing.assert_close(found, known)
    assert "Cosine" in repr(GeodesicPath(manifold("sphere", (3,)), schedule))


def test_what_is_no_way_from_noise_to_data() -> None:
    sphere = manifold("sphere", (3,))
    GeodesicPath(sphere, Lipman())
    for schedule, start in ((VP(), "0.00657"), (VE(), "1")):
        with pytest.raises(ValueError, match=f"schedule: expected a share of data from 0 to 1, got {start}"):
            GeodesicPath(sphere, schedule)
    with pytest.raises(TypeError, match="GeodesicPath expects a manifold"):
        GeodesicPath("sphere")  # type: ignore[arg-type]
