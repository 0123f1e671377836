"""`pyflowk latent` as a user would drive it: from an autoencoder's run to samples of a system inside of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

from pyflowk import datasets, training, zoo
from pyflowk.cli import main
from pyflowk.cli.evaluate import reconstruction
from pyflowk.cli.options import sampling_of
from pyflowk.training import TrainConfig, Trainer
from pyflowk.zoo import Latent

QUIET = ("--no-tensorboard", "--cpu", "--threads", "1", "--sample-every", "0", "--validate-samples", "64")


def test_a_system_learns_the_codes_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coder, out = str(tmp_path / "coder"), str(tmp_path / "coder-latent")
    first = zoo.autoencoder((1, 8, 8), levels=17, channels=3, halvings=2, width=8)
    config = TrainConfig(steps=20, batch_size=32, validate_samples=64, tensorboard=False, cpu=True, threads=1)
    Trainer(first, datasets.load("digits"), config, out=coder, console=Console(quiet=True)).run()
    options = ("--system", "nice", "--set", "width=16", "couplings=2", "--conditional", "--steps", "20")
    assert main(["latent", coder, *options, "--sampling", "temperature=0.7", "spread=0.5", *QUIET]) == 0
    assert "bits/dim" in capsys.readouterr().out
    model, run = training.load_model(out)
    assert isinstance(model, Latent) and model.code == (3, 2, 2) and model.space.classes == 10
    assert run.sampling == {"inside": "temperature=0.7", "spread": 0.5}
    test = datasets.load("digits").test.float()
    error = (test - model.reconstruct(test)).square().mean().sqrt().item()
    assert f"error {error:.3g}, where that of the mean event is" in reconstruction(model, datasets.load("digits"))
    warmer = sampling_of(model, ["temperature=0.9", "spread=0"], run)
    assert warmer == {"inside": "temperature=0.9", "spread": 0}  # what is not latent's own is the system's inside
    own = model.autoencoder.state_dict()
    best = training.load_model(coder)[0].state_dict()
    assert all(torch.equal(value, own[key]) for key, value in best.items())
    with pytest.raises(ValueError, match=r"options: expected options of nice for \(2,\); .*widht"):
        zoo.latent((6,), system="nice", options="widht=3", coder="channels=2 width=4")
    for arguments, message in (
        ([out], "expected a run of autoencoder, got one of latent"),
        ([coder, "--system", "nise"], "no system named 'nise'"),
        ([coder, "--system", "autoencoder"], "system: expected a system of codes"),
        ([coder, "--system", "nice", "--sampling", "inside=temperature=1"], "stand here by their own names"),
        ([coder, "--out", out], "holds a checkpoint already"),
        ([coder, "--system", "nice", "--set", "widht=3"], "nice has no option widht"),
        ([coder, "--system", "nice", "--sampling", "steps=3"], "nice has no sampling option steps"),
    ):
        assert main(["latent", *arguments, *QUIET]) == 2
        assert message in capsys.readouterr().err
