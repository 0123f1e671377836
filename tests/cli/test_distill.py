"""A mean flow that begins with the weights of a flow, and jumps after few steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyflowk import training
from pyflowk.cli import main
from tests.zoo.test_systems import seeded

QUIET = ("--no-tensorboard", "--cpu", "--threads", "1", "--sample-every", "0", "--validate-every", "300")


def test_a_mean_flow_begins_with_a_flow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, whole = (str(tmp_path / name) for name in ("first", "whole"))
    sizes = ("--set", "width=32", "depth=2")
    assert main(["train", "flow_matching", "--data", "moons", "--steps", "300", "--out", first, *QUIET, *sizes]) == 0
    begin = ("train", "mean_flow", "--from", first, *QUIET, "--set", "objective=terminal_velocity")
    assert main([*begin, "--steps", "150", "--out", whole]) == 0
    teacher, student = training.load_model(first)[0], training.load_model(whole)[0]
    assert student.config["width"] == 32 and student.config["name"] == "mean_flow"
    exact = teacher.sample(500, generator=seeded(), steps=20)
    euler = teacher.sample(500, generator=seeded(), steps=1, method="euler")
    jumped = student.sample(500, generator=seeded())
    assert (jumped - exact).square().mean() < 0.3 * (euler - exact).square().mean()
    assert main(["train", "nice", "--from", first, "--out", str(tmp_path / "no"), *QUIET]) == 2
    assert "nice begins with no other model's weights; got those of flow_matching" in capsys.readouterr().err
    other = str(tmp_path / "other")
    assert main(["train", "maf", "--data", "moons", "--steps", "1", "--out", other, *QUIET]) == 0
    assert main(["train", "mean_flow", "--from", other, "--out", str(tmp_path / "no"), *QUIET]) == 2
    assert "--from: mean_flow cannot have the network of this maf: activation: expected" in capsys.readouterr().err
    assert main(["share", first, "--out", str(tmp_path / "shared")]) == 0
    assert main(["train", "--out", str(tmp_path / "shared"), "--resume", "--steps", "400"]) == 2
    assert "a shared model, without what a run needs to go on" in capsys.readouterr().err
