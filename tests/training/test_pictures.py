"""The frames of a continuous flow, and which models have them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from pyflowk import datasets, zoo
from pyflowk.cli import main
from pyflowk.training import TrainConfig, Trainer
from pyflowk.training.pictures import draw_samples, draw_trajectory


def frames(folder: Path, model: zoo.GenerativeModel) -> list[bytes]:
    with Image.open(draw_trajectory(folder, model, samples=16, frames=3)) as picture:
        assert picture.n_frames == 3  # type: ignore[attr-defined]
    return [path.read_bytes() for path in sorted(folder.glob("trajectory-*.png"))]


def test_a_trajectory_has_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Density and velocity are in them where the model knows its marginals."""
    model = zoo.ffjord((2,), width=8, depth=1, steps=4, divergence="hutchinson")
    for p in model.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(p.numel()))
    whole = frames(tmp_path / "whole", model)
    monkeypatch.setattr(type(model), "abilities", frozenset({zoo.Ability.TRAJECTORY}))
    alone = frames(tmp_path / "alone", model)
    assert len({*whole, *alone}) == 6


@pytest.mark.parametrize("name, status", [("flow_matching", 0), ("nice", 2)])
def test_sample_trajectory(name: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"steps": 2} if name == "flow_matching" else {}
    config = TrainConfig(steps=1, tensorboard=False, cpu=True)
    Trainer(zoo.create(name, (2,), width=8, **options), datasets.load("moons"), config, out=tmp_path).run()
    assert main(["sample", str(tmp_path), "--trajectory", "--n", "8", "--weights", "last"]) == status
    assert (tmp_path / "trajectory.gif").exists() == (status == 0)
    if status:
        assert "of the plane that has a trajectory; got nice on events of 2" in capsys.readouterr().err


@pytest.mark.filterwarnings("error")
def test_samples_far_from_the_data_have_empty_histograms(tmp_path: Path) -> None:
    data = torch.tensor([[0.0, 1.0, 7.0], [2.0, 5.0, 7.0]])  # the last column has one value
    draw_samples(tmp_path / "x.png", torch.full((4, 3), 1e3), data, None)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
