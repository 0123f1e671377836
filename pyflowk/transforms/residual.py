"""Residual layers: the identity plus a contraction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nets.branch import Branch, TransposedJacobian, as_branch
from ..nets.context import wants_context
from ..ops.dtypes import state_dtype
from ..ops.modes import symbolic
from ..ops.recompute import Standing, computed_again
from ..shapes import expand_context
from .base import Transform
from .fixed_point import FixedPoint, ImplicitGradient, Step
from .logdet import Exact, Roulette, Truncated, combine, wants_slopes

Estimator = Exact | Truncated | Roulette


class NotAContraction(ArithmeticError):
    """The branch's certified Lipschitz constant is 1 or more: the inverse has no guarantee."""


class Residual(Transform):
    r"""The identity plus a contraction: :math:`z = x + g(x)`, :math:`\mathrm{ladj} = \log \det(I + J_g(x))`.

    Args:
        branch: g, a :class:`pyflowk.nets.Branch` such as ``LipschitzMLP`` or ``LipschitzConvNet``, which bring their
            own Lipschitz constant and a Jacobian product without a graph; or any module from (B, \*event) to
            (B, \*event) with ``branch(x)``, and ``branch(x, context)`` where there is a context. Rows must not depend
            on each other.
        training: how the log-determinant is computed in training mode: :class:`Exact`, :class:`Truncated` or
            :class:`Roulette` (default).
        evaluation: the same in evaluation mode; default ``Truncated(20)``. Where D is at most ``exact_dims``, both
            modes compute it exactly: that is cheaper than a series there, and has no variance.
        lipschitz: a Lipschitz constant of the branch, below 1, which a module that is no Branch needs; default: what
            ``branch.contraction()`` certifies.
        tolerance: bound on the error of the inverse, per row and in the Euclidean norm; default: what the dtype can
            hold, 4 eps max(1, |x| + |z|) / ((1 - L) sqrt(1 - L^2)).
        max_iterations: steps after which the inverse gives up; default: what a contraction by L needs at most.
        recompute: keep neither activations nor slopes for the backward pass but compute them again: a layer then
            holds three tensors of the size of x.
        conditional: False keeps a context from the branch; default: whether the Branch takes one, True for a module.

    ladj is in either mode a float32 or float64 number per row whose gradient is right row by row, whatever weights the
    rows have in the loss. Estimates draw from ``generator``; for the same seed, ``forward`` and ``inverse`` use the
    same probes. The branch runs in the state's precision even under autocast: a rounded map is no contraction.

    The inverse iterates :math:`x \leftarrow z - g(x)`. A row stops for itself as soon as
    :math:`|\Delta x| \le \tau (1 - L) / L`, which certifies :math:`|x - x^*| \le \tau` up to the rounding of g, so
    that its result does not depend on the rows beside it. Its gradient is that of the implicit function,
    :math:`(I + J^T) v = \partial \mathcal{L} / \partial x` solved by the same iteration; under torch.func and, with
    gradients, under torch.compile the iteration is unrolled to the a-priori number of steps.

    Raises ValueError for shapes that do not fit, :class:`InverseDidNotConverge` naming the number of rows, and
    :class:`NotAContraction` when L is 1 or more. Cost: forward one evaluation of g and the log-determinant;
    ``to_data`` about log(tolerance) / log(L) evaluations; ``inverse`` both.

    Behrmann, Grathwohl, Chen, Duvenaud, Jacobsen, 2019, arXiv:1811.00995;
    Chen, Behrmann, Duvenaud, Jacobsen, 2019, arXiv:1906.02735.

    >>> import torch
    >>> from pyflowk.nets import LipschitzMLP
    >>> from pyflowk.transforms import Residual
    >>> layer = Residual(LipschitzMLP(2, width=16)).eval()
    >>> torch.nn.init.normal_(layer.branch.layers[-1].weight).shape
    torch.Size([2, 16])
    >>> x = torch.randn(5, 2)
    >>> z, ladj = layer(x)
    >>> torch.allclose(layer.inverse(z)[0], x, atol=1e-5), ladj.shape
    (True, torch.Size([5]))
    """

    def __init__(
        self,
        branch: nn.Module,
        training: Estimator | None = None,
        evaluation: Estimator | None = None,
        exact_dims: int = 32,
        lipschitz: float | None = None,
        tolerance: float | None = None,
        max_iterations: int | None = None,
        recompute: bool = False,
        conditional: bool | None = None,
    ) -> None:
        super().__init__()
        as_branch(branch, lipschitz)
        if lipschitz is not None and not 0 < lipschitz < 1:
            raise ValueError(f"Residual expects 0 < lipschitz < 1, got {lipschitz!r}")
        if tolerance is not None and not tolerance > 0:
            raise ValueError(f"Residual expects a positive tolerance, got {tolerance!r}")
        if max_iterations is not None and max_iterations < 1:
            raise ValueError(f"Residual expects max_iterations of at least 1, got {max_iterations!r}")
        self.branch, self.conditional = branch, wants_context(branch, conditional)
        self.training_logdet, self.evaluation_logdet = training or Roulette(), evaluation or Truncated()
        self.exact_dims, self.lipschitz = exact_dims, lipschitz
        self.tolerance, self.max_iterations, self.recompute = tolerance, max_iterations, recompute
        self.estimates_ladj = self.training_logdet.estimates or self.evaluation_logdet.estimates

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        x = self._state(x)
        with torch.autocast(x.device.type, enabled=False):
            g, ladj = self._value_and_ladj(x, context, generator)
        return x + g, ladj

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        x = self.to_data(z, context)
        with torch.autocast(x.device.type, enabled=False):
            return x, -self._value_and_ladj(x, context, generator)[1]

    def to_data(self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        z = self._state(z)
        with torch.autocast(z.device.type, enabled=False):
            return self._solve(z, context)

    def contraction(self) -> float:
        """The Lipschitz constant that certifies the inverse; NotAContraction where it is 1 or more."""
        certified = self.lipschitz if self.lipschitz is not None else self._branch.contraction()
        if not certified < 1:
            hint = "; call eval(), where norms are not estimated, or more power iterations" if self.training else ""
            raise NotAContraction(f"the branch's Lipschitz constant is only bounded by {certified:.6g}{hint}")
        return max(certified, 1e-3)

    # ---- the log-determinant --------------------------------------------------------------------------------------

    def _estimator(self, x: Tensor) -> Estimator:
        if math.prod(x.shape[1:]) <= self.exact_dims:
            return Exact()
        return self.training_logdet if self.training else self.evaluation_logdet

    def _value_and_ladj(
        self, x: Tensor, context: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        if self.recompute and torch.is_grad_enabled() and not symbolic():
            return self._value_and_ladj_again(x, context, generator)
        g, pull = self._linearize(x, context)
        estimator = self._estimator(x)
        if isinstance(estimator, Exact):
            return g, estimator.log_det(pull, x)
        draws = estimator.draw(pull, x, generator)
        return g, combine(draws, [draw.slope(pull) for draw in draws] if wants_slopes() else [])

    def _value_and_ladj_again(
        self, x: Tensor, context: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """What ``_value_and_ladj`` gives, computed again in the backward pass; the series itself is not."""
        estimator, draws = self._estimator(x), []
        if not isinstance(estimator, Exact):
            with torch.no_grad():
                draws = estimator.draw(self._linearize(x, context)[1], x, generator)

        def run(x: Tensor) -> tuple[Tensor, ...]:
            g, pull = self._linearize(x, context)
            return g, *([draw.slope(pull) for draw in draws] or [Exact().log_det(pull, x)])

        standing = Standing(self, context)
        g, *slopes = computed_again(run, x, standing=standing, arrival=lambda found: found[-1])
        return g, combine(draws, slopes) if draws else slopes[0]

    @property
    def _branch(self) -> Branch:
        """The branch with all that may be asked of one; a plain module stays what it was, in the state dict."""
        return as_branch(self.branch, self.lipschitz, self.conditional)

    def _linearize(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, TransposedJacobian]:
        g, pull = self._branch.linearize(x, self._for_branch(x, context))
        return self._check(g, x), pull

    def _for_branch(self, x: Tensor, context: Tensor | None) -> Tensor | None:
        return expand_context(context, x.shape[0]) if self.conditional else None

    # ---- the inverse ----------------------------------------------------------------------------------------------

    def _solve(self, z: Tensor, context: Tensor | None) -> Tensor:
        if symbolic():
            stated = self.lipschitz if self.lipschitz is not None else float(self._branch.lipschitz)
            return self._iteration(stated).solve_unseen(z, self._given(z, context))
        iteration = self._iteration(self.contraction())
        with torch.no_grad():
            x = iteration.solve(z, self._given(z, context))
        if not torch.is_grad_enabled():
            return x
        g, pull = self._linearize(x, context)
        return ImplicitGradient.apply(z - g, x, lambda gradient: iteration.adjoint(gradient, pull))

    def _iteration(self, lipschitz: float) -> FixedPoint:
        return FixedPoint(lipschitz, self.tolerance, self.max_iterations)

    def _given(self, z: Tensor, context: Tensor | None) -> Step:
        g = self._branch.given(self._for_branch(z, context))
        return lambda x: self._check(g(x), z)

    @staticmethod
    def _check(g: Tensor, x: Tensor) -> Tensor:
        if g.shape != x.shape:
            raise ValueError(f"Residual expects its branch to return {tuple(x.shape)}, got {tuple(g.shape)}")
        return g

    @staticmethod
    def _state(x: Tensor) -> Tensor:
        if x.dim() < 2:
            raise ValueError(f"Residual expects (B, *event), got {tuple(x.shape)}")
        return x.to(state_dtype(x))


@dataclass(frozen=True)
class Contraction:
    """What is known of one Residual: the Lipschitz constant it is held to (None: a given one) and the certified one."""

    name: str
    stated: float | None
    certified: float

    def __str__(self) -> str:
        stated = "given" if self.stated is None else f"{self.stated:.4f}"
        return f"{self.name}: held to {stated}, certified {self.certified:.4f}"


def check_contraction(module: nn.Module) -> list[Contraction]:
    r"""The certified Lipschitz constants of all Residual layers in a module: below 1, the layer is invertible.

    The bound is the product of the layers' operator norms, each computed to convergence from the weights as they are
    now (:meth:`pyflowk.nets.LipschitzNet.contraction`), not the running estimate; a branch with a given constant
    reports that. In training mode the two differ by what the power iteration lags behind. Waits for the device.

    >>> from pyflowk.nets import LipschitzMLP
    >>> from pyflowk.transforms import Compose, Residual, check_contraction
    >>> print(*check_contraction(Compose(Residual(LipschitzMLP(2)))))
    transforms.0: held to 0.9000, certified 0.0000
    """
    found = []
    for name, layer in module.named_modules():
        if isinstance(layer, Residual):
            given = layer.lipschitz
            stated = None if given is not None else layer._branch.lipschitz
            certified = given if given is not None else float(layer._branch.contraction())
            found.append(Contraction(name, stated, certified))
    return found
