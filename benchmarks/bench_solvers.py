"""Whole solves against torchdiffeq: error against evaluations of the field, and time, on four classical problems.

`python -m benchmarks.bench_solvers` writes solvers.json and solvers.png. The truth is dopri8 at 1e-13. An evaluation is
one call of the field for one row; torchdiffeq takes one step for all rows, so all of them pay for the stiffest.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyflowk.solvers import solve_ivp

from .report import RESULTS, describe, machine

D = torch.float64
Field = Callable[[Tensor, Tensor], Tensor]
TOLERANCES = (1e-3, 1e-5, 1e-7, 1e-9)


def lotka_volterra(rows: int) -> tuple[Field, Tensor, float]:
    rates = torch.linspace(0.5, 2.0, rows, dtype=D)

    def f(t: Tensor, y: Tensor) -> Tensor:
        x, z = y[:, 0], y[:, 1]
        return torch.stack([rates * x - x * z, x * z - z], 1)

    return f, torch.tensor([[1.0, 0.5]], dtype=D).repeat(rows, 1), 10.0


def van_der_pol(rows: int) -> tuple[Field, Tensor, float]:
    mu = torch.logspace(-1, 1.3, rows, dtype=D)

    def f(t: Tensor, y: Tensor) -> Tensor:
        x, v = y[:, 0], y[:, 1]
        return torch.stack([v, mu * (1 - x * x) * v - x], 1)

    return f, torch.tensor([[2.0, 0.0]], dtype=D).repeat(rows, 1), 5.0


def two_body(rows: int) -> tuple[Field, Tensor, float]:
    eccentricity = torch.linspace(0.0, 0.9, rows, dtype=D)

    def f(t: Tensor, y: Tensor) -> Tensor:
        place, speed = y[:, :2], y[:, 2:]
        return torch.cat([speed, -place / place.norm(dim=1, keepdim=True) ** 3], 1)

    zero = torch.zeros_like(eccentricity)
    fast = ((1 + eccentricity) / (1 - eccentricity)).sqrt()
    return f, torch.stack([1 - eccentricity, zero, zero, fast], 1), 6.283185307179586


def arenstorf(rows: int) -> tuple[Field, Tensor, float]:
    moon = 0.012277471

    def f(t: Tensor, y: Tensor) -> Tensor:
        x, z, vx, vz = y.unbind(1)
        d1, d2 = ((x + moon) ** 2 + z * z) ** 1.5, ((x - 1 + moon) ** 2 + z * z) ** 1.5
        ax = x + 2 * vz - (1 - moon) * (x + moon) / d1 - moon * (x - 1 + moon) / d2
        return torch.stack([vx, vz, ax, z - 2 * vx - (1 - moon) * z / d1 - moon * z / d2], 1)

    return f, torch.tensor([[0.994, 0.0, 0.0, -2.00158510637908252]], dtype=D), 17.0652165601579625


PROBLEMS = {"Lotka-Volterra": (lotka_volterra, 256), "Van der Pol": (van_der_pol, 256), "two-body": (two_body, 64),
            "Arenstorf": (arenstorf, 1)}  # fmt: skip


def measure(name: str) -> list[dict[str, Any]]:
    """Every method at every tolerance: worst error, evaluations a row, CPU time (best of three)."""
    import torchdiffeq

    make, rows = PROBLEMS[name]
    f, y0, end = make(rows)
    t = torch.tensor([0.0, end], dtype=D)
    truth = solve_ivp(f, y0, t, method="dopri8", rtol=1e-13, atol=1e-13).y[-1]
    calls = 0

    def counted(time_: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return f(time_, y)

    found = []
    for tolerance in TOLERANCES:
        for method in ("dopri5", "tsit5", "dopri8"):
            for package in ("ours",) if method == "tsit5" else ("ours", "torchdiffeq"):
                best = float("inf")
                for _ in range(3):
                    calls, begin = 0, time.process_time()
                    if package == "ours":
                        solution = solve_ivp(counted, y0, t, method=method, rtol=tolerance, atol=tolerance)
                        y, evaluations = solution.y[-1], solution.evaluations.double().mean().item()
                    else:
                        y = torchdiffeq.odeint(counted, y0, t, method=method, rtol=tolerance, atol=tolerance)[-1]
                        evaluations = float(calls)
                    best = min(best, time.process_time() - begin)
                row = {"problem": name, "package": package, "method": method, "tolerance": tolerance,
                       "error": (y - truth).abs().max().item(), "evaluations": evaluations, "calls": calls,
                       "milliseconds": 1e3 * best}  # fmt: skip
                found.append(row)
                print(f"  {package:12}{method:8}{tolerance:8.0e}  error {row['error']:9.2e}  evaluations a row "
                      f"{evaluations:8.1f}  calls {calls:6}  {row['milliseconds']:8.1f} ms", flush=True)  # fmt: skip
    return found


def plot(found: list[dict[str, Any]], path: Path) -> None:
    """One panel a problem: worst error against evaluations a row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(PROBLEMS), figsize=(4.4 * len(PROBLEMS), 4))
    colors = {"dopri5": "tab:blue", "tsit5": "tab:orange", "dopri8": "tab:green"}
    for axis, name in zip(axes, PROBLEMS):
        for package, style in (("ours", "o-"), ("torchdiffeq", "x--")):
            for method, color in colors.items():
                rows = [r for r in found if (r["problem"], r["package"], r["method"]) == (name, package, method)]
                axis.loglog([r["evaluations"] for r in rows], [r["error"] for r in rows], style, color=color,
                            label=f"{package}, {method}")  # fmt: skip
        axis.set_title(name)
        axis.set_xlabel("evaluations a row")
    axes[0].set_ylabel("worst error")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> int:
    """Measure, print, write."""
    torch.set_num_threads(1)
    facts = machine()
    print(describe(facts))
    found: list[dict[str, Any]] = []
    for name in PROBLEMS:
        print(name)
        found += measure(name)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "solvers.json").write_text(json.dumps({"machine": facts, "solves": found}, indent=1) + "\n")
    plot(found, RESULTS / "solvers.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
