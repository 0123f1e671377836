"""Flows on a simplex: the map of times, the bound with the true posterior, and noise of embeddings."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyflowk.nets import SimplexField
from pyflowk.objectives import SimplexMatching
from pyflowk.paths import SimplexPath

Q = torch.tensor([0.5, 0.2, 0.2, 0.1])


class Exact(SimplexField):
    """The posterior of one place, of whole points."""

    def __init__(self) -> None:
        super().__init__(SimplexPath(4), width=4, depth=1, heads=1)
        self.table.weight.data = torch.eye(4)

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        u = self.path.signal(t)[0].reshape(-1, 1, 1)
        return (Q.log() + u * (1 + u) * x).float()


def test_times_tell_evenly() -> None:
    path = SimplexPath(8)
    told = path.told(torch.tensor([0.45 / 0.55, 0.0], dtype=torch.float64))
    assert told.tolist() == pytest.approx([0.3276092732, 1 / 8], abs=1e-9)
    t = torch.tensor([0.0, 0.2314515534 / (1 - 1e-4), 0.5, 1.0], dtype=torch.float64)
    u, rate = path.signal(t)
    told = (8 * path.told(u) - 1) / 7
    torch.testing.assert_close(told / told[-1], t, atol=1e-6, rtol=0)
    assert 1 - told[-1] < 1.1e-4 and rate.min() > 0
    c, left = path.shares(t)
    assert c[0] == 0 and torch.allclose(c + left, torch.ones(4, dtype=torch.float64))
    wide = SimplexPath(50257).told(torch.tensor([4.0]))
    z = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = (torch.special.log_ndtr(z + 4) * 50256).exp()
    assert abs(wide - drawn.mean()) < 4 * drawn.std() / math.sqrt(2000)


def test_the_bound_of_the_true_posterior_is_the_entropy() -> None:
    field, copies = Exact(), 20_000
    x = torch.arange(4).repeat_interleave((Q * 10 * copies).round().long()).unsqueeze(1)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        each = SimplexMatching("bound")(field, x, generator=torch.Generator().manual_seed(1)).double()
    entropy = -float((Q * Q.log()).sum())
    assert abs(each.mean().item() - entropy) < 4 * each.std().item() / math.sqrt(len(x)) < 0.05


def test_embeddings_of_noise_are_those_of_all_its_numbers() -> None:
    """By a factor of few numbers where there are many symbols: the covariance is that of the embeddings."""
    field = SimplexField(SimplexPath(9), width=4, depth=1, heads=1).requires_grad_(False)
    n = field.noise(torch.zeros(200, 200), torch.Generator().manual_seed(0)).flatten(0, 1)
    e = field.table.weight
    torch.testing.assert_close(n.mT @ n / len(n), e.mT @ e, atol=0.3, rtol=0.05)


def test_what_is_refused() -> None:
    field = SimplexField(SimplexPath(3), width=4, depth=1, heads=1)
    loss, x = SimplexMatching(), torch.tensor([[0, 2]])
    assert loss(field, x[:0]).shape == (0,) and SimplexMatching("bound")(field, x, reduction="sum").shape == ()
    assert not torch.equal(
        *(SimplexMatching("bound")(field, x, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    )
    with pytest.raises(ValueError, match="kind: expected one of cross_entropy, bound; got 'elbo'"):
        SimplexMatching("elbo")
    with pytest.raises(TypeError, match="expected symbols, integers"):
        loss(field, x.float())
    with pytest.raises(ValueError, match=r"expected symbols 0 to 2, got 1 to 3$"):
        loss(field, x + 1)
    with pytest.raises(TypeError, match=r"expected embeddings, floats \(B, T, 4\)"):
        field(0.5, x)
    with pytest.raises(ValueError, match="symbols"):
        SimplexPath(1)
