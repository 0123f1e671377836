"""Ranks of true parameters among samples of exact and of wrong posteriors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyflowk.metrics import calibration_error, posterior_ranks

LIMIT = 1.95 / math.sqrt(2000)
"""Passed by chance in one case of a thousand."""


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(scale: float = 1.0, shift: float = 0.0) -> float:
    """theta ~ N(0, 1), x = theta + N(0, 1): the posterior is N(x / 2, 1 / 2), here with another scale or place."""
    theta = normal(2000, 1, seed=0)
    x = theta + normal(2000, 1, seed=1)
    samples = x / 2 + shift + scale * math.sqrt(0.5) * normal(99, 2000, 1, seed=2)
    return calibration_error(posterior_ranks(samples, theta), 99).item()


def test_only_exact_posteriors_are_calibrated() -> None:
    assert error() < LIMIT
    for wrong in (error(scale=0.7), error(scale=1.4), error(shift=0.2)):
        assert wrong > 1.5 * LIMIT


def test_ranks_and_their_gap_by_hand() -> None:
    samples = torch.tensor([0.1, 0.5, 0.9]).reshape(3, 1, 1).expand(3, 4, 1)
    truth = torch.tensor([[0.0], [0.3], [0.7], [1.0]])
    ranks = posterior_ranks(samples, truth)
    assert ranks.flatten().tolist() == [0, 1, 2, 3] and calibration_error(ranks, 3).item() == 0
    assert calibration_error(torch.full((5, 2), 3), 3).tolist() == [0.75, 0.75]
    assert calibration_error(torch.zeros(5, 0, dtype=torch.int64), 3).shape == (0,)


def test_what_has_no_ranks() -> None:
    with pytest.raises(ValueError, match=r"samples \(S, N, D\) and truth \(N, D\), got \(3, 2\) and \(2,\)"):
        posterior_ranks(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="ranks: expected 0 to 3, got 1 to 4"):
        calibration_error(torch.tensor([[1], [4]]), 3)
    with pytest.raises(ValueError, match=r"\(N, D\) of at least one row, got \(0, 2\)"):
        calibration_error(torch.zeros(0, 2, dtype=torch.int64), 3)
