"""Every op bears one name in every room: whoever forgets a file or a line learns which, from csrc to benchmarks."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

from benchmarks.__main__ import NAMES
from pyflowk import _cpu, ops, selfcheck
from pyflowk.ops import _router
from pyflowk.ops._triton import backend as triton
from tests.ops.cases import MODULES

ROOT = Path(__file__).resolve().parents[2]
#: op -> what stands between PFK_OP( ) of csrc/bind/ops.h: all ops, and those after the line that begins the CPU's own
LISTED = re.findall(r"^PFK_OP\((\w+)\)", (ROOT / "csrc/bind/ops.h").read_text(), re.MULTILINE)
ON_CARDS = re.findall(
    r"^PFK_OP\((\w+)\)", (ROOT / "csrc/bind/ops.h").read_text().split("#ifdef PFK_BACKEND_CPU")[0], re.MULTILINE
)
#: what the tests alone call, by names with an underscore: no op of the library
FOR_TESTS = {"elementary"}
OPS = sorted({*LISTED} - FOR_TESTS)
#: ops without a derivative, which the generic tests do not take: each has a file of its own instead
NO_GRADIENT = {
    "align": "test_align", "apply_edits": "test_apply_edits",
    "assignment": "test_assignment", "assignment_of_points": "test_assignment",
    "causal_decode": "test_causal_decode", "drift": "test_drift", "drift_sums": "test_drift",
    "jump_bins": "test_jump_bins", "jump_step": "test_jump_step", "nearest": "test_nearest",
    "random_numbers": "test_random_numbers", "rk_control": "test_rk_control", "sinkhorn": "test_sinkhorn",
    "sinkhorn_draw": "test_sinkhorn",
}  # fmt: skip


def stems(pattern: str, *others: str) -> list[str]:
    return sorted({path.stem for path in ROOT.glob(pattern)} - {*others})


def test_the_list_of_ops_names_what_csrc_holds() -> None:
    assert stems("csrc/bind/*.cpp", "module") == sorted(LISTED)
    assert stems("csrc/cpu/*.cpp", "dispatch") == sorted(LISTED)
    assert stems("csrc/cuda/*.cu", "runtime") == sorted(ON_CARDS)
    assert {*OPS} <= {*stems("csrc/math/*.h")}


def test_the_module_of_cards_launches_only_what_it_has() -> None:
    """Else it would not load: a kernel that it lacks is an undefined symbol."""
    bound = {name: (ROOT / f"csrc/bind/{name}.cpp").read_text() for name in {*LISTED} - {*ON_CARDS}}
    assert [name for name, text in bound.items() if "PFK_LAUNCH" in text and "PFK_BACKEND_CPU" not in text] == []


@pytest.mark.parametrize(
    "found",
    [
        sorted({*stems("tests/ops/cases/*.py", "__init__", "base")} | ({*NO_GRADIENT} & {*OPS})),
        stems("pyflowk/selfcheck/trials/*.py", "__init__"),
        sorted(set(stems("pyflowk/ops/*.py")) & {*OPS}),
    ],
    ids=["cases", "trials", "ops"],
)
def test_every_op_has_its_file(found: list[str]) -> None:
    assert found == OPS


def test_what_is_compiled_per_instruction_set_stays_apart() -> None:
    """Functions in headers of csrc/cpu: the linker would merge those of all instruction sets if they had one name."""
    code = {path.name: path.read_text() for path in ROOT.glob("csrc/cpu/*.h")}
    shared = {name for name, text in code.items() if re.search(r"^(template|inline|constexpr)", text, re.MULTILINE)}
    assert [
        name for name in sorted(shared) if not re.search(r"^namespace (PFK_ISA )?{", code[name], re.MULTILINE)
    ] == []


def test_every_cuda_kernel_has_its_gates() -> None:
    assert stems("benchmarks/audit/*.toml") == sorted(ON_CARDS)


def test_every_op_has_a_benchmark() -> None:
    """Of its name, or of another that says so by `OPS`."""
    judged = {
        op for name in NAMES for op in getattr(importlib.import_module(f"benchmarks.bench_{name}"), "OPS", [name])
    }
    assert {*OPS} - judged == set()


def test_the_compiled_module_serves_what_is_registered() -> None:
    """Three gradients have no kernel: a handful of large products, never asked for, or a second derivative. Parts of an
    op have one on a card alone."""
    served = {name for name, _ in inspect.getmembers(_cpu, inspect.isbuiltin) if not name.startswith("_")}
    assert {*_router._ops} - served == {
        "made_dense",
        "made_packed",
        "made_solve",
        "modulated_norm_tangents_backward",
        "power_series_backward",
        "rk_error_backward",
    }
    assert served - {*_router._ops} == set()


def test_every_registered_op_is_tried_and_tested() -> None:
    assert selfcheck.TRIALS.keys() == ops.registry().keys()
    tested = {case.op for module in MODULES.values() for case in module.ALL}
    assert ops.registry().keys() - tested == NO_GRADIENT.keys()
    assert {*NO_GRADIENT.values()} <= {*stems("tests/ops/*.py")}


def test_what_an_op_offers_is_imported_by_the_package() -> None:
    for name in OPS:
        public = {n for n in importlib.import_module(f"pyflowk.ops.{name}").__all__ if callable(getattr(ops, n, None))}
        assert public, f"pyflowk/ops/__init__.py imports nothing of {name}.py"


def test_triton_kernels_are_those_of_registered_ops() -> None:
    assert triton.KERNELS.keys() <= _router._ops.keys()
    files = stems("pyflowk/ops/_triton/*.py", "__init__", "backend", "tensors")
    assert sorted({module for module, _ in triton.KERNELS.values()}) == files and {*files} <= {*OPS}
