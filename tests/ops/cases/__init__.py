"""The registry of ops under test: every generic test runs over these cases, on every back end that the tests know.

Who adds an op adds its file here, with lists ALL, SMALL (one per kind of path, for the tests that cost much per case)
and FEW (a handful, for compile and opcheck); the files are found by themselves. A list THIN, where ALL is the product
of all options, holds as many of them as show each pair: for the benches of the CUDA kernels, which take a thousand
times as long. BARRIERS, where the CUDA kernel has any, says how each is shown to be needed (`Barriers` in base.py);
PANELS, where its blocks take several panels of 32 samples, by which case and from how many blocks on; PRODUCTS names
ops that are torch's products on a card.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from .base import DTYPES, OpCase

__all__ = [
    "ALL_CASES",
    "BENCH_CASES",
    "CPU_ONLY",
    "DTYPES",
    "FEW_CASES",
    "MODULES",
    "SMALL_CASES",
    "THIN_CASES",
    "OpCase",
    "skip_without_kernel",
    "tensors_of",
]

CSRC = Path(__file__).resolve().parents[3] / "csrc"
#: of every op's file by its name
MODULES = {
    found.name: importlib.import_module(f"{__name__}.{found.name}")
    for found in pkgutil.iter_modules(__path__)
    if found.name != "base"
}
#: ops without a CUDA kernel
CPU_ONLY = frozenset(
    case.op
    for name, module in MODULES.items()
    for case in module.ALL
    if not (CSRC / "cuda" / f"{name}.cu").exists() or case.op in getattr(module, "PRODUCTS", ())
)

ALL_CASES = [case for module in MODULES.values() for case in module.ALL]
THIN_CASES = [case for module in MODULES.values() for case in getattr(module, "THIN", module.ALL)]
BENCH_CASES = [case.on_card() for case in THIN_CASES if case.op not in CPU_ONLY and not case.costly]
SMALL_CASES = [case for module in MODULES.values() for case in module.SMALL]
FEW_CASES = [case for module in MODULES.values() for case in module.FEW]


def tensors_of(case: OpCase, rows: int = 3, *dtypes: torch.dtype) -> tuple[Tensor, ...]:
    """The case's inputs, requiring gradients."""
    return tuple(t.requires_grad_() for t in case.inputs(rows, *dtypes))


def skip_without_kernel(request: pytest.FixtureRequest) -> None:
    """Leave out a test whose op has no CUDA kernel: what torch computes there is not for a bench to prove."""
    case = request.node.callspec.params.get("case") if hasattr(request.node, "callspec") else None
    if isinstance(case, OpCase) and case.op in CPU_ONLY:
        pytest.skip(f"{case.op} has no CUDA kernel")
