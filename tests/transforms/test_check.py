from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyflowk.distributions import DiagonalGaussian
from pyflowk.flows import Flow
from pyflowk.nets import MLP
from pyflowk.transforms import ActNorm, Compose, Coupling, Flip, Scale, Transform, check_invertibility


class Broken(Transform):
    """Its inverse is off by 0.5 and its log-determinant by 1."""

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return 2 * x, torch.zeros(len(x))

    def inverse(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return z / 2 + 0.5, torch.ones(len(z))


def test_it_names_the_layer_that_does_not_come_back() -> None:
    report = check_invertibility(Compose(Scale(2.0), Compose(Broken(), Flip())), torch.randn(4, 3))
    assert [e.name for e in report.layers] == ["0 Scale", "1 Broken", "2 Flip", "whole"]
    errors = {e.name: e for e in report.layers}
    assert errors["0 Scale"].max_error < 1e-6 and errors["2 Flip"].max_error == 0
    assert abs(errors["1 Broken"].max_error - 0.5) < 1e-5 and errors["1 Broken"].ladj_error == 1
    assert abs(report.max_error - 0.25) < 1e-5
    assert "1 Broken" in str(report) and len(str(report).splitlines()) == 5


def test_it_takes_contexts_and_has_no_side_effects() -> None:
    norm = ActNorm(4)
    chain = Compose(norm, Coupling(MLP(2, 4, context_dim=3))).train()
    report = check_invertibility(chain, torch.randn(5, 4), torch.randn(5, 3))
    assert report.max_error < 1e-5
    assert chain.training and norm.training and not norm.is_initialized


def test_empty_batches_and_foreign_objects() -> None:
    assert check_invertibility(Scale(2.0), torch.zeros(0, 3)).max_error == 0
    with pytest.raises(TypeError, match=r"expects a Transform, such as flow.transform, got Flow"):
        check_invertibility(Flow(DiagonalGaussian((2,)), Scale(2.0)), torch.zeros(1, 2))  # type: ignore[arg-type]
