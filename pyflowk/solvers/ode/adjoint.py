"""How the gradient of a solution is made; any of these combines with any method and stepping."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from ..._checks import require_counts
from ...ops.describe import described
from .options import Options
from .stepping import Adaptive

__all__ = ["Adjoint", "Backprop", "Backsolve", "Recompute", "adjoint_for", "listed"]


@dataclass(frozen=True)
class Recompute:
    """The gradient of the discrete solution with the accepted steps held fixed.

    A checkpoint of the state is kept every `every` steps (default: the root of their number); the backward pass
    computes the steps between again. ValueError for `every` below 1. Cost: the steps twice and their backward pass.

    >>> Recompute(every=8)
    Recompute(every=8)
    """

    every: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None:
            require_counts("Recompute", every=self.every)


@dataclass(frozen=True)
class Backprop:
    """The gradient of :class:`Recompute` with everything kept, also where a field takes derivatives itself.

    Cost: the memory of all steps, and their backward pass.
    """


@dataclass(frozen=True, repr=False, eq=False)
class Backsolve(Options):
    """The continuous adjoint: its equation is solved backward in constant memory, off by about the tolerance.

    Of `odeint` with adaptive steps; first derivatives alone. Chen et al., 2018, arXiv:1806.07366.

    Args:
        params: the tensor or tensors that the field is differentiated by; a module's parameters if not given.
        method, stepping: of the adjoint equation, if not those of the solution.

    Raises TypeError for parameters that are no tensors, ValueError for `compact` or `compile` in `stepping`. Cost: one
    more solve, of twice the state, whose steps are differentiated one by one.

    >>> import torch
    >>> from pyflowk.solvers import Backsolve, odeint
    >>> rate = torch.tensor(0.5, requires_grad=True)
    >>> y = odeint(lambda t, y: -rate * y, torch.ones(1, 1), [0.0, 2.0], adjoint=Backsolve(rate))
    >>> torch.autograd.grad(y[-1].sum(), rate)[0]  # -2 e^-1
    tensor(-0.7358)
    """

    params: Tensor | Iterable[Tensor] | None = None
    method: str | None = None
    stepping: Adaptive | None = None

    def __post_init__(self) -> None:
        if self.params is not None:
            object.__setattr__(self, "params", listed(self.params))
        if self.stepping is not None and not isinstance(self.stepping, Adaptive):
            raise ValueError(f"stepping: expected Adaptive(...) for an adjoint equation; got {self.stepping}")
        if self.stepping is not None and (self.stepping.compact or self.stepping.compile):
            raise ValueError(f"stepping: expected neither compact nor compile; got {self.stepping}")


Adjoint = Recompute | Backprop | Backsolve


def adjoint_for(adjoint: Adjoint | None) -> Adjoint:
    """`Recompute()` if there is none; TypeError for what is no adjoint."""
    if adjoint is None:
        return Recompute()
    if not isinstance(adjoint, (Recompute, Backprop, Backsolve)):
        got = repr(adjoint) if isinstance(adjoint, str) else described(adjoint)
        raise TypeError(f"adjoint: expected Recompute(), Backprop() or Backsolve(); got {got}")
    return adjoint


def listed(params: Tensor | Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Parameters as a tuple; a bare tensor is one, not its rows."""
    found = (params,) if isinstance(params, Tensor) else tuple(params)
    if any(not isinstance(p, Tensor) for p in found):
        raise TypeError(f"params: expected tensors; got {described(found)}")
    return found
