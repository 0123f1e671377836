"""Flow matching of events on a manifold: densities by volume, samples that stay there, and the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyflowk import zoo
from pyflowk.cli import main
from pyflowk.distributions import uniform_on
from pyflowk.manifolds import manifold
from pyflowk.objectives import Matching
from pyflowk.space import Context, Space
from pyflowk.training.drawing import is_globe, on_map
from tests.datasets.test_volcanoes import written

SPACES = {
    "sphere": Space((3,), manifold="sphere"),
    "torus": Space((2,), manifold="torus"),
    "so3": Space((3, 3), manifold="so3"),
    "product": Space((6,), manifold="sphere(3) x torus(2) x euclidean(1)", context=Context("labels", 2)),
}
spaces = pytest.mark.parametrize("name", SPACES)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bent(name: str, **options: Any) -> Any:
    """A small model whose velocity is far from 0."""
    torch.manual_seed(0)
    options = {"steps": 6, **options}
    model = zoo.flow_matching(SPACES[name], width=8, depth=2, frequency=0.0, **options).double().eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5, generator=seeded(p.numel()))
    return model


def label(name: str) -> Tensor | None:
    return torch.tensor([1]) if name == "product" else None


@spaces
def test_samples_lie_there_and_latents_come_back(name: str) -> None:
    model, space = bent(name, divergence="exact"), SPACES[name].geometry
    with torch.no_grad():
        x = model.sample(16, label(name), seeded(), steps=6)
        again = model.sample(16, label(name), seeded(), steps=6)
        assert space.off(x).max() < 1e-12 and torch.equal(x, again)
        moved = model.sample(16, label(name), seeded(), method="euler", steps=3)
        assert space.off(moved).max() < 1e-12 and not torch.equal(moved, x)
        z = model.encode(x, label(name))
        base = uniform_on(space).double().sample(16, generator=seeded())
        assert space.distance(z, base).max() < 1e-2
        assert space.distance(model.decode(z, label(name)), x).max() < 1e-2
        drawn, density = model.sample_and_log_prob(16, label(name), seeded(), steps=6)
        torch.testing.assert_close(density, model.log_prob(drawn, label(name)), rtol=0, atol=1e-2)
        ways = model.trajectory(4, [0.0, 0.5, 1.0], label(name), seeded())
        assert max(space.off(state).max().item() for state in ways) < 1e-12
        edited = model.edit(x, 0.9, label(name), seeded(), steps=4)
        assert space.off(edited).max() < 1e-12 and (space.distance(edited, x) < space.distance(base, x)).any()


def test_densities_integrate_to_one_over_the_sphere() -> None:
    """By its area, though the field is seen in space; as the marginal at half of the way does."""
    height = (torch.arange(60, dtype=torch.float64) + 0.5) / 30 - 1
    angle = 2 * math.pi * (torch.arange(60, dtype=torch.float64) + 0.5) / 60
    height, angle = torch.cartesian_prod(height, angle).unbind(1)
    ring = (1 - height**2).sqrt()
    x = torch.stack((ring * angle.cos(), ring * angle.sin(), height), 1)
    model = bent("sphere")
    with torch.no_grad():
        for log_prob in (model.log_prob(x), model.marginal(0.5, x).log_prob):
            assert log_prob.std() > 0.2
            assert log_prob.exp().mean().item() * 4 * math.pi == pytest.approx(1, abs=1e-3)


def test_densities_integrate_to_one_over_the_torus() -> None:
    side = 2 * math.pi * torch.arange(40, dtype=torch.float64) / 40
    with torch.no_grad():
        density = bent("torus").log_prob(torch.cartesian_prod(side, side)).exp()
    assert density.mean().item() * 4 * math.pi**2 == pytest.approx(1, abs=1e-4)


@spaces
def test_untrained_models_are_even(name: str) -> None:
    model = zoo.flow_matching(SPACES[name], width=8, steps=2).double()
    x = model.sample(5, label(name), seeded(), steps=2)
    torch.testing.assert_close(model.log_prob(x, label(name)), uniform_on(SPACES[name].geometry).log_prob(x))
    assert zoo.create(**json.loads(json.dumps(model.config))).config == model.config
    assert model.loss(x, label(name), seeded()).shape == (5,) and model.loss_unit is None
    assert model.loss(x[:0], label(name)).shape == (0,) and model.sample(0, label(name)).shape == (0, *x.shape[1:])


def test_a_cap_is_learned() -> None:
    """Points within half a radian of the pole, even there: ln of its area is -0.26 nats; of the sphere's -2.53."""
    pole = torch.tensor([0.0, 0.0, 1.0])
    height = 1 - (1 - math.cos(0.5)) * torch.rand(2048, generator=seeded())
    angle = 2 * math.pi * torch.rand(2048, generator=seeded(1))
    x = torch.stack(((1 - height**2).sqrt() * angle.cos(), (1 - height**2).sqrt() * angle.sin(), height), 1)
    torch.manual_seed(0)
    model = zoo.flow_matching(SPACES["sphere"], width=32, depth=2)
    optimizer, generator = torch.optim.Adam(model.parameters(), 5e-3), seeded()
    for step in range(200):
        loss = model.loss(x[(step % 8) * 256 : (step % 8 + 1) * 256], None, generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        samples = model.eval().sample(500, None, seeded())
        assert ((samples @ pole) > math.cos(0.6)).float().mean() > 0.93
        area = 2 * math.pi * (1 - math.cos(0.5))
        assert -0.1 < -model.log_prob(x[:200]).mean() - math.log(area) < 0.35


def test_guidance_and_rows_without_a_context() -> None:
    model, space = bent("product", dropout=0.5), SPACES["product"].geometry
    with torch.no_grad():
        plain = model.sample(8, label("product"), seeded())
        further = model.sample(8, label("product"), seeded(), guidance=2.0)
        assert space.off(further).max() < 1e-12 and not torch.allclose(further, plain)
        assert model.loss(plain, label("product"), seeded()).isfinite().all()
        assert model.sample(3).shape == (3, 6)


def test_nan_and_adaptive_steps() -> None:
    model = bent("sphere", method="dopri5", steps=None, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        x = model.sample(4, None, seeded(), steps=20)
        exact = model.log_prob(x)
        torch.testing.assert_close(exact, bent("sphere", steps=20).log_prob(x), rtol=0, atol=1e-3)
        x[2, 0] = math.nan
        assert model.log_prob(x).isnan().tolist() == [False, False, True, False]


def test_even_noise_has_no_temperature() -> None:
    for name in ("sphere", "torus", "so3"):
        with pytest.raises(
            ValueError, match=f"temperature: expected 1 on the {name}, where noise is even already, got 0.5"
        ):
            bent(name).sample(2, temperature=0.5)
    warm, cold = (bent("product").sample(9, label("product"), seeded(), temperature=t) for t in (1.0, 0.5))
    assert not torch.equal(warm, cold)  # along its line


def test_what_does_not_fit_is_named() -> None:
    model = bent("sphere")
    with pytest.raises(ValueError, match=r"x: expected points of Sphere\(\(3,\)\), got one that is off by 0.73"):
        model.loss(torch.ones(2, 3))
    with pytest.raises(ValueError, match="expected velocity and independent on a manifold, got data and independent"):
        zoo.flow_matching(SPACES["sphere"], prediction="data")
    with pytest.raises(ValueError, match=r"schedule: expected a share of data from 0 to 1, got 0\.00657"):
        zoo.flow_matching(SPACES["sphere"], path="vp")
    with pytest.raises(ValueError, match="architecture: expected vector for events on the sphere, got image"):
        zoo.flow_matching(SPACES["sphere"], architecture="image")
    with pytest.raises(
        ValueError, match="expected to learn the velocity of a GeodesicPath, got velocity of AffinePath"
    ):
        zoo.MatchingModel(SPACES["sphere"], model.flow.transform.layers()[0].field.net, Matching())
    with pytest.raises(ValueError, match=r"nice takes real numbers or levels of one length; got .* on the sphere"):
        zoo.nice(SPACES["sphere"])


def test_points_of_the_globe_are_shown_on_a_map() -> None:
    assert is_globe(SPACES["sphere"]) and not is_globe(Space((2, 3), manifold="sphere"))
    places = on_map(torch.tensor([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]))
    torch.testing.assert_close(places, torch.tensor([[-90.0, 0.0], [0.0, 90.0]]))
    assert manifold("sphere", (3,)).dim == 2


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trains, goes on, samples, walks and judges as with any data."""
    out, files = str(tmp_path / "run"), str(written(tmp_path, 60))
    quick = ("--warmup", "2", "--validate-every", "10", "--no-tensorboard", "--cpu", "--batch-size", "16")
    train = ["train", "flow_matching", "--data", "volcanoes", "--data-dir", files, "--out", out, *quick,
             "--set", "width=8", "steps=4"]  # fmt: skip
    assert main([*train, "--steps", "10"]) == 0 and main([*train, "--steps", "20", "--resume"]) == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["gaussian"] is None and -6 < result["model"]["nats"] < 0
    assert (tmp_path / "run/samples.png").stat().st_size > 1000
    for options in ((), ("--interpolate",)):
        assert main(["sample", out, "--n", "16", "--out", str(tmp_path / "x.npy"), *options]) == 0
        np.testing.assert_allclose(np.linalg.norm(np.load(tmp_path / "x.npy"), axis=1), 1, atol=1e-5)
    assert main(["sample", out, "--n", "16", "--out", str(tmp_path / "x.png")]) == 0
    capsys.readouterr()
    assert main(["eval", out]) == 0
    said = capsys.readouterr().out
    assert "uniform" in said and "-2.53 nats" in said and "round trip" in said
