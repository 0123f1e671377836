"""LU factors of dense matrices, and what the linear ops refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import pyflowk
from pyflowk.ops import SingularTransformError, conv1x1, lu_factor_slogdet, lu_weight


def test_lu_factor_slogdet_is_torchs_slogdet_with_its_gradient() -> None:
    for seed in range(6):
        weight = torch.randn(5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()
        _, sign, logabsdet = lu_factor_slogdet(weight)
        expected = torch.linalg.slogdet(weight)
        torch.testing.assert_close((sign, logabsdet), (expected.sign, expected.logabsdet))
        torch.testing.assert_close(torch.autograd.grad(logabsdet, weight)[0], torch.linalg.inv(weight).mT.detach())


def test_a_float32_matrix_is_factored_in_float64() -> None:
    """Two rows that differ by one unit of rounding: far from singular in float64, lost in float32."""
    weight = torch.ones(2, 2)
    weight[1, 1] += torch.finfo(torch.float32).eps
    assert lu_factor_slogdet(weight)[2].item() == pytest.approx(-15.9424, abs=1e-3)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_singular_matrices_raise_with_their_pivot(value: float) -> None:
    weight = torch.eye(3)
    weight[2, 2] = value
    with pytest.raises(SingularTransformError, match=r"the matrix \(3, 3\) is singular: pivot 2 is"):
        lu_factor_slogdet(weight)
    assert issubclass(SingularTransformError, ValueError)


X, W, TERMS = torch.randn(2, 3, 4), torch.randn(3, 3), torch.randn(3)
LU, ORDER, SIGNS = torch.randn(1, 3, 3), torch.arange(3)[None], torch.ones(1, 3, dtype=torch.int64)


@pytest.mark.parametrize("forced", ["cpu", "reference"])
@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: conv1x1(X, W[:2], TERMS), r"weight must be \(3, 3\) for x \(2, 3, 4\); got \(2, 3\)"),
        (lambda: conv1x1(X, W, TERMS[:2]), r"terms must be \(3,\) for x \(2, 3, 4\); got \(2,\)"),
        (lambda: conv1x1(X, W, TERMS, TERMS[:2]), r"bias must be \(3,\) or \(0,\) for x \(2, 3, 4\); got \(2,\)"),
        (lambda: conv1x1(X[0, 0], W, TERMS), r"x must be \(B, C, \*rest\); got \(4,\)"),
        (lambda: conv1x1(X.double(), W, TERMS), "weight must be (torch.)?float64.*; got (torch.)?float32"),
        (lambda: conv1x1(X, W.double(), TERMS), "weight must be (torch.)?float32.*; got (torch.)?float64"),
        (lambda: conv1x1(X.long(), W, TERMS), "float32"),
        (lambda: lu_weight(LU[:, :2], ORDER, SIGNS), r"lu must be \(N, C, C\); got \(1, 2, 3\)"),
        (lambda: lu_weight(LU, ORDER[:, :2], SIGNS), r"permutation must be \(1, 3\).*got \(1, 2\)"),
        (lambda: lu_weight(LU.long(), ORDER, SIGNS), "float32"),
    ],
)
def test_bad_input_is_refused_in_words(call: Callable[[], object], words: str, forced: str) -> None:
    with pyflowk.backend(forced), pytest.raises((ValueError, TypeError), match=words):
        call()


def test_a_permutation_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"permutation must lie in \[0, 3\); got 7"):
        lu_weight(LU, torch.tensor([[0, 1, 7]]), SIGNS)
