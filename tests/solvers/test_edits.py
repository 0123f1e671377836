"""Walks by edits against laws that are known: master equations, samplers, and what is counted on the way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.paths import EditLogits, EditPath, EditRates, Polynomial, empty, leftmost
from pyflowk.solvers import uniform_grid, walk_edits
from pyflowk.space import Ragged

PATH = EditPath()
KEEPS, CHANGES, GOES = 0.5, 0.3, 0.2
LENGTHS = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)


def logits_of(wanted: Tensor, left: Tensor) -> Tensor:
    """What a field tells where so many edits are to come."""
    return torch.log(torch.expm1(wanted)) - left.log()


def one_token(t: Tensor, x: Ragged, context: Any = None) -> EditLogits:
    """The best field of "a" that stays, becomes "b" or goes."""
    left = PATH.left(t)
    share = (left / (left + (1 - left) * KEEPS))[:, None]
    rates = torch.full((len(x), 1 + x.values.shape[1], 3), -math.inf, dtype=torch.float64)
    is_a = (x.values == 0) & x.mask
    rates[:, 1:, 1] = logits_of(GOES * share, left[:, None]).where(is_a, -math.inf)
    rates[:, 1:, 2] = logits_of(CHANGES * share, left[:, None]).where(is_a, -math.inf)
    tokens = torch.zeros(*rates.shape[:2], 2, dtype=torch.float64)
    return EditLogits(rates, tokens, tokens)


def to_come(length: Tensor, left: Tensor) -> Tensor:
    """How many of up to three equal tokens are still to come where so many are there."""
    n = torch.arange(4, dtype=torch.float64)
    missing = (n - length[..., None]).clamp(min=0)
    ways = (torch.lgamma(n + 1) - torch.lgamma(missing + 1)).exp() * (n >= length[..., None])
    mass = LENGTHS * ways * left[..., None] ** missing
    return (mass * missing).sum(-1) / mass.sum(-1).where(length <= 3, 1.0)  # 0 where there are more than data have


def copies(t: Tensor, x: Ragged, context: Any = None) -> EditLogits:
    """The best field of insertions, evenly at all places, where data are equal tokens and a number of them."""
    left = PATH.left(t)
    each = to_come(x.lengths.double(), left) / (1 + x.lengths)
    rates = logits_of(each, left)[:, None, None].expand(-1, 1 + x.values.shape[1], 1)
    return EditLogits(rates, torch.zeros(len(x), 1 + x.values.shape[1], 1, dtype=torch.float64))


def rows_of(tokens: list[int], rows: int) -> Ragged:
    return Ragged(torch.tensor([tokens], dtype=torch.int64).expand(rows, -1), torch.full((rows,), len(tokens)))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_master_equations_end_in_the_data() -> None:
    """Rates as losses and samplers see them, solved on the few states that there are, in shares of the way."""
    one = Ragged(torch.tensor([[0]]), torch.tensor([1]))
    by_length = Ragged(torch.zeros(3, 2, dtype=torch.int64), torch.arange(3))

    def moves(t: Tensor) -> tuple[Tensor, Tensor]:
        times, unit = t.reshape(1), PATH.unit(t) / PATH.schedule.at(t).alpha_rate  # in shares, not in time
        edits = EditRates(one_token(times, one), one, PATH.left(times)).log_rates.exp()[0, 1] * unit
        grown = EditRates(copies(times.expand(3), by_length), by_length, PATH.left(times.expand(3)))
        return edits, grown.log_rates.exp().sum((1, 2)) * unit

    law, lengths, count = torch.tensor([1.0, 0, 0]).double(), torch.tensor([1.0, 0, 0, 0]).double(), 500
    for k in range(count):
        (_, goes, changes), grow = moves(PATH.time(torch.tensor((k + 0.5) / count)))
        stays = torch.exp(-(goes + changes) / count)
        leaves = law[0] * (1 - stays) / (goes + changes)
        law = torch.stack((law[0] * stays, law[1] + leaves * changes, law[2] + leaves * goes))
        flow = lengths[:3] * -torch.expm1(-grow / count)
        lengths = lengths - torch.nn.functional.pad(flow, (0, 1)) + torch.nn.functional.pad(flow, (1, 0))
    torch.testing.assert_close(law, torch.tensor([KEEPS, CHANGES, GOES]).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(lengths, LENGTHS, rtol=0, atol=5e-3)


@pytest.mark.parametrize("corrector", [0.0, 3.0])
def test_walks_end_in_the_data(corrector: float) -> None:
    """Frequencies of the ends of walks, with edits that are taken back, too."""
    rows, how = 2_000, {"longest": 9, "corrector": corrector, "generator": seeded()}
    walk = walk_edits(copies, rows_of([], rows), PATH, uniform_grid(120), **how)
    assert total_variation(walk.x.lengths.bincount(minlength=10), [*LENGTHS.tolist(), *[0] * 6]) < 0.045
    assert walk.evaluations == 120 and not walk.dropped.any()
    if not corrector:
        x = walk_edits(one_token, rows_of([0], rows), PATH, uniform_grid(40), longest=1, generator=seeded()).x
        seen = torch.where(x.lengths == 0, 2, x.values[:, 0] if x.values.shape[1] else 0)
        assert total_variation(seen.bincount(minlength=3), [KEEPS, CHANGES, GOES]) < 0.045


def total_variation(counts: Tensor, law: list[float]) -> float:
    return (counts / counts.sum() - torch.tensor(law)).abs().sum().item() / 2


def test_walks_of_edits_that_spread_end_in_the_data() -> None:
    """The best rates are averages of what is to come, which a table of times and lengths holds."""
    path, bins, rows = EditPath(Polynomial(1.0), spread=2.0), 50, 50_000
    lengths = torch.multinomial(LENGTHS, rows, replacement=True, generator=seeded())
    x1 = Ragged(torch.zeros(rows, 3, dtype=torch.int64), lengths)
    state = path.sample(leftmost(empty(x1), x1), torch.rand(rows, generator=seeded(1)), seeded(2))
    cells, zeros = (state.t * bins).long() * 4 + state.x.lengths, torch.zeros(4 * bins, dtype=torch.float64)
    seen = zeros.index_add(0, cells, torch.ones_like(state.t))
    table = zeros.index_add(0, cells, state.intensity.sum(1)) / seen.clamp(min=1)

    def field(t: Tensor, x: Ragged, context: Any = None) -> EditLogits:
        each = table[(t.double() * bins).long() * 4 + x.lengths.clamp(max=3)] / (1 + x.lengths)
        rates = logits_of(each, path.left(t))[:, None, None].expand(-1, 1 + x.values.shape[1], 1)
        return EditLogits(rates, torch.zeros(len(x), 1 + x.values.shape[1], 1))

    x = walk_edits(field, rows_of([], 2_000), path, uniform_grid(120), longest=9, generator=seeded(3)).x
    assert total_variation(x.lengths.bincount(minlength=10), [*LENGTHS.tolist(), *[0] * 6]) < 0.03


def test_steps_that_end_where_many_edits_are_due() -> None:
    """Of four steps far too few tokens come: each adds one at a place. More of them where they are needed mend that."""
    few = walk_edits(copies, rows_of([], 2000), PATH, uniform_grid(4), longest=9, generator=seeded())
    more = walk_edits(copies, rows_of([], 2000), PATH, uniform_grid(4), longest=9, most=0.05, generator=seeded())
    off = [
        total_variation(walk.x.lengths.bincount(minlength=10), [*LENGTHS.tolist(), *[0] * 6]) for walk in (few, more)
    ]
    assert off[1] < 0.045 < off[0] and few.evaluations == 4 < more.evaluations <= 4 * 64
    assert few.saturated.sum() > 10 * more.saturated.sum()


def eager(kind: int, token: int) -> Callable[..., EditLogits]:
    """A field that wants many edits of a kind everywhere."""

    def field(t: Tensor, x: Ragged, context: Any = None) -> EditLogits:
        rows, places = len(x), 1 + x.values.shape[1]
        rates = torch.full((rows, places, 3), -math.inf)
        rates[..., kind] = 50.0
        tokens = torch.full((rows, places, 3), -math.inf).index_fill(2, torch.tensor(token), 0.0)
        return EditLogits(rates, tokens, tokens if kind == 2 else torch.zeros_like(tokens))

    return field


def test_rates_that_saturate_are_counted_and_do_not_hurt() -> None:
    x = Ragged(torch.tensor([[0, 1, 9], [1, 0, 1]]), torch.tensor([2, 3]))
    walk = walk_edits(eager(0, 2), x, PATH, uniform_grid(2), longest=5, generator=seeded())
    assert [walk.x.row(i).tolist() for i in range(2)] == [[2, 0, 2, 1, 2], [2, 1, 2, 0, 1]]  # from the left
    assert walk.dropped.tolist() == [0 + 6, 2 + 6] and walk.saturated.tolist() == [3 + 6, 4 + 6]
    kept = walk_edits(eager(0, 2), x, PATH, uniform_grid(1), longest=9, kept=1, generator=seeded()).x
    assert [kept.row(i).tolist() for i in range(2)] == [[0, 2, 1, 2], [1, 2, 0, 2, 1, 2]]
    kept = walk_edits(eager(2, 2), x, PATH, uniform_grid(1), longest=9, kept=1, generator=seeded()).x
    assert [kept.row(i).tolist() for i in range(2)] == [[0, 2], [1, 2, 2]]
    gone = walk_edits(eager(1, 0), x, PATH, uniform_grid(3), longest=9, generator=seeded()).x
    assert gone.lengths.tolist() == [0, 0] and gone.values.shape == (2, 0)


def test_rows_do_not_depend_on_those_beside_them() -> None:
    """Nor on the global generator, nor on how long the others become."""
    whole = walk_edits(copies, rows_of([], 8), PATH, uniform_grid(9), longest=9, most=0.1, generator=seeded(3)).x
    torch.manual_seed(1)
    part = walk_edits(copies, rows_of([], 3), PATH, uniform_grid(9), longest=9, most=0.1, generator=seeded(3)).x
    assert part.lengths.tolist() == whole.lengths[:3].tolist() and len(set(whole.lengths.tolist())) > 1
    assert len(walk_edits(copies, rows_of([], 0), PATH, uniform_grid(9), longest=9).x) == 0


def test_guidance_multiplies_rates_and_chances() -> None:
    """Where little is to come, the number of edits is in proportion to the rate: r_c^(1 + w) r_u^-w."""

    def field(t: Tensor, x: Ragged, context: Tensor | None = None) -> EditLogits:
        rows, places = len(x), 1 + x.values.shape[1]
        rates = torch.full((rows, places, 1), -5.0 if context is None else -4.0)
        tokens = torch.tensor([0.0, 0.0 if context is None else 1.0]).expand(rows, places, 2)
        return EditLogits(rates, tokens)

    path, found = EditPath(Polynomial(1.0)), []
    for weight in (0.0, 1.0):
        given: dict[str, Any] = {"guidance": weight, "context": torch.zeros(1, 1), "generator": seeded()}
        x = walk_edits(field, rows_of([], 50_000), path, uniform_grid(1), longest=2, **given).x
        count = int(x.lengths.sum())
        found.append((count / 50_000, int(x.values[x.mask].sum()) / count))
    for (rate, second), log_rate, log_odds in zip(found, (-4.0, -3.0), (1.0, 2.0), strict=True):
        exact = -math.expm1(-math.exp(log_rate)) if log_rate == -4.0 else -math.expm1(-math.exp(-3.0))
        assert rate == pytest.approx(exact, rel=0.06) and second == pytest.approx(
            1 / (1 + math.exp(-log_odds)), abs=0.03
        )


def told(t: Tensor, x: Ragged, context: Tensor | None = None, *, rates: Tensor) -> EditLogits:
    """These rates, if asked without a context, else zeros."""
    return EditLogits(rates if context is None else torch.zeros_like(rates), torch.zeros(2, 2, 1))


def test_what_does_not_fit_is_named() -> None:
    def walk(x: Any, grid: Any = None, **options: Any) -> None:
        walk_edits(copies, x, PATH, uniform_grid(2) if grid is None else grid, **{"longest": 4, **options})

    for options, message in (
        ({"longest": 1}, "x: expected 0 to 1 tokens a row, got 2 to 2"),
        ({"kept": 3}, "x: expected 3 to 4 tokens a row, got 2 to 2"),
        ({"corrector": 1.0}, "corrector: expected noise without tokens, got up to 2"),
        ({"grid": torch.tensor([0.0, 0.5])}, "grid: expected times that rise from 0 to 1"),
        ({"most": 0.0}, "expected most above 0 and a finite guidance, got 0.0"),
        ({"longest": 0}, "longest to be an integer of at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            walk(rows_of([0, 0], 2), **options)
    with pytest.raises(TypeError, match="x: expected a Ragged of symbols, got Tensor"):
        walk(torch.zeros(2, 3))
    with pytest.raises(TypeError, match=r"x: expected a Ragged of symbols, got one of torch\.float32"):
        walk(Ragged(torch.zeros(2, 3), torch.tensor([3, 2])))
    for wrong, options in itertools.product(
        (math.nan, math.inf), ({}, {"context": torch.zeros(2, 1), "guidance": 1.0})
    ):  # of a field, and of what it tells without a context
        field = partial(told, rates=torch.tensor([0.0, wrong])[:, None, None].expand(2, 2, 1))
        with pytest.raises(ValueError, match=f"field of edits: expected finite rates, got {wrong} in row 1"):
            walk_edits(field, rows_of([0], 2), PATH, uniform_grid(1), longest=2, **options)
    with pytest.raises(ValueError, match=r"field of edits: expected rates .* got"):
        walk_edits(
            lambda t, x: EditLogits(torch.zeros(2, 1, 1), torch.zeros(2, 1, 1)),
            rows_of([0], 2),
            PATH,
            uniform_grid(1),
            longest=2,
        )
