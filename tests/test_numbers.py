"""Every number that a constructor takes: nonsense is named there, not met inside later on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pyflowk import distributions, nets, transforms

#: A constructor, what it needs, its counts with the least one each, and its other numbers that must be finite.
TAKES: list[tuple[Callable[..., Any], dict[str, Any], dict[str, int], tuple[str, ...]]] = [
    (transforms.ActNorm, {"channels": 3}, {"channels": 1}, ("eps",)),
    (transforms.BatchNorm, {"features": 3}, {"features": 1}, ("eps", "momentum")),
    (transforms.Standardize, {"shape": (3,)}, {}, ("eps",)),
    (transforms.Affine, {}, {}, ("limit",)),
    (transforms.Logit, {}, {}, ("margin",)),
    (transforms.GaussianNoise, {"sigma": 0.1}, {}, ("sigma",)),
    (lambda patch: transforms.Patches((1, 4, 4), patch), {"patch": 2}, {"patch": 1}, ()),
    (transforms.Scale, {"factor": 2.0}, {}, ("factor", "shift")),
    (transforms.RationalQuadratic, {"tail_bound": 1.0}, {}, ("tail_bound", "min_width", "min_slope")),
    (transforms.Truncated, {}, {"terms": 1, "probes": 1}, ()),
    (transforms.Roulette, {}, {"exact_terms": 1, "probes": 1}, ("survival",)),
    (distributions.ClassConditionalGaussian, {"shape": (3,), "classes": 2}, {"classes": 1}, ()),
    (distributions.GaussianMixture, {"shape": (3,), "components": 2}, {"components": 1}, ()),
    (lambda size: distributions.DiagonalGaussian((size,)), {"size": 1}, {"size": 0}, ()),
    (distributions.Uniform, {"shape": (3,)}, {}, ("low", "high")),
    (distributions.UniformTorus, {"shape": (3,)}, {}, ("period",)),
    (distributions.Categorical, {"shape": (3,), "symbols": 2}, {"symbols": 1}, ()),
    (nets.MLP, {"in_features": 1, "out_features": 1, "width": 4},
     {"in_features": 0, "out_features": 0, "width": 1, "depth": 1, "classes": 1, "context_dim": 1}, ()),
    (nets.MADE, {"features": 2, "params_per_element": 1}, {"features": 1, "params_per_element": 1, "classes": 1}, ()),
    (nets.CausalTransformer, {"features": 1, "tokens": 4, "width": 4},
     {"features": 1, "tokens": 1, "params_per_element": 1, "width": 1, "depth": 1, "classes": 1}, ()),
    (nets.ConvNet, {"in_channels": 1, "out_channels": 1, "width": 4},
     {"in_channels": 0, "out_channels": 1, "width": 1, "context_channels": 0}, ()),
    (nets.ResidualConvNet, {"in_channels": 1, "out_channels": 1, "width": 4},
     {"in_channels": 1, "out_channels": 1, "width": 1, "blocks": 0}, ()),
    (nets.MLPField, {"features": 1, "width": 4}, {"features": 1, "width": 1, "depth": 1}, ()),
    (nets.ConvField, {"channels": 1, "width": 4}, {"channels": 1, "width": 1, "depth": 1}, ()),
    (nets.LipschitzMLP, {"features": 1, "width": 4}, {"features": 1, "width": 1, "iterations": 1}, ("lipschitz",)),
]  # fmt: skip


@pytest.mark.parametrize("make, needs, counts, numbers", TAKES, ids=lambda value: getattr(value, "__name__", ""))
def test_nonsense_is_refused_by_name(
    make: Callable[..., Any], needs: dict[str, Any], counts: dict[str, int], numbers: tuple[str, ...]
) -> None:
    make(**needs)
    for name, least in counts.items():
        for wrong in (least - 1, 2.5, math.nan, math.inf, "3"):
            with pytest.raises((TypeError, ValueError), match="to be an integer of at least"):
                make(**{**needs, name: wrong})
        make(**{**needs, name: np.int64(2)})
    for name in numbers:
        for wrong in (math.nan, math.inf, -math.inf):
            with pytest.raises(ValueError, match=r"expect.* got"):
                make(**{**needs, name: wrong})
