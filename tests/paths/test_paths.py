"""What every path keeps; the affine ones against the velocity of a mixture and the continuity equation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jvp

from pyflowk import paths
from pyflowk.manifolds import Sphere, Torus
from pyflowk.ops.path_sample import noise_of
from pyflowk.paths import (
    VE,
    AffinePath,
    Blurred,
    BrownianBridge,
    GeodesicPath,
    Path,
    PathSample,
    Polynomial,
    Schedule,
    convert,
    independent,
)
from tests.paths.oracles import PAIR
from tests.paths.test_schedules import schedules

PATHS: dict[str, Path] = {
    "affine": AffinePath(), "affine-polynomial": AffinePath(Polynomial(2)), "bridge": BrownianBridge(0.7),
    "blurred": Blurred(AffinePath(), 1e-7),  # so little that both ends still are noise and data
    "geodesic-sphere": GeodesicPath(Sphere((2,)), Polynomial(2)), "geodesic-torus": GeodesicPath(Torus((2,))),
}  # fmt: skip
every = pytest.mark.parametrize("name", PATHS)


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(len(shape)))


def ends(path: Path, *shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Noise and data where the path goes."""
    x = noise(*shape, dtype=dtype)
    x = path.manifold.project(x) if isinstance(path, GeodesicPath) else x
    return x.flip(0), x


def test_every_exported_path_is_here() -> None:
    kinds = {getattr(paths, name) for name in paths.__all__ if isinstance(getattr(paths, name), type)}
    assert {kind for kind in kinds if issubclass(kind, Path)} - {Path} == {type(path) for path in PATHS.values()}


@every
def test_contract(name: str) -> None:
    path, t = PATHS[name], torch.linspace(0, 1, 6)
    x0, x1 = ends(path, 6, 2, 2)

    def sample(rows: slice = slice(None), dtype: torch.dtype = torch.float32, seed: int = 0) -> paths.PathSample:
        return path.sample(x0[rows].to(dtype), x1[rows].to(dtype), t[rows], torch.Generator().manual_seed(seed))

    found = sample()
    assert found.x_t.shape == found.target.shape == x1.shape and found.t.shape == (6,)
    assert torch.equal(found.t, t) and found.weight is None  # all weigh 1
    torch.testing.assert_close(found.x_t[0], x0[0])  # noise at t = 0
    torch.testing.assert_close(found.x_t[-1], x1[-1])  # data at t = 1
    assert all(map(torch.equal, found[:3], sample()[:3]))
    assert all(part.isfinite().all() for part in found[:3])
    half = sample(dtype=torch.bfloat16)
    assert half.x_t.dtype == half.target.dtype == torch.float32
    assert sample(dtype=torch.float64).x_t.dtype == torch.float64
    assert sample(slice(0, 0)).x_t.shape == (0, 2, 2)
    if torch.equal(found.x_t, sample(seed=1).x_t):  # no noise of its own, which is drawn for all rows at once
        for part, alone in zip(found[:3], sample(slice(0, 1))[:3], strict=True):
            torch.testing.assert_close(part[:1], alone)
    one = path.sample(x0, x1, 0.5)
    assert torch.equal(one.t, torch.full((6,), 0.5))
    x1[2] = float("nan")
    assert path.sample(x0, x1, t).x_t.flatten(1).isnan().any(1).tolist() == [False, False, True, False, False, False]


@every
def test_the_target_is_the_velocity(name: str) -> None:
    x0, x1 = ends(PATHS[name], 9, 2, dtype=torch.float64)
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)

    def sample(t: Tensor) -> paths.PathSample:
        return PATHS[name].sample(x0, x1, t, torch.Generator().manual_seed(0))

    speed = jvp(lambda t: sample(t).x_t, (t,), (torch.ones_like(t),))[1]
    torch.testing.assert_close(sample(t).target, speed)


@pytest.mark.parametrize("name", [name for name, path in PATHS.items() if not isinstance(path, GeodesicPath)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_noise_by_keys_is_the_same_given(name: str, dtype: torch.dtype) -> None:
    """In one kernel or drawn before."""
    keys, x1, t = torch.arange(6) + 2**50, noise(6, 2, 2).to(dtype), torch.linspace(0, 1, 6)

    class Own(AffinePath):
        def _sample(self, *arguments: Any) -> PathSample:
            return super()._sample(*arguments)._replace(weight=arguments[2])

    for path in (PATHS[name], Own()):
        seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
        drawn = path.sample_noise(keys, x1, t, seeds[0])
        given = path.sample(noise_of(keys, x1), x1, t, seeds[1])
        assert all(map(torch.equal, drawn[:3], given[:3]))
        assert (drawn.weight is None) == (given.weight is None) == (type(path) is not Own)
    with pytest.raises(ValueError, match=r"t: expected times from 0 \(noise\) to 1 \(data\), got"):
        PATHS[name].sample_noise(keys, x1, 1.5)
    with pytest.raises(ValueError, match=r"keys|size"):
        PATHS[name].sample_noise(keys[:2], x1, t)


@every
def test_what_does_not_fit_is_named(name: str) -> None:
    x = torch.zeros(3, 2)
    for t in (-0.1, torch.tensor([0.0, 0.5, 1.5])):
        with pytest.raises(ValueError, match=r"t: expected times from 0 \(noise\) to 1 \(data\), got"):
            PATHS[name].sample(x, x, t)
    with pytest.raises(ValueError, match=r"expected one time \(\) or one for each of 3 rows, got \(2,\)"):
        PATHS[name].sample(x, x, torch.zeros(2))
    with pytest.raises(ValueError, match=r"x0 and x1 of one shape \(B, \*event\), got \(3, 1\) and \(3, 2\)"):
        PATHS[name].sample(x[:, :1], x, 0.5)


@schedules
def test_the_average_target_is_the_velocity_of_a_mixture(schedule: Schedule) -> None:
    """Over all data, the noise that takes each through x at t, weighted by their densities."""
    place, time = torch.tensor([0.37], dtype=torch.float64), torch.tensor([0.6], dtype=torch.float64)
    x1 = torch.linspace(-4, 6, 20001, dtype=torch.float64)
    alpha, sigma, *_ = schedule.at(time)
    x0 = (place - alpha * x1) / sigma
    sample = AffinePath(schedule).sample(x0, x1, time[0])
    torch.testing.assert_close(sample.x_t, place.expand_as(x1), rtol=1e-12, atol=1e-11)
    # the density of the data is that of a path that has arrived
    weight = PAIR.density(x1, torch.ones_like(x1), Polynomial()) * torch.exp(-x0.square() / 2)
    average = (weight * sample.target).sum() / weight.sum()
    known = PAIR.predictions(place, time, schedule)["velocity"]
    torch.testing.assert_close(average[None], known, rtol=1e-9, atol=1e-9)


@schedules
def test_the_continuity_equation(schedule: Schedule) -> None:
    """dp/dt + d(p v)/dx = 0, v by conversion from the average data."""
    x = torch.linspace(-3, 3, 13, dtype=torch.float64).repeat(5)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64).repeat_interleave(13)

    def flux(x: Tensor) -> Tensor:
        data = PAIR.predictions(x, t, schedule)["data"]
        return PAIR.density(x, t, schedule) * convert(data, x, t, schedule, "data", "velocity", least=0.0)

    growth = jvp(lambda t: PAIR.density(x, t, schedule), (t,), (torch.ones_like(t),))[1]
    outflow = jvp(flux, (x,), (torch.ones_like(x),))[1]
    assert growth.abs().max() > (1e-3 if not isinstance(schedule, VE) else 1e-6)
    torch.testing.assert_close(growth, -outflow, rtol=1e-8, atol=1e-10)


def test_pairs() -> None:
    x0, x1, c = torch.zeros(3, 2), torch.ones(3, 2), torch.arange(3)
    pairs = independent(x0, x1, c)
    assert pairs[0] is x0 and pairs[1] is x1 and pairs[2] is c
