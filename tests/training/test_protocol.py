"""Systems that are nothing like a flow, in the tests alone: they train, go on, draw, are judged and come back.

One models sequences of several lengths; the other has a moving target, a frozen teacher, and options of its samples.
"""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pyflowk import datasets, training, zoo
from pyflowk.cli import main
from pyflowk.space import Ragged
from pyflowk.training import Checkpoint, CheckpointError, TrainConfig, Trainer, parts
from pyflowk.training.log import read_rows
from tests import toys

CONFIG = TrainConfig(
    steps=12, batch_size=32, warmup=3, lr=0.05, log_every=2, validate_every=4, sample_every=4, ema=0.9,
    tensorboard=False, cpu=True, threads=1,
)  # fmt: skip
OPTIONS = ("--batch-size", "32", "--warmup", "2", "--lr", "0.05", "--validate-every", "5", "--no-tensorboard", "--cpu")


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The toys, for the tests of this file alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo.registry, "_SYSTEMS", dict(zoo.registry._SYSTEMS))
        patch.setattr(datasets.registry, "_ENTRIES", dict(datasets.registry._ENTRIES))
        toys.register()
        yield


def trainer(system, out, config=CONFIG, resume=False, **options):
    data = datasets.load("moons" if system == "follower" else "tokens")
    space = replace(data.space, context=None)
    torch.manual_seed(0)
    return Trainer(zoo.create(system, space), data, config, out=out, resume=resume, **options)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("system, drawn", [("unigrams", "txt"), ("follower", "png")])
def test_a_resumed_run_is_bit_for_bit_the_straight_one_whether_it_draws_or_not(system, drawn, tmp_path):
    """Targets that move, samples drawn on the way, and the random numbers of torch are where they were."""
    trainer(system, tmp_path / "a", replace(CONFIG, sample_every=0)).run()
    trainer(system, tmp_path / "b").run(until=5)
    torch.manual_seed(99)
    run = trainer(system, tmp_path / "b", resume=True)
    run.run()
    a, b = (Checkpoint.open(tmp_path / name) for name in "ab")
    assert b.meta["step"] == 12 and all(same(a.weights(name), b.weights(name)) for name in ("model", "ema", "best"))
    assert torch.equal(a.state()["cpu_rng"], b.state()["cpu_rng"])
    losses = [[row["loss"] for row in read_rows(tmp_path / name / "log.csv")][-3:] for name in "ab"]
    assert losses[0] == losses[1] and len(losses[0]) == 3
    pictures = {f"step-{step:06d}.{drawn}" for step in (4, 8, 12)}
    assert {path.name for path in (tmp_path / "b" / "samples").iterdir()} == pictures
    assert not (tmp_path / "a" / "samples").exists()


def test_what_is_trained_averaged_and_saved(tmp_path):
    run = trainer("follower", tmp_path)
    model, average = run.model, run.averaged
    teacher = {key: value.clone() for key, value in model.teacher.state_dict().items()}
    assert not any(p.requires_grad for part in (model.target, model.teacher) for p in part.parameters())
    optimised = {id(p) for group in run.state.optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in model.net.parameters()} == {id(p) for p in run.state.parameters}
    moved = []
    model.after_step = lambda step: (moved.append(step), type(model).after_step(model, step))[1]
    run.run()
    assert moved == list(range(1, 13))  # the number of the step that was taken, each once
    assert average.teacher is model.teacher and same(teacher, model.teacher.state_dict())
    assert not model.teacher.training and model.net.training and not average.net.training
    assert same(average.target.state_dict(), model.target.state_dict())  # taken over, not averaged
    assert not torch.equal(average.net[0].weight, model.net[0].weight)
    saved = Checkpoint.open(tmp_path)
    for name in ("model", "ema", "best"):
        keys = saved.weights(name).keys()
        assert {key.split(".")[0] for key in keys} == {"net", "target"}
    again, _ = training.load_model(tmp_path, "last")
    assert same(again.teacher.state_dict(), teacher) and same(again.target.state_dict(), model.target.state_dict())
    with pytest.raises(CheckpointError, match=r"do not fit this version's model: .*net.0.weight"):
        saved.load_into(zoo.create("follower", (3,)), "model")
    model.targets = ("nett",)
    with pytest.raises(ValueError, match=r"Follower: expected a part of it, among targets or teachers; .*nett"):
        parts.freeze(model)


def test_samples_on_the_way_start_from_the_same_noise(tmp_path):
    """Nothing is learned, nothing changes; something is, and it does; what cannot be drawn ends no run."""
    texts = {}
    for name, lr in (("still", 1e-12), ("learning", 0.05)):
        trainer("unigrams", tmp_path / name, replace(CONFIG, lr=lr)).run()
        texts[name] = [path.read_text() for path in sorted((tmp_path / name / "samples").iterdir())]
    assert len(set(texts["still"])) == 1 and len(set(texts["learning"])) == 3
    rows = [line.split() for line in texts["still"][0].splitlines()]
    assert len(rows) == 64 and {len(row) for row in rows} >= {1, 5, 12} and {s for r in rows for s in r} == set("0123")
    run = trainer("follower", tmp_path / "broken")
    run.model._sample = run.averaged._sample = lambda *rest: 1 / 0
    assert run.run().step == 12 and not list((tmp_path / "broken" / "samples").glob("*"))


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
    assert result["model"]["unit"] == "symbol" and result["trivial_bits"] == 2
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
    assert main(["train", "--resume", "--out", "run", "--steps", "10", "--sampling", "spread=2"]) == 0
    said = capsys.readouterr()
    assert "ignored: --sampling spread=2 (the run has 0.5)" in said.err
    assert "nothing is left to train: the run is at step 20, and its budget is 10 steps" in said.out
    assert main(["train", "--resume", "--out", "run", "--steps", "25"]) == 0
    assert "nothing is left" not in capsys.readouterr().out and Checkpoint.open("run").meta["step"] == 25
    assert Checkpoint.open("run").meta["sampling"] == {"steps": 2, "spread": 0.5}

    assert main(["zoo", "follower"]) == 0
    said = capsys.readouterr().out
    assert "spread=1.0  what multiplies the noise (a number above 0)" in said and "decay=0.9" in said
