"""Choosing an implementation: forced, automatic, switched off, refused."""

from __future__ import annotations

import types

import pytest
import torch

import pyflowk
from pyflowk.ops import _backends, registry
from pyflowk.ops._backends import Backend, implementation, register_backend


@pytest.fixture
def odd_backend():
    """A back end whose one kernel answers 42, for a device that no test uses by itself."""
    kernels = types.SimpleNamespace(affine_coupling=lambda *args: 42)
    entry = Backend("odd", "cpu", kernels, automatic=False)
    register_backend(entry)
    yield entry
    del _backends.backends["odd"]


def test_forcing_is_nested_and_undone(odd_backend: Backend) -> None:
    x, t = torch.zeros(1, 2), torch.ones(1, 1)
    with pyflowk.backend("odd"):
        assert pyflowk.ops.additive_coupling(x, t) == 42
        with pyflowk.backend("reference"):
            assert pyflowk.ops.additive_coupling(x, t)[0].tolist() == [[0, 1]]
        assert pyflowk.ops.additive_coupling(x, t) == 42
        with pytest.raises(RuntimeError, match="inside"), pyflowk.backend("cpu"):
            raise RuntimeError("inside")
        assert pyflowk.ops.additive_coupling(x, t) == 42
    assert pyflowk.ops.additive_coupling(x, t)[0].tolist() == [[0, 1]]


def test_a_kernel_that_is_switched_off_leaves_the_formula(odd_backend: Backend) -> None:
    odd_backend.off["affine_coupling"] = "it answers 42"
    with pyflowk.backend("odd"):
        assert pyflowk.ops.additive_coupling(torch.zeros(1, 2), torch.ones(1, 1))[0].tolist() == [[0, 1]]


def test_unknown_and_unusable_backends_say_why() -> None:
    with pytest.raises(ValueError, match=r"expected one of reference, cpu.*got 'gpu'"), pyflowk.backend("gpu"):
        pass
    for entry in _backends.backends.values():
        if entry.unavailable:
            with pytest.raises(ValueError, match=r"cannot run here: \w"), pyflowk.backend(entry.name):
                pass


def test_a_forced_backend_refuses_other_devices() -> None:
    with pyflowk.backend("cpu"):
        refuse = implementation("affine_coupling", "cuda", lambda: None)
        with pytest.raises(ValueError, match="'cpu' takes tensors on cpu; got one on cuda"):
            refuse()


def test_every_op_has_a_cpu_kernel_and_shows_in_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    pyflowk.show_config()
    shown = capsys.readouterr().out
    assert pyflowk.__version__ in shown and "instruction set" in shown and "thread" in shown
    for name, op in registry().items():
        assert implementation(name, "cpu", op.reference) is not op.reference
        # step control is not differentiated, the series' gradient is a handful of large products, and tangents of a
        # norm are seldom differentiated: formulas serve
        if op.backward is not None and not name.startswith(("rk_error", "power_series", "modulated_norm_tangents")):
            assert implementation(op.backward.name, "cpu", None) is not None
    header, *rows = shown.split("\n\n")[1].splitlines()
    assert header.split()[:2] == ["op", "cpu"] and [row.split()[0] for row in rows] == list(registry())
    assert all("kernel" in row for row in rows)
