"""Monotone rational-quadratic splines as the map of a coupling or of an autoregressive layer."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..ops.rq_spline import rq_spline, spline_params
from .maps import Map


class RationalQuadratic(Map):
    r"""A monotone spline of ``bins`` rational-quadratic pieces on an interval, for every element its own.

    ``tail_bound`` B means the interval [-B, B]; ``interval`` (low, high) any other. ``tails``: "linear" is the identity
    outside, "bounded" leaves the slopes at the ends free and goes on straight outside, "circular" is for periodic
    variables of period high - low: one slope for both ends. A circle's map keeps the end of the interval where it is,
    so let the layers of a flow turn it in between.

    ``params_per_element`` is 3 K - 1, 3 K + 1 or 3 K; zeros are the identity, so a coupling whose network ends in
    zeros starts there. Shapes, errors, masks and layouts (``interleaved``) are those of
    :func:`pyflowk.ops.rq_spline`; cost: one pass, both directions. Raises ValueError for bins outside 2..64, unknown
    tails, or both or neither of ``tail_bound`` and ``interval``.

    Durkan, Bekasov, Murray, Papamakarios, 2019, arXiv:1906.04032; circles: Rezende et al., 2020, arXiv:2002.02428.

    >>> import torch
    >>> from pyflowk.nets import MLP
    >>> from pyflowk.transforms import Coupling, RationalQuadratic
    >>> spline = RationalQuadratic(bins=8, tail_bound=3.0)
    >>> coupling = Coupling(MLP(2, 2 * spline.params_per_element), spline)
    >>> x = torch.randn(5, 4)
    >>> torch.allclose(coupling(x)[0], x, atol=1e-5)
    True
    """

    def __init__(
        self,
        bins: int = 8,
        tail_bound: float | None = None,
        *,
        interval: tuple[float, float] | None = None,
        tails: str = "linear",
        min_width: float = 1e-3,
        min_height: float = 1e-3,
        min_slope: float = 1e-3,
        interleaved: bool = False,
    ) -> None:
        super().__init__()
        self.params_per_element = spline_params(bins, tails)
        if (tail_bound is None) == (interval is None):
            raise ValueError(f"RationalQuadratic expects either tail_bound or interval, got {tail_bound=}, {interval=}")
        if tail_bound is not None:
            interval = (-tail_bound, tail_bound)
        low, high = (float(end) for end in interval)  # type: ignore[union-attr]
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"RationalQuadratic expects a finite interval that is not empty, got [{low}, {high}]")
        for name, least in (("min_width", min_width), ("min_height", min_height)):
            if not 0 < least < 1 / bins:
                raise ValueError(f"RationalQuadratic expects {name} in (0, 1 / {bins}), got {least}")
        if not 0 < min_slope < 1:
            raise ValueError(f"RationalQuadratic expects min_slope in (0, 1), got {min_slope}")
        self.bins, self.interval, self.tails, self.interleaved = bins, (low, high), tails, interleaved
        self.min_width, self.min_height, self.min_slope = min_width, min_height, min_slope

    @property
    def options(self) -> dict[str, Any]:
        """The keywords that describe the spline to :func:`pyflowk.ops.rq_spline` and to the MADE ops."""
        names = ("bins", "interval", "tails", "min_width", "min_height", "min_slope")
        return {name: getattr(self, name) for name in names}

    @property
    def made_options(self) -> dict[str, Any]:
        return {"spline": self.options}

    def forward(
        self, x: Tensor, params: Tensor, *, mask: str = "half", swap: bool = False, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        return rq_spline(x, params, **self.options, mask=mask, swap=swap, interleaved=self.interleaved, inverse=inverse)

    def extra_repr(self) -> str:
        return f"bins={self.bins}, interval={self.interval}, tails={self.tails!r}, interleaved={self.interleaved}"
