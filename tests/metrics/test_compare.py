from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyflowk.metrics import Measure, compare
from pyflowk.space import Ragged, Space


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tokens(n: int, seed: int, first: float = 0.5) -> Ragged:
    """Rows of 3 to 6 symbols that seldom repeat themselves; ``first`` is the share of those that start with 0."""
    generator = seeded(seed)
    start = (torch.rand(n, 1, generator=generator) >= first).long()
    steps = (torch.rand(n, 5, generator=generator) < 0.9).long().cumsum(1)
    return Ragged((torch.cat((start, start + steps), 1)) % 2, torch.randint(3, 7, (n,), generator=generator))


def draw(kind: str, n: int, seed: int, off: float) -> Tensor | Ragged:
    if kind == "tokens":
        return tokens(n, seed, 0.5 + off)
    if kind == "words":
        return torch.randint(5 if off else 6, (n, 4), generator=seeded(seed))
    x = torch.randn((n, 3), generator=seeded(seed)) + off
    return x * torch.tensor([1.0, 1e4, 1e-4]) if kind == "table" else (8 + 3 * x).round().clamp(0, 15)


SPACES = {
    "table": Space((3,)),
    "levels": Space((3,), levels=16),
    "words": Space((4,), symbols=6),
    "tokens": Space((6,), symbols=2, variable=True),
}
NAMES = {
    "table": {"energy_distance", "wasserstein", "sliced_wasserstein", "c2st", "precision", "coverage"},
    "words": {"unigrams", "bigrams"},
    "tokens": {"unigrams", "bigrams", "lengths"},
}


@pytest.mark.parametrize("kind", list(SPACES))
def test_what_is_off_is_seen_and_what_is_not_is_noise(kind: str) -> None:
    space, data = SPACES[kind], draw(kind, 1500, 0, 0.0)
    good = compare(draw(kind, 1500, 1, 0.0), data, space, seeded())
    bad = compare(draw(kind, 1500, 2, 0.4), data, space, seeded())
    assert set(good) == NAMES.get(kind, NAMES["table"])
    assert all(abs(one.value - one.noise) < 6 * one.error for one in good.values())
    assert any(one.value - one.noise > 6 * one.error for one in bad.values())
    for name in ("energy_distance", "wasserstein", "sliced_wasserstein", "c2st", "unigrams"):
        if name in bad and kind != "tokens":
            assert bad[name].value - bad[name].noise > 4 * bad[name].error, name
    assert compare(draw(kind, 1500, 1, 0.0), data, space, seeded()) == good


def test_a_step_that_is_never_made_is_seen_in_bigrams() -> None:
    """The same symbols in another order."""
    data = torch.randint(2, (1000, 1), generator=seeded()).repeat(1, 6)
    turns = (data + torch.arange(6)) % 2
    found = compare(turns, data, Space((6,), symbols=2), seeded())
    assert found["unigrams"].value < found["unigrams"].noise + 4 * found["unigrams"].error
    assert found["bigrams"].value > 0.7 > found["bigrams"].noise


def test_units_of_columns_do_not_matter() -> None:
    space, scale = Space((3,)), torch.tensor([1.0, 128.0, 1 / 64])
    x, y = torch.randn(300, 3, generator=seeded()), torch.randn(300, 3, generator=seeded(1))
    first, second = compare(x, y, space, seeded()), compare(x * scale, y * scale, space, seeded())
    for name, one in first.items():
        assert second[name].value == pytest.approx(one.value, abs=1e-6)
    y[:, 1] = 7.0  # a column that does not vary divides by nothing
    assert all(math.isfinite(one.value) for one in compare(x, y, space, seeded()).values())


def test_levels_count_in_shares_of_the_largest_and_points_of_manifolds_as_they_are() -> None:
    x, y = draw("levels", 200, 0, 0.0), draw("levels", 200, 1, 0.2)
    first = compare(x, y, SPACES["levels"], seeded())
    second = compare(x.double() / 15, y.double() / 15, Space((3,), manifold="euclidean"), seeded())
    for name, one in first.items():
        assert second[name].value == pytest.approx(one.value, abs=1e-6)


def test_the_order_of_rows_does_not_matter() -> None:
    x, y = torch.randn(800, 2, generator=seeded()), torch.randn(800, 2, generator=seeded(1))
    found = compare(x[x[:, 0].argsort()], y, Space((2,)), seeded())
    assert all(abs(one.value - one.noise) < 6 * one.error for one in found.values())


def test_of_few_rows_little_is_said_and_of_too_few_nothing() -> None:
    x = torch.randn(39, 2, generator=seeded())
    assert all(one.error is None and one.noise is None for one in compare(x, x, Space((2,)), seeded()).values())
    assert compare(x[:19], x, Space((2,)), seeded()) == {}
    rows = Ragged(torch.randn(50, 4), torch.full((50,), 4))
    assert compare(rows, rows, Space((4,), variable=True), seeded()) == {}


def test_samples_that_are_not_finite_are_told() -> None:
    x = torch.randn(100, 2, generator=seeded())
    found = compare(torch.full_like(x, math.nan), x, Space((2,)), seeded())
    assert all(math.isnan(one.value) and one.error is None for one in found.values())
    with pytest.raises(TypeError, match=r"space: expected a Space, such as Space\(\(2,\)\), got \(2,\)"):
        compare(torch.zeros(100, 2), torch.zeros(100, 2), (2,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected x \(B, 2\), got \(100, 3\)"):
        compare(torch.zeros(100, 3), x, Space((2,)), seeded())


@pytest.mark.filterwarnings("error")
def test_samples_may_have_a_graph() -> None:
    x = torch.randn((60, 3), generator=seeded())
    assert compare(x.clone().requires_grad_(), x, SPACES["table"], seeded()) == compare(x, x, SPACES["table"], seeded())


def test_a_measure_prints_what_it_has() -> None:
    assert str(Measure(0.25)) == "0.250"
    assert str(Measure(0.25, 0.1, 0.2)) == "0.250 +- 0.100 (data among themselves 0.200)"
