"""The Triton kernels without a card: their values by Triton's interpreter, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs triton")


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **environment}
    return subprocess.run([sys.executable, *map(str, arguments)], env=variables, capture_output=True, text=True)


def test_generic_op_tests_under_the_interpreter() -> None:
    generic = Path(__file__).with_name("generic.py")
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", generic, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " skipped" not in done.stdout


def test_importing_pyflowk_does_not_import_triton() -> None:
    call = "pyflowk.ops.affine_coupling(torch.ones(1, 2), torch.ones(1, 2))"
    code = f"import sys, pyflowk, torch; {call}; print('triton' in sys.modules)"
    done = run("-c", code, TRITON_INTERPRET="1")
    assert done.stdout.strip() == "False", done.stdout + done.stderr
