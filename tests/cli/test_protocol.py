"""Systems that are nothing like a flow, by the command line: it needs no line of theirs."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from pyflowk import datasets, training, zoo
from pyflowk.cli import main
from pyflowk.space import Ragged
from pyflowk.training import Checkpoint, TrainConfig, Trainer
from pyflowk.training.log import read_rows
from tests import toys

OPTIONS = ("--batch-size", "32", "--warmup", "2", "--lr", "0.05", "--validate-every", "5", "--no-tensorboard", "--cpu")


@pytest.fixture(scope="module", autouse=True)
def registered():
    with toys.registered():
        yield


@pytest.mark.parametrize("data", ["tokens", "labelled"])
def test_sequences_of_several_lengths_by_the_command_line(data, tmp_path, capsys):
    out, text, array = tmp_path / "run", tmp_path / "x.txt", tmp_path / "x.npy"
    conditional = ("--conditional",) if data == "labelled" else ()
    run = ("train", "unigrams", "--data", data, *conditional, "--steps", "60", "--out", str(out), *OPTIONS)
    assert main(run) == 0
    said = capsys.readouterr().out
    assert "1000 / 200 / 200 samples of up to 12 symbols" in said and "bigrams" in said and "samples: lengths" in said
    result = json.loads((out / "result.json").read_text())
    untrained = 2 + math.log2(13) / datasets.load(data).test.lengths.double().mean().item()
    assert result["model"]["unit"] == "symbol" and result["trivial_bits"] == pytest.approx(untrained)
    assert result["bigrams"]["bits"] < result["model"]["bits"] < untrained - 0.05
    pairs = result["samples"]["bigrams"]
    assert pairs["value"] > pairs["noise"] + 5 * pairs["error"]  # it knows none
    rows = read_rows(out / "log.csv")
    lengths = datasets.load(data).valid.lengths.double().mean().item()
    assert rows[-1]["valid_bits_per_symbol"] == pytest.approx(rows[-1]["valid_loss"] / lengths / math.log(2), rel=1e-4)
    assert main(["eval", str(out)]) == 0
    assert f"{result['model']['bits']:.3f} +- " in capsys.readouterr().out
    assert (out / "samples.txt").read_text().count("\n") == 64 and (out / "loss.png").exists()

    for path in (text, array):
        assert main(["sample", str(out), "--n", "50", "--seed", "3", "--out", str(path)]) == 0
    assert "50 samples of up to 12 of 4 symbols" in capsys.readouterr().out
    numbers, lines = np.load(array), [[int(word) for word in line.split()] for line in text.read_text().splitlines()]
    assert [[*row[row >= 0]] for row in numbers] == lines and numbers.min() == -1 and numbers.max() == 3
    model, _ = training.load_model(out)
    x, context = datasets.load(data).take("test", slice(20))
    assert isinstance(x, Ragged) and training.log_prob(model, x, context).shape == (20,)
    for arguments, message in (
        (("--out", "x.png"), "a .png holds pictures, points or histograms, got samples of up to 12 of 4 symbols"),
        (("--interpolate",), "unigrams has no latent space to walk in"),
        (("--trajectory",), "got unigrams on events of up to 12 of 4 symbols"),
        (("--sampling", "steps=3"), "unigrams has no sampling option steps; it has none"),
    ):
        assert main(["sample", str(out), *arguments]) == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    "system, data, message",
    [
        ("realnvp", "tokens", "realnvp takes real numbers or levels of one length; got up to 12 of 4 symbols"),
        ("unigrams", "moons", "unigrams takes symbols of one length or several; got real events of 2"),
        ("follower", "digits", "follower takes real numbers of one length; got 1x8x8 of 17 levels"),
    ],
)
def test_a_system_that_is_not_for_the_data_says_so(system, data, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", system, "--data", data]) == 2
    assert capsys.readouterr().err == f"pyflowk: {message}\n" and not list(tmp_path.iterdir())


def test_a_system_without_likelihood_by_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = ("train", "follower", "--data", "moons", "--out", "run", *OPTIONS)
    assert main([*run, "--sampling", "step=3"]) == 2
    assert "follower has no sampling option step (did you mean 'steps'?)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # said before anything was done
    sampling = ("--sampling", "steps=2", "spread=0.5")
    assert main([*run, "--steps", "20", "--sample-every", "10", *sampling]) == 0
    said = capsys.readouterr().out
    assert "has no likelihood" in said and "samples: energy distance" in said and "Gaussian" not in said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["model"] is None and result["samples"]["c2st"]["value"] > 0.5
    assert {path.name for path in (tmp_path / "run" / "samples").iterdir()} == {"step-000010.png", "step-000020.png"}

    assert main(["eval", "run"]) == 0  # with the options of the run
    nearness = f"{result['samples']['energy_distance']['value']:.3f}"
    assert nearness in capsys.readouterr().out
    assert main(["eval", "run", "--sampling", "spread=3"]) == 0 and nearness not in capsys.readouterr().out
    x = {}
    for name, more in (("run", ()), ("same", sampling), ("wide", ("--sampling", "spread=3", "steps=2"))):
        assert main(["sample", "run", "-n", "40", "--out", f"{name}.npy", *more]) == 0
        x[name] = np.load(f"{name}.npy")
    assert (x["run"] == x["same"]).all() and x["wide"].std() > 2 * x["run"].std()

    capsys.readouterr()
    assert main(["train", "--resume", "--out", "run", "--steps", "10", "--sampling", "spread=2", "steps=2"]) == 0
    said = capsys.readouterr()
    assert said.err.count("--sampling") == 1 and "ignored: --sampling spread=2 (the run has 0.5)" in said.err
    assert "nothing is left to train: the run is at step 20, and its budget is 10 steps" in said.out
    assert main(["train", "--resume", "--out", "run", "--steps", "25"]) == 0
    assert "nothing is left" not in capsys.readouterr().out and Checkpoint.open("run").meta["step"] == 25
    assert Checkpoint.open("run").meta["sampling"] == {"steps": 2, "spread": 0.5}

    assert main(["zoo", "follower"]) == 0
    said = capsys.readouterr().out
    assert "spread=1.0  what multiplies the noise (a number above 0)" in said and "decay=0.9" in said


def test_data_that_python_made_cannot_be_found_again_and_that_is_said(tmp_path, capsys):
    data = replace(datasets.load("moons"), origin=None)
    config = TrainConfig(steps=1, tensorboard=False, cpu=True)
    Trainer(zoo.create("follower", (2,)), data, config, out=tmp_path).run()
    for arguments in (("train", "--resume", "--out", str(tmp_path)), ("eval", str(tmp_path))):
        assert main(arguments) == 2
        assert "the data of the run, 'moons', were not loaded from anywhere" in capsys.readouterr().err
    assert main(["sample", str(tmp_path), "-n", "3", "--out", str(tmp_path / "x.npy")]) == 0


SCRIPT = """
import sys

import torch

from pyflowk import datasets, zoo
from pyflowk.cli import main
from pyflowk.distributions import DiagonalGaussian
from pyflowk.space import Space
from pyflowk.transforms import ActNorm, Compose


@datasets.register("points", "three times ten points")
def points(seed):
    rows = torch.randn(3, 10, 2, generator=torch.Generator().manual_seed(seed))
    return datasets.Dataset("points", Space((2,)), *rows)


@zoo.register("norm", takes=("real",))
def norm(space: Space) -> zoo.FlowModel:
    "Norm, a Gaussian."
    return zoo.FlowModel(space, DiagonalGaussian(space.shape), Compose(ActNorm(2)))


sys.exit(main())
"""


def test_a_script_outside_of_the_package_is_the_command_with_its_systems_and_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SCRIPT)
    words = ("train", "norm", "--data", "points", "--steps", "3", "--out", "run", *OPTIONS)
    done = subprocess.run([sys.executable, "mine.py", *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "norm (4 parameters) on points (10 / 10 / 10 samples of 2)" in done.stdout
    assert main(["sample", "run"]) == 2
    assert "what registers a system of your own has to be imported first" in capsys.readouterr().err
