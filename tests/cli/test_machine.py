"""`pyflowk selfcheck` and `pyflowk bench`."""

import subprocess
from dataclasses import replace

import pytest

from pyflowk import selfcheck
from pyflowk.cli import bench, main
from pyflowk.ops import registry


@pytest.fixture
def few(monkeypatch):
    """One way to call one op instead of all."""
    trial = selfcheck.TRIALS["affine_coupling"]
    monkeypatch.setattr(selfcheck, "registry", lambda: {"affine_coupling": registry()["affine_coupling"]})
    monkeypatch.setitem(selfcheck.TRIALS, "affine_coupling", replace(trial, configs=trial.configs[:1]))


def test_selfcheck_prints_the_report(few, capsys):
    assert main(["selfcheck", "--megabytes", "0.5"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("pyflowk ") and text.endswith("all ops are right\n")


def test_selfcheck_fails_when_an_op_is_wrong(few, capsys, monkeypatch):
    monkeypatch.delitem(selfcheck.TRIALS, "affine_coupling")
    assert main(["selfcheck", "--megabytes", "0.1"]) == 1
    assert "no trial knows how to call it" in capsys.readouterr().out


def test_selfcheck_wants_a_size(capsys):
    assert main(["selfcheck", "--megabytes", "0"]) == 2 and "--megabytes: expected" in capsys.readouterr().err


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A source checkout with two benchmarks, and a record of what would be run."""
    for folder in ("benchmarks", "tests/ops", "pyflowk/cli"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("affine_coupling", "realnvp"):
        (tmp_path / "benchmarks" / f"bench_{name}.py").touch()
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "pyflowk/cli/bench.py"))
    calls, red = [], []

    def run(command, cwd, check):
        calls.append(command[2:])
        return subprocess.CompletedProcess(command, int(any(word in " ".join(command) for word in red)))

    monkeypatch.setattr(bench.subprocess, "run", run)
    return tmp_path, calls, red


def test_bench_runs_the_tests_first(checkout):
    _, calls, _ = checkout
    assert main(["bench"]) == 0
    assert calls == [["pytest", "-q", "tests/ops"], ["benchmarks"]]


def test_bench_hands_on_the_status_of_the_benchmarks(checkout):
    _, calls, red = checkout
    red.append("benchmarks")
    assert main(["bench"]) == 1 and len(calls) == 2


def test_bench_stops_on_a_red_test(checkout, capsys):
    _, calls, red = checkout
    red.append("tests/ops")
    assert main(["bench"]) == 1 and len(calls) == 1
    assert "no figures are reported on a red test" in capsys.readouterr().err


def test_bench_by_name(checkout, capsys):
    _, calls, _ = checkout
    assert main(["bench", "real"]) == 0 and calls[1] == ["benchmarks", "--only", "real"]
    assert main(["bench", "spline"]) == 2 and "there are affine_coupling, realnvp" in capsys.readouterr().err


def test_bench_needs_a_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "site-packages/pyflowk/cli/bench.py"))
    monkeypatch.chdir(tmp_path)
    assert main(["bench"]) == 2 and "needs a source checkout" in capsys.readouterr().err
