"""Maps of one variable as other packages write them, on this package's fused ops."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..ops.rq_spline import rq_spline, spline_params

_TINY = 1e-12  # a least share or slope that float32 does not tell from none


@dataclass(frozen=True)
class AffineMap:
    """y = x e^s + t: bound and limit of the MADE kernels that give s; which parameter of an element is which."""

    bound: str
    limit: float
    raw: int
    shift: int

    name = "affine"

    @property
    def places(self) -> Sequence[int]:
        return self.raw, self.shift

    @property
    def options(self) -> dict[str, Any]:
        return {"bound": self.bound, "limit": self.limit}


class _Spline(ABC):
    """What both kinds of splines say of themselves."""

    name = "rational-quadratic spline"
    options: ClassVar[dict[str, Any]] = {}

    @property
    @abstractmethod
    def params_per_element(self) -> int: ...

    @property
    def places(self) -> Sequence[int]:
        return range(self.params_per_element)


@dataclass(frozen=True)
class SplineMap(_Spline):
    """A rational-quadratic spline on [-bound, bound] with softmax bins, slopes m + softplus: nflows and normflows."""

    bins: int
    interval: tuple[float, float]
    tails: str
    min_width: float
    min_height: float
    min_slope: float
    shrink: float = 1.0  # of the logits of widths and heights

    @property
    def params_per_element(self) -> int:
        return spline_params(self.bins, self.tails)

    def __call__(self, x: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """x (B, D), params (B, D, P) -> y, ladj (B,)."""
        return rq_spline(
            x, self.converted(params).flatten(1), bins=self.bins, interval=self.interval, tails=self.tails, mask="all",
            min_width=self.min_width, min_height=self.min_height, min_slope=self.min_slope, interleaved=True,
            inverse=inverse,
        )  # fmt: skip

    def converted(self, params: Tensor) -> Tensor:
        """The parameters that our op takes: a raw slope of zero is a slope of one there."""
        logits = 2 * self.bins
        shrink = params.new_full((params.shape[-1],), 1.0)
        shrink[:logits] = self.shrink
        offset = params.new_zeros(params.shape[-1])
        offset[logits:] = -math.log(math.expm1(1 - self.min_slope))
        return torch.addcmul(offset, params, shrink)


@dataclass(frozen=True)
class SoftclippedSplineMap(_Spline):
    """A rational-quadratic spline on [-bound, bound], logits and log-slopes softclipped: zuko."""

    bins: int
    bound: float
    slope: float

    @property
    def params_per_element(self) -> int:
        return 3 * self.bins - 1

    def __call__(self, x: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        return rq_spline(
            x, self.converted(params).flatten(1), bins=self.bins, interval=(-self.bound, self.bound), mask="all",
            min_width=_TINY, min_height=_TINY, min_slope=_TINY, interleaved=True, inverse=inverse,
        )  # fmt: skip

    def converted(self, params: Tensor) -> Tensor:
        limit = -math.log(self.slope)
        logits = 2 * self.bins
        limits = params.new_full((params.shape[-1],), 1 / limit)
        limits[:logits] *= 2
        clipped = params / (1 + (params * limits).abs())
        slopes = torch.exp(clipped[..., logits:])
        # softplus backwards: y + log(1 - e^-y)
        raw = slopes + torch.log(-torch.expm1(-slopes)) - math.log(math.expm1(1 - _TINY))
        return torch.cat([clipped[..., :logits], raw], -1)


Map = AffineMap | SplineMap | SoftclippedSplineMap
