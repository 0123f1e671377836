"""Entropic optimal transport: the potentials of Sinkhorn's iteration, its plan, and partners drawn from that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from .._checks import require_counts
from ._router import FusedOp
from .draw import draw_uniform
from .dtypes import FLOATING, state_dtype
from .modes import capturing, transformed

__all__ = ["Potentials", "sinkhorn", "sinkhorn_draw", "sinkhorn_plan"]

# of csrc/math/sinkhorn.h: columns of the state of an iteration, and its limits
STEPS, ERROR, DONE, REG, BEGAN, BEST, SINCE, HOLD, UNTIL, COLUMNS = range(10)
LEAST_MASS, FURTHEST, MEMORY, MOST_STEPS = 1e-30, 60.0, 5, 100_000
COOLING, WARM = 8.0, 20.0
_FEW = 8  # coordinates up to which a card takes points, not distances
_AT_ONCE = {"cpu": MOST_STEPS + 1}  # steps of a call; on a card 64, between which somebody looks at the state


class Potentials(NamedTuple):
    """What `sinkhorn` found: potentials ``f`` (B,) and ``g`` (N,), how many ``iterations`` () it took, the ``error`` ()
    of the plan's marginals and whether that is within the tolerance, ``converged`` (); all with G in front if several
    problems were asked for."""

    f: Tensor
    g: Tensor
    iterations: Tensor
    error: Tensor
    converged: Tensor


def costs(x0: Tensor, x1: Sequence[Tensor]) -> Tensor:
    """Squared distances (G, B, N) of points, by differences, or the costs given; in the dtype of arithmetic."""
    x0 = x0.to(state_dtype(x0))
    return (x0[:, :, None] - x1[0].to(x0.dtype)[:, None]).square().sum(-1) if len(x1) else x0


def _begun(state: Tensor, apart: Tensor, reg: float, most: int) -> Tensor:
    """`begin_sinkhorn` of csrc/math/sinkhorn.h, for all problems where nobody has been yet."""
    first = torch.full_like(apart, reg, dtype=torch.float64)
    for _ in range(40 if most >= 100 else 0):
        first = torch.where(WARM * COOLING * first < apart, COOLING * first, first)
    begun = torch.zeros_like(state)
    begun[:, REG] = first
    return torch.where(state[:, REG, None] == 0, begun, state)


def _noted(state: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """The state after a step, and whether that may be mixed: `may_mix` there."""
    steps, _, done, reg, began, best, since, hold, until = state.unbind(1)
    steps = steps + 1
    better = (best == 0) | (error < 0.999 * best)
    stuck = ~better & (steps - since >= 8) & (steps >= until)
    hold = torch.where(stuck, torch.where(hold > 0, 2 * hold, 8.0), hold)
    until = torch.where(stuck, steps + hold, until)
    mixed = steps >= until
    since = torch.where(better | ~mixed, steps, since)
    best = torch.where(better, error, best)
    return torch.stack([steps, error, done, reg, began, best, since, hold, until], 1), mixed


def _cooled(state: Tensor, reg: float, most: int) -> tuple[Tensor, Tensor]:
    """The state with the reg of the next step, and whether it is another: `cools` there."""
    steps, error, done, now, began, _, _, _, _ = state.unbind(1)
    late, none = 2 * steps >= most, torch.zeros_like(steps)
    cools = (now > reg) & ~((error > 0.1) & (steps - began < 30) & ~late) & (done == 0)
    less = torch.where(late | (now < COOLING * reg), reg, now / COOLING)
    after = torch.stack([steps, error, done, less, steps, none, steps, none, none], 1)
    return torch.where(cools[:, None], after, state), cools


def _step(past: Sequence[tuple[Tensor, Tensor, Tensor]], residual: Tensor) -> Tensor:
    """The step of Anderson mixing: `solve_mixing` there, for what each problem knows."""
    if not past:
        return residual
    changes, moves, known = (torch.stack(part, 1) for part in zip(*past))
    of = changes.double() * known[..., None]
    gram, x = of @ of.mT, of @ residual.double()[..., None]
    most = gram.diagonal(dim1=1, dim2=2).amax(1)[:, None]
    diagonal = torch.where(known & (most > 0), 1e-10 * most, 1.0)
    x = torch.linalg.solve_ex(gram + torch.diag_embed(diagonal), x)[0]
    step = residual - (x.to(residual.dtype) * moves).sum(1)
    return torch.where(step.isfinite().all(1, keepdim=True), step, residual)


def _formula(
    x0: Tensor,
    x1: Sequence[Tensor],
    a: Tensor,
    b: Tensor,
    f: Tensor,
    g: Tensor,
    state: Tensor,
    reg: float,
    reg_m: float,
    tolerance: float,
    most: int,
    steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The op in plain torch: the reference of every kernel."""
    c = costs(x0, x1)
    fresh, apart = (state[:, REG] == 0)[:, None], state[:, REG]
    if c.numel():
        first = c.amin(2)
        back = (c - first[:, :, None]).amin(1)
        f = torch.where(fresh, (c - back[:, None]).amin(2), f)
        g = torch.where(fresh, back, g)
        apart = (c.masked_fill(c == math.inf, -math.inf) - first[:, :, None]).amax((1, 2)).double()
    state, mass = _begun(state, apart, reg, most), b.double().sum(1)
    past: list[tuple[Tensor, Tensor, Tensor]] = []  # changes of residuals, moves, and who knows them
    last: tuple[Tensor, Tensor, Tensor] | None = None
    for _ in range(steps):
        going = state[:, DONE] == 0
        if not going.any():
            break
        now = state[:, REG, None].to(f.dtype)
        relax = 1 / (1 + now / reg_m)

        def answer(p: Tensor, sums: Tensor, now: Tensor = now, relax: Tensor = relax) -> Tensor:
            change = -relax * sums.clamp(min=LEAST_MASS).log() - (1 - relax) * p / now
            return change.clamp(-FURTHEST, FURTHEST)

        sums = (torch.exp((f[:, :, None] + g[:, None] - c) / now[..., None]) * b[:, None]).sum(2)
        f = torch.where(going[:, None], f + now * answer(f, sums), f)
        sums = (torch.exp((f[:, :, None] + g[:, None] - c) / now[..., None]) * a[:, :, None]).sum(1)
        error = (b * sums - b * torch.exp(-g / reg_m)).abs().double().sum(1) / torch.where(mass > 0, mass, 1.0)
        ended = error.isnan() | ((state[:, REG] <= reg) & ((error <= tolerance) | (state[:, STEPS] >= most)))
        stopped = torch.cat((state[:, :1], error[:, None], torch.ones_like(error)[:, None], state[:, REG:]), 1)
        after, mixed = _noted(state, error)
        state = torch.where(going[:, None], torch.where(ended[:, None], stopped, after), state)
        residual = answer(g, sums)
        if last is not None:
            change = residual - last[0]
            past = [*((c_, m_, k & mixed) for c_, m_, k in past), (change, last[1] + change, mixed & last[2])][-MEMORY:]
        step = _step(past, residual)
        g = torch.where((state[:, DONE] == 0)[:, None], g + now * step.clamp(-FURTHEST, FURTHEST), g)
        if math.isinf(reg_m):  # what all g have in common f takes back: left to itself it would wander off
            f, g = f + g.mean(1, keepdim=True), g - g.mean(1, keepdim=True)
        state, cooled = _cooled(state, reg, most)
        last = residual, step, ~cooled
        past = [(c_, m_, k & ~cooled) for c_, m_, k in past]
    lost = state[:, ERROR].isnan()[:, None]
    return f.masked_fill(lost, math.nan), g.masked_fill(lost, math.nan), state


def _check_points(x0: Tensor, x1: Sequence[Tensor], reg: float) -> tuple[int, int, int]:
    """G, B and N, or ValueError or TypeError."""
    shapes = [tuple(t.shape) for t in (x0, *x1)]
    fits = x0.ndim == 3 and len(x1) <= 1
    if not fits or any(t.ndim != 3 or t.shape[0] != x0.shape[0] or t.shape[2] != x0.shape[2] for t in x1):
        raise ValueError(
            "sinkhorn: expected x0 (G, B, D) and x1 (G, N, D), or costs (G, B, N) alone; "
            f"got {' and '.join(map(str, shapes))}"
        )
    for what, t in (("x0", x0), *(("x1", t) for t in x1)):
        if t.dtype not in FLOATING or t.dtype != x0.dtype:
            raise TypeError(f"sinkhorn: {what} must be {x0.dtype if x0.dtype in FLOATING else 'real'}; got {t.dtype}")
        if t.device != x0.device:
            raise ValueError(f"sinkhorn: x0 and {what} must be on one device; got {x0.device} and {t.device}")
    if not 0 < reg <= 1e300:
        raise ValueError(f"sinkhorn: reg must be finite and above 0; got {reg}")
    return x0.shape[0], x0.shape[1], x1[0].shape[1] if x1 else x0.shape[2]


def _check_beside(x0: Tensor, what: str, t: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> None:
    if t.dtype != dtype:
        raise TypeError(f"sinkhorn: {what} must be {dtype}; got {t.dtype}")
    if t.shape != shape:
        raise ValueError(f"sinkhorn: {what} must be {shape}; got {tuple(t.shape)}")
    if t.device != x0.device:
        raise ValueError(f"sinkhorn: x0 and {what} must be on one device; got {x0.device} and {t.device}")


def _check(
    x0: Tensor,
    x1: Sequence[Tensor],
    a: Tensor,
    b: Tensor,
    f: Tensor,
    g: Tensor,
    state: Tensor,
    reg: float,
    reg_m: float,
    tolerance: float,
    most: int,
    steps: int,
) -> None:
    """What `csrc/bind/sinkhorn.cpp` checks, for the paths that do not go through it."""
    problems, sources, targets = _check_points(x0, x1, reg)
    for what, t, n in (("a", a, sources), ("b", b, targets), ("f", f, sources), ("g", g, targets)):
        _check_beside(x0, what, t, (problems, n), state_dtype(x0))
    _check_beside(x0, "state", state, (problems, COLUMNS), torch.float64)
    if not (reg_m > 0 and tolerance >= 0 and 0 <= most <= MOST_STEPS and steps >= 0):
        raise ValueError(
            f"sinkhorn: expected reg_m above 0, a tolerance, most steps up to {MOST_STEPS} and steps; "
            f"got {reg_m}, {tolerance}, {most} and {steps}"
        )


_op = FusedOp(
    "sinkhorn",
    "(Tensor x0, Tensor[] x1, Tensor a, Tensor b, Tensor f, Tensor g, Tensor state, float reg, float reg_m, "
    "float tolerance, int most, int steps) -> (Tensor, Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=lambda x0, x1, a, b, f, g, state, *rest: tuple(t.new_empty(t.shape) for t in (f, g, state)),
    expand_below=0,
)


def _draw_formula(x0: Tensor, x1: Sequence[Tensor], b: Tensor, g: Tensor, uniform: Tensor, reg: float) -> tuple[Tensor]:
    if not uniform.numel():
        return (torch.zeros_like(uniform, dtype=torch.int64),)
    exponents = (g[:, None] - costs(x0, x1)) / reg
    chances = b[:, None] * torch.softmax(exponents.masked_fill(b[:, None] <= 0, -math.inf), 2)
    heights = chances.double().cumsum(2)
    index = torch.searchsorted(heights, (uniform * heights[..., -1])[..., None], right=True)[..., 0]
    last = chances.shape[2] - 1 - (chances > 0).flip(2).byte().argmax(2)
    return (torch.minimum(index, last),)


def _draw_check(x0: Tensor, x1: Sequence[Tensor], b: Tensor, g: Tensor, uniform: Tensor, reg: float) -> None:
    problems, sources, targets = _check_points(x0, x1, reg)
    for what, t in (("b", b), ("g", g)):
        _check_beside(x0, what, t, (problems, targets), state_dtype(x0))
    _check_beside(x0, "uniform", uniform, (problems, sources), torch.float64)
    if targets == 0 and problems * sources:
        raise ValueError("sinkhorn: there is no target to draw from")


_draw = FusedOp(
    "sinkhorn_draw",
    "(Tensor x0, Tensor[] x1, Tensor b, Tensor g, Tensor uniform, float reg) -> Tensor",
    formula=_draw_formula,
    check=_draw_check,
    fake=lambda x0, x1, b, g, uniform, reg: (uniform.new_empty(uniform.shape, dtype=torch.int64),),
    expand_below=0,
)


def _distances(x0: Tensor, x1: Tensor) -> Tensor:
    """Squared distances by torch's product, from a common centre, so that little is lost."""
    x0, x1 = x0.to(state_dtype(x0)), x1.to(state_dtype(x1))
    centre = x1.mean(1, keepdim=True)
    x0, x1 = x0 - centre, x1 - centre
    squares = x0.square().sum(2)[:, :, None] + x1.square().sum(2)[:, None]
    return torch.baddbmm(squares, x0, x1.mT, alpha=-2).clamp(min=0)


def sinkhorn(
    x0: Tensor,
    x1: Tensor | None,
    reg: float,
    *,
    reg_m: float | None = None,
    a: Tensor | None = None,
    b: Tensor | None = None,
    tolerance: float = 1e-4,
    iterations: int = 2000,
) -> Potentials:
    r"""Solve entropic optimal transport between two clouds of points, or by given costs, balanced or not.

    The plan minimises :math:`\langle P, C \rangle + \mathrm{reg}\, \mathrm{KL}(P \| a b^T)` over all plans whose
    marginals are a and b; with reg_m these need not be met: :math:`\mathrm{reg}_m (\mathrm{KL}(P 1 \| a) +
    \mathrm{KL}(P^T 1 \| b))` is added instead. It is

    .. math:: P_{ij} = a_i b_j \exp((f_i + g_j - C_{ij}) / \mathrm{reg}), \quad C_{ij} = |x_{0,i} - x_{1,j}|^2.

    The iteration starts from c-transforms, at a larger reg where costs are far apart, and mixes its last five steps
    (Anderson), which takes three to ten times fewer of them than plain ones where reg is small.

    Args:
        x0: (B, D), float32, float64, bfloat16 or float16, or (G, B, D) for G problems at once. With x1=None, costs
            (B, N) or (G, B, N); those that are infinite are never paid.
        x1: (N, D) or (G, N, D), of the same dtype.
        reg: above 0, in the unit of the costs. The Schroedinger bridge of noise sigma has reg = 2 sigma^2.
        reg_m: above 0, in the unit of the costs; None for exact marginals.
        a, b: weights (B,) or (G, B), and (N,) or (G, N), of at least 0; 1 / B and 1 / N if none are given. For exact
            marginals their ratios count, and each sums to 1.
        tolerance: of the error, at which the iteration ends: the sum of \|P^T 1 - b\| over that of b; with reg_m, of
            \|P^T 1 - b e^{-g / reg_m}\|. The other marginal is met in every step. float32 reaches some 1e-6.
        iterations: the most that are made.

    Returns:
        `Potentials`; float32 (float64 for float64). They have no gradient. Where an iteration has not converged the
        error says how far it is; NaN in x0 or x1 gives NaN in the potentials of its problem.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices, weights or numbers that do not fit.

    Cost: a pass over B x N numbers an iteration, which are kept up to 2^25 of them and made again beyond; problems run
    beside each other on threads, an iteration on one. On a card nothing is kept, and the host looks after every 64
    iterations whether to go on; a CUDA graph holds all of them. Sources: Cuturi 2013 (arXiv:1306.0895); Chizat et al.
    2018 (arXiv:1607.05816); Anderson 1965.

    >>> x0, x1 = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.1], [0.1]])
    >>> found = sinkhorn(x0, x1, reg=0.05)
    >>> sinkhorn_plan(x0, x1, found, reg=0.05).round(decimals=4)
    tensor([[0.0000, 0.5000],
            [0.5000, 0.0000]])
    """
    require_counts("sinkhorn", 0, iterations=iterations)
    if iterations > MOST_STEPS or not tolerance >= 0:
        raise ValueError(
            f"sinkhorn: expected at most {MOST_STEPS} iterations and a tolerance of at least 0; "
            f"got {iterations} and {tolerance}"
        )
    if reg_m is not None and not reg_m > 0:
        raise ValueError(f"sinkhorn: reg_m must be above 0, or None for exact marginals; got {reg_m}")
    reg_m = math.inf if reg_m is None else float(reg_m)
    x0, x1s, single = _problems(x0, x1)
    count, sources, targets = _check_points(x0, x1s, reg)
    if x0.is_cuda and x1s and x0.shape[2] > _FEW:  # products are torch's
        x0, x1s = _distances(x0, x1s[0]), []
    left = _weights("a", a, x0, (count, sources), reg_m == math.inf)
    right = _weights("b", b, x0, (count, targets), reg_m == math.inf)
    state = x0.new_zeros((count, COLUMNS), dtype=torch.float64)
    f, g = torch.zeros_like(left), torch.zeros_like(right)
    steps = min(iterations + 1, _AT_ONCE.get(x0.device.type, 64))
    for start in range(0, iterations + 1 if count * sources * targets else 0, steps):
        if start and not capturing(state) and bool((state[:, DONE] == 1).all()):
            break
        f, g, state = _op((x0, x1s, left, right, f, g, state, float(reg), reg_m, float(tolerance), iterations, steps))
    found = Potentials(f, g, state[:, STEPS].long(), state[:, ERROR], state[:, ERROR] <= tolerance)
    return Potentials(*(t[0] for t in found)) if single else found


def sinkhorn_plan(
    x0: Tensor,
    x1: Tensor | None,
    potentials: Potentials,
    reg: float,
    *,
    a: Tensor | None = None,
    b: Tensor | None = None,
    balanced: bool = True,
) -> Tensor:
    """Make the plan (B, N), or (G, B, N), of potentials that `sinkhorn` found for the same arguments; plain torch.

    Say balanced=False if they were found with reg_m, so that weights are taken as they are.
    """
    x0, x1s, single = _problems(x0, x1)
    count, sources, targets = _check_points(x0, x1s, reg)
    left = _weights("a", a, x0, (count, sources), balanced)
    right = _weights("b", b, x0, (count, targets), balanced)
    f, g = (t[None] if single else t for t in potentials[:2])
    plan = left[:, :, None] * right[:, None] * torch.exp((f[:, :, None] + g[:, None] - costs(x0, x1s)) / reg)
    return plan[0] if single else plan


def sinkhorn_draw(
    x0: Tensor, x1: Tensor | None, g: Tensor, reg: float, *, b: Tensor | None = None, generator: Generator | None = None
) -> Tensor:
    r"""Draw a partner for every row of x0 from the plan of potentials g.

    Row i gets j with chances :math:`\propto b_j \exp((g_j - C_{ij}) / \mathrm{reg})`.
    Arguments are those of `sinkhorn`, with its g (N,) or (G, N), whose other potential cancels; any other g makes a
    soft nearest neighbour, as the dual of a semidiscrete transport has it. One uniform number a row, float64, comes
    from the generator. The result is int64, (B,) or (G, B). Cost: two passes over B x N numbers, of which sixteen rows
    are in memory at a time.

    Raises:
        ValueError, TypeError: what does not fit, as for `sinkhorn`; no target, N = 0.

    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> sinkhorn_draw(x, x.flip(0), torch.zeros(3), 1e-3, generator=torch.Generator().manual_seed(0))
    tensor([2, 1, 0])
    """
    x0, x1s, single = _problems(x0, x1)
    count, sources, targets = _check_points(x0, x1s, reg)
    g = g[None] if single else g
    uniform = draw_uniform((count, sources), generator, dtype=torch.float64, device=x0.device)
    (index,) = _draw((x0, x1s, _weights("b", b, x0, (count, targets), True), g.detach(), uniform, float(reg)))
    return index[0] if single else index


def _problems(x0: Tensor, x1: Tensor | None) -> tuple[Tensor, list[Tensor], bool]:
    """Points or costs as the ops take them, and whether it is a single problem; potentials have no gradient."""
    single = x0.ndim == 2
    points = [t.detach()[None] if single else t.detach() for t in (x0, *([] if x1 is None else [x1]))]
    return points[0], points[1:], single


def _weights(what: str, given: Tensor | None, x0: Tensor, shape: tuple[int, int], balanced: bool) -> Tensor:
    """Weights of every problem, in the dtype of arithmetic."""
    if given is None:
        return x0.new_full(shape, 1 / max(1, shape[1]), dtype=state_dtype(x0))
    if given.shape not in (shape, shape[1:]):
        raise ValueError(f"sinkhorn: {what} must be {shape[1:]} or {shape}; got {tuple(given.shape)}")
    weights = given.detach().to(x0.device, torch.float64).expand(shape)
    if weights.is_cpu and not transformed() and bool(((weights < 0) | (weights.sum(1, keepdim=True) <= 0)).any()):
        raise ValueError(f"sinkhorn: {what} must be at least 0, and not 0 everywhere; got {float(weights.min()):g}")
    weights = weights / weights.sum(1, keepdim=True) if balanced else weights
    return weights.to(state_dtype(x0)).contiguous()
