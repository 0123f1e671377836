"""csrc/math/elementary.h on every instruction set: within 2 ulp, limits and NaN right."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor

from pyflowk import _cpu

FUNCTIONS = {0: ("exp", torch.exp), 1: ("log", torch.log), 2: ("tanh", torch.tanh), 3: ("sigmoid", torch.sigmoid)}


def ulps(values: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Distance in units in the last place of the float32 truth (of the smallest normal number below it)."""
    spacing = torch.exp2(truth.abs().clamp(min=2.0**-126).log2().floor() - 23)
    return (values.double() - truth).abs() / spacing


@pytest.mark.parametrize("function", FUNCTIONS)
def test_float32_within_two_ulp(function: int) -> None:
    """Every 997th float bit pattern: 4.3 million of them, subnormals included."""
    x = torch.arange(-(2**31), 2**31 - 1, 997, dtype=torch.int64).to(torch.int32).view(torch.float32)
    x = x[x.isfinite()]
    truth = FUNCTIONS[function][1](x.double())
    value = _cpu._elementary(x, function)[0]
    comparable = truth.isfinite() & (truth.abs() <= torch.finfo(torch.float32).max)
    assert ulps(value[comparable], truth[comparable]).max() <= 2
    assert torch.equal(value[~comparable].isnan(), truth[~comparable].isnan())
    beyond = ~comparable & ~truth.isnan()
    assert torch.equal(value[beyond], truth[beyond].float())


@pytest.mark.parametrize("function", FUNCTIONS)
def test_float64_within_two_ulp(function: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.exp(torch.randn(400, generator=generator, dtype=torch.float64) * 6).clamp(max=700)
    x = torch.randn(400, generator=generator, dtype=torch.float64).clamp(-1, 1) * scale
    x = x.abs() if function == 1 else x
    value = _cpu._elementary(x, function)[0]
    with mpmath.workdps(40):
        exact = {0: mpmath.exp, 1: mpmath.log, 2: mpmath.tanh, 3: lambda v: 1 / (1 + mpmath.exp(-v))}[function]
        for argument, result in zip(x.tolist(), value.tolist()):
            truth = exact(mpmath.mpf(argument))
            assert abs(mpmath.mpf(result) - truth) <= 2 * math.ulp(float(truth)), argument


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_special_values(function: int, dtype: torch.dtype) -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-45, 1e38, -1e38], dtype=dtype)
    torch.testing.assert_close(_cpu._elementary(x, function)[0], FUNCTIONS[function][1](x), equal_nan=True)
    if function == 2:
        assert math.copysign(1, _cpu._elementary(x, 2)[0][4].item()) == -1


@pytest.mark.parametrize("function, exact", [(4, torch.sin), (5, torch.cos)])
def test_sine_and_cosine(function: int, exact: Callable[[Tensor], Tensor]) -> None:
    for dtype, reach in ((torch.float32, 3000.0), (torch.float64, 1e6)):
        x = torch.linspace(-reach, reach, 100001, dtype=dtype)
        errors = (_cpu._elementary(x, function)[0].double() - exact(x.double())).abs()
        assert errors.max() <= 1.5 * torch.finfo(dtype).eps
        huge = _cpu._elementary(torch.tensor([1e9, 1e30, math.inf, -math.inf, math.nan], dtype=dtype), function)[0]
        assert (huge[:2].abs() <= 1).all() and huge[2:].isnan().all()


def test_import_leaves_subnormals_alone() -> None:
    script = "import torch, pyflowk; x = torch.tensor([1e-40]); assert (x * 1).item() > 0 and pyflowk.ops"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def _levels() -> list[str]:
    return ["v2", "v3", "v4"] if _cpu.isa in ("v2", "v3", "v4") else ["baseline"]


@pytest.mark.parametrize("isa", _levels())
def test_every_instruction_set(isa: str) -> None:
    """The kernels' own tests again in a process that is held to one instruction set."""
    if isa > _cpu.isa:
        pytest.skip(f"this processor runs {_cpu.isa} at most")
    if os.environ.get("PYFLOWK_ISA") or isa == _cpu.isa:
        return  # this very process runs them
    script = """
from pyflowk import _cpu
from tests.ops import cases, test_elementary, test_kernels
for function in test_elementary.FUNCTIONS:
    test_elementary.test_float32_within_two_ulp(function)
for case in cases.THIN_CASES[::3]:
    for dtypes in cases.DTYPES:
        if case.takes(*dtypes):
            test_kernels.assert_as_good_as_torch(case, case.inputs(9, *dtypes))
print(_cpu.isa)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYFLOWK_ISA": isa}, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.strip() == isa, done.stdout + done.stderr


def test_wrong_instruction_set_is_refused_in_words() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import pyflowk"],
        env={**os.environ, "PYFLOWK_ISA": "v9"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0 and "PYFLOWK_ISA: expected one of" in done.stderr and "got v9" in done.stderr
