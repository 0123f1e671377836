"""The examples run, and a fraction of their steps already leads to the known integrals."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pyflowk.training import load_model
from pyflowk.training.log import read_rows
from tests.datasets.test_volcanoes import written

FOLDER = Path(__file__).resolve().parent.parent / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_posterior(capsys: pytest.CaptureFixture[str]) -> None:
    found = example("posterior").main(steps=100)
    assert abs(found["log p(y), weighted samples"] - found["log p(y), exact"]) < 0.1
    assert abs(found["mean of mu, weighted samples"] - found["mean of mu, exact"]) < 0.5
    assert found["ELBO"] < found["log p(y), weighted samples"]
    assert found["effective samples, %"] > 15
    assert "ELBO" in capsys.readouterr().out


def test_boltzmann() -> None:
    for found in example("boltzmann").main(steps=120).values():
        assert abs(found["log Z, weighted samples"] - found["log Z, exact"]) < 0.1
        assert found["log Z, bound"] < found["log Z, weighted samples"]
        assert found["effective samples, %"] > 40


def test_chain() -> None:
    found = example("chain").main(steps=40, samples=2000)
    assert abs(found["log Z, weighted samples"] - found["log Z, exact"]) < 0.3
    assert found["log Z, bound"] < found["log Z, weighted samples"]
    way_off = abs(found["both ends in one basin, walkers"] - found["both ends in one basin, exact"])
    assert abs(found["both ends in one basin, weighted"] - found["both ends in one basin, exact"]) < way_off
    assert found["effective samples, %"] > 2


def test_columns(tmp_path: Path) -> None:
    found = example("columns").main(steps=60, folder=str(tmp_path), rows=2000)
    assert -4 < found["nats of test rows"] < found["nats of test rows, at best"]
    assert found["energy distance of the law's own"] < found["energy distance of samples of one row"] < 0.4


def test_oscillator() -> None:
    found = example("oscillator").main(steps=10)
    truth, readings, zeros = found.values()
    for name, value in truth.items():
        assert abs(readings[name] - value) < 0.01
        assert abs(zeros[name] - value) < 0.01


def test_zuko_posterior() -> None:
    pytest.importorskip("zuko")
    found = example("zuko_posterior").main(steps=40, samples=200)
    assert found["nats per test pair"] > found["nats under the prior"] + 0.2
    assert found["largest difference of the samples"] < 1e-4


def test_own_network() -> None:
    found = example("own_network").main(steps=300)
    assert found["energy distance of samples"] < 0.08 > found["energy distance of data"]


def test_fmpe() -> None:
    """A uniform density has -1.39 nats; an untrained model is told apart always, and is far from calibrated."""
    found = example("fmpe").main(steps=250)
    for method, nats in (("FMPE", 1.0), ("NPE", 1.5)):
        assert found[method]["C2ST"] < 0.95 and found[method]["calibration error"] < 0.2
        assert found[method]["nats of true parameters"] > nats


def test_tour(tmp_path: Path) -> None:
    found = example("tour").main(steps=150, out=tmp_path / "tour.png")
    assert (tmp_path / "tour.png").read_bytes().startswith(b"\x89PNG")
    chance, optimal, again = (found[name] for name in ("independent", "optimal transport", "reflow"))
    for straight in (optimal, again):
        assert straight["straightness"] < 0.2 * chance["straightness"]
        assert straight["W2, one step"] < 0.75 * chance["W2, one step"]


def test_volcanoes(tmp_path: Path) -> None:
    """Made places, along a line around the globe."""
    found = example("volcanoes").main(steps=250, data_dir=str(written(tmp_path, 60)))
    assert found["flow"][0] > found["uniform"][0] + 0.2 and found["kernels"][0] > found["uniform"][0] + 0.2
    paired = found["flow less kernels, by place"]
    assert abs(paired[0] - (found["flow"][0] - found["kernels"][0])) < 1e-5


def test_inpainting(tmp_path: Path) -> None:
    """A guess of the label is right once in ten; for a single draw half of its squared error is chance."""
    found = example("inpainting").main(steps=400, out=tmp_path / "digits.png", draws=4)
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")
    assert found["accuracy, guidance 2"] > max(0.7, found["accuracy, guidance 0"] + 0.1)
    assert found["accuracy, inpainted"] > max(0.8, found["accuracy, inpainted without labels"] + 0.1)
    assert min(found["accuracy, edited"], found["accuracy, other label"]) > 0.4
    assert found["RMSE, right half, mean of 4"] < 0.9 * found["RMSE, right half, mean of the data"]
    assert found["RMSE, restored, mean of 4"] < 0.85 * found["RMSE, wide pixels"]


def test_cells(tmp_path: Path) -> None:
    found = example("cells").main(steps=120, out=tmp_path / "cells.png")
    assert (tmp_path / "cells.png").read_bytes().startswith(b"\x89PNG")
    unbalanced, exact = found["W2, unbalanced transport"], found["W2, exact transport"]
    assert unbalanced < 0.85 * exact and exact < 0.5 * min(found["W2, first day"], found["W2, last day"])


def test_cells_of_a_file(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    generator, cells = torch.Generator().manual_seed(0), example("cells")
    x = torch.cat([cells.simulate(50, time, generator) for time in (0.0, 0.5, 1.0)])
    genes = torch.poisson(torch.exp(x @ (0.3 * torch.randn(2, 20, generator=generator))), generator)
    table = anndata.AnnData(genes.numpy())
    table.obs["day"] = [day for day in (0, 2, 8) for _ in range(50)]
    table.write_h5ad(tmp_path / "cells.h5ad")
    days = cells.read(tmp_path / "cells.h5ad", "day")
    assert [tuple(part.shape) for part in days[:3]] == [(50, 5)] * 3 and days.time == 0.25
    with pytest.raises(ValueError, match="expected a column of obs, one of day; got 'week'"):
        cells.read(tmp_path / "cells.h5ad", "week")


def test_several_processes(tmp_path: Path) -> None:
    out, few = tmp_path / "run", ("--steps", "30", "--validate-every", "5", "--warmup", "2", "--no-tensorboard")
    script = [str(FOLDER / "several_processes.sh"), str(out), *few, "--cpu"]
    done = subprocess.run(
        script, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("one full Gaussian") == 1  # only one of them speaks
    rows = read_rows(out / "log.csv")
    assert rows[-1]["step"] == 30 and rows[-1]["valid_loss"] < rows[0]["valid_loss"]
    model, _ = load_model(out)
    assert model.config["pairing"] == "gathered_optimal_transport" and model.sample(3).isfinite().all()
