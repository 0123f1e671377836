"""Discrete flow matching against what is known: the entropy of the data, the bound of even noise, and who pays."""

from __future__ import annotations

import math

import pytest
import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from pyflowk.nets import Field, TokenTransformer
from pyflowk.objectives import DiscreteMatching
from pyflowk.ops import discrete_loss
from pyflowk.paths import MixturePath, Polynomial
from pyflowk.space import Paired, Ragged
from tests.symbols import Law

Q = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
ENTROPY, UNIFORM = 1.2206072645530173, 1.58321
"""H(q), and the bound for even noise, by quadrature over 400 nodes: it is above H(q) by what it costs not to know."""


def one_symbol(source: str, power: float = 1.0) -> Law:
    law = Law(MixturePath(4, source, Polynomial(power)), places=1)
    law.q = Q
    return law


@pytest.mark.parametrize("source, bound", [("mask", ENTROPY), ("uniform", UNIFORM)])
@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_bound_is_the_same_for_every_schedule(source: str, bound: float, power: int) -> None:
    """By the path's own weights, times and states enumerated."""
    law, data = one_symbol(source, power), torch.arange(4).unsqueeze(1)
    nodes, weights = (torch.from_numpy(v) for v in leggauss(200))
    total = 0.0
    for t, weight in zip((nodes + 1) / 2, weights / 2):
        kappa, rate = law.path.kappa(t).item(), law.path.rate(t).item()
        logits = law.posterior(kappa, law.states).log()
        chance = law.seen(kappa, law.states) * Q  # (states, data)
        for i, state in enumerate(law.states):
            same = torch.full((4, 1), int(state))
            cost = discrete_loss(logits[i].expand(4, 1, 4), same, data, mask=law.path.mask).flatten()
            total += weight.item() * rate * float((chance[i] * cost).sum())
    assert abs(total - bound) < (1e-9 if source == "mask" else 2e-3)


@pytest.mark.parametrize("source, bound", [("mask", ENTROPY), ("uniform", UNIFORM)])
def test_the_objective_estimates_that_bound(source: str, bound: float) -> None:
    law, copies = one_symbol(source), 400
    x = torch.arange(4).repeat_interleave((Q * 10 * copies).long()).unsqueeze(1)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]

    def field(t: Tensor, x: Tensor) -> Tensor:
        kappa = law.path.kappa(t.double()).reshape(-1, 1, 1)
        same = (x.unsqueeze(1) == torch.arange(4).reshape(1, 4, 1)).double().squeeze(2).unsqueeze(1)
        seen = (1 - kappa) / 4 + kappa * same if source == "uniform" else torch.ones(len(x), 1, 4)
        return (seen * Q).log()

    each = DiscreteMatching(law.path)(field, x, generator=torch.Generator().manual_seed(1))
    assert abs(each.mean().item() - bound) < 4 * max(each.std().item() / math.sqrt(len(x)), 1e-5)


def test_several_masks_add_up_to_the_entropy() -> None:
    """Of two symbols that know of each other, by every number of masks and every place."""
    law = Law(MixturePath(3), places=2)
    x = law.data[torch.multinomial(law.q, 40_000, True, generator=torch.Generator().manual_seed(0))]
    each = DiscreteMatching(law.path)(law.field, x, generator=torch.Generator().manual_seed(1))
    entropy = -float((law.q * law.q.log()).sum())
    assert abs(each.mean().item() - entropy) < 4 * each.std().item() / 200


def test_blocks_of_one_symbol_say_what_a_row_costs() -> None:
    """Each given the true ones before it; a block of all is no block, and blocks of masks alone are rows."""
    law = Law(MixturePath(3), places=2)
    joint = law.q.reshape(3, 3)

    class Exact(Field):
        takes_time = False

        def forward(self, t: Tensor, x: Paired, context: Tensor | None = None) -> Tensor:
            second = (joint / joint.sum(1, keepdim=True))[x.x1[:, 0]]
            return torch.stack((joint.sum(1).expand(len(x), 3), second), 1).log()

    paid = DiscreteMatching(law.path, block=1)(Exact(), law.data, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(paid.double(), -law.q.log(), atol=1e-5, rtol=0)
    assert DiscreteMatching(law.path, block=2)(Exact(), law.data[:0]).shape == (0,)
    with pytest.raises(ValueError, match=r"block: expected rows \(B, T\) of one length, a multiple of 3"):
        DiscreteMatching(law.path, block=3)(Exact(), law.data)
    with pytest.raises(ValueError, match="block: expected masks for noise"):
        DiscreteMatching(MixturePath(3, "uniform"), block=2)


def test_what_lies_beyond_a_row_is_neither_seen_nor_paid_for() -> None:
    net = TokenTransformer(4, 3, width=8, depth=1, heads=1, reach=1, time=None)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    loss, lengths = DiscreteMatching(MixturePath(3)), torch.tensor([4, 2, 0])
    ids = torch.tensor([[0, 1, 2, 0], [2, 1, 0, 0], [0, 0, 0, 0]])
    other = torch.tensor([[0, 1, 2, 0], [2, 1, 9, -7], [5, 5, 5, 5]])
    found = [loss(net, Ragged(x, lengths), generator=torch.Generator().manual_seed(0)) for x in (ids, other)]
    assert torch.equal(*found) and found[0][2] == 0 and found[0][:2].min() > 0
    gradients = []  # the net's logits give their memory to the gradient, those of a function do not
    for field in (net, lambda t, x: net(t, x)):
        each = loss(field, Ragged(ids, lengths), generator=torch.Generator().manual_seed(0))
        gradients.append(torch.autograd.grad(each.sum(), [*net.parameters()]))
    assert all(torch.equal(*pair) for pair in zip(*gradients)) and gradients[0][0].any()
    for rows in (2, 0):  # nothing is paid for rows without a symbol, however wide they are
        none, ends = torch.zeros(rows, 0, dtype=torch.int64), torch.zeros(rows, dtype=torch.int64)
        wide = Ragged(torch.zeros(rows, 4, dtype=torch.int64), ends)
        assert all(torch.equal(loss(net, x), torch.zeros(rows)) for x in (none, Ragged(none, ends), wide))


def test_pairs_and_no_rows_and_errors() -> None:
    path = MixturePath(3, "uniform")
    loss, x = DiscreteMatching(path), torch.tensor([[0, 1], [2, 2]])
    zeros = lambda t, x: torch.zeros(*x.shape, 3)  # noqa: E731
    same = loss(zeros, Paired(x, x), generator=torch.Generator().manual_seed(0))  # nothing has to jump
    assert (same > 0).all() and loss(zeros, x[:0]).shape == (0,)
    assert loss(zeros, x, reduction="sum").shape == ()
    plain = DiscreteMatching(path, "cross_entropy")(zeros, x)
    torch.testing.assert_close(plain, torch.full((2,), 2 * math.log(3)))
    with pytest.raises(ValueError, match="kind: expected one of elbo, cross_entropy; got 'ce'"):
        DiscreteMatching(path, "ce")
    with pytest.raises(TypeError, match="path: expected a MixturePath"):
        DiscreteMatching(Polynomial(2))
    with pytest.raises(ValueError, match="expected symbols 0 to 2, got 0 to 3"):
        loss(zeros, x + torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"expected logits \(2, 2, 3\) of the field, got \(2, 2, 1\)"):
        loss(lambda t, x: torch.zeros(2, 2, 1), x)
