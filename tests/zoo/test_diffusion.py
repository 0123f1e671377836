"""Diffusions as systems: each process learns a ring, samples come by every method, noise has the process's width."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk import zoo
from pyflowk.nets import Field, Preconditioned, VelocityField
from pyflowk.paths import LogNormalTimes, UniformTimes, convert
from pyflowk.solvers import METHODS
from pyflowk.zoo.matching_sampling import GRIDS, SAMPLERS
from tests.zoo.test_flow_matching import fitted, ring, seeded


@cache
def trained(steps: int, width: int = 48, **options: Any) -> zoo.GenerativeModel:
    torch.manual_seed(0)
    model = zoo.diffusion((2,), width=width, depth=2, rtol=1e-4, atol=1e-4, **options)
    return fitted(model, ring(2048, 1), steps)


def standard(**options: Any) -> zoo.GenerativeModel:
    """One that has learned nothing yet, of data of unit scale."""
    model = zoo.diffusion((2,), width=8, depth=1, **options)
    model.initialize(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    return model


def far_from_gaussian(samples: Tensor) -> None:
    """A Gaussian of the same moments has a radius of 1.8 and a deviation of 0.93 in it."""
    radius = (samples - torch.tensor([3.0, 0.0])).norm(dim=1)
    assert radius.mean().item() == pytest.approx(2, abs=0.15) and radius.std() < 0.4


@pytest.mark.parametrize("process", ["vp", "sub_vp", "cosine", "ve", "edm"])
def test_a_ring_is_learned(process: str) -> None:
    model = trained(300, process=process)
    with torch.no_grad():
        far_from_gaussian(model.sample(1000, None, seeded(), method="dpmpp_2m", steps=20))
        assert 1.6 < -model.log_prob(ring(200, 5)).mean() < 2.2  # its own 1.65, a Gaussian's 3.5


def test_every_sampler_draws_it() -> None:
    model = trained(300, process="vp")
    with torch.no_grad():
        for method in SAMPLERS:
            options = {"ddim": {"eta": 0.5}, "edm_heun": {"churn": 10.0}}.get(method, {})
            drawn = model.sample(300, None, seeded(), method=method, steps=50, **options)
            far_from_gaussian(drawn)
            assert torch.equal(drawn, model.sample(300, None, seeded(), method=method, steps=50, **options))
        for grid in GRIDS:
            for method in ("ddim", "heun2"):
                far_from_gaussian(model.sample(300, None, seeded(), method=method, steps=50, grid=grid))


def test_a_plain_network_learns_noise() -> None:
    model = trained(1500, 64, prediction="noise")
    with torch.no_grad():
        radius = (model.sample(1000, None, seeded(), method="ddpm", steps=50) - torch.tensor([3.0, 0.0])).norm(dim=1)
    assert radius.mean().item() == pytest.approx(2, abs=0.2) and radius.std() < 0.55


def test_what_each_choice_is_made_of() -> None:
    model = zoo.diffusion((2,), process="edm")
    moving, objective = model._parts()[1], model.objective
    assert isinstance(moving.field, Preconditioned) and moving.field.prediction == "velocity"
    steep = zoo.diffusion((2,), process="vp")._parts()[1].field
    assert isinstance(steep, VelocityField) and steep.net.prediction == steep.prediction == "data"
    assert moving.field.deviation == 1 and isinstance(objective.times, LogNormalTimes)
    assert zoo.diffusion((2,), levels=4, process="ve")._parts()[1].field.deviation == 0.5
    assert isinstance(zoo.diffusion((2,), prediction="noise")._parts()[1].field, VelocityField)
    assert isinstance(zoo.diffusion((2,), weighting="likelihood").objective.times, UniformTimes)
    assert zoo.diffusion((2,)).config["weighting"] == "edm"
    assert zoo.diffusion((2,), prediction="noise").config["weighting"] == "simple"


@torch.no_grad()
@pytest.mark.parametrize("process, width", [("ve", 50.0), ("edm", 80.0)])
def test_wide_noise_is_where_samples_begin_and_latents_end(process: str, width: float) -> None:
    """An untrained denoiser is the average of Gaussian data N(0, 1): the flow has a closed form."""
    model, x = (
        standard(process=process, method="rk4", steps=100).double(),
        torch.tensor([[0.3, -1.0], [2.0, 0.1]]).double(),
    )
    end = 0.01 if process == "ve" else 0.0
    wide = x * math.sqrt((1 + width**2) / (1 + end**2))
    torch.testing.assert_close(model.encode(x), wide / width, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.decode(wide / width), x, rtol=1e-4, atol=1e-4)
    start = model.trajectory(2, [0.0], None, seeded())[0]
    torch.testing.assert_close(start, width * model.flow.base.sample(2, None, seeded()))
    noise = wide / width
    slope = 2 * 0.5 * math.log((1 + width**2) / (1 + end**2)) - 2 * math.log(width)
    known = -0.5 * noise.square().sum(1) - math.log(2 * math.pi) + slope
    torch.testing.assert_close(model.log_prob(x), known, rtol=1e-4, atol=1e-4)
    drawn = model.sample(4000, None, seeded(), method="edm_heun", grid="karras")
    assert drawn.std().item() == pytest.approx(1, abs=0.06)


class Narrow(Field):
    """What a denoiser of data N(0, 1) has to add, by the logarithm of sigma / alpha, for those of N(0, s^2)."""

    def __init__(self, s: float) -> None:
        super().__init__()
        self.s = s

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        ratio = torch.exp(4 * (t[:, None] if t.dim() else t))
        return ratio * (self.s**2 - 1) / (self.s**2 + ratio.square()) * x


@torch.no_grad()
@pytest.mark.parametrize("process", ["vp", "sub_vp", "cosine", "ve", "edm"])
def test_densities_are_exact_where_the_network_is(process: str) -> None:
    """At the defaults, of each event and of samples on average, for Gaussian data a tenth as wide as they seem, too."""
    end = 0.01 if process == "ve" else 0.0
    for s in (1.0, 0.1):
        model = standard(process=process)
        field = model._parts()[1].field
        (field.net if process == "vp" else field).net = Narrow(s)
        deviation = math.hypot(s, end)
        x = deviation * torch.randn(64, 2, generator=seeded())
        drawn, log_prob = model.sample_and_log_prob(64, None, seeded())
        close = 0.02 if process == "vp" else 0.003
        for events, found, limit in ((x, model.log_prob(x), close), (drawn, log_prob, 0.05)):
            known = torch.distributions.Normal(0.0, deviation).log_prob(events).sum(1)
            assert (found - known).abs().mean() < limit


def test_errors_of_data_count_as_such() -> None:
    """Without a weighting, whatever the network is made to say: that of the data, at a time of even noise."""
    model = standard(process="cosine", weighting="none")
    x, objective, schedule = torch.ones(5, 2), model.objective, model.objective.path.schedule
    t = torch.full((5,), 0.5)
    sample = objective.path.sample(torch.randn(5, 2, generator=seeded()), x, t)
    data = convert(model._parts()[1].field(t, sample.x_t), sample.x_t, t, schedule, "velocity", "data")
    error = (model._parts()[1].field(t, sample.x_t) - sample.target).square().mean(1) * objective.weight(t)
    torch.testing.assert_close(error, (data - x).square().mean(1))


@torch.no_grad()
def test_events_are_edited_by_samplers() -> None:
    model, x = standard(), torch.full((1000, 2), 3.0)
    for method in ("ddim", "ddpm", "rk4"):
        torch.testing.assert_close(model.edit(x, 1.0, None, seeded(), method=method), x)
        nothing = model.edit(x, 1 - 1e-4, None, seeded(), method=method)
        torch.testing.assert_close(nothing, x, rtol=0, atol=0.05)
        anew = model.edit(x, 0.05, None, seeded(), method=method, steps=100)
        assert anew.mean().abs() < 0.1 and anew.std().item() == pytest.approx(1, abs=0.07)


def test_what_there_is_not() -> None:
    with pytest.raises(ValueError, match="prediction: expected denoiser or velocity or data of a network for process"):
        zoo.diffusion((2,), process="cosine", prediction="noise")
    with pytest.raises(ValueError, match="prediction: expected denoiser of a network for process ve, got noise"):
        zoo.diffusion((2,), process="ve", prediction="noise")
    model = zoo.diffusion((2,), width=8)
    with pytest.raises(ValueError, match="steps: expected a number of steps for ddim on a uniform grid, got None"):
        model.sample(3, method="ddim", steps=None)
    with pytest.raises(ValueError, match="method, grid: expected a solver of the equation on a uniform grid, got ddim"):
        model.sample_and_log_prob(3, method="ddim")
    with pytest.raises(ValueError, match="got heun2 on a karras one, which draws samples and nothing else"):
        model.ends(torch.zeros(3, 2), method="heun2", grid="karras")
    with pytest.raises(ValueError, match=r"method: expected .*dpmpp_2m.*, got 'dpm'"):
        model.sample(3, method="dpm")
    for options, said in (
        ({"churn": 5.0}, "churn: is for edm_heun; got 5.0 with rk4"),
        ({"eta": 0.5, "method": "ddpm"}, "eta: is for ddim; got 0.5 with ddpm"),
        (
            {"diffusion": "sde", "method": "ddim"},
            "diffusion: is for euler_maruyama and stochastic_heun; got 'sde' with",
        ),
        ({"guidance_kind": "projected"}, "guidance_kind: is for guidance other than 0; got 'projected' without it"),
        ({"guidance_until": 0.5}, "guidance_until: is for guidance other than 0; got 0.5 without it"),
        ({"rtol": 1e-3}, "rtol: is for steps=None, of a solver that chooses them; got 0.001 with rk4 in 20 steps"),
        ({"atol": 1e-3, "method": "dpmpp_2m"}, "atol: is for steps=None, .* got 0.001 with dpmpp_2m in 20 steps"),
    ):
        with pytest.raises(ValueError, match=said):
            model.sample(3, **options)
    model.sample(3, eta=0.0, rtol=1e-5)  # what they are anyway
    assert not set(SAMPLERS) & set(METHODS)
