"""Jumps against closed forms: Kolmogorov's forward equation on a grid, posterior means, minimal jumps, quantiles."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import jvp

from pyflowk.paths import (
    Bins,
    Characteristics,
    CondOT,
    CondOTJumps,
    JumpPath,
    MixtureJumps,
    langevin,
    minimal_jumps,
    superposed,
)
from tests.paths.oracles import TWO, jumping

CELLS = Bins(-6.0, 6.0, 800)


def grid() -> Tensor:
    return CELLS.low + CELLS.width * (torch.arange(CELLS.count, dtype=torch.float64) + 0.5)


def change(process: Characteristics, t: float, x: Tensor, p: Tensor) -> Tensor:
    """The adjoint of the generator, on a density at cells x: what Kolmogorov's forward equation says of its change."""
    found = torch.zeros_like(p)
    if process.drift is not None:
        found -= torch.gradient(p * process.drift[:, 0], spacing=CELLS.width)[0]
    if process.variance is not None:
        found += torch.gradient(
            torch.gradient(p * process.variance[:, 0] / 2, spacing=CELLS.width)[0], spacing=CELLS.width
        )[0]
    if process.intensity is not None and process.landing is not None:
        leaving = p * process.intensity[:, 0].exp() / (1 - t)
        found += leaving @ torch.softmax(process.landing[:, 0], -1) - leaving
    return found


def test_the_forward_equation_holds_for_flow_diffusion_jumps_and_what_is_made_of_them() -> None:
    x, t = grid(), 0.4
    times = torch.full_like(x, t)
    p, growth = jvp(lambda t: TWO.density(x, t, CondOT()), (times,), (torch.ones_like(x),))
    told = jumping(TWO, CondOTJumps(CELLS))(times, x[:, None])
    flow, jumps = Characteristics(told.drift), told._replace(drift=None)
    diffusion = langevin(flow, times, x[:, None], 0.7)
    assert diffusion.variance is not None and diffusion.variance.max() > 0.5
    processes = {
        "flow": flow, "diffusion": diffusion, "jumps": jumps, "flow and jumps": superposed(flow, jumps, 0.3),
        "diffusion and jumps": superposed(jumps, diffusion, 0.3), "jumps of two kinds": superposed(jumps, jumps, 0.3),
    }  # fmt: skip
    for name, process in processes.items():
        error = (change(process, t, x, p) - growth).abs().max() / growth.abs().max()
        print(name, error)
        assert error < 5e-3, (name, error)
    half = flow._replace(drift=flow.drift / 2) if flow.drift is not None else flow
    assert (change(half, t, x, p) - growth).abs().max() / growth.abs().max() > 0.1


def test_rates_and_landing_laws_of_two_points_are_posterior_means() -> None:
    """Written out: k_+ / (1 - t)^3 of each, weighted by how likely it is; J likewise, weighted by that, too."""
    t, path = 0.3, CondOTJumps.reaching(1.0, 30)
    x = torch.tensor([[-1.5], [-0.2], [0.4], [2.0]], dtype=torch.float64)
    told = jumping(TWO, path)(torch.tensor(t, dtype=torch.float64), x)
    assert told.intensity is not None and told.landing is not None
    s, rate, flux = 1 - t, torch.zeros(4, dtype=torch.float64), torch.zeros(4, 30, dtype=torch.float64)
    likely = torch.stack([w * torch.exp(-((x[:, 0] - t * z) ** 2) / (2 * s * s)) for w, z in zip(*TWO_POINTS)])
    y = path.bins.low + path.bins.width * (torch.arange(30000, dtype=torch.float64) + 0.5) / 1000
    for share, z in zip(likely / likely.sum(0), TWO_POINTS[1]):
        own = share * (x[:, 0] ** 2 - (t + 1) * x[:, 0] * z - s**2 + t * z**2).clamp(min=0) / s**3
        law = (-(y**2 - (t + 1) * y * z - s**2 + t * z**2)).clamp(min=0) * torch.exp(-((y - t * z) ** 2) / (2 * s * s))
        masses = law.reshape(30, 1000).sum(1)
        rate, flux = rate + own, flux + own[:, None] * masses / masses.sum()
    torch.testing.assert_close(told.intensity[:, 0].exp() / s, rate, rtol=1e-9, atol=1e-9)
    moving = rate > 0
    assert moving.tolist() == [True, False, True, True]
    laws = torch.softmax(told.landing[moving, 0], 1)
    torch.testing.assert_close(laws, (flux / rate[:, None])[moving], rtol=1e-5, atol=1e-6)


TWO_POINTS = (TWO.weights, TWO.means)


def test_minimal_jumps_are_those_of_straight_lines() -> None:
    path, x = CondOTJumps.reaching(2.0, 50), torch.linspace(-2, 3, 11, dtype=torch.float64)
    t, z = torch.full_like(x, 0.35), torch.full_like(x, 0.7)

    def log_density(t: Tensor, x: Tensor) -> Tensor:
        return -((x - t * 0.7) / (1 - t)).square() / 2 - torch.log(math.sqrt(2 * math.pi) * (1 - t))

    sample = path.sample((x - t * z) / (1 - t), z, t)
    found = minimal_jumps(log_density, t, x, path.bins, points=64)
    assert found.intensity is not None and found.landing is not None
    torch.testing.assert_close(found.intensity.exp(), sample.intensity)
    torch.testing.assert_close(torch.softmax(found.landing, 1), sample.masses, rtol=0, atol=1e-3)
    torch.testing.assert_close(sample.x_t, x)


def test_landing_takes_the_quantiles_of_its_law() -> None:
    bins, u = Bins(-1.0, 3.0, 4), torch.tensor([0.0, 0.1, 0.2, 0.25, 0.7, 1 - 2**-24])
    law = torch.tensor([0.2, 0.0, 0.1, 0.7]).log().expand(6, 4)
    expected = torch.tensor([-1.0, -0.5, 1.0, 1.5, 2 + 0.4 / 0.7, 3.0])
    torch.testing.assert_close(bins.land(law, u), expected, rtol=0, atol=1e-6)
    assert torch.equal(Bins(-1.0, 3.0, 1).land(torch.zeros(2, 1), u[:2]), torch.tensor([-1.0, -0.6]))
    assert bins.land(law.clone().fill_(math.nan), u).isnan().all()


@pytest.mark.parametrize("path", [CondOTJumps.reaching(2.0, 16), MixtureJumps(Bins(-2.0, 2.0, 16))])
def test_contract(path: JumpPath) -> None:
    x0, x1 = torch.randn(2, 6, 3, 2, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    t = torch.linspace(0, 1, 6)
    found, again = (path.sample(x0, x1, t, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(found.x_t, again.x_t) and torch.equal(found.t, t)
    torch.testing.assert_close(found.x_t[0], x0[0])
    torch.testing.assert_close(found.x_t[-1], x1[-1])
    assert (found.velocity is None) == isinstance(path, MixtureJumps)
    assert (
        found.masses.shape == (6, 3, 2, 16) and found.intensity.shape == x1.shape and found.intensity.isfinite().all()
    )
    torch.testing.assert_close(found.masses.sum(-1), torch.ones_like(x1))
    assert torch.equal(found.masses[-1].argmax(-1), path.bins.index(x1[-1]))
    assert path.sample(x0[:0], x1[:0], t[:0]).masses.shape == (0, 3, 2, 16)
    assert path.sample(x0.bfloat16(), x1.bfloat16(), t).masses.dtype == torch.float32
    x1[2, 1] = math.nan
    told = path.sample(x0, x1, t)
    for part in (told.intensity, told.masses):
        assert part.isnan().flatten(1).any(1).tolist() == [False, False, True, False, False, False]
    s = torch.tensor([0.1, 0.5, 0.99])
    torch.testing.assert_close(path.growth(s, s + 1e-3) / 1e-3 * (1 - s), torch.ones(3), rtol=0.2, atol=0)


def test_what_does_not_fit_is_named() -> None:
    path, x = CondOTJumps(Bins(-1.0, 1.0, 4)), torch.zeros(2, 1)
    with pytest.raises(ValueError, match=r"x1: expected data from -1 to 1, where jumps land; got 0 to 1.5"):
        path.sample(x, torch.tensor([[0.0], [1.5]]), 0.5)
    with pytest.raises(ValueError, match=r"t: expected times from 0 \(noise\) to 1 \(data\), got"):
        path.sample(x, x, 1.5)
    with pytest.raises(ValueError, match=r"low to be below high, got 1\.0 and 1\.0"):
        Bins(1.0, 1.0, 3)
    with pytest.raises(ValueError, match="count to be an integer of at least 1, got 0"):
        Bins(0.0, 1.0, 0)
    with pytest.raises(ValueError, match="high to be a finite number"):
        Bins(0.0, math.inf, 1)
    with pytest.raises(ValueError, match=r"Bins: expected numbers; got nan at \(0, 1\)"):
        Bins(0.0, 1.0, 1).index(torch.tensor([[0.0, math.nan]]))
    with pytest.raises(ValueError, match=r"share to be from 0 to 1, got 1\.5"):
        superposed(Characteristics(x), Characteristics(x), 1.5)
    with pytest.raises(ValueError, match="expects a process with a drift"):
        langevin(Characteristics(), torch.tensor(0.5), x, 1.0)
