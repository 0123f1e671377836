"""Inverse problems: events given what a linear operator showed of them, by a field that knows the events alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vjp

from .._checks import require_counts, require_numbers
from ..nets.field import Field
from ..ops.describe import described
from ..ops.dtypes import state_dtype
from ..ops.modes import transformed
from ..paths import CondOT, Schedule
from .course import Course, rows
from .grids import uniform_grid
from .ode.times import times_beside
from .sde import Chance, noise_like

__all__ = ["NotConverged", "Operator", "blurring", "flower", "inpaint", "masking", "pooling"]


class NotConverged(RuntimeError):
    """Conjugate gradients did not reach their tolerance."""


@dataclass(frozen=True)
class Operator:
    r"""A linear map H of events (B, \*event) to what is seen of them, (B, \*seen), row by row.

    ``forward`` computes H x and ``adjoint`` :math:`H^T y`; without one it is made of ``forward`` by a backward pass.
    ``gram`` is the diagonal of :math:`H H^T`, a number or a tensor that broadcasts with what is seen, where there is
    nothing beside that diagonal: solutions are then in closed form.

    >>> import torch
    >>> from pyflowk.solvers import Operator
    >>> Operator(lambda x: x.sum(1, keepdim=True)).transposed(torch.zeros(1, 3))(torch.tensor([[2.0]]))
    tensor([[2., 2., 2.]])
    """

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor] | None = None
    gram: Tensor | float | None = None

    def transposed(self, like: Tensor) -> Callable[[Tensor], Tensor]:
        """The adjoint, for events shaped as ``like``."""
        if self.adjoint is not None:
            return self.adjoint
        pull = vjp(self.forward, torch.zeros_like(like))[1]
        return lambda y: pull(y)[0]


def masking(mask: Tensor) -> Operator:
    r"""What is seen where ``mask`` is true, and 0 elsewhere; the mask broadcasts to events, or ValueError.

    >>> import torch
    >>> from pyflowk.solvers import masking
    >>> masking(torch.tensor([True, False])).forward(torch.ones(1, 2))
    tensor([[1., 0.]])
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"mask: expected a tensor of bools, True where the event is seen; got {described(mask)}")

    def seen(x: Tensor) -> Tensor:
        missing = x.dim() - mask.dim()
        if missing < 0 or any(m not in (1, n) for m, n in zip(mask.shape, x.shape[missing:], strict=True)):
            raise ValueError(f"mask: expected one that broadcasts to events {tuple(x.shape)}, got {tuple(mask.shape)}")
        return torch.where(mask, x, 0.0)

    return Operator(seen, seen, mask.float())


def pooling(factor: int) -> Operator:
    """Averages over squares of ``factor`` x ``factor`` pixels of images (B, C, H, W): what superresolution starts from.

    >>> import torch
    >>> from pyflowk.solvers import pooling
    >>> pooling(2).forward(torch.ones(1, 1, 4, 6)).shape
    torch.Size([1, 1, 2, 3])
    """
    require_counts("pooling", factor=factor)

    def pooled(x: Tensor) -> Tensor:
        if x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(f"pooling expects sides that are multiples of {factor}, got {tuple(x.shape)}")
        return F.avg_pool2d(x, factor)

    def spread(y: Tensor) -> Tensor:
        return y.repeat_interleave(factor, 2).repeat_interleave(factor, 3) / factor**2

    return Operator(pooled, spread, 1 / factor**2)


def blurring(kernel: Tensor) -> Operator:
    """Every channel of images (B, C, H, W) correlated with a kernel (h, w) of odd sides, with zeros around the image.

    >>> import torch
    >>> from pyflowk.solvers import blurring
    >>> blurring(torch.full((3, 3), 1 / 9)).forward(torch.ones(1, 1, 3, 3))[0, 0, 1]
    tensor([0.6667, 1.0000, 0.6667])
    """
    if not isinstance(kernel, Tensor) or kernel.dim() != 2 or not (kernel.shape[0] % 2 and kernel.shape[1] % 2):
        raise ValueError(f"kernel: expected a tensor (h, w) of odd sides, got {described(kernel)}")

    def correlated(x: Tensor, kernel: Tensor) -> Tensor:
        filters = kernel.to(x).expand(x.shape[1], 1, *kernel.shape)
        return F.conv2d(x, filters, padding=(kernel.shape[0] // 2, kernel.shape[1] // 2), groups=x.shape[1])

    return Operator(lambda x: correlated(x, kernel), lambda y: correlated(y, kernel.flip(0, 1)))


def flower(
    field: Field | Callable[..., Tensor],
    x: Tensor,
    schedule: Schedule,
    grid: Tensor,
    y: Tensor,
    operator: Operator,
    *,
    noise: float,
    deviation: float = 1.0,
    prediction: str = "velocity",
    context: Tensor | None = None,
    generator: Chance = None,
    tolerance: float = 1e-5,
    iterations: int = 1000,
) -> Tensor:
    r"""Flower: events given :math:`y = H x_1 + s_y n`, by a field that knows nothing of the operator.

    In a step from t to s, with the data :math:`\hat x_1` that the field foresees and their variance, which is taken for
    :math:`\lambda = \sigma_t^2 s_1^2 / (\alpha_t^2 s_1^2 + \sigma_t^2)` (:math:`s_1` = ``deviation`` of the data),

    .. math:: u = \hat x_1 + \sqrt\lambda\, n, \qquad
        x_1 = u + \lambda H^T (\lambda H H^T + s_y^2)^{-1} (y + s_y n' - H u), \qquad x_s = \alpha_s x_1 + \sigma_s n'',

    where x_1 is a draw from the posterior of :math:`N(\hat x_1, \lambda)`, as the source draws it by perturbing and
    solving. For data :math:`N(m, s_1^2 I)` the result is the posterior, whatever the number of steps; for others it
    is near it. The source is standard normal and drawn beside the data. Where ``operator.gram`` is known the inverse
    is in closed form; else conjugate gradients find it, every row by itself, and stop at a residual of ``tolerance``.

    Args:
        field, schedule, grid, prediction, context, generator: as those of :func:`ddim`; the grid rises.
        x: noise (B, \*event) at the first time.
        y: what was seen, (B, \*seen).
        noise: the deviation :math:`s_y` of its noise; 0 if it is seen as it is.

    Raises ValueError or TypeError for what does not fit, an adjoint that is none among it; NotConverged after so many
    ``iterations``. Cost: a step is one evaluation of the field, and two of the operator and its adjoint, and of both in
    each iteration. Pourya et al., 2025, arXiv:2509.26287.

    >>> import torch
    >>> from pyflowk.paths import CondOT
    >>> from pyflowk.solvers import Operator, flower, uniform_grid
    >>> x, seen = torch.zeros(2, 3), Operator(lambda x: x.sum(1, keepdim=True))
    >>> drawn = flower(lambda t, x: -x, x, CondOT(), uniform_grid(4), torch.ones(2, 1), seen, noise=0.0)
    >>> drawn.sum(1).round(decimals=3)
    tensor([1., 1.])
    """
    require_numbers("flower", noise=noise, deviation=deviation, tolerance=tolerance)
    require_counts("flower", iterations=iterations)
    course = Course(field, x, schedule, grid, prediction, context, generator).rise("flower")
    adjoint, y = operator.transposed(course.x), y.to(course.x.dtype)
    _check(operator, adjoint, course.x, y)
    alpha, sigma = course.now.alpha, course.now.sigma
    variances = (sigma * deviation).square() / ((alpha * deviation).square() + sigma.square())
    (of_x, of_f), x = rows(course.shares("data")), course.x
    for i in range(course.steps):
        variance = variances[i].to(x.dtype)
        free = of_x[i] * x + of_f[i] * course.ask(i, x) + variance.sqrt() * course.noise()
        missing = y - operator.forward(free)
        if noise:
            missing = missing + noise * noise_like(y, generator)
        if operator.gram is None:
            spread = _Spread(operator.forward, adjoint, variance, noise**2)
            w = _conjugate_gradients(spread, missing, tolerance, iterations)
        else:
            divisor = (variance * operator.gram + noise**2).to(x.dtype)
            w = missing / torch.where(divisor == 0, 1.0, divisor)  # where nothing is seen nothing is missing
        known = free + variance * adjoint(w)
        x = course.then.alpha[i].to(x.dtype) * known + course.then.sigma[i].to(x.dtype) * course.noise()
    return x


def inpaint(
    field: Field | Callable[..., Tensor],
    y: Tensor,
    mask: Tensor,
    *,
    noise: float = 0.0,
    schedule: Schedule | None = None,
    grid: Tensor | None = None,
    deviation: float = 1.0,
    prediction: str = "velocity",
    context: Tensor | None = None,
    generator: Chance = None,
) -> Tensor:
    r"""Events (B, \*event) that are y where ``mask`` is true, up to ``noise``, and drawn elsewhere: :func:`flower`.

    The mask broadcasts with y, whose values elsewhere, NaN for example, are not looked at. The ``schedule`` is
    :class:`pyflowk.paths.CondOT` and the ``grid`` of 50 equal steps, if none are given.

    >>> import torch
    >>> from pyflowk.solvers import inpaint
    >>> y, seen = torch.tensor([[2.0, torch.nan]]), torch.tensor([True, False])
    >>> inpaint(lambda t, x: -x, y, seen)[:, 0]
    tensor([2.])
    """
    operator, schedule = masking(mask), CondOT() if schedule is None else schedule
    if not isinstance(y, Tensor) or not y.is_floating_point():
        raise TypeError(f"y: expected a floating-point tensor (B, *event), got {described(y)}")
    y = operator.forward(y.to(state_dtype(y)))
    grid = uniform_grid(50) if grid is None else grid
    sigma = schedule.at(times_beside(grid[:1], y)).sigma.to(y.dtype)
    x = sigma * noise_like(y, generator)
    return flower(
        field, x, schedule, grid, y, operator, noise=noise, deviation=deviation, prediction=prediction, context=context,
        generator=generator,
    )  # fmt: skip


@dataclass(frozen=True)
class _Spread:
    r""":math:`\lambda H H^T + s_y^2`, the covariance of what is seen of data of variance :math:`\lambda`."""

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    variance: Tensor
    noise: float

    def __call__(self, w: Tensor) -> Tensor:
        return self.variance * self.forward(self.adjoint(w)) + self.noise * w


def _conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, tolerance: float, iterations: int) -> Tensor:
    """The solution of A w = b, A symmetric and not negative; a row that has come close enough waits for the others."""
    w, residual, direction = b * 0, b, b
    energy = _dot(b, b)
    goal = energy * tolerance**2
    for _ in range(iterations):
        going = energy > goal
        if not bool(going.any()):
            return w
        image = product(direction)
        curvature = _dot(direction, image)
        step = torch.where(going & (curvature > 0), energy / curvature, 0.0)
        w, residual = w + step * direction, residual - step * image
        left = _dot(residual, residual)
        direction = torch.where(going, residual + left / energy * direction, direction)
        energy = torch.where(going, left, energy)
    failed = (energy > goal).flatten()
    if not bool(failed.any()):
        return w
    worst = (energy / goal).sqrt().max().item() * tolerance
    raise NotConverged(
        f"{int(failed.sum())} of {len(b)} rows have a residual of up to {worst:.2g} after {iterations} iterations, "
        f"expected {tolerance:.2g}: allow for more noise, more iterations or a larger tolerance"
    )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The scalar product of each row, (B, 1, ...)."""
    return (a * b).sum(tuple(range(1, a.dim())), keepdim=True)


def _check(operator: Operator, adjoint: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> None:
    """ValueError unless H x is shaped as y and its adjoint as x, and they belong together where values can be seen."""
    if (seen := operator.forward(x)).shape != y.shape:
        raise ValueError(f"y: expected {tuple(seen.shape)}, as the operator gives, got {tuple(y.shape)}")
    if (back := adjoint(y)).shape != x.shape:
        raise ValueError(f"operator.adjoint: expected {tuple(x.shape)}, got {tuple(back.shape)}")
    if x.is_cpu and not transformed():
        x, y, seen, back = (part.flatten(1) for part in (x, y, seen, back))
        there, again = (seen * y).sum(1), (x * back).sum(1)
        size = seen.norm(dim=1) * y.norm(dim=1) + x.norm(dim=1) * back.norm(dim=1)
        if bool(((there - again).abs() > 1e-3 * size).any()):
            raise ValueError(
                f"operator.adjoint: expected <H x, y> = <x, H' y>, got {there[0]:.4g} and {again[0]:.4g} in a row"
            )
