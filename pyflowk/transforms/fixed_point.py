"""The inverse of the identity plus a contraction: a fixed-point iteration whose rows stop for themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ops.modes import functional, while_loop

Step = Callable[[Tensor], Tensor]


class InverseDidNotConverge(ArithmeticError):
    """A fixed-point iteration used up its steps.

    Attributes:
        rows: how many rows are not within the tolerance; ``mask`` (B,) tells which.
        x: the last iterate, (B, *event); the other rows of it are within the tolerance.
        iterations: the steps that were taken.
    """

    def __init__(self, mask: Tensor, x: Tensor, iterations: int, lipschitz: float) -> None:
        self.mask, self.x, self.iterations, self.rows = mask, x, iterations, int(mask.sum())
        super().__init__(
            f"{self.rows} of {len(mask)} rows did not come within the tolerance in {iterations} iterations (Lipschitz"
            f" constant {lipschitz:.6g}); a tolerance below what {x.dtype} can hold needs a wider dtype, otherwise the"
            " branch is no contraction with that constant"
        )


@dataclass(frozen=True)
class FixedPoint:
    """The iteration x <- z - g(x) for x + g(x) = z, rows independent, g a contraction by ``lipschitz``.

    ``tolerance`` bounds each row's error; None: what the dtype can hold. ``max_iterations``: None, what a contraction
    by that constant needs at most.
    """

    lipschitz: float
    tolerance: float | None = None
    max_iterations: int | None = None

    def solve(self, z: Tensor, g: Step) -> Tensor:
        """x with x + g(x) = z, every row to its tolerance, or :class:`InverseDidNotConverge`."""
        return self._iterate(z, g, self._stop(z))

    def adjoint(self, gradient: Tensor, pull: Step) -> Tensor:
        """v with v + J^T v = gradient, each row to what the dtype can hold of it."""
        return self._iterate(gradient, pull, _Stop(None, _rounding(gradient, self.lipschitz) / self.lipschitz, 0.0))

    def solve_unseen(self, z: Tensor, g: Step) -> Tensor:
        """Where values cannot be looked at: a loop on the device, or unrolled where it is to be differentiated."""
        steps = self.max_iterations or _steps(self.lipschitz, torch.finfo(z.dtype).eps)
        if torch.is_grad_enabled() or functional():
            x = z
            for _ in range(steps):
                x = z - g(x)
            return x
        # as tensors: a compiler may hold a number as a symbol, which its loop does not take
        stop = _Stop(*(None if limit is None else z.new_full((), limit) for limit in self._stop(z)))
        active = torch.ones(z.shape[0], dtype=torch.bool, device=z.device)
        step = torch.zeros((), dtype=torch.int64, device=z.device)

        def go_on(step: Tensor, x: Tensor, active: Tensor) -> Tensor:
            return (step < steps) & active.any()

        def body(step: Tensor, x: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return step + 1, *stop.advance(x, active, z - g(x), z)

        return while_loop(go_on, body, (step, z.clone(), active))[1]

    def _stop(self, z: Tensor) -> _Stop:
        if self.tolerance is not None:
            return _Stop(self.tolerance * (1 - self.lipschitz) / self.lipschitz)
        return _Stop(None, _rounding(z, self.lipschitz) / self.lipschitz, 1.0)

    def _iterate(self, z: Tensor, g: Step, stop: _Stop) -> Tensor:
        steps = self.max_iterations or _steps(self.lipschitz, 1e-3 * torch.finfo(z.dtype).eps) + 50
        look = 1 if z.device.type == "cpu" else 8  # an accelerator is asked now and then
        x, active = z, torch.ones(z.shape[0], dtype=torch.bool, device=z.device)
        for step in range(1, steps + 1):
            x, active = stop.advance(x, active, z - g(x), z)
            if step % look == 0 and not active.any():
                break
        failed = (active | ~x.flatten(1).isfinite().all(1)) & z.flatten(1).isfinite().all(1)
        if failed.any():
            raise InverseDidNotConverge(failed, x, step, self.lipschitz)
        return x


class _Stop(NamedTuple):
    """When a row has come far enough: at a step of ``absolute``, or of ``relative * max(floor, |x| + |z|)``."""

    absolute: Any  # numbers, or tensors of one; None where they play no part
    relative: Any = None
    floor: Any = None

    def advance(self, x: Tensor, active: Tensor, new: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the rows that are still active; a row that is not a number is done."""
        move = _norm(new - x)
        x = torch.where(active.reshape(-1, *[1] * (x.dim() - 1)), new, x)
        if self.relative is None:
            return x, active & (move > self.absolute)
        size = _norm(x) + _norm(z)
        return x, active & ((move > self.relative * size.clamp(min=self.floor)) | size.isinf())


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def _rounding(x: Tensor, lipschitz: float) -> float:
    """What a step is uncertain by, relative to the size of x: the rounding of each step, carried on by those after."""
    return 4 * torch.finfo(x.dtype).eps / math.sqrt(1 - lipschitz**2)


def _steps(lipschitz: float, part: float) -> int:
    """After how many steps a contraction has shrunk its first step to ``part`` of it, in error."""
    return math.ceil(math.log(part * (1 - lipschitz)) / math.log(lipschitz))


class ImplicitGradient(torch.autograd.Function):
    """x, the root of x + g(x) = z, with the gradient v that solves v + J^T v = dL/dx handed to z - g(x)."""

    @staticmethod
    def forward(ctx: Any, follows: Tensor, x: Tensor, solve: Step) -> Tensor:
        ctx.solve = solve
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise NotImplementedError("the inverse of a Residual has no second derivative outside torch.func")
        return ctx.solve(gradient), None, None
