"""The command driven as a user would drive it; bad input included."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

import pyflowk
from pyflowk import zoo
from pyflowk.cli import main
from pyflowk.cli.commands import parse
from pyflowk.cli.options import check_options, parse_options, sampling_of
from pyflowk.training import Checkpoint, Trainer, checkpoint
from pyflowk.training.log import read_rows

QUICK = ("--steps", "6", "--batch-size", "32", "--warmup", "2", "--log-every", "2", "--validate-every", "3")
SMALL = ("--no-tensorboard", "--cpu", "--set", "architecture=vector", "couplings=2", "width=16")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def started(*arguments):
    return [sys.executable, "-m", "pyflowk", *map(str, arguments)]


def shell(*arguments, **options):
    return subprocess.run(started(*arguments), capture_output=True, text=True, env=ENVIRONMENT, timeout=300, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on the digits."""
    out = tmp_path_factory.mktemp("run") / "digits"
    assert main(["train", "realnvp", "--data", "digits", "--out", str(out), *QUICK, *SMALL]) == 0
    return out


def test_train_writes_everything_and_prints_the_levels(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "realnvp", "--out", str(out), *QUICK, *SMALL]) == 0
    text = capsys.readouterr().out
    assert re.search(r"model +\d\.\d{3} \+- 0\.\d{3} bits/dim", text)
    assert re.search(r"one full Gaussian +2\.4", text) and re.search(r"trivial +4\.087 bits/dim", text)
    assert {p.name for p in out.iterdir()} == {"checkpoint", "log.csv", "loss.png", "result.json", "samples.png"}
    for picture in ("samples.png", "loss.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    result = json.loads((out / "result.json").read_text())
    assert result["step"] == 6 and result["gaussian"]["bits"] == pytest.approx(2.456, abs=0.045)
    assert result["model"]["bits"] > 1 and [row["step"] for row in read_rows(out / "log.csv")] == [2, 3, 4, 6]


def test_eval_repeats_the_score_of_the_training(run, capsys):
    assert main(["eval", str(run)]) == 0
    text = capsys.readouterr().out
    score = json.loads((run / "result.json").read_text())["model"]
    assert re.search(rf"model +{score['bits']:.3f} \+- {score['bits_error']:.3f} bits/dim", text)
    assert "one full Gaussian" in text and "trivial" in text
    assert float(re.search(r"worst layer .*: (\S+)", text)[1]) < 1e-3


@pytest.mark.parametrize("weights", ["best", "ema", "last"])
def test_sample_as_numbers(run, tmp_path, weights):
    out = tmp_path / "deep" / "x.npy"
    assert main(["sample", str(run), "--n", "5", "--out", str(out), "--weights", weights]) == 0
    x = np.load(out)
    assert x.shape == (5, 1, 8, 8) and x.min() >= 0 and x.max() <= 16 and (x == x.round()).all()


def test_sample_is_seeded(run, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        main(
            ["sample", str(run / "checkpoint"), "--n", "3", "--seed", str(seed), "--out", str(tmp_path / f"{name}.npy")]
        )
    a, b, c = (np.load(tmp_path / f"{name}.npy") for name in "abc")
    assert (a == b).all() and not (a == c).all()


def test_sample_as_a_picture(run, tmp_path):
    from PIL import Image

    assert main(["sample", str(run), "--n", "9", "--out", str(tmp_path / "x.png")]) == 0
    size = Image.open(tmp_path / "x.png").size
    assert size[0] == size[1] and size[0] % (3 * 9 + 1) == 0  # 3 x 3 images of 8 pixels with a frame of 1


def test_glow_trains_comes_back_and_draws_with_a_temperature(tmp_path, capsys):
    out = tmp_path / "run"
    options = ("--set", "steps=1", "width=8", "memory_flat=true", "dequantize=variational")
    assert main(["train", "glow", "--out", str(out), *QUICK, "--no-tensorboard", "--cpu", *options]) == 0
    capsys.readouterr()
    assert main(["eval", str(out)]) == 0
    text = capsys.readouterr().out
    assert "glow on the test set of digits" in text
    assert float(re.search(r"round trip +max \|f\^-1\(f\(x\)\) - x\| = (\S+);", text)[1]) == 0
    assert main(["sample", str(out), "--n", "4", "--sampling", "temperature=0.7"]) == 0
    assert (out / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_temperature(run, tmp_path):
    spread = {}
    for temperature in ("0.2", "1"):
        out = tmp_path / f"{temperature}.npy"
        assert (
            main(["sample", str(run), "--n", "200", "--sampling", f"temperature={temperature}", "--out", str(out)]) == 0
        )
        spread[temperature] = np.load(out).std(0).mean()
    assert spread["0.2"] < 0.7 * spread["1"]


@pytest.mark.parametrize("options", [("--interpolate",), ("--interpolate", "--label", "3"), ("--attribute", "3", "8")])
def test_walks_start_and_end_at_test_images(run, tmp_path, capsys, options):
    from pyflowk import datasets

    out = tmp_path / "x.npy"
    assert main(["sample", str(run), "--n", "32", "--out", str(out), *options]) == 0
    assert "4 walks of 8 samples of 1x8x8" in capsys.readouterr().out
    data, walks = datasets.load("digits"), np.load(out).reshape(4, 8, 1, 8, 8)
    rows = np.arange(len(data.test)) if "--label" not in options else np.flatnonzero(data.test_context == 3)
    if "--attribute" in options:
        assert (walks[:, 0] == data.test[data.test_context == 3][:4].numpy()).all()
        assert not (walks[:, -1] == walks[:, 0]).all((1, 2, 3)).any()
    else:
        ends = data.test.numpy()[rows[:8]].reshape(4, 2, 1, 8, 8)
        assert (walks[:, [0, -1]] == ends).all()
    assert (np.abs(np.diff(walks, axis=1)).sum((0, 2, 3, 4)) > 0).all()


def test_a_walk_is_a_row_of_the_picture(run, tmp_path):
    from PIL import Image

    assert main(["sample", str(run), "--interpolate", "--n", "24", "--out", str(tmp_path / "x.png")]) == 0
    width, height = Image.open(tmp_path / "x.png").size
    assert width / height == (8 * 9 + 1) / (3 * 9 + 1)


@pytest.mark.parametrize(
    "options, message",
    [
        (("--sampling", "temperature=0"), "--sampling: temperature: expected a number above 0, got 0"),
        (("--sampling", "temperature=Infinity"), "--sampling: temperature: expected a number above 0, got inf"),
        (("--sampling", "temperature=nan"), "--sampling: temperature: expected a number above 0, got 'nan'"),
        (("--sampling", "temprature=1"), "realnvp has no sampling option temprature (did you mean 'temperature'?)"),
        (("--sampling", "temperature"), "--sampling: expected KEY=VALUE, got 'temperature'"),
        (("--n", "9" * 30), "--n: expected an integer from 1 to 1000000000, got 999"),
        (("--seed", "-1"), "--seed: expected an integer from 0 to 9223372036854775807, got -1"),
        (("--interpolate", "--n", "20"), "--n: expected a multiple of 8 with --interpolate, one walk a row; got 20"),
        (("--interpolate", "--sampling", "temperature=0.5"), "--sampling: nothing is drawn with --interpolate"),
        (("--interpolate", "--attribute", "1", "2"), "--interpolate and --attribute: expected one of them"),
        (("--attribute", "1", "10"), "--attribute: expected 0 to 9, got 10"),
        (("--attribute", "1", "2", "--label", "1"), "--label: the events of --attribute are of its first class, got 1"),
        (("--interpolate", "--label", "-1"), "--label: expected 0 to 9, got -1"),
    ],
)
def test_wrong_walks_are_refused_in_words(run, tmp_path, capsys, options, message):
    assert main(["sample", str(run), *options, "--out", str(tmp_path / "x.npy")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("data", ["moons", "table"])
def test_vectors_train_and_draw(tmp_path, capsys, data):
    if data == "table":
        data = tmp_path / "t.csv"
        np.savetxt(data, np.random.default_rng(0).normal(size=(60, 5)), delimiter=",")
    out = tmp_path / "run"
    assert main(["train", "nice", "--data", str(data), "--out", str(out), *QUICK, "--no-tensorboard", "--cpu"]) == 0
    assert "log-likelihood" in capsys.readouterr().out
    assert (out / "samples.png").stat().st_size > 1000
    assert main(["eval", str(out)]) == 0
    assert "bits/dim" not in capsys.readouterr().out
    if data == "moons":
        assert main(["sample", str(out), "--attribute", "0", "1", "--n", "16"]) == 0
    else:
        assert main(["sample", str(out), "--interpolate", "--label", "1", "--n", "16"]) == 2
        assert "expected data with labels" in capsys.readouterr().err


def test_entropy_is_printed_where_it_is_known(tmp_path, capsys):
    main(["train", "nice", "--data", "checkerboard", "--out", str(tmp_path / "r"), *QUICK, "--no-tensorboard", "--cpu"])
    assert re.search(r"NLL minus entropy +\d+\.\d{3} \+- ", capsys.readouterr().out)


def test_conditional(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "realnvp", "--conditional", "--out", str(out), *QUICK, *SMALL]) == 0
    assert Checkpoint.open(out).meta["model"]["space"]["context"] == {"kind": "labels", "size": 10}
    assert main(["eval", str(out)]) == 0
    assert main(["sample", str(out), "--label", "3", "--n", "2", "--out", str(tmp_path / "x.npy")]) == 0
    assert main(["sample", str(out), "--interpolate", "--n", "16", "--out", str(tmp_path / "y.npy")]) == 0
    capsys.readouterr()
    assert main(["sample", str(out), "--attribute", "1", "2", "--out", str(tmp_path / "x.npy")]) == 2
    assert "--attribute: this model is conditional" in capsys.readouterr().err
    assert main(["sample", str(out), "--label", "10", "--out", str(tmp_path / "x.npy")]) == 2
    assert "--label: expected 0 to 9, got 10" in capsys.readouterr().err


def test_given_columns(tmp_path, capsys):
    out, x = tmp_path / "run", tmp_path / "x.npy"
    options = ("--no-tensorboard", "--cpu", "--set", "blocks=1", "width=8")
    assert main(["train", "maf", "--data", "scurve", "--given", "1", "--out", str(out), *QUICK, *options]) == 0
    assert Checkpoint.open(out).meta["model"]["space"]["context"] == {"kind": "numbers", "size": 1}
    assert main(["eval", str(out)]) == 0
    assert "round trip" in capsys.readouterr().out
    assert main(["sample", str(out), "--n", "5", "--out", str(x)]) == 0 and np.load(x).shape == (5, 2)
    assert main(["sample", str(out), "--interpolate", "--n", "16"]) == 0
    assert main(["sample", str(out), "--label", "1", "--out", str(x)]) == 2
    assert "--label: this model has no classes" in capsys.readouterr().err


def test_resume_goes_on_with_a_larger_budget(tmp_path, capsys):
    arguments = ["train", "nice", "--data", "moons", "--out", str(tmp_path / "r"), "--no-tensorboard", "--cpu"]
    assert main([*arguments, "--steps", "3", "--lr", "0.005"]) == 0
    capsys.readouterr()
    ignored = ("--lr", "0.1", "--warmup=100", "--set", "width=8", "couplings=4", "--conditional", "--given", "0", "1")
    ignored += ("--threads", "1")  # which is not: it is obeyed
    assert main([*arguments, "--steps", "5", "--resume", *ignored]) == 0
    warning = capsys.readouterr().err
    conditions = "--conditional True (the run has False), --given 0 1 (the run has none), --set width=8"
    assert f"ignored: --lr 0.1 (the run has 0.005), {conditions}" in warning and warning.count("\n") == 1
    assert not any(word in warning for word in ("warmup", "couplings", "steps", "threads"))
    assert Checkpoint.open(tmp_path / "r").meta["train"]["threads"] == 1
    meta = Checkpoint.open(tmp_path / "r").meta
    assert meta["step"] == 5 and meta["train"]["lr"] == 0.005
    capsys.readouterr()
    assert main([*arguments, "--steps", "5"]) == 2
    assert "holds a checkpoint already: add --resume" in capsys.readouterr().err
    assert main(["train", "realnvp", "--data", "moons", "--out", str(tmp_path / "r"), "--resume"]) == 2
    assert "holds a nice, not a realnvp" in capsys.readouterr().err
    assert main(["train", "nice", "--data", "rings", "--out", str(tmp_path / "r"), "--resume"]) == 2
    assert "was trained on moons, not on rings" in capsys.readouterr().err


def test_default_folders_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "nice", "--data", "moons", "--steps", "2", "--no-tensorboard", "--cpu"]
    assert main(arguments) == main(arguments) == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["nice-moons", "nice-moons-2"]
    assert main([*arguments[:-4], "--resume", "--steps", "3"]) == 0
    assert Checkpoint.open(tmp_path / "runs" / "nice-moons-2").meta["step"] == 3


def test_ctrl_c_leaves_a_checkpoint_that_can_go_on(tmp_path):
    out = tmp_path / "run"
    arguments = ("train", "realnvp", "--out", out, "--log-every", 2, *SMALL)
    process = subprocess.Popen(
        started(*arguments, "--minutes", 10), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    deadline = time.monotonic() + 120
    while not ((out / "log.csv").exists() and len(read_rows(out / "log.csv")) > 3):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    text, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    step = Checkpoint.open(out).meta["step"]
    assert f"interrupted at step {step}: the checkpoint is in {out / 'checkpoint'}" in text
    assert "Traceback" not in errors
    assert main(["eval", str(out)]) == 0
    assert f"pyflowk train --out {out} --resume" in text
    assert main(["train", "--out", str(out), "--resume", "--steps", str(step + 3)]) == 0  # as it said, with a budget
    assert Checkpoint.open(out).meta["step"] == step + 3


@pytest.mark.parametrize("rows", ["50 of 10000 test rows", "10000 test rows"])
def test_the_test_says_what_it_does_and_ends_in_words(tmp_path, monkeypatch, capsys, rows):
    solved = "of" in rows
    monkeypatch.setattr("pyflowk.cli.train.SOLVED", 50)
    out, tested = tmp_path / "run", []
    monkeypatch.setattr("pyflowk.training.evaluation.log_prob", lambda model, x, *rest, **more: tested.append(len(x)))

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyflowk.training.evaluation.score", stop)
    model = ("flow_matching", "--set", "width=8", "depth=1") if solved else ("nice",)
    arguments = ["train", *model, "--data", "moons", "--out", str(out), "--no-tensorboard", "--cpu", "--steps", "2"]
    assert main(arguments) == 130
    text = capsys.readouterr().out
    assert f"testing on {rows}" in text and "the checkpoint is saved, Ctrl-C loses nothing of it" in text
    assert ("pyflowk eval" in text.partition("not tested")[0]) == solved and tested == [50 if solved else 10000]
    assert f"not tested: the checkpoint is in {out / 'checkpoint'}; pyflowk eval {out} tests it" in text
    assert Checkpoint.open(out).meta["step"] == 2


def test_eval_says_how_its_numbers_are_read(tmp_path, capsys):
    arguments = ("--data", "moons", "--out", str(tmp_path / "r"), "--no-tensorboard", "--cpu", "--steps", "2")
    assert main(["train", "flow_matching", *arguments, "--set", "width=8", "depth=1"]) == 0
    assert main(["eval", str(tmp_path / "r")]) == 0
    text = capsys.readouterr().out
    for line in (
        r"straightness .*; 0 is straight",
        r"path ratio .*; 1 is straight",
        r"copying .*; copies if above 0\.5",
    ):
        assert re.search(line, text)


def test_what_is_asked_of_samples_is_held_against_what_the_run_has():
    model = zoo.flow_matching((2,), classes=2, dropout=0.1, width=4)
    own = {"guidance": 1.0, "guidance_kind": "projected"}
    saved = SimpleNamespace(sampling=own)
    assert sampling_of(model, ["guidance_until=0.5"], saved) == {**own, "guidance_until": 0.5}
    with pytest.raises(ValueError, match=r"^--sampling, beside the run's own guidance=1\.0 .*: guidance_kind: is for"):
        sampling_of(model, ["guidance=0"], saved)


def test_guidance_without_conditions_says_how_to_train(tmp_path, capsys):
    arguments = ("--data", "moons", "--sampling", "guidance=1", "--out", str(tmp_path / "r"))
    assert main(["train", "flow_matching", *arguments]) == 2
    assert "train with --conditional (or --given) and --set dropout=0.1" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    """The pipe has no reader before the first line."""
    end, start = os.pipe()
    os.close(end)
    with os.fdopen(start, "w") as pipe:
        done = subprocess.run(
            started("train", "--help"), stdout=pipe, stderr=subprocess.PIPE, env=ENVIRONMENT, timeout=60
        )
    assert done.returncode == 1 and done.stderr == b""


def test_long_work_tells_how_far_it_is_and_ends_in_words(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pyflowk.cli.tables.SECONDS", 0.0)
    monkeypatch.setattr("pyflowk.training.evaluation.BATCH", 512)
    out = tmp_path / "x.npy"
    assert main(["sample", str(run), "--n", "1100", "--out", str(out)]) == 0
    assert re.findall(r"sampled (\d+) %, about \d+ s left", capsys.readouterr().err) == ["47", "93"]
    assert main(["eval", str(run), "--draws", "4"]) == 0
    assert re.findall(r"scored (\d+) %", capsys.readouterr().err) == ["50", "62", "75", "88"]  # samples first
    out.unlink()

    def stop(self, part):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyflowk.cli.tables.Progress.__call__", stop)
    assert main(["sample", str(run), "--n", "1100", "--out", str(out)]) == 130 and not out.exists()
    assert main(["eval", str(run)]) == 130 and capsys.readouterr().err == "pyflowk: interrupted\n" * 2


def test_two_signals_while_a_checkpoint_is_written_leave_the_one_before(tmp_path, monkeypatch, capsys):
    """The first is answered after the step, the second at once, unless it comes so soon that it is the same."""
    out, write = tmp_path / "run", checkpoint.fill
    monkeypatch.setattr("pyflowk.training.signals.SAME_SIGNAL", 0.0)

    def fill(*arguments):
        write(*arguments)
        if (out / "checkpoint").exists():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(checkpoint, "fill", fill)
    options = ("--save-every", "3", "--no-tensorboard", "--cpu", "--set", "couplings=1", "width=8")
    assert main(["train", "nice", "--data", "moons", "--out", str(out), *QUICK, *options]) == 130
    assert capsys.readouterr().err == "pyflowk: interrupted\n" and Checkpoint.open(out).meta["step"] == 0
    monkeypatch.undo()
    assert main(["train", "--out", str(out), "--resume"]) == 0 and Checkpoint.open(out).meta["step"] == 6


@pytest.mark.parametrize("method", ["_validate", "save"])
def test_sigterm_during_a_validation_or_a_checkpoint_ends_after_it(tmp_path, monkeypatch, capsys, method):
    out, original, sent = tmp_path / "run", getattr(Trainer, method), []

    def interrupted(self):
        if self.step == 3 and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        return original(self)

    monkeypatch.setattr(Trainer, method, interrupted)
    options = ("--save-every", "3", "--no-tensorboard", "--cpu", "--set", "couplings=1", "width=8")
    assert main(["train", "nice", "--data", "moons", "--out", str(out), *QUICK, *options]) == 130
    assert "interrupted at step 3" in capsys.readouterr().out and Checkpoint.open(out).meta["step"] == 3


def test_a_diverging_run_says_where(tmp_path, capsys):
    assert main(["train", "realnvp", "--lr", "1e30", "--out", str(tmp_path / "r"), *QUICK, *SMALL]) == 1
    error = capsys.readouterr().err
    assert error.startswith("pyflowk: ") and "learning rate" in error and "first non-finite in" in error
    assert error.count("\n") == 1 and Checkpoint.open(tmp_path / "r").meta["step"] == 0


BAD_INPUT = {
    "unknown command": (("trian",), r"no command named 'trian' \(did you mean 'train'\?\); there are train, sample"),
    "unknown system": (("train", "realnpv"), r"no system named 'realnpv' \(did you mean 'realnvp'\?\).*nice.*realnvp"),
    "unknown data": (
        ("train", "--data", "digit"),
        r"'digit' \(did you mean 'digits'\?\): expected one of brackets, dig",
    ),
    "unknown option": (("train", "--set", "widht=3"), r"no option widht \(did you mean 'width'\?\); it has .*width"),
    "a word for a number": (
        ("train", "--set", "width=abc"),
        r"--set: width: expected an integer from 1 to .*got 'abc'",
    ),
    "negative width": (("train", "--set", "width=-3"), r"--set: width: expected an integer from 1 to .*got -3"),
    "no blocks": (("train", "maf", "--set", "blocks=0"), r"--set: blocks: expected an integer from 1 to 1000, got 0"),
    "endless blocks": (("train", "maf", "--set", "blocks=1e99"), r"--set: blocks: expected an integer .*got 1e\+99"),
    "nan": (("train", "maf", "--set", "limit=NaN"), r"--set: limit: expected a number above 0 .*, got nan"),
    "told by the data": (("train", "--set", "levels=3"), "--set levels: the data tells its levels"),
    "no sampling option": (("train", "--sampling", "guidance=2"), "no sampling option guidance; it has temperature"),
    "negative rate": (("train", "--lr", "-1"), "lr: expected a number > 0, got -1.0"),
    "rate nan": (("train", "--lr", "nan"), "lr: expected a number > 0, got nan"),
    "empty batches": (("train", "--batch-size", "0"), "batch_size: expected an integer from 1 to .*, got 0"),
    "endless batches": (
        ("train", "--batch-size", "1" + "0" * 30),
        "batch_size: expected an integer from 1 to .*, got 1",
    ),
    "two budgets": (("train", "--steps", "3", "--minutes", "1"), "expected one budget, got steps=3 and minutes=1.0"),
    "endless budget": (("train", "--minutes", "inf"), "minutes: expected a number > 0, got inf"),
    "negative data seed": (("train", "--data-seed", "-1"), "--data-seed: expected an integer from 0 to 9.*, got -1"),
    "endless tensors": (
        ("selfcheck", "--megabytes", "1e30"),
        "--megabytes: expected a number > 0, at most 1e6, got 1e",
    ),
    "long seed": (("train", "--seed", "9" * 30), "seed: expected an integer from 0 to 9223372036854775807, got 999"),
    "no option": (("train", "--set", "width"), r"--set: expected KEY=VALUE, got 'width'"),
    "bad option value": (("train", "--set", "architecture=cube"), r"architecture: expected auto, vector or"),
    "no labels": (("train", "--data", "scurve", "--conditional"), "scurve has none"),
    "no such column": (("train", "--data", "scurve", "--given", "2"), r"scurve: no column '2': there are x, y"),
    "no table": (("train", "--given", "2"), "digits: only a table without labels"),
    "missing files": (
        ("train", "--data", "fashion-mnist", "--data-dir", "nowhere"),
        "apt-get install dataset-fashion-mnist",
    ),
    "no run": (("eval", "nowhere"), "nowhere: expected a run's folder"),
    "no run to sample": (("sample", "nowhere", "--out", "x.npy"), "nowhere: expected a run's folder"),
    "no run to resume": (("train", "--out", "nowhere", "--resume"), "nowhere: expected a run's folder"),
    "unknown zoo": (("zoo", "realnvq"), "did you mean 'realnvp'"),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input_is_one_line_and_status_2(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD_INPUT[kind]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"pyflowk: [^\n]+\n", error) and re.search(message, error), error
    assert not list(tmp_path.iterdir())  # nothing was left behind


def test_samples_need_a_known_suffix_and_a_number(run, capsys):
    assert main(["sample", str(run), "--out", "x.jpg"]) == 2
    assert "ending in .png, .npy, .csv or .txt" in capsys.readouterr().err
    assert main(["sample", str(run), "--n", "0"]) == 2 and main(["eval", str(run), "--draws", "0"]) == 2


def test_eval_refuses_data_of_another_shape(run, capsys):
    assert main(["eval", str(run), "--data", "moons"]) == 2
    assert (
        "expected events of 1x8x8 of 17 levels, as the model's are; those of moons are of 2" in capsys.readouterr().err
    )


@pytest.mark.parametrize("command", ["eval", "sample"])
def test_a_damaged_checkpoint_is_one_line(run, tmp_path, capsys, command):
    import shutil

    shutil.copytree(run / "checkpoint", tmp_path / "checkpoint")
    weights = tmp_path / "checkpoint" / "best.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert main([command, str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "truncated?" in error


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        main(["eval", str(tmp_path / "nowhere"), "--debug"])


def test_lists(capsys):
    assert main(["zoo"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"nice +NICE", text) and re.search(r"realnvp +RealNVP", text)
    assert main(["zoo", "realnvp"]) == 0
    assert re.search(r"\n  couplings=10 +number of couplings.* \(an integer from 1 to 1000\)", capsys.readouterr().out)
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"pyflowk {pyflowk.__version__}\n"
    assert main(["data"]) == 0
    text = capsys.readouterr().out
    assert "digits" in text and "two spirals" in text and ".txt, .md" in text and "--size 128" in text
    assert main(["info"]) == 0 and "0." in capsys.readouterr().out


@pytest.mark.parametrize("name", zoo.names())
def test_what_zoo_prints_can_be_typed_back(name, capsys):
    assert main(["zoo", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    cut = next((i for i, line in enumerate(lines) if "--sampling" in line), len(lines))
    first = next(i for i, line in enumerate(lines) if line.startswith("Options")) + 1
    told = any("classes=" in line and "--conditional" in line for line in lines[:first])
    assert told == ("labels" in zoo.takes(name))
    assert any("--given" in line for line in lines[:first]) == ("numbers" in zoo.takes(name))
    typed = [parse_options([line.split()[0] for line in part]) for part in (lines[first:cut], lines[cut + 1 :])]
    known = [{key: o.default for key, o in options.items()} for options in (zoo.options(name), zoo.sampling(name))]
    assert typed == known and [[*map(type, t.values())] for t in typed] == [[*map(type, k.values())] for k in known]
    check_options(name, *typed)
    assert all(re.search(r"=\S+ +\w.+ \(.+\)$", line) for line in [*lines[first:cut], *lines[cut + 1 :]])


COMMANDS = ("train", "sample", "eval", "share", "zoo", "data", "info", "selfcheck", "bench")


def test_help_lists_every_command_and_option():
    text = shell("--help").stdout
    assert all(f"• {command} " in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and f"usage: pyflowk {command}" in text and "Show the traceback" in text


def test_misspelt_options(capsys):
    for arguments, message in (
        (["train", "--steps", "x"], "--steps"),
        (["eval"], "RUN"),
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        text = "".join(capsys.readouterr())
        assert end.value.code == 2 and message in text and "Traceback" not in text
    elsewhere = "what a system takes is --set KEY=VALUE, what its samples take --sampling KEY=VALUE (pyflowk zoo MODEL)"
    for arguments, message in (
        (["train", "--step", "3"], "train has no option --step (did you mean 'steps'?): --help lists those that it"),
        (["sample", "runs/x", "--temperature=0.7"], "sample has no option --temperature: --help lists those that it"),
        (["train", "nice", "--couplings", "3"], "train has no option --couplings: --help lists those that it has"),
        (["zoo", "--lr", "3"], "zoo has no option --lr: --help lists those that it has"),
    ):
        assert main(arguments) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"pyflowk: {message}") and line.count("\n") == 1
        assert (elsewhere in line) == (arguments[0] != "zoo")
    config = parse(["train", "--no-tensorboard", "--batch_size=3", "--cpu"]).config
    assert (config.tensorboard, config.batch_size, config.cpu) == (False, 3, True)


@pytest.mark.parametrize("package", ["tyro", "accelerate"])
def test_a_missing_extra_names_the_install_command(package, tmp_path):
    code = f"import sys; sys.modules[{package!r}] = None; from pyflowk.cli import main; sys.exit(main(['train']))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 2 and f"needs {package}: pip install 'pyflowk[train]'" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_typeguard_that_tyro_cannot_use_is_one_line(tmp_path):
    info = tmp_path / "typeguard-2.13.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: typeguard\nVersion: 2.13.3\n")
    (tmp_path / "typeguard.py").write_text("")
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(started("zoo"), capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1
    assert "needs typeguard >= 4, for tyro; found 2.13.3" in done.stderr
