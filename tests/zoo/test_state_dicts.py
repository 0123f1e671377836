"""The names and shapes in every system's state dict stay what they were: an old checkpoint is loaded by them."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch

from pyflowk import zoo

#: (system, shape, options, digest of its names and shapes before the systems were said by a Space)
KEPT: list[tuple[str, tuple[int, ...], dict[str, Any], str]] = [
    ("nice", (4,), {"levels": 8}, "8e3a7dae7c7c08a1"),
    ("realnvp", (4,), {"classes": 3}, "bc2081a243c8cf8c"),
    ("realnvp", (1, 8, 8), {"levels": 17, "width": 8}, "bd4d6797346c002f"),
    ("glow", (1, 8, 8), {"levels": 17, "steps": 2, "classes": 3, "width": 8}, "ceb8d4aea0373f51"),
    ("glow", (1, 8, 8), {"levels": 17, "steps": 2, "dequantize": "variational", "width": 8}, "9259e3cf077b1d93"),
    ("glow", (4,), {"context_dim": 2}, "16b73571adbe61d4"),
    ("maf", (4,), {"context_dim": 2}, "926b7c0510224141"),
    ("iaf", (4,), {}, "f56271174ba0ff14"),
    ("nsf", (4,), {"classes": 3}, "ee93d5fd0e06b946"),
    ("nsf", (2, 4, 4), {"levels": 8}, "6c3746b11903e726"),
    ("ffjord", (4,), {"classes": 3}, "049a417fd6c1619d"),
    ("ffjord", (1, 8, 8), {"levels": 17, "architecture": "multiscale", "width": 8}, "2abcb892a50cfc05"),
    ("neural_ode", (4,), {}, "ad95528c4ab3a949"),
    ("residual_flow", (4,), {"classes": 3, "width": 8}, "747848c4d878967e"),
    ("residual_flow", (1, 8, 8), {"levels": 17, "architecture": "multiscale", "width": 8}, "5b523ff3eaa6b7ce"),
]


def digest(state: dict[str, torch.Tensor]) -> str:
    lines = sorted(f"{name} {tuple(value.shape)}" for name, value in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    "name, shape, options, kept", KEPT, ids=[f"{k[0]}-{len(k[1])}-{i}" for i, k in enumerate(KEPT)]
)
def test_names_and_shapes_are_kept(name: str, shape: tuple[int, ...], options: dict[str, Any], kept: str) -> None:
    with torch.device("meta"):
        model = zoo.create(name, shape, **options)
    assert digest(model.state_dict()) == kept
