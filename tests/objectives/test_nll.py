from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyflowk.distributions import DiagonalGaussian
from pyflowk.flows import Flow
from pyflowk.nets import MLP
from pyflowk.objectives import nll
from pyflowk.transforms import Compose, Coupling, Dequantize, Logit, Scale


def integer_flow(levels: int, margin: float) -> Flow:
    return Flow(DiagonalGaussian((1,)), Compose(Dequantize(levels), Scale(1 / levels), Logit(margin))).double()


def probability(flow: Flow, x: Tensor, draws: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """P(x) = E_u p(x + u) for one integer event, and the standard error of the estimate."""
    generator = torch.Generator().manual_seed(seed)
    density = flow.log_prob(x.expand(draws, *x.shape[1:]), generator=generator).exp()
    return density.mean(), density.std() / math.sqrt(draws)


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_every_cell_of_a_known_discrete_distribution(margin: float) -> None:
    """A standard normal squashed into (0, 1) and cut into five cells: P(k) is a difference of normal CDFs."""
    levels, total = 5, 0.0
    flow = integer_flow(levels, margin)
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    edges = margin + (1 - 2 * margin) * torch.arange(levels + 1, dtype=torch.float64) / levels
    cdf = normal.cdf(torch.logit(edges))
    for k in range(levels):
        estimate, error = probability(flow, torch.tensor([[k]]), 200_000)
        assert abs(estimate - (cdf[k + 1] - cdf[k])) < 5 * error
        assert error < 0.002
        total += estimate.item()
    assert abs(total - (cdf[-1] - cdf[0]).item()) < 0.005
    assert margin > 0 or abs(total - 1) < 0.005


def test_probabilities_of_pairs_sum_to_one_through_couplings() -> None:
    torch.manual_seed(0)
    couplings = [Coupling(MLP(1, 2, width=8, activation="tanh"), swap=s) for s in (False, True)]
    flow = Flow(DiagonalGaussian((2,)), Compose(Dequantize(3), Scale(1 / 3), Logit(0.0), *couplings)).double()
    with torch.no_grad():
        for p in flow.parameters():
            p += 0.3 * torch.randn(p.shape, dtype=p.dtype)
        cells = [
            probability(flow, torch.tensor([[i, j]]).double(), 100_000, 3 * i + j) for i in range(3) for j in range(3)
        ]
    total, error = sum(p for p, _ in cells), sum(e * e for _, e in cells) ** 0.5
    assert error < 0.01 and abs(total - 1) < 5 * error


def test_nll_is_a_lower_bound_per_event() -> None:
    """Jensen: the mean of -log p(x + u) is not below -log P(x)."""
    flow, x = integer_flow(5, 0.0), torch.tensor([[2]])
    estimate, _ = probability(flow, x, 100_000)
    bound = nll(flow, x.expand(100_000, 1), generator=torch.Generator().manual_seed(0), reduction="mean")
    assert bound > -estimate.log()
