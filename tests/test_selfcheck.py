"""The self-check: right kernels pass, a wrong one is found, switched off with a warning, and served by the formula."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pyflowk
from pyflowk import selfcheck
from pyflowk.ops import registry
from pyflowk.ops._backends import Backend, backends, register_backend


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ways to call each of three ops instead of all."""
    ops = {name: registry()[name] for name in ("affine_coupling", "hutchinson", "rk_control")}
    monkeypatch.setattr(selfcheck, "registry", lambda: ops)
    for name in ops:
        trial = selfcheck.TRIALS[name]
        monkeypatch.setitem(selfcheck.TRIALS, name, replace(trial, configs=trial.configs[:2]))


class Kernels:
    """The formulas of one op, with one number of one output wrong by a little, or NaN."""

    def __init__(self, op: str, output: int, error: float) -> None:
        self.op, self.output, self.error = op, output, error

    def __getattr__(self, name: str) -> Any:
        if name.removesuffix("_backward") != self.op:
            raise AttributeError(name)
        op = registry()[self.op]
        formula = (op.backward if name.endswith("_backward") else op).formula

        def kernel(*args: Any) -> tuple[torch.Tensor, ...]:
            outputs = [t.clone() for t in formula(*args)]
            outputs[self.output].view(-1)[-1] += self.error
            return tuple(outputs)

        return kernel


@contextmanager
def planted(entry: Backend) -> Iterator[Backend]:
    register_backend(entry)
    try:
        yield entry
    finally:
        del backends[entry.name]


def test_every_op_has_a_trial() -> None:
    assert selfcheck.TRIALS.keys() == registry().keys()


def test_every_call_of_every_op_is_right() -> None:
    """With tensors of a quarter of the command's size: what is bound by arithmetic is timed on fewer rows still."""
    report = selfcheck.run(megabytes=16)
    assert report.ok and report.wrong == []
    text = report.text()
    assert text.startswith(f"pyflowk {pyflowk.__version__}") and text.endswith("all ops are right")
    for name in registry():
        assert f"{name}: kernel, " in text
    assert "% of copying" in text


@pytest.mark.parametrize(
    "name, output, error",
    [("affine_coupling", 0, 1e-4), ("affine_coupling", 0, float("nan")), ("rk_control", 2, 1e-5)],
)
def test_a_wrong_kernel_is_found_switched_off_and_replaced(few: None, name: str, output: int, error: float) -> None:
    op, trial = registry()[name], selfcheck.TRIALS[name]
    arguments = *trial.tensors(trial.configs[0], 3, torch.float32), *trial.configs[0]
    with planted(Backend("planted", "cpu", Kernels(name, output, error))) as entry:
        with pyflowk.backend("planted"):
            wrong = op(arguments)[output]
        with pytest.warns(RuntimeWarning, match=f"the planted kernel of {name} is WRONG for"):
            report = selfcheck.run(megabytes=0.1)
        with pyflowk.backend("planted"):
            served = op(arguments)[output]
        again = selfcheck.run(megabytes=0.1)
    with pyflowk.backend("reference"):
        right = op(arguments)[output]
    assert not torch.equal(wrong, right) and torch.equal(served, right)
    assert report.wrong == [("planted", name)] and not report.ok
    assert f"PYFLOWK_OFF=planted:{name}" in report.text()
    assert set(entry.off) == {part.name for part in (op, op.backward) if part is not None}
    assert again.ok and "no kernel (it failed the self-check), formula" in again.text()


def test_a_right_kernel_is_not_accused(few: None) -> None:
    with planted(Backend("planted", "cpu", Kernels("affine_coupling", 0, 0.0))) as entry, warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert selfcheck.run(megabytes=0.1).ok and not entry.off


def test_an_op_without_a_trial_and_a_back_end_that_cannot_run(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(selfcheck.TRIALS, "affine_coupling")
    with planted(Backend("absent", "cuda", None, unavailable="no card")):
        text = selfcheck.run(megabytes=0.1).text()
    assert "no trial knows how to call it" in text and "back end absent: not usable here: no card" in text


def test_only_the_devices_asked_for(few: None) -> None:
    with planted(Backend("absent", "cuda", None, unavailable="no card")):
        assert [s.backend for s in selfcheck.run(["cpu"], megabytes=0.1).sections] == [
            name for name, entry in backends.items() if entry.device == "cpu" and entry.automatic
        ]


def test_bad_size() -> None:
    with pytest.raises(ValueError, match="megabytes: expected a number > 0, got 0"):
        selfcheck.run(megabytes=0)


def test_copy_bandwidth_is_a_rate() -> None:
    assert 0.01 < selfcheck.copy_bandwidth("cpu", 1.0) < 1e4


def test_predictions_are_the_audit_s() -> None:
    path = Path(__file__).parents[1] / "benchmarks" / "audit" / "machine.py"
    spec = importlib.util.spec_from_file_location("audit_machine", path)
    assert spec is not None and spec.loader is not None
    audit = sys.modules["audit_machine"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(audit)
    for card, rate in selfcheck.PREDICTED.items():
        gpu = next(g for name, g in audit.GPUS.items() if name in card)
        assert rate == pytest.approx(gpu.bandwidth * audit.PEAK_FRACTION / 1e9, rel=1e-3)


def test_ops_are_switched_off_from_outside() -> None:
    code = "import pyflowk; pyflowk.show_config()"
    off = {**os.environ, "PYFLOWK_OFF": "cpu:affine_coupling"}
    text = subprocess.run([sys.executable, "-c", code], env=off, capture_output=True, text=True, check=True).stdout
    assert re.search(r"\naffine_coupling +off: PYFLOWK_OFF", text)
    bad = {**os.environ, "PYFLOWK_OFF": "affine"}
    done = subprocess.run([sys.executable, "-c", code], env=bad, capture_output=True, text=True)
    assert done.returncode and "PYFLOWK_OFF: expected" in done.stderr
