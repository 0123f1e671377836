"""What takes minutes to compile: run with PYFLOWK_NIGHTLY=1, and whenever a CUDA kernel has changed."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from simt import backend, build, mutate
from simt.bench import Bench
from simt.recorder import pretended

import pyflowk
from tests.ops.cases import MODULES
from tests.ops.cases.base import Barriers

pytestmark = [
    pytest.mark.skipif("PYFLOWK_NIGHTLY" not in os.environ, reason="nightly: set PYFLOWK_NIGHTLY=1"),
    pytest.mark.skipif(bool(build.unavailable()), reason=build.unavailable()),
]


def test_barriers_of_affine_coupling() -> None:
    """One call of block_reduce a block: there the barrier that guards the next call is without use."""

    def make(kernel: Path, flags: Sequence[str]) -> Bench:
        return backend.register("checker", "mutant", backend.library("checker", replaced=kernel, kernel_flags=flags))

    def run(bench: Bench) -> None:
        with pyflowk.backend("mutant"):
            pyflowk.ops.affine_coupling(torch.ones(2, 8192), torch.ones(2, 8192))
        assert bench.reports() == []

    files = [backend.CUDA / "affine_coupling.cu", mutate.DEVICE_HEADER]
    every, unnoticed = mutate.survivors(backend.CUDA / "affine_coupling.cu", run, files, make)
    assert len(every) == 2
    assert [b.file.read_text().splitlines()[b.line - 1].strip() for b in unnoticed] == [
        "__syncthreads(); // the next call writes `partial` again"
    ]


BARRIERS: dict[str, Barriers] = {
    name: module.BARRIERS for name, module in MODULES.items() if "BARRIERS" in vars(module)
}


@pytest.mark.parametrize("kernel", BARRIERS)
def test_barriers(kernel: str) -> None:
    barriers = BARRIERS[kernel]

    def make(kernel: Path, flags: Sequence[str]) -> Bench:
        return backend.register("checker", "mutant", backend.library("checker", replaced=kernel))

    def run(bench: Bench) -> None:
        for case, rows in barriers.cases:
            inputs = case.inputs(rows, torch.float32)
            real = [t.requires_grad_() for t in inputs if t.is_floating_point()]
            with pyflowk.backend("mutant"):
                torch.autograd.grad(sum(o.sum() for o in case.call(*inputs)), real)
            assert bench.reports() == []

    every, unnoticed = mutate.survivors(
        backend.CUDA / f"{kernel}.cu", run, [backend.CUDA / name for name in barriers.files], make
    )
    assert len(every) == barriers.count and unnoticed == []


def test_barriers_of_assignment() -> None:
    def make(kernel: Path, flags: Sequence[str]) -> Bench:
        return backend.register("checker", "mutant", backend.library("checker", replaced=kernel))

    def run(bench: Bench) -> None:
        with pyflowk.backend("mutant"):
            for rows in (40, 300):
                cost = torch.rand(1, rows, rows, generator=torch.Generator().manual_seed(rows))
                pyflowk.ops.assignment(cost if rows < 300 else cost + 1000 * (1 - torch.eye(rows)))
        assert bench.reports() == []

    every, unnoticed = mutate.survivors(backend.CUDA / "assignment.cu", run, [backend.CUDA / "assignment.cu"], make)
    assert len(every) == 3 and unnoticed == []


def test_barriers_of_sinkhorn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(importlib.import_module("pyflowk.ops.sinkhorn")._AT_ONCE, "cpu", 12)

    def make(kernel: Path, flags: Sequence[str]) -> Bench:
        return backend.register("checker", "mutant", backend.library("checker", replaced=kernel))

    def run(bench: Bench) -> None:
        x = torch.randn(1, 40, 2, generator=torch.Generator().manual_seed(0))
        with pyflowk.backend("mutant"):
            pyflowk.ops.sinkhorn(x, x + 1, 1.0, iterations=10)
        assert bench.reports() == []

    every, unnoticed = mutate.survivors(backend.CUDA / "sinkhorn.cu", run, [backend.CUDA / "sinkhorn.cu"], make)
    assert len(every) == 4 and unnoticed == []


SANITIZED = """
import pyflowk
from simt import backend
from tests.ops.cases import ALL_CASES, DTYPES
from tests.ops.test_kernels import assert_as_good_as_torch
backend.register("asan")
with pyflowk.backend("simt"):
    for case in ALL_CASES[::2]:
        for state, params in DTYPES:
            rows = 9 if state == params else 4
            assert_as_good_as_torch(case, case.inputs(rows, state, params))
print("clean")
"""


def test_generic_op_cases_under_sanitizers() -> None:
    backend.library("asan")
    environment = build.sanitizer_environment()
    environment["PYTHONPATH"] = os.pathsep.join([str(build.ROOT), str(build.ROOT / "tests"), *sys.path])
    done = subprocess.run([sys.executable, "-c", SANITIZED], env=environment, capture_output=True, text=True)
    assert done.stdout == "clean\n", done.stderr


#: what stands in python_call.h and what in its place would be wrong
BINDING_FAULTS = {
    "the card is not made current": ("enter(t.device.id);", ""),
    "the card stays current": ("        leave();\n", ""),
    "the legacy stream": ("return stream;", "return nullptr;"),
    "another card's stream": ("device.id, &stream)", "1 - device.id, &stream)"),
}


@pytest.mark.parametrize("fault", BINDING_FAULTS)
def test_a_fault_of_the_binding_is_noticed(fault: str, tmp_path: Path) -> None:
    right, wrong = BINDING_FAULTS[fault]
    text = (backend.BIND / "python_call.h").read_text()
    assert right in text
    (tmp_path / "python_call.h").write_text(text.replace(right, wrong))
    shutil.copy(backend.BIND / "module.cpp", tmp_path)
    bench = backend.register("checker", "mutant", backend.library("checker", replaced=tmp_path / "module.cpp"))
    x = torch.ones(2, 8)
    with pyflowk.backend("mutant"), pretended(bench, 1, 0) as machine:
        with suppress(RuntimeError):  # some are refused as well
            pyflowk.ops.affine_coupling(x, x)
        assert machine.faults() != []
