"""The generic op tests, unchanged, on nvcc's PTX under the shipped launchers, every access under the checker."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from simt.bench import Bench
from simt.ptx import backend, build
from simt.ptx.parse import only

import pyflowk
from pyflowk import selfcheck
from pyflowk.ops import registry
from pyflowk.ops._backends import backends
from pyflowk.ops.random_numbers import RANDOM
from pyflowk.selfcheck.trial import each
from tests.ops import test_assignment, test_kernels, test_random_numbers
from tests.ops.cases import ALL_CASES, BENCH_CASES, CPU_ONLY, DTYPES, FEW_CASES, OpCase, skip_without_kernel
from tests.ops.test_kernels import (  # collected here again, under the fixture below
    test_extreme_inputs,
    test_inplace,
    test_row_counts,
    test_strides,
    test_taylor_remainder,
)

__all__ = [
    "test_extreme_inputs",
    "test_inplace",
    "test_row_counts",
    "test_strides",
    "test_taylor_remainder",
]
pytestmark = pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable())

#: every third case: coprime to the two- and fourfold options, so each of them and each event still comes.
SOME_CASES = BENCH_CASES[::3]


@pytest.fixture(scope="module")
def bench() -> Bench:
    return backend.register(80)


@pytest.fixture(autouse=True)
def on_the_ptx(bench: Bench, request: pytest.FixtureRequest) -> Iterator[None]:
    skip_without_kernel(request)
    backend.register(80)
    with pyflowk.backend("ptxsim"):
        yield
    assert bench.reports() == []


@pytest.mark.parametrize("case", BENCH_CASES, ids=str)
def test_values_and_gradients_as_good_as_torch(case: OpCase) -> None:
    test_kernels.test_values_and_gradients_as_good_as_torch(case)


@pytest.mark.parametrize("arch", backend.ARCHS)
@pytest.mark.parametrize("state, params", DTYPES[2:], ids=str)
def test_narrow_dtypes(bench: Bench, state: torch.dtype, params: torch.dtype, arch: int) -> None:
    backend.register(arch)
    for case in SOME_CASES:
        if case.takes(state, params):
            test_kernels.assert_as_good_as_torch(case, case.inputs(4, state, params))


def test_other_kernels_have_one_code_for_both_architectures(bench: Bench) -> None:
    """So the tests in this file, on sm_80, are tests of sm_90 too."""
    differing = bench.library.ptx_differing(*backend.ARCHS).decode().split()
    assert differing and all("bfloat16" in name for name in differing)


@pytest.mark.parametrize("kind", RANDOM)
def test_random_numbers_are_the_formula_s(kind: str) -> None:
    for draws, size in ((1, 1), (3, 37), (2, 300)):
        test_random_numbers.test_kernel_and_formula_make_the_same_numbers(kind, draws, size, "ptxsim")


def test_assignments_are_optimal() -> None:
    for n, dims in ((0, 2), (1, 1), (7, 3), (33, 2)):
        test_assignment.test_small_problems(n, dims, "ptxsim")
    test_assignment.test_what_is_not_finite_is_refused(float("nan"), "ptxsim")


@pytest.mark.parametrize("case", SOME_CASES, ids=str)
def test_rows_do_not_depend_on_their_mates(case: OpCase) -> None:
    test_kernels.test_rows_do_not_depend_on_their_mates(case)


@pytest.mark.parametrize("seed", range(3))
def test_results_survive_fuzz_in_any_order(bench: Bench, seed: int) -> None:
    with bench.options(order="shuffled", seed=seed, preempt=4, fuzz=True):
        for case in FEW_CASES:
            test_kernels.assert_as_good_as_torch(case, case.inputs(9, torch.float32))


def test_vector_path_moves_no_sector_twice(bench: Bench) -> None:
    x, params = torch.randn(4, 4096), torch.randn(4, 4096)
    with bench.options(count=True):
        pyflowk.ops.affine_coupling(x, params)
    vectors = [row for row in bench.traffic() if not row.shared and row.array.startswith(("input", "output 2"))]
    assert {row.array.split(" (")[0] for row in vectors} == {"input 0", "input 1", "output 2"}
    assert all(row.units == row.minimum for row in vectors)


# ---- the real kernel with a fault planted in its PTX --------------------------------------------------------
WIDE_FORWARD = "forwardIffLi4Ej.*FixedILb0ELNS_5BoundE2E"  # float32, 128-bit path, tanh


def planted(change: Callable[[str], str]) -> Bench:
    """The back end "planted": one kernel of the real PTX, changed."""
    text = only(next(c.ptx[80] for c in backend.compiled() if "forward" in c.ptx[80]), WIDE_FORWARD)
    changed = change(text)
    assert changed != text
    return backend.register(80, backend.library([changed]), name="planted")


def reports_of(bench: Bench) -> str:
    """What is found when one row takes a whole block."""
    with pyflowk.backend("planted"):
        try:
            pyflowk.ops.affine_coupling(torch.randn(1, 2048), torch.randn(1, 2048))
        except RuntimeError as error:
            return f"{error}\n" + "\n".join(bench.reports())
    return "\n".join(bench.reports())


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda text: text.replace("bar.sync", "// bar.sync", 1), r"(RACE|UNINITIALISED) .*shared partial"),
        (
            lambda text: re.sub(r"(?s)(.*)setp\.lt\.s64(.*?bra)", r"\1setp.le.s64\2", text, count=1),
            r"OUT OF BOUNDS .* at (?s:.*); any kernel that ran before it, .*CUDA_LAUNCH_BLOCKING=1",
        ),
        (lambda text: re.sub(r"(ld\.global\.v4.*?\[%rd\d+)\]", r"\1+4]", text, count=1), "MISALIGNED read of 16 bytes"),
    ],
    ids=["barrier deleted", "loop too long", "address off by four"],
)
def test_fault_planted_in_the_real_kernel_is_found(change: Callable[[str], str], expected: str) -> None:
    found = reports_of(planted(change))
    assert re.search(expected, found), found
    assert "affine_coupling.cu:" in found


def test_the_ptx_is_what_computes() -> None:
    """A product turned into a sum in the PTX must change the result; a kernel that is not there must not run at all."""
    bench = planted(lambda text: text.replace("ex2.approx.ftz.f32", "lg2.approx.ftz.f32"))
    x, params = torch.randn(1, 2048), torch.randn(1, 2048)
    right, _ = pyflowk.ops.affine_coupling(x, params)
    with pyflowk.backend("planted"):
        wrong, _ = pyflowk.ops.affine_coupling(x, params)
        assert not torch.allclose(right, wrong)
        with pytest.raises(RuntimeError, match=r"failed with .*\(98\)"):
            pyflowk.ops.affine_coupling(x.double(), params.double())
    bench.reports()


#: ops that take points in 16 bits beside numbers as wide as arithmetic, which the self-check's trials do not
POINTS = ("jump_bins", "nearest", "rk_combine", "rk_error", "sinkhorn", "sinkhorn_draw")
#: ops whose trials leave out float64, in which their formulas are no better than their kernels
DOUBLE = ("cnf_trajectory", "hutchinson", "rq_spline")
#: for rows of more than 2**31 numbers alone
HUGE = re.compile(r"unsigned long>\(.*Call<pfk::RqSpline")


def test_every_kernel_of_the_module_is_reached(bench: Bench) -> None:
    """By the cases of the tests in all dtypes, or the self-check's trials; of what is launched here no block runs."""
    there = {name for part in backend.compiled() for name in re.findall(r"\.entry (\w+)\(", part.ptx[80])}
    with bench.options(check=False, log=True, blocks=(0, 0)):
        for case, dtypes in product(ALL_CASES, DTYPES):
            if case.op not in CPU_ONLY and case.takes(*dtypes):
                inputs = case.inputs(3, *dtypes)
                ones = [torch.ones_like(o) for o in case.call(*inputs)]
                test_kernels.values_and_gradients(case, inputs, tuple(ones))
        for name, op in registry().items():
            if hasattr(backends["ptxsim"].kernels, name):
                for args in every_trial(name):
                    op.run(args)
                    if op.backward is not None:
                        op.backward.run(op.backward_arguments(args))
        reached = {launch.kernel for launch in bench.launches()}
    missing = subprocess.run("c++filt", input="\n".join(there - reached), capture_output=True, text=True).stdout
    assert reached <= there
    assert [name for name in missing.splitlines() if not HUGE.search(name)] == []


def every_trial(name: str) -> Iterator[tuple[Any, ...]]:
    """The arguments of all calls by which the self-check tries an op, and of its larger ones in every precision."""
    trial = selfcheck.TRIALS[name]
    yield from ((*inputs, *config) for _, config, inputs in selfcheck._calls(trial))
    precisions = {*trial.precisions, *([torch.float64] if name in DOUBLE else [])}
    for large, dtype in product((trial.large, *trial.others), precisions):
        yield *trial.large_tensors(3 if large is trial.large else large.rows, dtype, large), *large.config
    for config, dtype in product(trial.configs, (torch.bfloat16, torch.float16) if name in POINTS else ()):
        tensors = trial.tensors(config, 3, torch.float32)
        yield *each(lambda t: t.to(dtype) if t.ndim == tensors[0].ndim else t, tensors), *config  # noqa: B023
