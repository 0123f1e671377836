"""Choosing an implementation: forced, automatic, switched off, refused."""

from __future__ import annotations

import types
from collections.abc import Iterator

import pytest
import torch

import pyflowk
from pyflowk.ops import _backends, registry
from pyflowk.ops._backends import Backend, implementation, register_backend
from tests.ops.cases import SMALL_CASES, OpCase
from tests.ops.test_kernels import cotangents_of, values_and_gradients


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


def test_a_card_leaves_the_formula_the_sizes_that_are_its(
    odd_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only there, and only where nothing is forced."""
    odd_backend.automatic, odd_backend.card = True, True

    def chosen(size: tuple[int, ...]) -> object:
        return implementation("affine_coupling", "cpu", len, lambda size: len(size) > 1)(size)

    monkeypatch.setattr(_backends, "backends", {"odd": odd_backend})
    assert chosen((1, 2)) == 2 and chosen((1,)) == 42
    for forced, expected in (("odd", 42), ("reference", 2)):
        monkeypatch.setattr(_backends, "_forced", forced)
        assert chosen((1, 2)) == expected
    monkeypatch.setattr(_backends, "_forced", None)
    odd_backend.card = False
    assert chosen((1, 2)) == 42


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A card whose kernels are the CPU's."""
    with monkeypatch.context() as patch:
        entry = Backend("card", "cpu", _backends.backends["cpu"].kernels, card=True)
        patch.setattr(_backends, "backends", {"card": entry})
        _backends._notify()
        yield
    _backends._notify()


@pytest.mark.parametrize("case", [c for c in SMALL_CASES if registry()[c.op].prefers_formula], ids=str)
@pytest.mark.parametrize("large", [False, True])
def test_either_way_on_a_card(case: OpCase, large: bool, card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its rule, which is for small calls the kernel, and by formula all the way: values and gradients agree."""
    op = registry()[case.op]
    inputs = case.inputs(3)
    cotangents = cotangents_of(case, inputs)
    with monkeypatch.context() as patch:
        for way in (op, op.backward) if large else ():
            patch.setattr(way, "prefers_formula", lambda *args: True)
        _backends._notify()
        found = values_and_gradients(case, inputs, cotangents)
        patch.setattr(_backends, "_forced", "card" if large else "reference")
        _backends._notify()
        torch.testing.assert_close(found, values_and_gradients(case, inputs, cotangents))


def shaped(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.empty(shape, device="meta") for shape in shapes]


def test_what_is_large_on_a_card() -> None:
    ops = registry()
    for name, size in (("conv1x1", 32), ("conv1x1", 48), ("conv1x1", 256)):
        arguments = shaped((64, size, 32, 32), (size, size), (0,), (size,))
        assert ops[name].prefers_formula(*arguments) == (size > 32)
    for n, inverse, large in ((48, True, False), (64, True, True), (64, False, False), (512, False, True)):
        assert ops["lu_weight"].prefers_formula(*shaped((1, n, n), (1, n), (1, n)), inverse) == large
    for width, rows, there, back in (
        (64, 1 << 20, False, False), (256, 128, False, False), (512, 128, True, False), (512, 16384, True, True),
    ):  # fmt: skip
        weights, tables = 2 * 64 * width + width**2, (4, 2 * width + 64)
        arguments = shaped((rows, 64), (rows, 1, 64), (rows, 0), (weights,), tables, tables)
        for way, large in ((ops["cnf_trajectory"], there), (ops["cnf_trajectory"].backward, back)):
            assert way.prefers_formula(*arguments, width, 2, 0, [1.0], 4, 0.1, 1.0) == large
    for size, large in ((2, False), (784, True)):
        assert ops["nearest"].prefers_formula(*shaped((8, size), (9, size), (9,))) == large


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
