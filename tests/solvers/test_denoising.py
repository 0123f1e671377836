"""Denoising by the score: golden numbers of a Gaussian, and what is no fall."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyflowk.solvers import denoise


def score(z: Tensor, sigma: float) -> Tensor:
    """Of N(1, .25), noised."""
    return -(z - 1) / (0.25 + sigma**2)


@pytest.mark.parametrize("steps, right", [(10, 1.4923701), (30, 1.4975519), (100, 1.4992111)])
def test_steps_of_a_gaussian(steps: int, right: float) -> None:
    """From one deviation above the mean, of noise .3, to one above the mean of the data: 1.5."""
    start = torch.tensor([[1 + (0.25 + 0.09) ** 0.5]], dtype=torch.float64)
    down = [*torch.linspace(0.3, 0.01, steps, dtype=torch.float64).tolist(), 0.0]
    assert denoise(score, start, down).item() == pytest.approx(right, abs=1e-7)
    assert denoise(score, start, (0.3, 0.0)).item() == pytest.approx(1.4287465, abs=1e-7)


def test_means_that_are_clipped_and_deviations_that_do_not_fall() -> None:
    assert denoise(score, torch.tensor([[9.0]]), (1.0, 0.5, 0.0), clip=0.5).item() == 0.5
    for wrong in ((0.3,), (0.3, 0.3), (0.1, 0.2, 0.0), (0.3, -0.1)):
        with pytest.raises(ValueError, match="deviations: expected two or more that fall"):
            denoise(score, torch.zeros(1, 1), wrong)
