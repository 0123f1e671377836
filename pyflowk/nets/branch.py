"""What every residual branch can be asked for, and the border where a plain module becomes one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..ops.dtypes import state_dtype
from ..ops.modes import symbolic
from ..ops.power_series import coefficient_of, power_series_by
from .context import Network, uncompiled, with_context

__all__ = ["Branch", "FunctionBranch", "TransposedJacobian", "as_branch", "as_transposed"]


class TransposedJacobian:
    r"""The transposed Jacobian of a branch at its rows, :math:`v \mapsto J^T v`, from any function that computes it.

    v is (B, \*event), row by row. What else it gives has a default that holds for any function.

    >>> import torch
    >>> from pyflowk.nets import TransposedJacobian
    >>> TransposedJacobian(lambda v: 0.5 * v).many(torch.ones(1, 1, 2))
    tensor([[[0.5000, 0.5000]]])
    """

    def __init__(self, product: Callable[[Tensor], Tensor]) -> None:
        self._product = product

    def __call__(self, v: Tensor) -> Tensor:
        return self._product(v)

    def many(self, v: Tensor) -> Tensor:
        r"""The products of v (K, B, \*event), K vectors for every row; here under vmap."""
        return torch.func.vmap(self)(v)

    def rows(self, index: Tensor | slice) -> TransposedJacobian | None:
        """The map of the rows that ``index`` selects; None, where rows cannot be taken out."""
        return None

    def power_series(
        self, probe: Tensor, reached: Tensor | None, terms: int, exact_terms: int, survival: float
    ) -> tuple[Tensor, Tensor]:
        """:func:`pyflowk.ops.power_series`, a product a term; without the rows that have stopped, where they can go."""
        if reached is None or symbolic():
            return power_series_by(self, probe, reached, terms, exact_terms, survival)
        tally = torch.bincount(reached).flip(0).cumsum(0).flip(0)[1:].tolist()  # rows that reach term 1, 2, ...
        order = reached.argsort(descending=True)
        part, w = self.rows(order), probe[order]
        if part is None:
            return power_series_by(self, probe, reached, len(tally), exact_terms, survival)
        v, total = torch.zeros_like(w), torch.zeros_like(w)
        for k, n in enumerate(tally, start=1):
            coefficient = coefficient_of(k, exact_terms, survival)
            if n < len(w):
                w, part = w[:n], part.rows(slice(n))
                assert part is not None
            v[:n] += coefficient * w
            w = part(w)
            total[:n] += coefficient / k * w
        back = order.argsort()
        return (total[back] * probe).flatten(1).sum(1, dtype=state_dtype(probe)), v[back]


class Branch(Network):
    r"""What a residual layer adds to x: a contraction g of Lipschitz constant ``lipschitz`` < 1, which it sets itself.

    A subclass gives ``forward(x, context=None)``, (B, \*event) -> (B, \*event), rows independent. Everything else has a
    default that holds for any branch, and is overridden where one knows better: a certified constant, weights that are
    normalised once for many evaluations, a Jacobian product without a graph.

    >>> import torch
    >>> from pyflowk.nets import Branch
    >>> class Half(Branch):
    ...     lipschitz = 0.5
    ...     def forward(self, x, context=None):
    ...         return 0.5 * torch.sin(x)
    >>> g, pull = Half().linearize(torch.zeros(1, 2))
    >>> g, pull(torch.ones(1, 2))
    (tensor([[0., 0.]]), tensor([[0.5000, 0.5000]]))
    """

    lipschitz: float

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def contraction(self) -> float:
        """The Lipschitz constant that it has for certain as it is now; here the one it states."""
        return self.lipschitz

    def given(self, context: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """The branch as a function of x alone: for many evaluations."""
        return lambda x: self(x, context)

    def linearize(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, TransposedJacobian]:
        r"""The value at x and the map :math:`v \mapsto J^T v` there, both differentiable; by reverse-mode AD."""
        g, transposed = torch.func.vjp(self.given(context), x)  # type: ignore[misc]
        return g, TransposedJacobian(lambda v: transposed(v)[0])


class FunctionBranch(Branch):
    """A plain module at the border, of a stated Lipschitz constant: ``g(x)``, and ``g(x, context)`` where there is a
    context and it wants it.

    >>> import torch
    >>> from pyflowk.nets import FunctionBranch
    >>> FunctionBranch(lambda x: 0.5 * x, lipschitz=0.5).linearize(torch.ones(1, 1))[1](torch.ones(1, 1))
    tensor([[0.5000]])
    """

    def __init__(self, function: Callable[..., Tensor], lipschitz: float, conditional: bool = True) -> None:
        super().__init__()
        self.function, self.lipschitz, self.takes_context = function, lipschitz, conditional

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if context is None or not self.takes_context:
            return self.function(x)
        return with_context(self.function, x, context)


def as_branch(function: Callable[..., Tensor], lipschitz: float | None, conditional: bool | None = None) -> Branch:
    """A Branch as it is; a module that is none, as one of that Lipschitz constant. ValueError where there is none."""
    branch = uncompiled(function)
    if isinstance(branch, Branch):
        return branch
    if lipschitz is None:
        raise ValueError(f"expected lipschitz= for a branch that is no Branch, got a {type(function).__name__} alone")
    return FunctionBranch(function, lipschitz, conditional is not False)


def as_transposed(pull: Callable[[Tensor], Tensor]) -> TransposedJacobian:
    """A TransposedJacobian as it is; any other function of v as one."""
    return pull if isinstance(pull, TransposedJacobian) else TransposedJacobian(pull)
