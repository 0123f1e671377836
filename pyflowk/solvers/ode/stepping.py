"""How long the steps are: chosen by their errors, or fixed beforehand. Either combines with any method and gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..._checks import require_counts
from ...ops.describe import described
from .mesh import Mesh
from .methods import estimates_error
from .options import Options
from .times import check_order

__all__ = ["Adaptive", "Fixed", "Stepping", "stepping_for"]

Tolerance = float | Tensor | Sequence[Any]


@dataclass(frozen=True, repr=False, eq=False)
class Adaptive(Options):
    """Steps whose error is within tolerance, every row by itself: for methods that estimate their error.

    A step is accepted if e <= 1, e being the root mean square of error / (atol + rtol |y|) over the row. The next one
    is h safety e^-(I+P+D)/q e_1^(P+2D)/q e_2^-D/q within bounds; e_1, e_2 are those of the two accepted steps before, q
    the order of the estimate.

    Args:
        rtol, atol: numbers, or tensors that broadcast against the state (slower); for a tuple of states one of either
            for each.
        norm: makes (B,) of the scaled error (B, *event) of a step, in place of the root mean square.
        safety, shrink, grow: the factor, and the smallest and largest change from one step to the next.
        pid: the exponents P, I, D.
        dt_min, dt_max, max_steps: bounds of a step, and of their number.
        first_step: a number or (B,); found from the field if not given, for one evaluation.
        poll: how many steps go between two looks of the host at the rows (default 1 on the CPU, 8 elsewhere).
        compact: let rows leave the batch when half of it has ended, which pays where an evaluation of more rows costs
            more. Only for a field that treats all rows alike, as it is then called with some of them; not with events
            or dense output.
        compile: put field, stages and control of all steps into one compiled loop. Pays for cheap fields. On the CPU a
            field that is a formula in a few numbers a row (elementwise functions, small products and sums within the
            row) becomes C++ that solves row by row, each as if alone, after seconds of compiling; any other field a
            loop of torch.compile, after up to a minute, whose rows are no longer bitwise independent of each other.
            Either for each field and method, and twice for batch sizes. Results are equal to rounding; of a
            differentiated solve it is the search for the steps that is compiled. Not with events.

    Raises ValueError or TypeError for numbers that cannot be, and for `compact` or `compile` beside one another, a norm
    or tolerances by element. Sources: Hairer, Norsett, Wanner 1993, II.4; Soderlind 2003.

    >>> Adaptive(rtol=1e-3, atol=1e-6, pid=(0.4, 0.3, 0.0))
    Adaptive(rtol=0.001, atol=1e-06, pid=(0.4, 0.3, 0.0))
    """

    rtol: Tolerance = 1e-7
    atol: Tolerance = 1e-9
    norm: Callable[[Any], Tensor] | None = None
    safety: float = 0.9
    shrink: float = 0.2
    grow: float = 10.0
    pid: tuple[float, float, float] = (0.0, 1.0, 0.0)
    dt_min: float = 0.0
    dt_max: float = math.inf
    max_steps: int = 100_000
    first_step: float | Tensor | None = None
    poll: int | None = None
    compact: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "rtol", _tolerance("rtol", self.rtol))
        object.__setattr__(self, "atol", _tolerance("atol", self.atol))
        if not _possible(self.rtol, self.atol):
            raise ValueError(
                f"rtol, atol: expected numbers that are not negative nor both zero; got {self.rtol}, {self.atol}"
            )
        pid = self.pid if isinstance(self.pid, (tuple, list)) else (self.pid,)
        self._check_kinds(pid)
        if not 0 < self.shrink < 1 <= self.grow or not 0 < self.safety <= 1:
            raise ValueError(
                "shrink, grow, safety: expected 0 < shrink < 1 <= grow and 0 < safety <= 1; "
                f"got {self.shrink}, {self.grow}, {self.safety}"
            )
        if len(pid) != 3 or not all(map(math.isfinite, pid)):
            raise ValueError(f"pid: expected three finite numbers; got {self.pid}")
        if not 0 <= self.dt_min <= self.dt_max or not self.dt_max > 0 or not self.max_steps >= 1:
            raise ValueError(
                "dt_min, dt_max, max_steps: expected 0 <= dt_min <= dt_max, dt_max > 0, max_steps >= 1; "
                f"got {self.dt_min}, {self.dt_max}, {self.max_steps}"
            )
        if self.compact and self.compile:
            raise ValueError("compact, compile: expected one of them; got both")
        if (self.compact or self.compile) and not self.plain:
            name = "compact" if self.compact else "compile"
            raise ValueError(f"{name}: expected neither norm nor tolerances by element beside it")

    def _check_kinds(self, pid: Sequence[Any]) -> None:
        if self.norm is not None and not callable(self.norm):
            raise TypeError(f"norm: expected a function of an error; got {described(self.norm)}")
        numbers = {"safety": self.safety, "shrink": self.shrink, "grow": self.grow, "dt_min": self.dt_min,
                   "dt_max": self.dt_max, "max_steps": self.max_steps}  # fmt: skip
        for name, value in [*numbers.items(), *(("pid", rate) for rate in pid)]:
            if not isinstance(value, (Real, Tensor)) or (isinstance(value, Tensor) and value.ndim):
                raise TypeError(f"{name}: expected a number; got {described(value)}")
        if self.poll is not None:
            require_counts("Adaptive", poll=self.poll)

    @property
    def plain(self) -> bool:
        """Whether the error is what the kernels measure."""
        return self.norm is None and isinstance(self.rtol, float) and isinstance(self.atol, float)

    def of_state(self, y0: Tensor) -> Adaptive:
        """The same for a state like y0; ValueError for tolerances that do not broadcast against it."""
        if self.plain:
            return self
        found = {"rtol": _as_tensor("rtol", self.rtol, y0), "atol": _as_tensor("atol", self.atol, y0)}
        return replace(self, **found)

    def first_steps(self, begin: Tensor, end: Tensor) -> Tensor | None:
        """The first steps that were asked for, (B,), signed."""
        if self.first_step is None:
            return None
        wanted = f"first_step: expected a number or ({len(begin)},) of them, none zero or NaN"
        try:
            step = torch.as_tensor(self.first_step, dtype=begin.dtype, device=begin.device).abs()
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{wanted}; got {described(self.first_step)}") from error
        if step.shape not in ((), begin.shape) or not bool((step > 0).all()):
            raise ValueError(f"{wanted}; got {self.first_step}")
        return torch.where(end < begin, -1, 1) * step.expand(begin.shape)


@dataclass(frozen=True, repr=False, eq=False)
class Fixed(Options):
    """Equal steps from each time to the next: `steps` of them (one, if not given), or as few as are no longer than
    `step_size`; every method takes them. With `perturb`, a field that jumps at the ends of steps is seen from within
    each step.

    `steps` ask nothing of the host, so that on a card a whole solve, samples of a model too, can be one CUDA graph: by
    `torch.cuda.graph`, after a first call as usual, or within `torch.compile(mode="reduce-overhead")`. It replays with
    what stands in y0 and the parameters then; a generator must be registered with it.

    Raises ValueError for both counts, or one that is none.

    >>> Fixed(20), Fixed(step_size=0.1)
    (Fixed(steps=20), Fixed(step_size=0.1))
    >>> with torch.cuda.graph(graph := torch.cuda.CUDAGraph()):  # doctest: +SKIP
    ...     y1 = odeint(field, y0, [0.0, 1.0], method="rk4", stepping=Fixed(20))[-1]
    >>> graph.replay()  # doctest: +SKIP
    """

    steps: int | None = None
    step_size: float | None = None
    perturb: bool = False

    def __post_init__(self) -> None:
        steps, size = self.steps, self.step_size
        if size is not None and steps is not None:
            raise ValueError(f"steps, step_size: expected one of them; got {steps} and {size}")
        if steps is not None and (not isinstance(steps, Real) or not 1 <= steps < math.inf or steps != int(steps)):
            raise ValueError(f"steps: expected at least 1, a whole number; got {steps!r}")
        number = isinstance(size, Real) or (isinstance(size, Tensor) and not size.ndim)
        if size is not None and (not number or not size > 0):
            raise ValueError(f"step_size: expected a positive number; got {size!r}")

    def count(self, way: float) -> int:
        """How many steps a way takes, where `steps` are those of a way of length one."""
        length = abs(way)
        steps = (self.steps or 1) * length if self.step_size is None else length / self.step_size
        return max(1, math.ceil(steps - 1e-9))

    def mesh(self, times: Tensor) -> Mesh:
        """The points of all steps, with the times among them."""
        count = times.shape[-1]
        if self.step_size is None:
            each = [int(self.steps or 1)] * (count - 1)
        else:
            check_order(times)
            longest = times.detach().diff(dim=-1).abs()
            longest = longest.amax(0) if longest.ndim == 2 and longest.shape[0] else longest.reshape(-1, count - 1)[0]
            each = [max(int(length > 0), math.ceil(length / self.step_size - 1e-9)) for length in longest.tolist()]
        moved = times.movedim(-1, 0)
        points, outputs = [], [[0]]
        for j, n in enumerate(each):
            points.append(_between(moved[j : j + 2], n))
            outputs += [[] for _ in range(n)]
            outputs[-1].append(j + 1)
        return Mesh(torch.cat([*points, moved[-1:]]), outputs, perturb=self.perturb)


def _between(ends: Tensor, steps: int) -> Tensor:
    """The points (steps, ...) at which equal steps between two begin."""
    start = ends[:1]
    if steps < 2:
        return start[:steps]
    places = torch.arange(steps, dtype=ends.dtype, device=ends.device).reshape(-1, *[1] * (ends.ndim - 1))
    return start + (ends[1:] - start) * (places / steps)


Stepping = Adaptive | Fixed


def stepping_for(method: str, stepping: Stepping | None) -> Stepping:
    """The stepping of a method: its own choice if there is none, adaptive where it estimates its error.

    TypeError for what is no stepping, ValueError for adaptive steps of a method that estimates none.
    """
    estimates = estimates_error(method)
    if stepping is None:
        return Adaptive() if estimates else Fixed()
    if not isinstance(stepping, (Adaptive, Fixed)):
        raise TypeError(f"stepping: expected Adaptive(...) or Fixed(...); got {described(stepping)}")
    if isinstance(stepping, Adaptive) and not estimates:
        raise ValueError(f"stepping: expected Fixed(...) for {method}, which estimates no error; got {stepping}")
    return stepping


# ---- tolerances ----------------------------------------------------------------------------------------------------


def _tolerance(name: str, value: Any) -> Any:
    """A float, a tensor, or a tuple of such."""
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, (tuple, list)):
        return tuple(_tolerance(name, part) for part in value)
    try:
        value = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.float64).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}: expected a number or numbers; got {value!r}") from error
    return value if value.ndim else float(value)


def _possible(rtol: Any, atol: Any) -> bool:
    """Whether none is negative, and not both are zero."""
    if isinstance(rtol, tuple) or isinstance(atol, tuple):
        parts = max(len(value) for value in (rtol, atol) if isinstance(value, tuple))
        pairs = [value if isinstance(value, tuple) else (value,) * parts for value in (rtol, atol)]
        return all(_possible(*pair) for pair in zip(*pairs))
    if isinstance(rtol, float) and isinstance(atol, float):
        return rtol >= 0 and atol >= 0 and rtol + atol > 0
    rtol, atol = torch.as_tensor(rtol), torch.as_tensor(atol)
    return bool((rtol >= 0).all() & (atol >= 0).all() & (rtol + atol > 0).all())


def _as_tensor(name: str, value: Any, y0: Tensor) -> Any:
    if isinstance(value, float):
        return value
    try:
        found = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected a number or a tensor; got {described(value)}") from error
    if found.ndim > y0.ndim or any(n not in (1, m) for n, m in zip(found.shape[::-1], y0.shape[::-1])):
        raise ValueError(f"{name}: expected what broadcasts against {tuple(y0.shape)}; got {tuple(found.shape)}")
    return found
