"""Flow matching as a system: whatever the network predicts it learns a ring; its steps, its scale and its levels."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyflowk import zoo
from pyflowk.cli import main
from pyflowk.ops.draw import draw_keys
from pyflowk.space import Paired
from pyflowk.training.log import read_rows
from pyflowk.zoo import Ability


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ring(n: int, seed: int) -> Tensor:
    """Around (3, 0), of radius 2."""
    angle = 2 * math.pi * torch.rand(n, generator=seeded(seed))
    circle = 2 * torch.stack((angle.cos(), angle.sin()), 1) + torch.tensor([3.0, 0.0])
    return circle + 0.1 * torch.randn(n, 2, generator=seeded(seed + 1))


def trained(x: Tensor, steps: int, **options: Any) -> zoo.GenerativeModel:
    torch.manual_seed(0)
    model = zoo.flow_matching(x.shape[1:], width=64, depth=2, **options)
    return fitted(model, x, steps)


def fitted(model: zoo.GenerativeModel, x: Tensor, steps: int) -> zoo.GenerativeModel:
    """After so many steps on batches of 256 of 2048 rows, in turn."""
    model.initialize(x)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3, fused=True)
    generator = seeded()
    for step in range(steps):
        loss = model.loss(x[(step % 8) * 256 : (step % 8 + 1) * 256], None, generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


LEARNED: list[dict[str, Any]] = [
    {}, {"prediction": "data"}, {"prediction": "data", "path": "cosine"}, {"prediction": "noise", "path": "vp"},
]  # fmt: skip


@pytest.mark.parametrize("options", LEARNED, ids=lambda options: "-".join(options.values()) or "defaults")
def test_a_ring_is_learned(options: dict[str, Any]) -> None:
    """A Gaussian of the same moments has a radius of 1.8 and a deviation of 0.93 in it, and 3.5 nats; the ring 1.65."""
    model = trained(ring(2048, 1), 1500 if options.get("prediction") == "noise" else 600, **options)
    with torch.no_grad():
        radius = (model.sample(1000, None, seeded(), steps=40) - torch.tensor([3.0, 0.0])).norm(dim=1)
        assert radius.mean().item() == pytest.approx(2, abs=0.15) and radius.std() < 0.5
        if options.get("prediction") != "noise":
            assert radius.std() < 0.25 and 1.6 < -model.log_prob(ring(1000, 5)).mean() < 2.1


def test_optimal_pairs_make_one_step_enough() -> None:
    """One Euler step from independent pairs ends at the mean of the data, which is what they tell of them."""
    off = {}
    for pairing in ("independent", "optimal_transport"):
        model = trained(ring(2048, 1), 300, pairing=pairing)
        with torch.no_grad():
            step = model.sample(1000, None, seeded(), method="euler", steps=1) - torch.tensor([3.0, 0.0])
        off[pairing] = (step.norm(dim=1) - 2).square().mean().sqrt().item()
    assert off["independent"] > 1.5 and off["optimal_transport"] < 0.5
    labelled = zoo.flow_matching((2,), classes=2, pairing="optimal_transport", width=8)
    assert labelled.loss(ring(6, 1), torch.arange(6) % 2, seeded()).shape == (6,)


def test_noise_is_gathered_in_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process validates while the others wait: it must not ask them for theirs."""
    model, x = zoo.flow_matching((2,), pairing="gathered_optimal_transport", width=8), ring(6, 1)
    alone = model.loss(x, None, seeded())  # outside of a group there is nobody else
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises((RuntimeError, ValueError), match="process group"):
        model.loss(x, None, seeded())
    assert torch.equal(model.eval().loss(x, None, seeded()), alone)


def test_the_scale_of_the_data_is_set_once_and_not_learned() -> None:
    x = ring(2048, 1)
    model = trained(x, 3)
    scale = model.flow.transform.layers()[1]
    z = scale(x)[0]
    torch.testing.assert_close(z.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(2))
    assert not any(p.requires_grad for p in scale.parameters()) and model.loss_unit is None


def test_samples_come_in_steps_of_their_own() -> None:
    model = zoo.flow_matching((3,), width=8, steps=40).double().eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=seeded(p.numel()))

    def sample(**options: Any) -> Tensor:
        with torch.no_grad():
            return model.sample(16, None, seeded(), **options)

    exact = sample(method="dopri5", steps=None, rtol=1e-10, atol=1e-10)
    errors = [(sample(method="euler", steps=n) - exact).abs().max().item() for n in (10, 20, 40)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.2) == errors[1] / errors[2]
    assert (sample() - exact).abs().max() < 1e-4
    latents = model.encode(exact)
    torch.testing.assert_close(latents, model.flow.base.sample(16, None, seeded()), rtol=1e-5, atol=1e-5)
    assert sample(temperature=0.1).std() < 0.5 * sample().std()
    with pytest.raises(
        ValueError, match="steps: expected a number of steps for rk4, which cannot choose them; got None"
    ):
        sample(steps=None)


def test_pairs_are_learned_from_as_they_lie_inside() -> None:
    """Of pictures of integers too: noise and the ends of its trajectories, before levels and scale."""
    model = zoo.flow_matching((1, 2, 2), levels=4, width=8, depth=1, architecture="vector").eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=seeded(p.numel()))
    x0 = torch.randn(5, 1, 2, 2, generator=seeded())
    with torch.no_grad():
        x1 = model.ends(x0, method="rk4", steps=4)
        assert x1.shape == x0.shape and not torch.equal(x1, x1.round())
        whole = ((x1 + 1) * 2).floor().clamp(0, 3)
        torch.testing.assert_close(model.decode(x0.flatten(1)), whole)
    loss = model.loss(Paired(x0, x1), generator=seeded())
    generator = seeded()
    draw_keys(5, generator, device="cpu")  # of the source, whose place the pairs take
    t = torch.rand(5, generator=generator)
    field, (a, b) = model.flow.transform.layers()[-1].field, (x0.flatten(1), x1.flatten(1))
    wanted = (field(t, torch.lerp(a, b, t[:, None])) - (b - a)).square().mean(1)
    torch.testing.assert_close(loss, wanted)
    assert model.prepare(Paired(x0, x1)) == {}
    paired = zoo.flow_matching((1, 2, 2), pairing="optimal_transport", architecture="vector", width=8)
    with pytest.warns(UserWarning, match="pairs .* are learned as they are: OptimalTransport.* pairs none of them"):
        paired.prepare(Paired(x0, x1))
    with pytest.raises(ValueError, match=r"expected the halves of pairs \(B, 1, 2, 2\), got \(5, 4\)"):
        model.loss(Paired(x0.flatten(1), x1.flatten(1)))


def test_levels_lie_between_minus_one_and_one_and_have_a_bound() -> None:
    """An untrained velocity is 0: noise is the density, whose mass in the cells is known."""
    model = zoo.flow_matching((2,), levels=4, width=8)
    x = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
    assert model.abilities >= {Ability.LIKELIHOOD, Ability.LATENT, Ability.TRAJECTORY}
    front = model.encode(x, generator=seeded())
    assert front.min() >= -1 and front.max() < 1
    torch.testing.assert_close((front + 1) * 2 - x, ((front + 1) * 2 - x).clamp(0, 1))
    edges = torch.special.ndtr(torch.linspace(-1, 1, 5)).diff().log()
    mass = edges[x.long()].sum(1)
    draws = torch.stack([model.log_prob(x, generator=seeded(i)) for i in range(200)]).mean(0)
    assert (draws < mass + 0.01).all()
    torch.testing.assert_close(draws, mass, rtol=0, atol=0.03)
    samples = model.sample(500, generator=seeded())
    assert samples.unique().tolist() == [0, 1, 2, 3]


def test_images_are_seen_by_networks_of_images() -> None:
    chosen = {shape: zoo.flow_matching(shape) for shape in ((3,), (1, 4, 4), (2, 3))}
    assert [(m.config["architecture"], m.config["width"]) for m in chosen.values()] == [
        ("vector", 128), ("unet", 16), ("vector", 128),
    ]  # fmt: skip
    assert zoo.flow_matching((1, 4, 4), architecture="vector", width=7).config["width"] == 7
    sizes = {"image": (32, 3, 1), "unet": (16, 1, 1), "dit": (64, 4, 4)}
    for architecture, size in sizes.items():
        config = zoo.flow_matching((1, 28, 28), architecture=architecture).config
        assert tuple(config[name] for name in ("width", "depth", "patch")) == size
    patches = {(1, 1): 1, (4, 4): 2, (5, 5): 1, (8, 8): 2, (32, 64): 8, (29, 29): 1}
    assert patches == {s: zoo.flow_matching((1, *s), architecture="dit").config["patch"] for s in patches}
    old = {"architecture": "image", "width": 4, "depth": 2, "activation": "tanh", "time": "concatsquash"}
    config = zoo.flow_matching((1, 4, 4), **old).config  # as runs of the time before the others have it, no patch
    assert {name: config[name] for name in old} == old
    for side, expected in ((7, 0), (8, 1), (28, 2), (128, 3)):
        net: Any = zoo.flow_matching((1, side, side), width=4).flow.transform.layers()[-1].field
        halvings = [name for name in net.state_dict() if name.startswith("down") and name.endswith("conv.weight")]
        assert len(halvings) == expected, side


@pytest.mark.parametrize("architecture", ["unet", "dit"])
def test_images_by_deep_networks_are_learned_drawn_and_judged(architecture: str) -> None:
    """Stripes that lie or stand, as the label says: samples of a label are its stripes."""
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    lying = torch.tensor([0.0, 4.0, 0.0, 4.0]).reshape(1, 4, 1).expand(1, 4, 4)
    x = torch.where(labels.reshape(-1, 1, 1, 1) == 0, lying, lying.mT)
    options = {"architecture": architecture, "depth": 1, "width": {"unet": 8, "dit": 32}[architecture], "steps": 1}
    model = zoo.flow_matching((1, 4, 4), levels=5, classes=2, **options)
    optimizer, generator = torch.optim.Adam(model.parameters(), 1e-2), seeded()
    for _ in range(150):
        loss = model.loss(x, labels, generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        samples = model.sample(64, labels, seeded(), method="euler", steps=8)
        assert (samples - x).abs().mean() < 0.5
        right, wrong = (model.log_prob(x, c, seeded()) for c in (labels, 1 - labels))
    assert right.isfinite().all() and (right > wrong + 10).all()


def test_what_cannot_be_learned() -> None:
    with pytest.raises(
        ValueError, match=r"noise says nothing of the data .* at t = 0 of path condot; expected path vp or sub_vp"
    ):
        zoo.flow_matching((2,), prediction="noise")
    with pytest.raises(ValueError, match=r"architecture: image expects events \(C, H, W\), got \(2,\)"):
        zoo.flow_matching((2,), architecture="image")
    for options, message in (
        ({"architecture": "dit", "patch": 3}, r"patch: expected a common divisor of the sides of \(1, 4, 4\), got 3"),
        ({"architecture": "unet", "patch": 2}, "patch: expected None for architecture unet, got 2"),
        ({"activation": "tanh"}, "activation: expected None for architecture unet, got 'tanh'"),
    ):
        with pytest.raises(ValueError, match=message):
            zoo.flow_matching((1, 4, 4), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"path: expected condot, .* or sub_vp, got 've'"):
        zoo.flow_matching((2,), path="ve")


def test_the_command_line_knows_it_by_the_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No likelihood is its loss, one is judged by; how samples are drawn is said as any system's options are."""
    out, steps = str(tmp_path / "run"), ("--sampling", "method=euler", "steps=5")
    quick = ("--steps", "20", "--warmup", "2", "--validate-every", "10", "--no-tensorboard", "--cpu")
    assert main(["train", "flow_matching", "--data", "digits", "--conditional", "--out", out, *quick, *steps,
                 "--set", "architecture=image", "width=4", "steps=1", "depth=1", "dropout=0.1"]) == 0  # fmt: skip
    said, result = capsys.readouterr().out, json.loads((tmp_path / "run/result.json").read_text())
    assert "valid loss" in said and "bits/dim" in said and 3 < result["model"]["bits"] < 6
    rows = read_rows(tmp_path / "run/log.csv")
    assert "valid_loss" in rows[-1] and not any("bits" in name for name in rows[-1])
    drawn = []
    for options in (steps, (), ("--sampling", "guidance=2")):  # a run remembers its own
        assert main(["sample", out, "--label", "3", "--out", str(tmp_path / "x.npy"), "--n", "9", *options]) == 0
        drawn.append(np.load(tmp_path / "x.npy"))
        assert drawn[-1].shape == (9, 1, 8, 8) and {*drawn[-1].flat} <= {*range(17)}
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()


def test_noise_finds_its_rows_among_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """By label; the batch says which labels, its events do not matter; validation pairs its own rows."""
    monkeypatch.setattr("pyflowk.zoo.matching_model.FIT", 300)
    x, labels = ring(300, 1), torch.arange(300) % 2
    x[labels == 1] += 10
    model = zoo.flow_matching((2,), classes=2, pairing="semidiscrete", width=8)
    model.initialize(x, labels)
    heard: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # few steps leave the fit above its own tolerance
        found = model.prepare(x, labels, seeded(), heard.append)
    assert heard and heard[-1] == 1
    again = zoo.flow_matching((2,), classes=2, pairing="semidiscrete", width=8)
    again.load_state_dict(model.state_dict())
    with monkeypatch.context() as patch:
        patch.setattr("pyflowk.paths.Semidiscrete.fit", None)  # a run that goes on knows them already
        again.prepare(x, labels, seeded(), found=found)
    asked = torch.arange(64) % 2
    first = model.loss(x[:64], asked, seeded())
    assert torch.equal(first, again.loss(torch.zeros(64, 2), asked, seeded()))
    assert not torch.equal(first, model.loss(x[:64], 1 - asked, seeded()))
    own = model.eval().loss(x[:64], labels[:64], seeded())
    assert torch.equal(own, zoo_like(model, "optimal_transport").loss(x[:64], labels[:64], seeded()))
    monkeypatch.setattr("pyflowk.zoo.matching_model.FIT", 1)
    with pytest.warns(UserWarning, match="pairing: after 1 steps .* of the rows were missing; .* needs no fit"):
        model.prepare(x.exp(), labels, seeded())
    with pytest.raises(ValueError, match="rows in memory, and labels or no context, for semidiscrete"):
        zoo.flow_matching((2,), context_dim=1, pairing="semidiscrete", width=8).prepare(x, torch.zeros(300, 1))


def zoo_like(model: zoo.GenerativeModel, pairing: str) -> zoo.GenerativeModel:
    """The same weights in a model with another pairing."""
    config = {key: value for key, value in model.config.items() if key not in ("name", "pairing")}
    other = zoo.create(model.name, **config, pairing=pairing)
    other.load_state_dict(model.state_dict())
    return other.eval()
