"""Maps of one variable as other packages write them, on this package's fused ops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops.rq_spline import rq_spline, spline_params


@dataclass(frozen=True)
class AffineMap:
    """y = x e^s + t: bound and limit of the MADE kernels that give s; `places`: which of an element's parameters is the
    kernels' first, second, ... (raw log-scale and shift, or a shift alone)."""

    bound: str
    limit: float
    places: Sequence[int]

    name = "affine"

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of the MADE kernels."""
        return {"bound": self.bound, "limit": self.limit}

    @property
    def identity(self) -> Sequence[float]:
        """The kernels' parameters of an element that stays as it is."""
        raw = math.log((1 - self.limit) / self.limit) - 2 if self.bound == "floored_sigmoid" else 0.0
        return (raw, 0.0)[: len(self.places)]

    @property
    def has_identity(self) -> bool:
        """Whether it stays so to the last bit."""
        return self.bound != "floored_sigmoid"

    def for_kernels(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """An output layer whose parameters are those of the kernels, its rows where they were."""
        return weight, bias


@dataclass(frozen=True)
class SplineMap:
    """A rational-quadratic spline on [-bound, bound], the identity outside; `numbers`: further keywords of rq_spline.

    Where logits of sizes are scaled and a raw slope of zero is no slope of one, the parameters are converted:
    logits times `scale`, raw slopes plus `offset`.
    """

    bins: int
    bound: float
    numbers: dict[str, float]
    scale: float = 1.0
    offset: float = 0.0

    name = "rational-quadratic spline"
    has_identity = False

    @classmethod
    def softplus(cls, bins: int, bound: float, width: float, height: float, slope: float, scale: float) -> SplineMap:
        """Slopes slope + softplus(raw), and least sizes: nflows and normflows."""
        numbers = {"min_width": width, "min_height": height, "min_slope": slope}
        return cls(bins, bound, numbers, scale, -math.log(math.expm1(1 - slope)))

    @classmethod
    def softclipped(cls, bins: int, bound: float, slope: float) -> SplineMap:
        """Logits and log-slopes clipped softly: zuko."""
        return cls(bins, bound, {"min_width": 0.0, "min_height": 0.0, "softclip": -math.log(slope)})

    @property
    def options(self) -> dict[str, Any]:
        return {"spline": self._spline}

    @property
    def _spline(self) -> dict[str, Any]:
        return {"bins": self.bins, "interval": (-self.bound, self.bound), **self.numbers}

    @property
    def params_per_element(self) -> int:
        return spline_params(self.bins)

    @property
    def places(self) -> Sequence[int]:
        return range(self.params_per_element)

    @property
    def identity(self) -> Sequence[float]:
        return (0.0,) * self.params_per_element

    def __call__(self, x: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """x (B, D), params (B, D, P) -> y, ladj (B,)."""
        if self._converts:
            scale, offset = self._conversion(params)
            params = torch.addcmul(offset, params, scale)
        return rq_spline(x, params.flatten(1), **self._spline, mask="all", interleaved=True, inverse=inverse)

    def for_kernels(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        if not self._converts:
            return weight, bias
        scale, offset = (t.repeat(len(bias) // self.params_per_element) for t in self._conversion(bias))
        return weight * scale[:, None], torch.addcmul(offset, bias, scale)

    @property
    def _converts(self) -> bool:
        return self.scale != 1 or self.offset != 0

    def _conversion(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and offset of an element's parameters."""
        scale, offset = like.new_ones(self.params_per_element), like.new_zeros(self.params_per_element)
        scale[: 2 * self.bins], offset[2 * self.bins :] = self.scale, self.offset
        return scale, offset


Map = AffineMap | SplineMap
