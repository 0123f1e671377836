"""log det(I + J) of a contraction's Jacobian J, from products with its transpose: exact, truncated or by roulette."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._checks import require_counts
from ..nets.branch import as_transposed
from ..ops.draw import draw_integers, draw_uniform
from ..ops.modes import functional
from .base import sum_event

#: v (B, *event) -> J^T v, row by row.
Pull = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exact:
    r"""The Jacobian row by row and its LU factors: no variance, no bias, derivatives of every order.

    Cost: D products with the transposed Jacobian and D^3 / 3 multiplications a row; for D up to about 32 less than a
    series of 20 terms.

    >>> import torch
    >>> from pyflowk.transforms import Exact
    >>> Exact().log_det(lambda v: 0.5 * v, torch.zeros(1, 2))
    tensor([0.8109])
    """

    estimates = False

    def log_det(self, pull: Pull, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B,) for x (B, *event)."""
        size = math.prod(x.shape[1:])
        identity = torch.eye(size, dtype=x.dtype, device=x.device)
        basis = identity.reshape(size, 1, *x.shape[1:]).expand(size, *x.shape)
        rows = as_transposed(pull).many(basis).reshape(size, x.shape[0], size)
        return torch.linalg.slogdet(rows.transpose(0, 1) + identity).logabsdet


class Draw(NamedTuple):
    r"""One estimate of :math:`\sum_k (-1)^{k+1} w_k\, \epsilon^T J^k \epsilon / k`, (B,), and what its gradient needs.

    The gradient of its mean is that of :math:`v^T J \epsilon` with
    :math:`v = \sum_k (-1)^{k+1} w_k (J^T)^{k-1} \epsilon` held constant: one product is differentiated, however many
    terms there are, and each row keeps its own weight in the loss.
    """

    value: Tensor
    v: Tensor
    probe: Tensor

    def slope(self, pull: Pull) -> Tensor:
        r""":math:`v^T J \epsilon` by rows, to be differentiated."""
        return sum_event(pull(self.v) * self.probe)


@dataclass(frozen=True)
class Truncated:
    r"""The first n terms of :math:`\sum_k (-1)^{k+1} \mathrm{tr}(J^k) / k`, traces by Rademacher probes: biased.

    :meth:`bias_bound` bounds the error of the mean. ``probes`` independent probes are averaged. First derivatives are
    those of the truncated series' mean; a second one is refused. Under torch.func all terms are differentiated, which
    costs their backward and gives every order. Raises ValueError or TypeError for numbers that are no counts. Cost: n
    products with the transposed Jacobian a probe, one more when a gradient is wanted. Behrmann, Grathwohl, Chen,
    Duvenaud, Jacobsen, 2019, arXiv:1811.00995.

    >>> import torch
    >>> from pyflowk.transforms import Residual, Truncated
    >>> half = Residual(lambda x: 0.5 * x, evaluation=Truncated(4), exact_dims=0, lipschitz=0.5).eval()
    >>> half(torch.zeros(1, 1))[1]  # log 1.5 = 0.4055: four terms fall short of it
    tensor([0.4010])
    """

    terms: int = 20
    probes: int = 1
    estimates = True

    def __post_init__(self) -> None:
        require_counts("Truncated", terms=self.terms, probes=self.probes)

    def bias_bound(self, dims: int, lipschitz: float) -> float:
        r""":math:`D L^{n+1} / ((n + 1)(1 - L))` nats, for a branch of Lipschitz constant L in D dimensions.

        >>> from pyflowk.transforms import Truncated
        >>> round(Truncated(20).bias_bound(63, 0.7), 4)
        0.0056
        """
        return dims * lipschitz ** (self.terms + 1) / ((self.terms + 1) * (1 - lipschitz))

    def draw(self, pull: Pull, x: Tensor, generator: torch.Generator | None = None) -> list[Draw]:
        """One estimate a probe, random numbers from ``generator``."""
        return [_draw(pull, _rademacher(x, generator), None, self.terms) for _ in range(self.probes)]


@dataclass(frozen=True)
class Roulette:
    r"""The whole series, unbiased: each row stops after a random number of terms N, those there are are reweighted.

    N = ``exact_terms`` + a geometric number with :math:`P(N \ge k) = q^{k - \mathrm{exact}}`, q = ``survival``; term k
    is divided by :math:`P(N \ge k)`. Every row draws its own N and rows that have stopped are left out, so that a
    batch costs its mean number of terms, not its largest; ``shared`` draws one N for all. The variance is finite for
    certain where :math:`L^2 < q`. First derivatives are unbiased (the Neumann series with the same N, row by row);
    a second one is refused; under torch.func those of every order are unbiased. N ends at its 2^-24 quantile. Where
    the branch is no chain of matrices, an accelerator is waited for once, to learn the largest N, and under
    torch.compile and vmap every row costs the largest there is.

    Cost: on average exact + q / (1 - q) products with the transposed Jacobian a probe, one more for a gradient.
    Raises ValueError or TypeError for numbers that are no counts and a survival outside of (0, 1).
    Chen, Behrmann, Duvenaud, Jacobsen, 2019, arXiv:1906.02735, sections 3.1 and 3.2.

    >>> import torch
    >>> from pyflowk.transforms import Residual, Roulette
    >>> half = Residual(lambda x: 0.5 * x, training=Roulette(survival=0.7), exact_dims=0, lipschitz=0.5)
    >>> ladj = half(torch.zeros(20_000, 1), generator=torch.Generator().manual_seed(0))[1]
    >>> round(ladj.mean().item(), 2)  # log 1.5 = 0.4055, of rows that differ
    0.41
    """

    exact_terms: int = 2
    survival: float = 0.5
    shared: bool = False
    probes: int = 1
    estimates = True

    def __post_init__(self) -> None:
        require_counts("Roulette", exact_terms=self.exact_terms, probes=self.probes)
        if not 0 < self.survival < 1:
            raise ValueError(f"Roulette expects 0 < survival < 1, got {self.survival}")

    def draw(self, pull: Pull, x: Tensor, generator: torch.Generator | None = None) -> list[Draw]:
        """One estimate a probe, random numbers from ``generator``."""
        return [self._one(pull, x, generator) for _ in range(self.probes)]

    def _one(self, pull: Pull, x: Tensor, generator: torch.Generator | None) -> Draw:
        probe = _rademacher(x, generator)
        rows = 1 if self.shared else x.shape[0]
        u = draw_uniform((rows,), generator, dtype=torch.float64, device=x.device)
        more = torch.floor(torch.log1p(-u) / math.log(self.survival)).long()
        reached = (self.exact_terms + more).expand(x.shape[0])
        terms = self.exact_terms + math.ceil(24 / -math.log2(self.survival))
        return _draw(pull, probe, reached.clamp(max=terms), terms, self.exact_terms, self.survival)


def wants_slopes() -> bool:
    """Whether gradients come from `Draw.slope`. Not under the functional transformations, which may be nested: there
    the terms themselves are differentiated, to any order."""
    return torch.is_grad_enabled() and not functional()


def _rademacher(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return (2 * draw_integers(0, 2, x.shape, generator, device=x.device) - 1).to(x.dtype)


def _draw(
    pull: Any, probe: Tensor, reached: Tensor | None, terms: int, exact_terms: int = 1, survival: float = 1.0
) -> Draw:
    """``terms`` terms, of each row the first ``reached``, as :func:`pyflowk.ops.power_series` has them."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and functional()):
        value, v = as_transposed(pull).power_series(probe, reached, terms, exact_terms, survival)
    return Draw(value, v, probe)


def combine(draws: Sequence[Draw], slopes: Sequence[Tensor]) -> Tensor:
    """The mean of the draws' values, with the gradient of their slopes where there are any."""
    value = torch.stack([draw.value for draw in draws]).mean(0)
    if not slopes:
        return value
    return _FirstOrder.apply(value, torch.stack(list(slopes)).mean(0))


class _FirstOrder(torch.autograd.Function):
    """The value of one tensor with the gradient of another, once: a second derivative would be wrong unseen."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, slope: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "an estimated log-determinant has no second derivative: build the Residual with Exact() instead"
            )
        return None, gradient
