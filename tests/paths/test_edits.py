"""Paths of edits against what they say of every single token, against quadrature, and against simulation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyflowk.paths import (
    Alignment,
    Begun,
    Cosine,
    EditLogits,
    EditPath,
    EditRates,
    Edits,
    NoiseTokens,
    Polynomial,
    closest,
    empty,
    expected_edits,
    leftmost,
    strip,
)
from pyflowk.space import Ragged

DOUBLE = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sequences(rows: int, longest: int, symbols: int, seed: int) -> Ragged:
    values = torch.randint(0, symbols, (rows, longest), generator=seeded(seed))
    return Ragged(values, torch.randint(0, longest + 1, (rows,), generator=seeded(seed + 1)))


@pytest.mark.parametrize("aligner", [leftmost, closest])
def test_the_edits_that_are_left_make_the_data(aligner) -> None:
    """Whatever has come: x_t with the edits still to come is x1, read off token by token."""
    x0, x1 = sequences(60, 6, 3, 0), sequences(60, 8, 3, 2)
    state = EditPath().sample(aligner(x0, x1, seeded()), torch.linspace(0, 1, 60), seeded())
    for i in range(60):
        was = state.x.row(i).tolist()
        out: list[list[int]] = [[], *([token] for token in was)]  # a position, then what is inserted to its right
        for kind, position, token in zip(*(part[i].tolist() for part in state.edits), strict=True):
            if kind == 0:
                out[position].append(token)
            elif kind > 0:
                assert kind == 1 or token != was[position - 1]
                out[position][0] = -1 if kind == 1 else token
        assert [token for part in out for token in part if token >= 0] == x1.row(i).tolist()
    assert state.x.row(0).tolist() == x0.row(0).tolist() and state.x.row(59).tolist() == x1.row(59).tolist()


def test_alignments() -> None:
    x0, x1 = sequences(40, 5, 2, 4), sequences(40, 7, 2, 6)
    for aligned in (leftmost(x0, x1), closest(x0, x1, seeded())):
        for z, x in zip(aligned, (x0, x1), strict=True):
            assert all(strip(z).row(i).tolist() == x.row(i).tolist() for i in range(40))
    few, many = ((a.z0 != a.z1).sum(1) for a in (closest(x0, x1, seeded()), leftmost(x0, x1)))
    assert (few <= many).all() and (few < many).any()
    assert leftmost(empty(x1), x1).z0.unique().tolist() == [-1]
    with pytest.raises(ValueError, match=f"as many rows of x0 as of x1; got {len(x0)} and 1"):
        leftmost(x0, Ragged(x1.values[:1], x1.lengths[:1]))
    noise = NoiseTokens(9, 4)(x1, seeded())
    assert noise.values.shape == (40, 9) and noise.values.unique().tolist() == [0, 1, 2, 3]
    assert strip(torch.full((2, 3), -1)).values.shape == (2, 0) and len(strip(torch.zeros(0, 3))) == 0


@pytest.mark.parametrize("schedule", [Polynomial(3.0), Polynomial(1.0)])
def test_moments_before_an_edit_stand_for_all_times(schedule: Polynomial) -> None:
    """Sums over subsets at quadrature nodes: every average in the unit of rates, by the weights of single moments."""
    rows, edits, path = 200_000, 4, EditPath(schedule)
    z1 = torch.tensor([[0, 0, 1, 2, 0, 1]]).expand(rows, -1)
    z0 = torch.tensor([[0, -1, -1, 0, 0, 0]]).expand(rows, -1).clone()
    z0[:, 5] = -1
    state = path.sample_edit(Alignment(z0, z1), seeded())
    to_come = state.edits.kind >= 0
    torch.testing.assert_close(path.left(state.t), state.left, rtol=1e-6, atol=1e-9)

    def seen(count: Tensor, left: Tensor, last: Tensor) -> Tensor:
        return left * (1 + last) / (1 + count) + count * (left + last)

    u = (torch.arange(20_000, dtype=DOUBLE) + 0.5) / 20_000  # shares that have come, and du / (1 - u) is the unit's
    exact = 0.0
    for subset in range(2**edits):
        left = torch.tensor(float(subset.bit_count()), dtype=DOUBLE)
        mass = (1 - u) ** left * u ** (edits - left)
        exact += (mass * seen(left, 1 - u, torch.tensor(float(subset & 1))) / (1 - u)).mean().item()
    found = state.weight * seen(to_come.sum(1).double(), state.left, to_come[:, 1].double())
    error = found.std().item() / math.sqrt(rows)
    assert found.mean().item() == pytest.approx(exact, abs=4 * error) and error < 0.01 * exact
    with pytest.raises(ValueError, match=r"expected a path without spread, got 1\.0"):
        EditPath(spread=1.0).sample_edit(Alignment(z0, z1))


def test_edits_that_spread_are_those_of_the_process() -> None:
    """Occupancy against the process walked in small steps; what the intensities add up to is what has come."""
    rows, width, stop, spread = 10_000, 5, 0.7, 3.0
    path = EditPath(Polynomial(2.0), spread)
    z1 = torch.tensor([[1, 1, -1, 1, 1]]).expand(rows, -1)  # two blanks: no edit, but a way through
    aligned = Alignment(torch.full_like(z1, -1), z1)
    reached = torch.zeros(width, rows, width, dtype=torch.bool)  # by seed, row, place
    seeds = (z1 >= 0).T
    dt, generator = stop / 100, seeded(5)
    for step in range(100):
        rate = path.unit(torch.tensor((step + 0.5) * dt)) - spread
        begun = (torch.rand(width, rows, generator=generator) < rate * dt) & seeds
        right = torch.nn.functional.pad(reached, (1, -1)) & ~reached
        left = torch.nn.functional.pad(reached, (-1, 1)) & ~reached
        moved = torch.rand(2, width, rows, width, generator=generator) < spread * dt
        reached = reached | (right & moved[0]) | (left & moved[1])
        places = torch.arange(width)
        reached[places, :, places] |= begun
    simulated = reached.any(0).double().mean(0)
    state = path.sample(aligned, torch.full((rows,), stop), seeded())
    drawn = 1 - (state.edits.kind >= 0).double().mean(0)
    real = z1[0] >= 0
    torch.testing.assert_close(drawn[real], simulated[real], rtol=0, atol=0.02)
    t = stop * torch.rand(rows, generator=seeded(1), dtype=DOUBLE)
    on_the_way = path.sample(aligned, t, seeded(2))
    gained = stop * (on_the_way.intensity * on_the_way.weight[:, None]).mean(0)
    torch.testing.assert_close(gained[real], drawn[real], rtol=0, atol=0.02)
    plain, none = (EditPath(Polynomial(2.0), s).sample(aligned, t, seeded(3)) for s in (0.0, 1e-12))
    assert torch.equal(plain.edits.kind, none.edits.kind)
    torch.testing.assert_close(plain.intensity, none.intensity)
    assert (1 - (plain.edits.kind >= 0).double().mean(0))[real].max() < drawn[real].min()


def test_how_many_edits_are_to_be_expected() -> None:
    """The integral of log(1 + v e^o) / v by quadrature, from rare edits to many."""
    odds = torch.tensor([-30.0, -3, -0.5, 0, 0.2, 4, 25], dtype=DOUBLE)
    for share in (0.0, 1e-3, 0.5, 0.999):
        s = (torch.arange(100_000, dtype=DOUBLE) + 0.5) / 100_000
        v = (share**0.25 + (1 - share**0.25) * s) ** 4
        weight = 4 * (1 - share**0.25) * v**0.75
        exact = (torch.log1p(v * odds[:, None].exp()) / v * weight).mean(1)
        torch.testing.assert_close(
            expected_edits(odds, torch.tensor(share, dtype=DOUBLE).log()), exact, rtol=1e-6, atol=0
        )
    assert expected_edits(torch.tensor(-math.inf), torch.tensor(-math.inf)) == 0


def told(rows: int, places: int, symbols: int, seed: int = 0) -> EditLogits:
    parts = torch.randn(rows, places, 3 + 2 * symbols, generator=seeded(seed), dtype=DOUBLE).split(
        (3, symbols, symbols), 2
    )
    return EditLogits(*parts)


def test_rates_are_those_of_edits_that_can_be() -> None:
    x, logits = Ragged(torch.tensor([[2, 1, 9], [0, 7, 7]]), torch.tensor([2, 0])), told(2, 4, 3)
    rates = EditRates(logits, x, torch.tensor([0.5, 1.0], dtype=DOUBLE))
    plain = torch.log1p(torch.tensor([0.5, 1.0])[:, None, None] * logits.rates.exp()).log()
    there = rates.log_rates > -math.inf
    assert there.long().tolist() == [[[1, 0, 0], [1, 1, 1], [1, 1, 1], [0, 0, 0]], [[1, 0, 0], *[[0, 0, 0]] * 3]]
    torch.testing.assert_close(rates.log_rates[there], plain[there])
    edits = Edits(*torch.tensor([[[0, 1, 2, -1]], [[2, 1, 1, 0]], [[1, 0, 0, 0]]]).expand(3, 2, 4).clone())
    found = rates.log_of(edits)[0]
    others = logits.substitute[0, 1].index_fill(0, torch.tensor(2), -math.inf).log_softmax(0)  # no token for itself
    expected = [
        rates.log_rates[0, 2, 0] + logits.insert[0, 2].log_softmax(0)[1], rates.log_rates[0, 1, 1],
        rates.log_rates[0, 1, 2] + others[0], torch.tensor(0.0, dtype=DOUBLE),
    ]  # fmt: skip
    torch.testing.assert_close(found, torch.stack(expected))
    alone = EditRates(told(2, 4, 1), Ragged(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([3, 1])), torch.ones(2))
    assert alone.substitute is None and (alone.log_rates[..., 2] == -math.inf).all()  # a vocabulary of one
    insertions = EditRates(EditLogits(torch.zeros(2, 4, 1), torch.zeros(2, 4, 3)), x, torch.ones(2))
    assert insertions.log_of(Edits(*(part[:, :1] for part in edits)))[0].isfinite()
    with pytest.raises(ValueError, match="path needs deletions or substitutions; the field has insertions alone"):
        insertions.log_of(edits)
    with pytest.raises(ValueError, match=r"field of edits: expected rates \(2, 4, 3\) .*got \[\(2, 3, 3\)"):
        EditRates(told(2, 3, 3), x, torch.ones(2))
    for symbols, values, wrong in ((2, x.values, 2), (3, x.values - 3, -1)):
        with pytest.raises(ValueError, match=f"must hold symbols 0 to {symbols - 1}; got {wrong}"):
            EditRates(told(2, 4, symbols), Ragged(values, x.lengths), torch.ones(2))


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="schedule: expected shares of data and noise that sum to 1"):
        EditPath(Cosine())
    with pytest.raises(TypeError, match="schedule: expected a Schedule, such as"):
        EditPath("cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="spread to be a finite number of at least 0, got -1"):
        EditPath(spread=-1)
    with pytest.raises(ValueError, match=r"share: expected a number from 0 to 1, got 1\.5"):
        Begun(empty, 1.5)
    x = Ragged.of([torch.tensor([1, 0])])
    with pytest.raises(ValueError, match=r"EditPath expects times from 0 to 1, got 1\.5"):
        EditPath().sample(leftmost(empty(x), x), torch.tensor([1.5]))
