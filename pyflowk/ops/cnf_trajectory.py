"""Whole trajectories of a continuous flow whose field is a small network, with the integral of the divergence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from ._router import FusedOp
from .activations import named

__all__ = ["MOST_STAGES", "SMOOTH", "cnf_trajectory", "stage_times"]

#: name -> code of the activation in `csrc/math/cnf_trajectory.h`.
SMOOTH = {"tanh": 0, "softplus": 1, "silu": 2, "elu": 3, "sin": 4}
MOST_STAGES = 4  # of the method
#: of a Runge-Kutta method: weights of the slopes before stage 1, 2, ..., those of the new state
Rows = Sequence[Sequence[float]]


def stage_times(method: Rows, t0: float, t1: float, steps: int, like: Tensor) -> Tensor:
    """Return the time of every evaluation, stage by stage, (steps * stages,), in dtype and device of `like`.

    >>> stage_times([[1 / 2], [0.0, 1.0]], 0.0, 1.0, 2, torch.zeros(()))
    tensor([0.0000, 0.2500, 0.5000, 0.7500])
    """
    place = torch.zeros((), dtype=torch.float64, device=like.device)
    inside = torch.stack([place + sum(row) for row in ((), *method[:-1])])  # no number is copied to a card
    times = t0 + (t1 - t0) * (torch.arange(steps, device=like.device)[:, None] + inside) / steps
    return times.flatten().to(like.dtype)


def _stages(numbers: Sequence[float]) -> int:
    """Return the stages of a method whose rows lie one behind the other."""
    stages = isqrt(2 * len(numbers))
    if not 1 <= stages <= MOST_STAGES or stages * (stages + 1) != 2 * len(numbers):
        wanted = f"1 to {MOST_STAGES} rows of 1, 2, ... numbers"
        raise ValueError(f"cnf_trajectory: method must be {wanted}; got {len(numbers)} numbers")
    return stages


def _matrices(weights: Tensor, size: int, width: int, depth: int) -> Iterator[tuple[Tensor, slice]]:
    """Every layer's matrix and its columns of gates and shifts."""
    at = column = 0
    for layer in range(depth + 1):
        rows, columns = (size if layer == depth else width), (size if layer == 0 else width)
        yield weights[at : at + rows * columns].view(rows, columns), slice(column, column + rows)
        at, column = at + rows * columns, column + rows


def _formula(
    x: Tensor, probes: Tensor, bias: Tensor, weights: Tensor, gates: Tensor, shifts: Tensor, width: int, depth: int,
    activation: int, method: Sequence[float], steps: int, step: float, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The op in plain torch: the reference of the kernel, and what functorch sees."""
    layers = list(_matrices(weights, x.shape[1], width, depth))
    stages, gated = _stages(method), gates.shape[0] > 0
    rows = [method[i * (i + 1) // 2 :][: i + 1] for i in range(stages)]
    act = named(SMOOTH, activation)

    def field(y: Tensor, evaluation: int) -> tuple[Tensor, Tensor]:
        h, tangents = y, probes
        for layer, (matrix, part) in enumerate(layers):
            r, tangents = h @ matrix.t(), tangents @ matrix.t()
            if layer == 0 and bias.shape[1]:
                r = r + bias
            if gated:
                r, tangents = r * gates[evaluation, part], tangents * gates[evaluation, part]
            h = r + shifts[evaluation, part]
            if layer < depth:
                slope, h = act.slope(h), act.value(h)
                tangents = tangents * slope.unsqueeze(1)
        return h, tangents

    integrals = x.new_zeros((x.shape[0], 3))
    path = []
    for i in range(steps):
        slopes: list[Tensor] = []
        rates = []
        for j in range(stages):
            y = x
            for a, k in zip(rows[j - 1] if j else [], slopes):
                y = y + (step * a) * k if a else y
            k, v = field(y, i * stages + j)
            slopes.append(k)
            divergence, jacobian = scale * (probes * v).sum((1, 2)), scale * (v * v).sum((1, 2))
            rates.append(torch.stack([divergence, (k * k).sum(1), jacobian], 1))
        for b, k, rate in zip(rows[-1], slopes, rates):
            if b:
                x, integrals = x + (step * b) * k, integrals + (step * b) * rate
        path.append(x)
    return torch.stack(path, 1), integrals


def _backward_formula(
    x: Tensor, probes: Tensor, bias: Tensor, weights: Tensor, gates: Tensor, shifts: Tensor, path: Tensor,
    dpath: Tensor, dintegrals: Tensor, *config: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    """From the last step to the first, each from the state that it began at: no more memory than one step takes."""
    *network, method, steps, step, scale = config
    stages, one = _stages(method), (*network, method, 1, step, scale)

    def one_step(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return _formula(*(*tensors, *one))

    whole = [x.new_zeros(x.shape), *map(torch.zeros_like, (probes, bias, weights))]
    tables: list[tuple[Tensor, Tensor]] = []
    for i in reversed(range(steps)):
        times = slice(i * stages, (i + 1) * stages)
        inputs = path[:, i - 1] if i else x, probes, bias, weights, gates[times], shifts[times]
        pull = torch.func.vjp(one_step, *inputs)[1]
        dstate, *shared, dgates, dshifts = pull(((whole[0] + dpath[:, i])[:, None], dintegrals))
        whole = [dstate, *(total + part for total, part in zip(whole[1:], shared))]
        tables.append((dgates, dshifts))
    return *whole, *(torch.cat(table) for table in zip(*reversed(tables)))


def _check(
    x: Tensor, probes: Tensor, bias: Tensor, weights: Tensor, gates: Tensor, shifts: Tensor, width: int, depth: int,
    activation: int, method: Sequence[float], steps: int, *_: float,
) -> None:  # fmt: skip
    """What `csrc/bind/cnf_trajectory.cpp` checks, for the paths that do not go through it."""
    others = {"probes": probes, "bias": bias, "weights": weights, "gates": gates, "shifts": shifts}
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"cnf_trajectory: x must be float32 or float64; got {x.dtype}")
    for name, tensor in others.items():
        if tensor.dtype != x.dtype:
            raise TypeError(f"cnf_trajectory: {name} must have x's dtype, {x.dtype}; got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"cnf_trajectory: {name} and x must be on one device; got {tensor.device} and {x.device}")
    if x.ndim != 2 or x.shape[1] < 1:
        raise ValueError(f"cnf_trajectory: x must be (B, D); got {tuple(x.shape)}")
    rows, size = x.shape
    if width < 1 or depth < 1 or steps < 1 or not 0 <= activation < len(SMOOTH):
        raise ValueError(f"cnf_trajectory: no such network: {(width, depth, activation, steps)}")
    evaluations, outputs = steps * _stages(method), depth * width + size
    _fits("probes", probes, probes.ndim == 3 and probes.shape[0] == rows and probes.shape[2] == size, "(B, K, D)")
    _fits("bias", bias, bias.ndim == 2 and bias.shape[0] == rows and bias.shape[1] in (0, width), "(B, 0) or (B, H)")
    _fits("weights", weights, tuple(weights.shape) == (2 * size * width + (depth - 1) * width**2,), "(all weights,)")
    _fits("shifts", shifts, tuple(shifts.shape) == (evaluations, outputs), f"({evaluations}, {outputs})")
    wanted = f"({evaluations}, {outputs}) or (0, {outputs})"
    _fits("gates", gates, tuple(gates.shape) in ((evaluations, outputs), (0, outputs)), wanted)


def _fits(name: str, tensor: Tensor, right: bool, wanted: str) -> None:
    if not right:
        raise ValueError(f"cnf_trajectory: {name} must be {wanted}; got {tuple(tensor.shape)}")


def _fake(x: Tensor, probes: Tensor, bias: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    steps = rest[7]
    assert isinstance(steps, int)
    return x.new_empty((x.shape[0], steps, x.shape[1])), x.new_empty((x.shape[0], 3))


def _fake_backward(*args: object) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in args[:6] if isinstance(t, Tensor))


def _wide(x: Tensor, probes: Tensor, bias: Tensor, weights: Tensor, *rest: Any) -> bool:
    """Predicted for an H200: the kernel's products run at 20 TFLOP/s, the library's at 50, whose launches take 0.13 ms
    an evaluation and whose passes over memory are worth it from 256 units on."""
    if x.ndim != 2 or probes.ndim != 3 or next(number for number in rest if isinstance(number, int)) < 256:
        return False
    return 2 * weights.numel() * x.shape[0] * (1 + probes.shape[1]) > 4e9


def _wide_or_heavy(x: Tensor, probes: Tensor, bias: Tensor, weights: Tensor, *rest: Any) -> bool:
    """Of the way there: predicted for an H200, reading more weights than this, for however few samples, takes a block
    longer than all launches of the library."""
    heavy = weights.numel() > 140_000 and next(number for number in rest if isinstance(number, int)) >= 256
    return heavy or _wide(x, probes, bias, weights, *rest)


_INPUTS = "Tensor x, Tensor probes, Tensor bias, Tensor weights, Tensor gates, Tensor shifts"
_CONFIG = "int width, int depth, int activation, float[] method, int steps, float step, float scale"

_op = FusedOp(
    "cnf_trajectory",
    f"({_INPUTS}, {_CONFIG}) -> (Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=_fake,
    saved=lambda *tensors: tensors[:7],
    backward=FusedOp(
        "cnf_trajectory_backward",
        f"({_INPUTS}, Tensor path, Tensor dpath, Tensor dintegrals, {_CONFIG})"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
        formula=_backward_formula,
        fake=_fake_backward,
        shared=("weights", "gates", "shifts"),
        prefers_formula=_wide,
    ),
    shared=("weights", "gates", "shifts"),
    prefers_formula=_wide_or_heavy,
    expand_below=0,
)


def cnf_trajectory(
    x: Tensor,
    probes: Tensor,
    weights: Tensor,
    shifts: Tensor,
    *,
    gates: Tensor | None = None,
    bias: Tensor | None = None,
    width: int,
    depth: int,
    activation: str = "tanh",
    method: Rows,
    steps: int,
    step: float,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    r"""Integrate dx/dt = f(t, x) by equal steps of a Runge-Kutta method, with what a continuous flow needs on the way.

    f has `depth` hidden layers of `width` units and the layers h -> g_t (W h [+ bias]) + s_t: any conditioning on time
    whose gates g and shifts s are functions of time alone, such as "concat" and "concatsquash" (FFJORD). With v_k =
    (df/dx) e_k for the K probes e_k of a row, the integrals are

        divergence int scale sum_k e_k . v_k dt,   kinetic int |f|^2 dt,   Jacobian int scale sum_k |v_k|^2 dt

    by the weights of the same method. The D unit vectors and scale 1 give the exact divergence and |df/dx|_F^2; K
    Rademacher or Gaussian probes and scale 1 / K give Hutchinson's unbiased estimates of both; K = 0 gives neither.

    Args:
        x: (B, D), float32 or float64, as are the others; any strides.
        probes: (B, K, D).
        weights: all matrices, row by row, first layer first: H D + (depth - 1) H^2 + D H numbers.
        shifts: (steps * stages, depth H + D): s at the times of :func:`stage_times`, all layers side by side.
        gates: g in the same layout; ones if None.
        bias: (B, H), added to W x in the first layer: the condition of a row.
        activation: tanh, softplus, silu, elu or sin.
        method: the rows of an explicit Runge-Kutta method of up to four stages: row i the weights of the slopes that
            make the state of stage i + 1, the last row those of the step. Of a `pyflowk.solvers.tableau`, `a[1:]`.
        step: the size of a step; negative to go back in time.

    Returns:
        path (B, steps, D), the state after each step; integrals (B, 3), the three above, their dt signed like `step`.

    Raises:
        ValueError, TypeError: unknown names, rows, shapes, dtypes or devices that do not fit.

    Cost: steps x stages evaluations of the network and K tangents beside it, in one call; on a card the products of
    large batches of wide networks are torch's. The backward keeps the path alone, evaluates every stage once more and
    costs three evaluations; its gradient is that of the discrete solution.
    Sources: Grathwohl et al. 2019 (arXiv:1810.01367); Finlay et al. 2020 (arXiv:2002.02798).

    >>> x, probes = torch.ones(1, 1), torch.ones(1, 1, 1)
    >>> weights, shifts = torch.tensor([1.0, 0.5]), torch.zeros(40, 2)  # f(x) = tanh(x) / 2
    >>> midpoint, network = [[1 / 2], [0.0, 1.0]], {"width": 1, "depth": 1}
    >>> path, integrals = cnf_trajectory(x, probes, weights, shifts, **network, method=midpoint, steps=20, step=0.05)
    >>> path[:, -1], integrals
    (tensor([[1.4154]]), tensor([[0.1543, 0.1729, 0.0247]]))
    """
    if activation not in SMOOTH:
        raise ValueError(f"activation: expected one of {', '.join(SMOOTH)}; got {activation!r}")
    if [len(row) for row in method] != list(range(1, len(method) + 1)):
        raise ValueError(f"method: expected rows of 1, 2, ... numbers; got rows of {[len(row) for row in method]}")
    gates = shifts.new_empty((0, *shifts.shape[1:])) if gates is None else gates
    bias = x.new_empty((*x.shape[:1], 0)) if bias is None else bias
    numbers = [float(weight) for weight in chain(*method)]
    config = width, depth, SMOOTH[activation], numbers, steps, step, scale
    return _op((x, probes, bias, weights, gates, shifts, *config))
