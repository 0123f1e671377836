"""Whole solves on four classical problems: worst error against evaluations of the field, and time.

`python -m benchmarks --only solvers` takes a few minutes and writes solvers.json and solvers.png. The truth is dopri8
at 1e-13. An evaluation is one call of the field for one row; torchdiffeq takes one step for all rows, so all of them
pay for the stiffest. torchode and diffrax take part where they are installed; the latter is the yardstick of
`compile=True`: field and solver are one compiled loop there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyflowk.solvers import Adaptive, solve_ivp

from .report import describe, machine, save

ON_REQUEST = True
D = torch.float64
TOLERANCES = (1e-3, 1e-5, 1e-7, 1e-9)
METHODS = ("dopri5", "tsit5", "dopri8")
Answer = tuple[Tensor, float]  # the last state, evaluations a row
Solve = Callable[[str, float], Answer]  # of a method at a tolerance


# ---- the problems: a field of the rows' own parameter, in torch or jax.numpy -----------------------------------------


def lotka_volterra(np: Any, rate: Any, y: Any) -> Any:
    x, z = y[..., 0], y[..., 1]
    return np.stack([rate * x - x * z, x * z - z], -1)


def van_der_pol(np: Any, mu: Any, y: Any) -> Any:
    x, v = y[..., 0], y[..., 1]
    return np.stack([v, mu * (1 - x * x) * v - x], -1)


def two_body(np: Any, _: Any, y: Any) -> Any:
    x, z, vx, vz = (y[..., i] for i in range(4))
    cube = (x * x + z * z) ** 1.5
    return np.stack([vx, vz, -x / cube, -z / cube], -1)


def arenstorf(np: Any, moon: Any, y: Any) -> Any:
    x, z, vx, vz = (y[..., i] for i in range(4))
    d1, d2 = ((x + moon) ** 2 + z * z) ** 1.5, ((x - 1 + moon) ** 2 + z * z) ** 1.5
    ax = x + 2 * vz - (1 - moon) * (x + moon) / d1 - moon * (x - 1 + moon) / d2
    return np.stack([vx, vz, ax, z - 2 * vx - (1 - moon) * z / d1 - moon * z / d2], -1)


def _orbits() -> tuple[Tensor, Tensor]:
    eccentricity = torch.linspace(0.0, 0.9, 64, dtype=D)
    zero, fast = torch.zeros_like(eccentricity), ((1 + eccentricity) / (1 - eccentricity)).sqrt()
    return eccentricity, torch.stack([1 - eccentricity, zero, zero, fast], 1)


#: name -> (field, a parameter a row, first states, last time)
PROBLEMS: dict[str, tuple[Callable[..., Any], Tensor, Tensor, float]] = {
    "Lotka-Volterra": (
        lotka_volterra, torch.linspace(0.5, 2.0, 256, dtype=D), torch.tensor([[1.0, 0.5]], dtype=D).repeat(256, 1),
        10.0,
    ),
    "Van der Pol": (
        van_der_pol, torch.logspace(-1, 1.3, 256, dtype=D), torch.tensor([[2.0, 0.0]], dtype=D).repeat(256, 1), 5.0,
    ),
    "two-body": (two_body, *_orbits(), 6.283185307179586),
    "Arenstorf": (
        arenstorf, torch.tensor([0.012277471], dtype=D),
        torch.tensor([[0.994, 0.0, 0.0, -2.00158510637908252]], dtype=D), 17.0652165601579625,
    ),
}  # fmt: skip


# ---- the solvers -----------------------------------------------------------------------------------------------------


def rivals(name: str) -> Iterator[tuple[str, tuple[str, ...], Solve]]:
    """(package, its methods, how it solves) for every package that is installed."""
    problem, parameter, y0, end = PROBLEMS[name]
    t, calls = torch.tensor([0.0, end], dtype=D), [0]

    def field(_: Tensor, y: Tensor) -> Tensor:
        return problem(torch, parameter, y)

    def counted(time_: Tensor, y: Tensor) -> Tensor:
        calls[0] += 1
        return field(time_, y)

    def ours(method: str, tolerance: float, compile: bool = False) -> Answer:
        stepping = Adaptive(tolerance, tolerance, compile=compile)
        solution = solve_ivp(field, y0, t, method=method, stepping=stepping)
        return solution.y[-1], solution.evaluations.double().mean().item()

    yield "ours", METHODS, ours
    yield "ours, compile=True", ("dopri5",), lambda method, tolerance: ours(method, tolerance, compile=True)
    try:
        import torchdiffeq
    except ImportError as missing:
        print(f"  torchdiffeq is missing: {missing}")
    else:

        def of_torchdiffeq(method: str, tolerance: float) -> Answer:
            calls[0] = 0
            y = torchdiffeq.odeint(counted, y0, t, method=method, rtol=tolerance, atol=tolerance)[-1]
            return y, float(calls[0])

        yield "torchdiffeq", ("dopri5", "dopri8"), of_torchdiffeq
    try:
        import torchode
    except ImportError as missing:
        print(f"  torchode is missing: {missing}")
    else:

        def of_torchode(method: str, tolerance: float) -> Answer:
            term = torchode.ODETerm(field)
            control = torchode.IntegralController(atol=tolerance, rtol=tolerance, term=term)
            solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control)
            zero = torch.zeros(len(y0), dtype=D)
            solution = solver.solve(torchode.InitialValueProblem(y0=y0, t_start=zero, t_end=zero + end))
            return solution.ys[:, -1], solution.stats["n_f_evals"].double().mean().item()

        yield "torchode", ("dopri5",), of_torchode
    try:
        import jax
        import jax.numpy as jnp
        from diffrax import Dopri5, ODETerm, PIDController, SaveAt, diffeqsolve
    except ImportError as missing:
        print(f"  diffrax is missing: {missing}")
    else:
        jax.config.update("jax_enable_x64", True)
        start, parameters = jnp.asarray(y0.numpy()), jnp.asarray(parameter.numpy())

        def one(y: Any, p: Any, tolerance: Any) -> Any:
            solution = diffeqsolve(
                ODETerm(lambda t, y, p: problem(jnp, p, y)), Dopri5(), 0.0, end, None, y, args=p, max_steps=100_000,
                stepsize_controller=PIDController(rtol=tolerance, atol=tolerance), saveat=SaveAt(t1=True),
            )  # fmt: skip
            return solution.ys[0], solution.stats["num_steps"]

        all_rows = jax.jit(jax.vmap(one, (0, 0, None)))

        def of_diffrax(method: str, tolerance: float) -> Answer:
            y, steps = jax.block_until_ready(all_rows(start, parameters, tolerance))
            return torch.tensor(y.tolist(), dtype=D), 6 * float(steps.mean()) + 1

        yield "diffrax", ("dopri5",), of_diffrax


@torch.no_grad()
def measure(name: str, repetitions: int) -> list[dict[str, Any]]:
    """Every method at every tolerance: worst error, evaluations a row, CPU time (the best repetition)."""
    problem, parameter, y0, end = PROBLEMS[name]
    exact = solve_ivp(
        lambda _, y: problem(torch, parameter, y), y0, [0.0, end], method="dopri8", stepping=Adaptive(1e-13, 1e-13)
    )
    truth, found = exact.y[-1], []
    for package, methods, solve in rivals(name):
        for method in methods:
            for tolerance in TOLERANCES:
                times = []
                for _ in range(1 + repetitions):  # the first one compiles
                    begin = time.process_time()
                    y, evaluations = solve(method, tolerance)
                    times.append(time.process_time() - begin)
                row = {"problem": name, "package": package, "method": method, "tolerance": tolerance,
                       "error": (y - truth).abs().max().item(), "evaluations": evaluations,
                       "milliseconds": 1e3 * min(times[1:])}  # fmt: skip
                found.append(row)
                print(f"  {package:20}{method:8}{tolerance:8.0e}  error {row['error']:9.2e}  evaluations a row "
                      f"{evaluations:8.1f}  {row['milliseconds']:8.1f} ms", flush=True)  # fmt: skip
    return found


def plot(found: list[dict[str, Any]], path: Path) -> None:
    """Worst error against evaluations a row, and against time, one column a problem."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(PROBLEMS), figsize=(4.4 * len(PROBLEMS), 8))
    colors = {"dopri5": "tab:blue", "tsit5": "tab:orange", "dopri8": "tab:green"}
    styles = {"ours": "o-", "ours, compile=True": "s-.", "torchdiffeq": "x--", "torchode": "+:", "diffrax": "v:"}
    for column, name in enumerate(PROBLEMS):
        for axis, key, label in zip(
            axes[:, column], ("evaluations", "milliseconds"), ("evaluations a row", "ms"), strict=True
        ):
            for package, style in styles.items():
                for method, color in colors.items():
                    rows = [r for r in found if (r["problem"], r["package"], r["method"]) == (name, package, method)]
                    if rows:
                        axis.loglog([r[key] for r in rows], [r["error"] for r in rows], style, color=color,
                                    label=f"{package}, {method}")  # fmt: skip
            axis.set_title(name)
            axis.set_xlabel(label)
    axes[0, 0].set_ylabel("worst error")
    axes[1, 0].set_ylabel("worst error")
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def run(minutes: float, folder: Path | None) -> bool:
    """Solve everything, print, write solvers.json and solvers.png into the folder; always True."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    facts = machine()
    print(describe(facts))
    found: list[dict[str, Any]] = []
    for name in list(PROBLEMS)[: 1 if minutes < 1 else None]:
        print(name)
        found += measure(name, 1 if minutes < 1 else 3)
    if folder is not None:
        save(folder, "solvers", {"machine": facts, "rows": found})
        plot(found, folder / "solvers.png")
    return True
