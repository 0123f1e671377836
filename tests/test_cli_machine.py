"""`pyflowk selfcheck` and `pyflowk bench`."""

import subprocess
from dataclasses import replace

import pytest
import torch

from pyflowk.cli import bench, main, selfcheck
from pyflowk.ops import registry
from pyflowk.ops._backends import Backend, backends, register_backend


@pytest.fixture
def few(monkeypatch):
    """Two ways to call each op instead of all."""
    for name, probe in selfcheck.PROBES.items():
        monkeypatch.setitem(selfcheck.PROBES, name, replace(probe, configs=probe.configs[:2]))


def test_every_op_has_a_probe():
    assert selfcheck.PROBES.keys() == registry().keys()


def test_every_call_of_every_op_is_right(capsys):
    assert main(["selfcheck", "--megabytes", "0.5"]) == 0
    text = capsys.readouterr().out
    assert "all ops are right" in text and "WRONG" not in text
    for name in registry():
        assert f"{name}: kernel, " in text
    assert "% of copying" in text


class Kernels:
    """Kernels that get one number wrong by a little, or return NaN."""

    def __init__(self, error):
        self.error = error

    def __getattr__(self, name):
        op = registry()[name.removesuffix("_backward")]
        formula = (op.backward if name.endswith("_backward") else op).formula

        def kernel(*args):
            first, *rest = formula(*args)
            first = first.clone()
            first.view(-1)[-1] += self.error
            return first, *rest

        return kernel


@pytest.mark.parametrize("error, status", [(0.0, 0), (1e-4, 1), (float("nan"), 1)])
def test_a_wrong_kernel_is_found(few, capsys, error, status):
    register_backend(Backend("planted", "cpu", Kernels(error), automatic=False))
    try:
        assert main(["selfcheck", "--megabytes", "0.1"]) == status
    finally:
        del backends["planted"]
    text = capsys.readouterr().out
    assert ("affine_coupling: WRONG for" in text) == bool(status)
    assert text.index("back end cpu") < text.index("back end planted")


def test_an_op_without_a_probe_and_a_back_end_that_cannot_run(few, capsys, monkeypatch):
    monkeypatch.delitem(selfcheck.PROBES, "affine_coupling")
    register_backend(Backend("absent", "cuda", None, unavailable="no card"))
    try:
        assert main(["selfcheck", "--megabytes", "0.1"]) == 1
    finally:
        del backends["absent"]
    text = capsys.readouterr().out
    assert "no probe knows how to call it" in text and "back end absent: not usable here: no card" in text


def test_selfcheck_wants_a_size(capsys):
    assert main(["selfcheck", "--megabytes", "0"]) == 2 and "--megabytes: expected" in capsys.readouterr().err


def test_copy_bandwidth_is_a_rate():
    assert 0.01 < selfcheck.copy_bandwidth("cpu", 1.0) < 1e4 and torch.get_num_threads() >= 1


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
        calls.append(command[3:])
        return subprocess.CompletedProcess(command, int(any(word in " ".join(command) for word in red)))

    monkeypatch.setattr(bench.subprocess, "run", run)
    return tmp_path, calls, red


def test_bench_runs_the_tests_first(checkout):
    folder, calls, _ = checkout
    assert main(["bench"]) == 0
    names = [str(folder / "benchmarks" / f"bench_{name}.py") for name in ("affine_coupling", "realnvp")]
    assert calls == [["-q", "tests/ops"], ["-q", *names]]


def test_bench_stops_on_a_red_test(checkout, capsys):
    _, calls, red = checkout
    red.append("tests/ops")
    assert main(["bench"]) == 1 and len(calls) == 1
    assert "no figures are reported on a red test" in capsys.readouterr().err


def test_bench_by_name(checkout, capsys):
    _, calls, _ = checkout
    assert main(["bench", "real"]) == 0 and len(calls[1]) == 2
    assert main(["bench", "spline"]) == 2 and "there are affine_coupling, realnvp" in capsys.readouterr().err


def test_bench_needs_a_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "site-packages/pyflowk/cli/bench.py"))
    monkeypatch.chdir(tmp_path)
    assert main(["bench"]) == 2 and "needs a source checkout" in capsys.readouterr().err
