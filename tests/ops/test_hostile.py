"""No call of an op by its raw names ends the process, whatever it is handed: an exception or a result, never a signal.

Long, with PYFLOWK_NIGHTLY=1, or under a build with -fsanitize=address and its runtime in LD_PRELOAD.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pyflowk import _cpu, ops
from pyflowk.ops.made_layout import MadeLayout

NIGHTLY = "PYFLOWK_NIGHTLY" in os.environ


def test_no_raw_call_crashes(tmp_path: Path) -> None:
    log = tmp_path / "call"
    log.touch()
    seed, calls = (int(time.time()), 1_000_000) if NIGHTLY else (1, 4_000)
    command = [sys.executable, "-m", "tests.ops.hostile", str(log), str(seed), str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=9 * calls + 300)
    assert done.returncode == 0, f"{done.returncode} at {log.read_text()}\n{done.stderr[-2000:]}"
    _, answered, refused = (int(word) for word in done.stdout.split() if word.isdigit())
    assert answered > calls / 10 and refused > calls / 10


def test_results_that_the_schema_does_not_promise_are_refused() -> None:
    """They would break torch's stack: a formula makes as many gradients as there are weights."""
    y, h = torch.zeros(2, 3), torch.ones(2)
    with pytest.raises(ValueError, match="expected 1 weights, one a slope; got 3"):
        torch.ops.pyflowk.rk_error_backward(y, y, h, [y], h, h, [0.1, 0.2, 0.3], 0.3, 0.2)
    for op in ops._router._ops.values():
        promised = len(op._listed)
        with pytest.raises(ValueError, match="do not fit each other"):
            op._bare((y,) * (promised + 1))


def test_numbers_that_would_take_for_ever_or_overflow_are_refused() -> None:
    v, s, reached = torch.ones(2, 3), torch.ones(2, 4), torch.full((2,), 2**62)
    weights = [torch.ones(4, 3), torch.ones(3, 4)]
    with pytest.raises(ValueError, match="may reach 65536 terms"):
        torch.ops.pyflowk.power_series(v, [s], weights, reached, 2**62, 1, 1.0)
    with pytest.raises(ValueError, match="may reach 65536 terms"):
        torch.ops.pyflowk.power_series_backward(v, [s], weights, reached, v[:, 0], v, 2**62, 1, 1.0)
    x, none = torch.zeros(0, 3), torch.zeros(0)
    tensors = x, torch.zeros(0, 1, 3), x[:, :0], none, none.view(0, 3), none.view(0, 3)
    with pytest.raises(ValueError, match="no such network"):
        _cpu.cnf_trajectory(*tensors, 2**62, 2**62, 0, [1.0], 4, 0.1, 1.0)
    for method in ([], [0.5, 1.0], [1.0] * 15):
        for op in (_cpu.cnf_trajectory, torch.ops.pyflowk.cnf_trajectory):
            with pytest.raises(ValueError, match=f"method must be 1 to 4 rows of .*; got {len(method)} numbers"):
                op(*tensors, 3, 1, 0, method, 4, 0.1, 1.0)


def test_plans_of_made_must_be_whole() -> None:
    layout = MadeLayout([[0, 1, 2]], [2, 0, 1], 2)
    x, weights = torch.zeros(2, 3), torch.zeros(len(layout.source))
    for at, value in ((0, 0), (0, 3), (1, -1), (3, 2**62), (6, -(2**63)), (-1, 2**40)):
        plan = layout.plan.clone()
        plan[at] = value
        with pytest.raises(ValueError, match="do not belong together"):
            ops.made_forward(x, weights, None, plan, layout.hidden)
