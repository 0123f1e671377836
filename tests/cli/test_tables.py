"""A table, from CSV to answer, by typing only; every number is compared with one computed by hand."""

import contextlib
import io
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch

from pyflowk import datasets, training, zoo
from pyflowk.cli import main
from pyflowk.datasets import tables
from pyflowk.space import Space
from pyflowk.training import Checkpoint, TrainConfig, Trainer

QUICK = (
    "--steps",
    "8",
    "--batch-size",
    "64",
    "--warmup",
    "2",
    "--no-tensorboard",
    "--cpu",
    "--set",
    "blocks=1",
    "width=8",
)
COLUMNS = ("temp", "humidity", "rain, mm")


def weather():
    """Rows (300, 3), sorted by the first column, as files often are."""
    random = np.random.default_rng(0)
    temp = np.sort(random.normal(20, 5, 300))
    humidity = random.normal(60 - (temp - 20), 5)
    return np.stack([temp, humidity, 1e3 + 0.01 * humidity + random.normal(0, 0.1, 300)], 1)


def write(path, rows, columns=COLUMNS):
    order = [COLUMNS.index(name) for name in columns]
    lines = [",".join(f'"{name}"' for name in columns), *(",".join(map(repr, row)) for row in rows[:, order].tolist())]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A density of all columns and one of the rain given the others; the table has moved to elsewhere/ since."""
    folder = tmp_path_factory.mktemp("weather")
    path = write(folder / "weather.csv", weather())
    for name, given in (("all", ()), ("rain", ("--given", "temp", "1"))):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert main(["train", "maf", "--data", path, *given, "--out", str(folder / name), *QUICK]) == 0
        (folder / f"{name}.txt").write_text(said.getvalue())
    (folder / "elsewhere").mkdir()
    shutil.move(path, folder / "elsewhere" / "weather.csv")
    return folder


def copy(run, out, table, **changes):
    """A copy of a run that was trained on the file `table`, with changes to its config.json; None deletes."""
    shutil.copytree(run, out)
    config = out / "checkpoint" / "config.json"
    meta = json.loads(config.read_text())
    meta["data"]["name"] = table
    config.write_text(json.dumps({key: value for key, value in (meta | changes).items() if value is not None}))
    return out


def moments():
    train = weather()[tables.parts(300, 0)[0]]
    return train.mean(0), train.std(0, ddof=1)


def by_hand(run, rows, given=()):
    """Log-likelihoods of rows under the run's model: standardised here, without the package's help."""
    mean, std = moments()
    z = torch.from_numpy((rows - mean) / std).float()
    model, _ = training.load_model(run)
    with torch.no_grad():
        if not given:
            return model.log_prob(z).numpy()
        return model.log_prob(np.delete(z, given, 1), z[:, list(given)]).numpy()


def printed(text, what):
    found = re.search(rf"^ +{what} +(.*)$", text, re.MULTILINE)
    assert found, text
    return float(re.search(r"-?\d+\.\d+", found[1])[0])


def test_the_checkpoint_holds_the_moments_of_the_training_rows(runs):
    for run, given in (("all", []), ("rain", [0, 1])):
        stored = Checkpoint.open(runs / run).meta["preparation"]
        assert stored["columns"] == list(COLUMNS) and stored["given"] == given
        np.testing.assert_allclose(stored["mean"], moments()[0], rtol=1e-14)
        np.testing.assert_allclose(stored["std"], moments()[1], rtol=1e-13)


@pytest.mark.parametrize("run, given", [("all", ()), ("rain", (0, 1))])
def test_other_tables_are_scored_by_the_statistics_of_the_run(runs, tmp_path, capsys, run, given):
    for name, rows in (("same law", weather() + 1e-9), ("shifted", 3 * weather() + 1000)):
        other = write(tmp_path / f"{name}.csv", rows, columns=("humidity", "rain, mm", "temp"))  # found by name
        assert main(["eval", str(runs / run), "--data", other]) == 0
        text = capsys.readouterr().out
        assert "on all 300 samples of" in text and "by the means and standard deviations of the run" in text
        expected = by_hand(runs / run, rows, given).mean()
        assert printed(text, "model") == pytest.approx(expected, abs=0.006, rel=1e-5)
        scale = np.log(np.delete(moments()[1], given)).sum()
        in_units = float(re.search(r"in the table's units (-?[\d.]+)", text)[1])
        assert in_units == pytest.approx(expected - scale, abs=0.006, rel=1e-5)
    assert expected < -100  # the shifted rows are far from anything the run has seen


def test_moved_data_are_the_runs_own_where_they_are_now(runs, tmp_path, capsys):
    assert main(["eval", str(runs / "all")]) == 2
    assert "weather.csv: no such file: the run was trained on it, and it may have moved" in capsys.readouterr().err
    assert main(["eval", str(runs / "all"), "--data", str(runs / "elsewhere" / "weather.csv")]) == 0
    text = capsys.readouterr().out
    rows = weather()[tables.parts(300, 0)[2]]
    assert "where the run's own data are" in text
    assert printed(text, "model") == pytest.approx(by_hand(runs / "all", rows).mean(), abs=0.006)
    result = json.loads((runs / "all" / "result.json").read_text())
    assert result["model"]["nats"] == pytest.approx(by_hand(runs / "all", rows).mean(), abs=1e-4)
    assert result["log_scale"] == pytest.approx(np.log(moments()[1]).sum())
    mean, std = moments()  # the Gaussian too is one of standardised columns
    z, train = ((part - mean) / std for part in (rows, weather()[tables.parts(300, 0)[0]]))
    centred = (z - train.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(train.T))).T
    level = -0.5 * (centred**2).sum(1) - 0.5 * np.linalg.slogdet(np.cov(train.T))[1] - 1.5 * math.log(2 * math.pi)
    assert printed(text, "one full Gaussian") == pytest.approx(level.mean(), abs=0.006)


def test_samples_of_a_run_whose_table_has_moved(runs, tmp_path, capsys):
    arguments = ["sample", str(runs / "all"), "-n", "400", "--out"]
    for name in ("s.csv", "s.npy", "s.png"):
        assert main([*arguments, str(tmp_path / name)]) == 0
    assert "the picture shows the samples alone" in capsys.readouterr().out
    found = datasets.read_table(str(tmp_path / "s.csv"))
    assert found.columns == COLUMNS and found.values.shape == (400, 3)
    model, _ = training.load_model(runs / "all")
    with torch.no_grad():
        z = model.sample(400, generator=torch.Generator().manual_seed(0)).double().numpy()
    mean, std = moments()
    rows = np.load(tmp_path / "s.npy")
    np.testing.assert_allclose(rows, z * std + mean, rtol=1e-12)
    assert (np.abs(found.values.numpy() - rows) < 2e-6 * std).all()
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_samples_given_values_in_the_tables_units(runs, tmp_path):
    out = str(tmp_path / "s.csv")
    assert main(["sample", str(runs / "rain"), "--given", "humidity=40", "temp=21.7", "--out", out, "-n", "100"]) == 0
    found = datasets.read_table(out)
    assert found.columns == COLUMNS and found.values[:, :2].tolist() == [[21.7, 40.0]] * 100
    model, run = training.load_model(runs / "rain")
    context = run.preparation.context({"temp": 21.7, "humidity": 40})
    mean, std = moments()
    np.testing.assert_allclose(context[0], (np.array([21.7, 40]) - mean[:2]) / std[:2], rtol=1e-6)
    with torch.no_grad():
        z = model.sample(100, context, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(found.values[:, 2], z[:, 0].double() * std[2] + mean[2], rtol=1e-6)


@pytest.mark.parametrize(
    "run, options, message",
    [
        (
            "rain",
            ("tmp=1", "humidity=2"),
            r"--given: no column 'tmp' \(did you mean 'temp'\?\): there are temp, humidity",
        ),
        ("rain", ("temp=1",), "--given: expected a value for each of temp, humidity; humidity missing"),
        ("rain", ("temp=warm", "humidity=2"), "--given: expected a number for 'temp', got 'warm'"),
        ("rain", ("temp", "humidity=2"), "--given: expected "),
        ("rain", ("temp=1", "0=2", "humidity=2"), "--given: column 'temp' stands twice"),
        ("rain", ("temp=1", "temp=2", "humidity=2"), "--given: 'temp' stands twice"),
        ("rain", ("temp=nan", "humidity=2"), "--given: column 'temp': expected a finite number"),
        ("all", ("temp=1",), "--given: this model has no given columns"),
        ("rain", (), "weather.csv: no such file.* say what to draw for by --given temp=... humidity=..."),
    ],
)
def test_wrong_values_are_refused_in_words(runs, tmp_path, capsys, run, options, message):
    given = ("--given", *options) if options else ()
    assert main(["sample", str(runs / run), *given, "--out", str(tmp_path / "x.csv")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_resume_goes_on_at_the_new_place_and_stops_on_other_content(runs, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(runs / "rain", out)
    arguments = ["train", "--out", str(out), "--resume", "--steps", "10"]
    assert main(arguments) == 2 and "it may have moved" in capsys.readouterr().err
    rows = weather()
    for name, changed, message in (
        ("scaled", rows * [10.0, 1.0, 1.0], "other values than there were; column 'temp' has mean .* where it had"),
        ("longer", np.concatenate([rows, rows[:5]]), "305 rows where there were 300"),
        (
            "test row",
            np.where(np.arange(300)[:, None] == int(tables.parts(300, 0)[2][0]), 0.0, rows),
            "other values than",
        ),
    ):
        path = write(tmp_path / f"{name}.csv", changed)
        assert main([*arguments, "--data", path]) == 2
        error = capsys.readouterr().err
        assert re.search(f"{name}.csv is not what .* was trained on: {message}", error), error
    renamed = write(tmp_path / "renamed.csv", rows)
    (tmp_path / "renamed.csv").write_text((tmp_path / "renamed.csv").read_text().replace("temp", "t", 1))
    assert main([*arguments, "--data", renamed]) == 2
    assert "expected the columns temp, humidity, rain, mm; temp missing" in capsys.readouterr().err
    assert Checkpoint.open(out).meta["step"] == 8
    assert main([*arguments, "--data", str(runs / "elsewhere" / "weather.csv")]) == 0
    assert Checkpoint.open(out).meta["step"] == 10
    assert main(["eval", str(out)]) == 0  # the new place is remembered


def test_eval_says_that_the_table_has_changed(runs, tmp_path, capsys):
    moved = weather() + np.array([100.0, 0.0, 0.0])
    run = copy(runs / "all", tmp_path / "r", write(tmp_path / "weather.csv", moved))
    assert main(["eval", str(run)]) == 0
    text = capsys.readouterr().out
    assert "has changed since the run: other values than there were; column 'temp' has mean" in text
    expected = by_hand(run, moved[tables.parts(300, 0)[2]]).mean()
    assert printed(text, "model") == pytest.approx(expected, abs=0.006, rel=1e-5)


def test_names_are_never_markup(tmp_path, capsys):
    """Of columns and files: in the terminal [/h] would close a style, in a picture $ begin a formula."""
    table = tmp_path / "speed [b].csv"
    header = '"v [m/s]","p [/h]","$\\foo$"'
    np.savetxt(table, weather(), delimiter=",", header=header, comments="")
    out = str(tmp_path / "run")
    assert main(["train", "maf", "--data", str(table), "--out", out, *QUICK]) == 0
    assert "speed [b].csv (" in capsys.readouterr().out.replace("\n", "")
    np.savetxt(table, 2 * weather(), delimiter=",", header=header, comments="")
    assert main(["eval", out]) == 0
    assert "column 'p [/h]' has mean" in capsys.readouterr().out.replace("\n", "")
    training.pictures.draw_samples(tmp_path / "plane.png", torch.randn(20, 2), None, None, names=("$\\foo$", "$"))


def test_a_run_older_than_preparations_does_what_it_did(runs, tmp_path, capsys):
    """Tested on the last tenth, standardised by all rows before it; samples come standardised."""
    path = write(tmp_path / "weather.csv", weather())
    for name, given, older in (("all", (), {}), ("rain", (0, 1), {"given": [0, 1]})):
        data = {"name": path, "data_dir": None, "seed": 0, **older}
        run = copy(runs / name, tmp_path / name, path, content=None, preparation=None, data=data)
        assert main(["eval", str(run)]) == 0
        model, saved = training.load_model(run)
        assert saved.preparation is None
        known, test = weather()[:270], weather()[270:]
        z = torch.from_numpy((test - known.mean(0)) / known.std(0, ddof=1)).float()
        expected = model.log_prob(np.delete(z, given, 1), z[:, list(given)] if given else None).mean().item()
        assert printed(capsys.readouterr().out, "model") == pytest.approx(expected, abs=0.006)
        assert main(["sample", str(run), "--out", str(tmp_path / "s.npy"), "-n", "50"]) == 0
        assert (
            np.load(tmp_path / "s.npy").shape == (50, 3 - len(given)) and np.abs(np.load(tmp_path / "s.npy")).max() < 99
        )


def test_train_says_what_it_took_the_columns_for(runs, tmp_path, capsys):
    said = (runs / "rain.txt").read_text()
    assert "columns: temp, humidity, 'rain, mm'\nmodels rain, mm given temp, humidity\n" in said
    path = write(tmp_path / "weather.csv", weather())
    assert main(["train", "maf", "--data", path, "--given", "tmp", "--out", str(tmp_path / "r"), *QUICK]) == 2
    assert "no column 'tmp' (did you mean 'temp'?): there are temp, humidity, rain, mm" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_a_trainer_that_resumes_wants_the_same_split(tmp_path):
    path = write(tmp_path / "weather.csv", weather())
    config = TrainConfig(steps=1, tensorboard=False, cpu=True)

    def trainer(resume=False, **options):
        model = zoo.create("maf", (3,), blocks=1, width=8)
        return Trainer(model, datasets.load(path, **options), config, out=tmp_path / "r", resume=resume)

    trainer().run()
    trainer(resume=True)
    with pytest.raises(training.CheckpointError, match="was trained on: column 'temp' has mean"):
        trainer(resume=True, seed=1)


def test_a_trainer_notes_where_its_data_came_from(tmp_path, capsys):
    """A run that was made in Python is scored on its own split, and says so where it cannot be."""
    config = TrainConfig(steps=1, tensorboard=False, cpu=True)
    for name, data in (
        ("loaded", datasets.load("moons", seed=3)),
        ("made", datasets.Dataset("made", Space((2,)), *torch.rand(3, 40, 2))),
    ):
        Trainer(zoo.create("nice", (2,), width=8), data, config, out=tmp_path / name).run()
    assert main(["eval", str(tmp_path / "loaded")]) == 0
    text = capsys.readouterr().out
    model, _ = training.load_model(tmp_path / "loaded")
    expected = model.log_prob(datasets.load("moons", seed=3).test).mean().item()
    assert printed(text, "model") == pytest.approx(expected, abs=0.006)
    assert main(["eval", str(tmp_path / "made")]) == 2 and main(["sample", str(tmp_path / "made")]) == 0
    text = capsys.readouterr()
    message = "the data of the run, 'made', were not loaded from anywhere"
    assert message in text.err and f"{message}: the picture shows the samples alone" in text.out
    assert main(["eval", str(tmp_path / "made"), "--data", "moons"]) == 0
    assert "no training rows to fit it to" in capsys.readouterr().out


def test_pictures_that_have_changed_stop_a_resume(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (30, 4, 4), dtype=np.uint8))
    options = ("--no-tensorboard", "--cpu", "--out", str(tmp_path / "r"))
    arguments = ["train", "nice", "--data", str(tmp_path / "x.npy"), *options]
    assert main([*arguments, "--steps", "1", "--set", "width=8"]) == 0
    np.save(tmp_path / "x.npy", np.random.default_rng(1).integers(0, 256, (31, 4, 4), dtype=np.uint8))
    assert main([*arguments, "--steps", "2", "--resume"]) == 2
    assert "31 samples where there were 30" in capsys.readouterr().err


def test_one_test_sample_is_strict_json(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (10, 4, 4), dtype=np.uint8))
    options = ("--no-tensorboard", "--cpu", "--out", str(tmp_path / "r"), "--steps", "1", "--set", "width=8")
    assert main(["train", "nice", "--data", str(tmp_path / "x.npy"), *options]) == 0

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    result = json.loads((tmp_path / "r" / "result.json").read_text(), parse_constant=refuse)
    assert result["model"]["bits"] > 1 and result["model"]["bits_error"] is None
    text = capsys.readouterr().out
    assert re.search(r"model +\d+\.\d{3} bits/dim \(log-likelihood -\d+\.\d\d nats\)", text) and "nan" not in text
