"""Stochastic differential equations: dy = f(t, y) dt + g(t, y) dW with fixed steps and diagonal noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from .._checks import require_numbers
from ..ops.describe import described, require_kind
from ..ops.draw import draw_normal, draw_uniform
from ..ops.dtypes import state_dtype
from .ode.checked import Checked
from .ode.methods import TABLEAUS
from .ode.stages import column
from .ode.stepping import Fixed
from .ode.times import clock_times
from .ode.unexpected import unexpected

__all__ = ["sdeint"]

METHODS = ("euler_maruyama", "heun")


Chance = torch.Generator | Sequence[torch.Generator] | None
"""What all draws are from: one generator, or one a row."""


def check_chance(generator: Chance, y: Tensor) -> None:
    """ValueError unless a list of generators has one for each row; TypeError for what is none and no list."""
    if generator is None or isinstance(generator, torch.Generator):
        return
    if not isinstance(generator, Sequence):
        raise TypeError(f"generator: expected a torch.Generator, or one a row; got {described(generator)}")
    if len(generator) != y.shape[0]:
        raise ValueError(f"seeds, generator: expected one for each of {y.shape[0]} rows; got {len(generator)}")


def noise_like(y: Tensor, generator: Chance) -> Tensor:
    """Standard normal numbers like y; from a generator a row, if there is a list, whatever the other rows are."""
    return _drawn(draw_normal, y, generator)


def uniform_like(y: Tensor, generator: Chance) -> Tensor:
    """Uniform numbers in [0, 1) likewise."""
    return _drawn(draw_uniform, y, generator)


def _drawn(draw: Callable[..., Tensor], y: Tensor, generator: Chance) -> Tensor:
    dtype = state_dtype(y)
    if generator is None or isinstance(generator, torch.Generator):
        return draw(y.shape, generator, dtype=dtype, device=y.device)
    rows = [draw(y.shape[1:], g, dtype=dtype, device=y.device) for g in generator]
    return torch.stack(rows) if rows else y.new_empty(y.shape, dtype=dtype)


def sdeint(
    drift: Callable[[Tensor, Tensor], Tensor],
    diffusion: Callable[[Tensor, Tensor], Tensor] | float,
    y0: Tensor,
    t: Tensor | Sequence[float],
    *,
    method: str = "euler_maruyama",
    stepping: Fixed | None = None,
    generator: Chance = None,
    seeds: Sequence[int] | Tensor | None = None,
    **others: Any,
) -> Tensor:
    """Sample paths of dy = drift(t, y) dt + diffusion(t, y) dW, elementwise noise, at the times t.

    "euler_maruyama" converges to the Ito solution, strongly of order 1/2 (1 for constant diffusion), weakly of order 1.
    "heun" averages drift and diffusion over a predictor: the Stratonovich solution, which is Ito's where the diffusion
    does not depend on y; strongly of order 1 for a scalar or constant diffusion, of order 2 where it vanishes.

    Args:
        drift: (t, y) -> tensor of y's shape; t as `solve_ivp` hands it out for fixed steps.
        diffusion: the same, or a finite number of at least 0, which it is everywhere.
        y0: (B, *event).
        t: (T,) or (B, T), rising or falling; backward in time the noise has the size of |dt|.
        stepping: `Fixed(steps)` from each time to the next; one, if not given.
        generator: of the noise, or one a row.
        seeds: (B,) integers instead: the noise of a row depends on its seed alone, not on its mates.

    Returns:
        (T, B, *event). Differentiable in y0 and what drift and diffusion depend on.

    Raises:
        ValueError, TypeError: arguments or answers that do not fit.

    Cost: one evaluation of both a step, two for "heun". Source: Kloeden, Platen 1992, chapters 10 and 15.

    >>> paths = sdeint(lambda t, y: -y, 1.0, torch.zeros(3, 2), [0.0, 1.0], stepping=Fixed(10), seeds=[1, 2, 1])
    >>> bool((paths[-1, 0] == paths[-1, 2]).all()), bool((paths[-1, 0] == paths[-1, 1]).any())
    (True, False)
    """
    if others:
        raise unexpected("sdeint", others)
    if stepping is not None and not isinstance(stepping, Fixed):
        raise TypeError(f"stepping: expected Fixed(...); got {stepping}")
    require_kind("drift", drift, Callable, "a function of (t, y)")
    if isinstance(diffusion, Real):
        require_numbers("sdeint", diffusion=diffusion)
    else:
        require_kind("diffusion", diffusion, Callable, "a function of (t, y), or a number")
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}; got {method!r}")
    if not isinstance(y0, Tensor) or not y0.is_floating_point() or y0.ndim < 1:
        raise TypeError(f"y0: expected a floating-point tensor (B, *event); got {described(y0)}")
    if seeds is not None:
        if generator is not None:
            raise ValueError("seeds, generator: expected one of them; got both")
        generator = [torch.Generator(y0.device).manual_seed(int(seed)) for seed in seeds]
    check_chance(generator, y0)
    f = Checked(drift, watches=False)  # each answer is used before the next
    g = Checked(diffusion, watches=False) if callable(diffusion) else lambda t, y: float(diffusion)
    mesh, y = (stepping or Fixed()).mesh(clock_times(t, y0)), y0
    steps, ends = mesh.clocks(TABLEAUS["euler"], y0)
    states = [y0]
    for i, (now, then) in enumerate(ends):
        h = column(steps[i], y)
        dw = h.abs().sqrt() * noise_like(y, generator)
        drifted, spread = h * f(now, y), dw * g(now, y)
        moved = (y + drifted + spread).to(y.dtype)
        if method == "heun":
            drifted, spread = drifted + h * f(then, moved), spread + dw * g(then, moved)
            moved = (y + drifted / 2 + spread / 2).to(y.dtype)
        y = moved
        if mesh.outputs[i + 1]:
            states.append(y)
    return mesh.gather(y0, y, states[1:])
