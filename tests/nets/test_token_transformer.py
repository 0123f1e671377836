"""The token transformer: what it sees and refuses; and what a place is, given all others and itself."""

from __future__ import annotations

import pytest
import torch

from pyflowk.nets import Behind, Finished, FunctionField, LeaveOneOut, TokenTransformer
from pyflowk.paths import MixturePath
from pyflowk.space import Paired, Ragged
from tests.symbols import Law


def awake(net: TokenTransformer) -> TokenTransformer:
    """The network away from its zero start."""
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    return net


def test_a_row_is_alone_whatever_stands_beside_and_beyond_it() -> None:
    net = awake(TokenTransformer(6, 5, width=16, depth=2, heads=2, reach=2))
    x = Ragged(torch.tensor([[0, 1, 2, 3, 4, 5], [5, 4, 3, -9, 77, 6]]), torch.tensor([6, 3]))
    both = net(torch.tensor([0.2, 0.7]), x)
    assert both.shape == (2, 6, 5)
    torch.testing.assert_close(both[0], net(0.2, x.row(0)[None])[0])
    torch.testing.assert_close(both[1, :3], net(0.7, x.row(1)[None])[0])
    assert net(0.5, x.values[:0]).shape == (0, 6, 5) and not torch.allclose(both[0, 0], both[0, 1])


def test_places_are_told_apart_and_times_only_if_asked() -> None:
    x = torch.zeros(1, 8, dtype=torch.int64)
    x[0, 3] = 1
    rows, grid = (
        awake(TokenTransformer(2, 3, 16, 1, 2, time=None)),
        awake(TokenTransformer(2, 3, 16, 1, 2, grid=(2, 4))),
    )
    for net in (rows, grid):
        found = net(0.5, x)[0]
        assert not torch.allclose(found[2], found[6])  # they differ in where the other symbol is alone
    assert not rows.takes_time and torch.equal(rows(0.1, x), rows(0.9, x))
    assert grid.takes_time and not torch.allclose(grid(0.1, x), grid(0.9, x))


def test_blocks_see_those_before_them_whose_keys_and_values_are_kept() -> None:
    """One block at a time behind what was kept is what the row so far says, and all at once behind the true row."""
    net = awake(TokenTransformer(4, 3, 16, depth=2, heads=2, reach=2, block=3, time=None, classes=2)).requires_grad_(
        False
    )
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randint(3, (4, 9), generator=generator), torch.tensor([0, 1, 1, 0])
    noisy = torch.where(torch.rand(4, 9, generator=generator) < 0.5, 3, x)
    whole, against = net(0.0, x, labels), net(0.0, Paired(noisy, x), labels)
    finished, alone = Finished(x[:, :0], labels), Finished(x[:, :0], labels)
    some = torch.tensor([2, 0])
    for at in range(0, 9, 3):
        block, other = x[:, at : at + 3], noisy[:, at : at + 3]
        torch.testing.assert_close(net(0.0, other, finished), against[:, at : at + 3])
        torch.testing.assert_close(net(0.0, block, finished), whole[:, at : at + 3])
        torch.testing.assert_close(net(0.0, other[some], finished[some]), Behind(net)(0.0, other, alone)[some])
        finished, alone = net.read(block, finished), alone.followed_by(block)
    last = x.clone()
    last[:, 6:] = (last[:, 6:] + 1) % 3  # which no block before it sees
    assert torch.equal(net(0.0, last, labels)[:, :6], whole[:, :6])
    rows = net(0.0, Ragged(x, torch.tensor([9, 4, 7, 0])), labels)
    torch.testing.assert_close(rows[1, :4], net(0.0, x[1:2, :4], labels[1:2])[0])
    with pytest.raises(ValueError, match="block: expected rows without a grid"):
        TokenTransformer(4, 3, 16, block=3)
    with pytest.raises(ValueError, match="expected a network of blocks"):
        TokenTransformer(4, 3, 16, time=None)(0.0, Paired(noisy, x))
    with pytest.raises(ValueError, match="expected a block of up to 3 behind whole ones, got 1 at 8"):
        net(0.0, x[:, :1], Finished(x[:, :8], labels))


def test_leave_one_out_is_the_posterior() -> None:
    """By what the other symbol says, enumerated, the whole posterior comes out."""
    law, kappa = Law(MixturePath(3, "uniform"), places=2), 0.6
    joint, seen = law.q.reshape(3, 3), (1 - kappa) / 3 + kappa * torch.eye(3, dtype=torch.float64)
    others = torch.stack(((joint @ seen).T[law.states[:, 1]], (seen @ joint)[law.states[:, 0]]), 1)
    field = LeaveOneOut(FunctionField(lambda t, x: others.log()), law.path)
    torch.testing.assert_close(
        field(kappa, law.states).softmax(-1), law.posterior(kappa, law.states), atol=1e-6, rtol=0
    )
    assert field(1.0, law.states).isfinite().all()
    with pytest.raises(ValueError, match="LeaveOneOut expects a path with uniform noise, got MixturePath"):
        LeaveOneOut(FunctionField(lambda t, x: x), MixturePath(3))


def test_what_is_refused() -> None:
    net = TokenTransformer(4, 3, 8, 1, 2, grid=(2, 2))
    with pytest.raises(ValueError, match=r"TokenTransformer expects \(B, 4\), got \(1, 3\)"):
        net(0.5, torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected symbols 0 to 3, got 0 to 4"):
        net(0.5, torch.tensor([[0, 1, 2, 4]]))
    with pytest.raises(TypeError, match=r"expected symbols, integers \(B, T\)"):
        net(0.5, torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"expected one time .* or one for each of 1 rows"):
        net(torch.zeros(2), torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="heads: expected heads of a multiple of 4 channels"):
        TokenTransformer(4, 3, 6, 1, 1, grid=(2, 2))
