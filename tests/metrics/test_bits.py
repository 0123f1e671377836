from __future__ import annotations

import math

import pytest
import torch

from pyflowk.metrics import bits_per_dim, bits_per_symbol


def test_bits_per_dim() -> None:
    """A uniform distribution over 2^8 values costs 8 bits in each dimension."""
    log_prob = torch.tensor([-12 * math.log(256.0)])
    assert bits_per_dim(log_prob, 12).item() == pytest.approx(8)
    assert bits_per_dim(log_prob, (3, 2, 2)).item() == pytest.approx(8)
    with pytest.raises(ValueError, match="at least one dimension"):
        bits_per_dim(log_prob, (0, 3))
    for wrong in (2.5, True, (2, 0.5), None):
        with pytest.raises(TypeError, match="an integer or the event's shape, got"):
            bits_per_dim(log_prob, wrong)


def test_bits_per_symbol_weighs_rows_by_their_length() -> None:
    log_prob, lengths = torch.tensor([-3.0, 0.0, -1.0]) * math.log(2), torch.tensor([2, 0, 3])
    assert bits_per_symbol(log_prob, lengths).item() == pytest.approx(4 / 5)
    with pytest.raises(ValueError, match="a length for each row"):
        bits_per_symbol(log_prob, lengths[:2])
    for wrong in (torch.zeros(3, dtype=torch.int64), torch.ones(3)):
        with pytest.raises(ValueError, match="expected integers, some above 0"):
            bits_per_symbol(log_prob, wrong)
