"""What samplers on affine paths have in common: a field that is asked along a grid, and what its answers mean there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..nets.field import Field, as_field
from ..ops.describe import described
from ..ops.divergence import as_slope
from ..ops.dtypes import state_dtype
from ..ops.modes import transformed
from ..paths import Coefficients, Schedule, convert
from ..paths.schedules import require_schedule
from .grids import check_grid
from .ode.times import times_beside
from .sde import Chance, check_chance, noise_like

TINY = 1e-12
"""Where something would be divided by 0, at ends that no sampler divides at, it is divided by this."""


class Course:
    r"""A walk from x (B, \*event) along the times of a grid, N steps.

    Data, noise and velocity are linear in x and in what the field says, f: their *shares* (2, N + 1), of x and of f at
    every time, are known beforehand, and so is every step that is made of them. No step reads a number back to the
    host.
    """

    def __init__(
        self,
        field: Field | Callable[..., Tensor],
        x: Tensor,
        schedule: Schedule,
        grid: Tensor,
        prediction: str,
        context: Tensor | None,
        generator: Chance,
    ) -> None:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 1:
            raise TypeError(f"x: expected a floating-point tensor (B, *event); got {described(x)}")
        check_chance(generator, x)
        require_schedule(schedule)
        self.field, self.context, self.generator = as_field(field), context, generator
        if self.field.predicts not in (None, prediction):
            told = f"{type(self.field).__name__}, which predicts {self.field.predicts}"
            raise ValueError(f"prediction: expected {self.field.predicts!r} of a {told}; got {prediction!r}")
        self.schedule, self.prediction = schedule, prediction
        self.x, self.grid = x.to(state_dtype(x)), times_beside(check_grid(grid), x)
        self.steps, self.at = len(self.grid) - 1, schedule.at(self.grid)
        self.now = Coefficients(*(c[:-1] for c in self.at))
        self.then = Coefficients(*(c[1:] for c in self.at))
        self.times = self.grid.to(self.x.dtype).unbind()
        self.still = torch.stack(
            (torch.ones_like(self.grid[1:]), torch.zeros_like(self.grid[1:]))
        )  # shares of x itself
        if prediction in ("noise", "score") and self.sees((self.now.alpha == 0).any()):
            raise ValueError(f"prediction: {prediction} says nothing of the data at a time without any on {schedule}")

    def rise(self, owner: str) -> Course:
        """Itself; ValueError where the grid falls, from data to noise, for one that cannot walk so."""
        if self.sees(self.grid[0] > self.grid[-1]):
            raise ValueError(f"grid: expected times that rise, from noise to data, for {owner}; got others")
        return self

    def shares(self, what: str, times: Tensor | None = None) -> Tensor:
        """Of x and of f, (2, N + 1), in "data", "noise" or "velocity"; at other times, if there are such."""
        t = self.grid if times is None else times
        one, none = torch.ones_like(t), torch.zeros_like(t)
        both = ((none, one), (one, none))
        return torch.stack([convert(f, x, t, self.schedule, self.prediction, what, TINY) for f, x in both])

    def ask(self, i: int, x: Tensor) -> Tensor:
        """f at the i-th time."""
        return self.ask_at(self.times[i], x)

    def ask_at(self, t: Tensor, x: Tensor) -> Tensor:
        """f at a time of its own; ValueError for an answer of another shape, which would be spread over events."""
        return as_slope(self.field(t, x, self.context), x)

    def noise(self) -> Tensor:
        return noise_like(self.x, self.generator)

    def walk(self, moves: Tensor, fresh: Tensor | None = None) -> Tensor:
        """Where the steps x <- shares of x and f, moves (2, N), and fresh noise (N,) lead."""
        x, (of_x, of_f) = self.x, rows(moves)
        for i in range(self.steps):
            x = of_x[i] * x + of_f[i] * self.ask(i, x)
            if fresh is not None:
                x = x + fresh[i] * self.noise()
        return x

    def sees(self, condition: Tensor) -> bool:
        """The condition, where it can be looked at."""
        return condition.is_cpu and not transformed() and bool(condition)


def rows(shares: Tensor) -> list[tuple[Tensor, ...]]:
    """Numbers (2, N), as N 0-d tensors for x and N for f."""
    return [row.unbind() for row in shares]
