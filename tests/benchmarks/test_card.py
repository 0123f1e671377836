"""What waits for a card, rehearsed without one: the benchmark on the CPU, and the steps of gpu_check.sh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks import bench_card
from pyflowk.ops import registry

ROOT = Path(__file__).resolve().parents[2]


def test_the_benchmark_measures_ops_and_their_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_card, "SECONDS", 0.0)
    monkeypatch.setattr(bench_card, "ROUNDS", 1)
    some = {name: registry()[name] for name in ("hutchinson", "rk_combine", "rk_control")}
    monkeypatch.setattr(bench_card, "registry", lambda: some)
    monkeypatch.setattr(bench_card, "_compiled", lambda *_: None)
    assert bench_card.run(1.0, tmp_path, "cpu", (3, 5))
    rows = json.loads((tmp_path / "card.json").read_text())["rows"]
    names = ["hutchinson", "hutchinson_backward", "rk_combine", "rk_combine_backward", "rk_control"]
    assert [(row["op"], row["rows"]) for row in rows] == [(name, n) for n in (3, 5) for name in names]
    assert all({*row["seconds"]} == {"served", "kernel", "formula"} and not row["failed"] for row in rows)


def test_a_kernel_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("no kernel image")

    op = registry()["rk_control"]
    monkeypatch.setattr(bench_card, "registry", lambda: {"rk_control": op})
    monkeypatch.setattr(op, "run", broken)
    monkeypatch.setattr(bench_card, "_compiled", lambda *_: None)
    assert not bench_card.run(1.0, None, "cpu", (3,))
    assert "served: RuntimeError: no kernel image" in capsys.readouterr().out


def test_a_formula_that_takes_too_long_is_left_and_not_tried_with_more_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    op = registry()["rk_control"]
    monkeypatch.setattr(bench_card, "registry", lambda: {"rk_control": op})
    monkeypatch.setattr(bench_card, "PATIENCE", 0.05)
    monkeypatch.setattr(op, "reference", lambda *_: time.sleep(10))
    assert bench_card.run(1.0, tmp_path, "cpu", (3, 5, 2))
    failed = [row["failed"] for row in json.loads((tmp_path / "card.json").read_text())["rows"]]
    assert failed == [{"formula": "TimeoutError: took more than 0.05 s"}, {}, failed[0]]


def test_no_time_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_card.run(0.0, None, "cpu", (3,))
    assert "no time is left for" in capsys.readouterr().out


#: in place of Python: says that a card is there, that two packages are not, and what else it was asked to do
PYTHON = """#!/bin/sh
echo "$@" >>"$ASKED"
case "$*" in
*get_device_capability*) echo 90 ;;
*find_spec*) echo "$LACKING" ;;
*"$FAILS"*) exit 1 ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a pretended machine with a card."""
    for name in ("python", "nvcc", "nvidia-smi"):
        (tmp_path / name).write_text(PYTHON if name == "python" else "#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    return {"PATH": path, "PYTHON": str(tmp_path / "python"), "ASKED": str(tmp_path / "asked"), "LACKING": "",
            "FAILS": "nothing", "OUT": str(tmp_path / "out"), "WHEELS": str(tmp_path)}  # fmt: skip


def gpu_check(machine: dict[str, str], *arguments: str) -> tuple[int, str, list[str]]:
    """(exit status, what it printed, what Python was asked)"""
    script = ROOT / "benchmarks" / "gpu_check.sh"
    done = subprocess.run(["bash", script, *arguments], env=machine, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr, Path(machine["ASKED"]).read_text().splitlines()


def test_the_quick_check_takes_its_steps_without_a_network(machine: dict[str, str]) -> None:
    status, text, asked = gpu_check(machine, "--quick")
    assert status == 0 and "all steps passed" in text
    steps = [line.split(":")[0].removeprefix("== ") for line in text.splitlines() if line.startswith("== ")]
    assert steps == ["machine", "build", "selfcheck", "card_tests", "card"]
    assert all("--no-index" in line and "--no-deps" in line for line in asked if " install " in line)
    assert sum("CMAKE_CUDA_ARCHITECTURES=90-real" in line for line in asked) == 1
    assert {file.stem for file in Path(machine["OUT"]).iterdir()} == {*steps}  # few enough to be sent back


def test_what_is_lacking_comes_from_wheels_and_what_fails_is_told(machine: dict[str, str]) -> None:
    (Path(machine["WHEELS"]) / "pybind11.whl").touch()
    status, text, asked = gpu_check(machine | {"LACKING": "pybind11", "FAILS": "tests/cuda"}, "--quick")
    assert status == 1 and "gpu_check: failed: card_tests" in text
    assert any(line.endswith("pybind11.whl") and "--no-index" in line for line in asked)
    assert any("benchmarks --only card" in line for line in asked)  # what comes after runs all the same


def test_the_other_call_takes_the_rest(machine: dict[str, str], tmp_path: Path) -> None:
    status, text, asked = gpu_check(machine, str(tmp_path / "logs"))
    assert status == 0 and "== build" in text and "== op_tests" in text and "== benchmarks" in text
    assert any("--only card --minutes 5" in line for line in asked) and (tmp_path / "logs" / "op_tests.log").exists()
