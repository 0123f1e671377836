"""Reflow as a user would drive it: fewer steps do afterwards, it can be resumed, and what it cannot do it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pyflowk import training
from pyflowk.cli import main
from pyflowk.space import Paired
from pyflowk.zoo import MatchingModel

QUIET = ("--no-tensorboard", "--cpu", "--threads", "1", "--sample-every", "0", "--validate-every", "300")


def trained(folder: Path, *arguments: str, system: str = "flow_matching") -> str:
    sizes = ("--set", "width=48", "depth=2", *arguments)
    assert main(["train", system, "--data", "moons", "--out", str(folder), "--steps", "600", *QUIET, *sizes]) == 0
    return str(folder)


def error_of_one_step(run: str, label: int | None = None) -> float:
    """The distance of one Euler step from forty steps, root mean square, from the same noise."""
    model, _ = training.load_model(run)
    assert isinstance(model, MatchingModel)
    x0 = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    given = None if label is None else torch.full((500,), label)
    with torch.no_grad():
        once, exact = (model.ends(x0, given, method="euler", steps=n) for n in (1, 40))
    return (once - exact).square().mean().sqrt().item()


def test_one_step_does_after_reflow_and_a_run_of_it_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, out = trained(tmp_path / "first"), str(tmp_path / "again")
    options = ("--pairs", "3000", "--steps", "300", "--out", out, "--sampling", "steps=8")
    assert main(["reflow", first, *options, *QUIET]) == 0
    text = capsys.readouterr().out
    assert "3000 pairs of flow_matching, by rk4 in 8 steps, into" in text and "2700 / 300 / 10000 samples of 2" in text
    assert "not fitted to pairs" in text
    assert error_of_one_step(out) < 0.15 * error_of_one_step(first) and error_of_one_step(first) > 0.3
    assert main(["eval", out]) == 0 and "energy distance" in capsys.readouterr().out
    assert main(["train", "--out", out, "--resume", "--steps", "310"]) == 0
    for system in ("realnvp", "rectified_flow"):  # no likelihood, and not in the scale of a model that is new
        assert main(["train", system, "--data", f"{out}/pairs", "--out", str(tmp_path / "new"), *QUIET]) == 2
        assert "pairs holds pairs of noise and what a model has made of it" in capsys.readouterr().err
    assert main(["reflow", first, *options, *QUIET]) == 2
    assert "holds a checkpoint already: choose another --out, or go on with" in capsys.readouterr().err


def test_rounds_of_a_conditional_model_start_from_each_other(tmp_path: Path) -> None:
    first = trained(tmp_path / "first", "--conditional")
    assert main(["reflow", first, "--pairs", "1000", "--steps", "60", "--rounds", "2", *QUIET]) == 0
    one, two = tmp_path / "first-reflow", tmp_path / "first-reflow-2"
    assert error_of_one_step(str(two), label=1) < 0.6 * error_of_one_step(first, label=1)
    runs = [training.Checkpoint.open(run).meta for run in (one, two)]
    assert [run["step"] for run in runs] == [60, 60] and [run["train"]["seed"] for run in runs] == [0, 1]
    assert all((run / "pairs" / "context.npy").exists() for run in (one, two))


def test_one_step_is_distilled_from_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, out = trained(tmp_path / "first", system="rectified_flow"), str(tmp_path / "one")
    options = ("--pairs", "3000", "--steps", "300", "--sampling", "steps=8", "--distill")
    assert main(["reflow", first, "--out", out, *options, *QUIET]) == 0
    teacher, student = (training.load_model(run) for run in (first, out))
    assert student[1].sampling == {"method": "euler", "steps": 1} and student[0].config["time_law"] == "start"
    x0 = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        far, near = (model.ends(x0, **student[1].sampling) - teacher[0].ends(x0) for model, _ in (teacher, student))
    assert near.square().mean() < 0.05 * far.square().mean()
    other = trained(tmp_path / "other")
    assert main(["reflow", other, *options, *QUIET]) == 2
    assert "--distill: expected a run of rectified_flow, got one of flow_matching" in capsys.readouterr().err
    assert not (tmp_path / "other-reflow").exists()  # it says so before it makes any pairs


def test_pairs_are_of_models_that_match_and_of_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--set", "width=8", "couplings=2", "--steps", "3")
    assert main(["train", "realnvp", "--data", "moons", "--out", str(tmp_path / "a"), *QUIET, *sizes]) == 0
    assert main(["reflow", str(tmp_path / "a"), *QUIET]) == 2
    assert "expected a run of a system that learns by matching, got one of realnvp" in capsys.readouterr().err
    assert main(["reflow", str(tmp_path / "a"), "--pairs", "3", *QUIET]) == 2
    model, _ = training.load_model(tmp_path / "a")
    with pytest.raises(TypeError, match="expected x to be a tensor, got Paired"):
        model.loss(Paired(torch.zeros(3, 2), torch.zeros(3, 2)))
