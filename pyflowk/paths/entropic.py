"""Pairs of a batch that are drawn from an entropic transport plan: exact, unbalanced or partial."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from .._checks import require_counts, require_numbers
from ..ops.draw import draw_uniform
from ..ops.dtypes import state_dtype
from ..ops.sinkhorn import Potentials, costs, sinkhorn, sinkhorn_draw
from .pairing import CONDITIONS, condition_kind, coordinates_beside, equal_rows

__all__ = ["Sinkhorn"]

_DRAWS = ("rows", "pairs")


@dataclass(frozen=True)
class Sinkhorn:
    r"""The pairing that is drawn from the entropic transport plan of a batch, at regularisation ``reg``.

    .. math:: \min_P \sum_{ij} P_{ij} |x_0^i - x_1^j|^2 + \mathrm{reg}\, \mathrm{KL}(P \| a b^T)

    with equal weights a and b. From ``reg`` near 0 to large ones it goes from exact optimal transport to
    ``independent`` pairs; the Schroedinger bridge of noise sigma has reg = 2 sigma^2, in the unit of squared distances,
    which is why they are never scaled here. ``draw`` says what becomes of the plan: each row of x0 keeps its place and
    draws its event ("rows", by which noise stays as it was drawn), or B pairs are drawn with replacement ("pairs").

    Marginals need not be met: with ``reg_m`` only a divergence from equal weights is paid for, reg_m times as dear as
    one of costs (unbalanced), so that outliers and populations that grow or shrink are left alone; ``fraction`` is the
    share of the mass that is transported at all (partial). Their pairs are drawn as "pairs", by mass.

    Noise must not tell of the context, or samples are biased: what a context is, ``condition`` and ``weight`` say as
    for :class:`OptimalTransport`: labels are paired each among their own, numbers are coordinates beside those of the
    events. It travels with x1, whose number of rows may be another one than that of x0 where there is none.

    A plan whose marginals are not within ``tolerance`` after ``iterations``, and one that is not finite, for which
    rows are then paired as they come, are warned of. Raises ValueError for numbers and names that do not fit. Cost:
    :func:`pyflowk.ops.sinkhorn` for each label. Cuturi, 2013, arXiv:1306.0895; Tong et al., 2024, arXiv:2307.03672;
    Chizat et al., 2018, arXiv:1607.05816; Chapel et al., 2020, arXiv:2002.08276.

    >>> import torch
    >>> from pyflowk.paths import Sinkhorn
    >>> Sinkhorn(reg=0.1)(torch.tensor([[0.0], [1.0]]), torch.tensor([[5.0], [-5.0]]))[1].flatten()
    tensor([-5.,  5.])
    """

    reg: float
    draw: str = "rows"
    reg_m: float | None = None
    fraction: float = 1.0
    condition: str = "auto"
    weight: float = 100.0
    tolerance: float = 1e-4
    iterations: int = 2000

    def __post_init__(self) -> None:
        reg_m = 1.0 if self.reg_m is None else self.reg_m
        require_numbers("Sinkhorn", reg=self.reg, reg_m=reg_m, fraction=self.fraction, tolerance=self.tolerance)
        require_numbers("Sinkhorn", weight=self.weight)
        require_counts("Sinkhorn", iterations=self.iterations)
        if not (self.reg > 0 and reg_m > 0 and 0 < self.fraction <= 1):
            raise ValueError(
                "Sinkhorn expects reg and reg_m above 0 and a fraction in (0, 1], "
                f"got {self.reg}, {self.reg_m} and {self.fraction}"
            )
        if self.fraction < 1 and self.reg_m is not None:
            raise ValueError("Sinkhorn is unbalanced, by reg_m, or partial, by a fraction, not both")
        for name, value, known in (("condition", self.condition, CONDITIONS), ("draw", self.draw, _DRAWS)):
            if value not in known:
                raise ValueError(f"Sinkhorn expects {name} to be one of {', '.join(known)}, got {value!r}")

    @torch.no_grad()
    def __call__(
        self, x0: Tensor, x1: Tensor, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if x0.dim() == 0 or x0.shape[1:] != x1.shape[1:] or x1.dim() == 0:
            raise ValueError(f"expected x0 and x1 of one event shape, got {tuple(x0.shape)} and {tuple(x1.shape)}")
        kind = condition_kind("Sinkhorn", self.condition, context, x1.shape[0])
        if kind != "ignore" and len(x0) != len(x1):
            raise ValueError(f"expected as much noise as there are events with a context, got {len(x0)} and {len(x1)}")
        if context is None or kind == "ignore":
            i, j = self.order(x0, x1, generator)
        elif kind == "numbers":
            first, second = _flat(x0, x1)
            beside = coordinates_beside(first, second, _flat(context, first)[0], self.weight)
            i, j = self.order(torch.cat((first, beside), 1), torch.cat((second, beside), 1), generator)
        else:
            i, j = (torch.empty(x1.shape[:1], dtype=torch.int64, device=x1.device) for _ in range(2))
            for rows in equal_rows(context):
                first, second = self.order(x0[rows], x1[rows], generator)
                i[rows], j[rows] = rows[first], rows[second]
        return x0[i], x1[j], None if context is None else context[j]

    def order(self, x0: Tensor, x1: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        r"""Which rows of x0 and of x1, (B,) int64 each, are the pairs; x0 and x1 are (B, \*event) and (N, \*event)."""
        x0, x1 = _flat(x0, x1)
        every = torch.arange(x0.shape[0], device=x0.device)
        if x0.shape[0] == 0 or x1.shape[0] == 0:
            if x0.shape[0] != x1.shape[0]:
                raise ValueError(f"cannot pair {x0.shape[0]} rows with {x1.shape[0]}")
            return every, every
        if self.fraction < 1:
            found = _partial(x0, x1, self.fraction, self.reg, self.tolerance, self.iterations)
        else:
            found = sinkhorn(x0, x1, self.reg, reg_m=self.reg_m, tolerance=self.tolerance, iterations=self.iterations)
        if not bool(torch.isfinite(found.f).all() & torch.isfinite(found.g).all()):
            warnings.warn("a transport plan is not finite, as that of NaN: rows are paired as they come", stacklevel=4)
            return every, every % x1.shape[0]
        if not bool(found.converged):
            warnings.warn(
                f"the marginals of a transport plan are off by {float(found.error):.2g} after "
                f"{int(found.iterations)} iterations: a larger reg ({self.reg:g}) takes fewer",
                stacklevel=4,
            )
        f, g = found.f[: x0.shape[0]], found.g[: x1.shape[0]]
        if self.fraction < 1:
            weight = 1 - (1 - self.fraction) / (2 - self.fraction) * torch.exp((f + found.g[-1]).double() / self.reg)
        elif self.reg_m is not None:
            weight = torch.exp(-f.double() / self.reg_m)
        else:
            weight = torch.ones_like(f, dtype=torch.float64)
        if self.draw == "pairs" or self.fraction < 1 or self.reg_m is not None:
            heights = weight.clamp(min=0).cumsum(0)
            places = draw_uniform(every.shape, generator, dtype=torch.float64, device=x0.device) * heights[-1]
            every = torch.searchsorted(heights, places, right=True).clamp(max=len(every) - 1)
        return every, sinkhorn_draw(x0[every], x1, g, self.reg, generator=generator)


def _flat(*tensors: Tensor) -> list[Tensor]:
    """As rows of numbers, in one dtype of arithmetic."""
    dtype = torch.float64 if any(state_dtype(x) == torch.float64 for x in tensors) else torch.float32
    return [x.to(dtype).flatten(1) if x.dim() > 1 else x.to(dtype)[:, None] for x in tensors]


def _partial(x0: Tensor, x1: Tensor, fraction: float, reg: float, tolerance: float, iterations: int) -> Potentials:
    """Potentials of a partial transport: one row and one column more take what stays, at no cost but not together."""
    cost = torch.nn.functional.pad(costs(x0[None], [x1[None]])[0], (0, 1, 0, 1))
    cost[-1, -1] = torch.inf
    a, b = (
        torch.cat((x.new_full((len(x),), 1 / len(x)), x.new_full((1,), 1 - fraction))) for x in (x0[:, 0], x1[:, 0])
    )
    return sinkhorn(cost, None, reg, a=a, b=b, tolerance=tolerance, iterations=iterations)
