"""Samplers of symbols against exact laws: the chain that each of them is, enumerated, and the data that it comes to."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.nets import Field
from pyflowk.paths import MixturePath, Polynomial
from pyflowk.solvers import (
    EulerStep,
    GibbsStep,
    MixtureStep,
    Tally,
    Truncation,
    first_hitting,
    jump_flow,
    uniform_grid,
    unmask,
)
from pyflowk.space import Ragged
from tests.symbols import Law, chi_square

ROWS = 20_000
STEPS = {
    "mixture": MixtureStep(), "psi": MixtureStep(psi=0.6), "euler": EulerStep(), "corrector": EulerStep(1.5),
    "eta": EulerStep(1.5, "eta"), "divergence_free": EulerStep(0.7, "divergence_free"),
    "remask": MixtureStep(remask=0.3),
}  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chain(law: Law, step: Any, grid: Tensor, rounds: int = 0, start: Tensor | None = None) -> Tensor:
    """The law of states (S,) that the sampler ends in, enumerated; with rounds of Gibbs before the last step."""
    p = law.marginal(0.0) if start is None else start
    for i, (t, s) in enumerate(pairwise(grid)):
        kappa = law.path.kappa(t).item()
        seen = law.posterior(kappa, law.states).nan_to_num()
        seen = torch.nn.functional.pad(seen, (0, law.path.inputs - law.path.symbols))
        own = seen.gather(2, law.states.unsqueeze(2)).squeeze(2)
        own = (law.states != law.path.mask).double() if law.path.mask is not None else own
        chances = step(law.path, t, s, law.states, lambda own=own: own)
        p = p @ law.kernel(kappa, chances.jump, chances.renoise)
        if i < len(grid) - 2:
            p = p @ torch.linalg.matrix_power(gibbs_kernel(law, law.path.kappa(s).item()), rounds) if rounds else p
    return p


def gibbs_kernel(law: Law, kappa: float, places: tuple[int, ...] = (0, 1)) -> Tensor:
    """A symbol at one of these places, each as likely, drawn anew given the other."""
    own = -math.log1p(law.path.symbols * kappa / (1 - kappa))
    chosen = torch.eye(2, dtype=torch.float64)[list(places)]
    return torch.stack([law.kernel(kappa, kappa * c, (1 - kappa) * c, own) for c in chosen]).mean(0)


@pytest.mark.parametrize("source, name", [
    *(("mask", name) for name in STEPS), *(("uniform", name) for name in STEPS if name != "remask"),
])  # fmt: skip
def test_a_sampler_is_the_chain_that_it_says(source: str, name: str) -> None:
    law = Law(MixturePath(3, source, Polynomial(2)), places=2)
    step, grid = STEPS[name], uniform_grid(5)
    x = law.path.noise(torch.zeros(ROWS, 2), seeded())
    found = jump_flow(law.field, x, law.path, grid, step=step, generator=seeded(1))
    exact = chain(law, step, grid)
    assert chi_square(law.number(found).bincount(minlength=len(exact)), exact) > 1e-4
    # which comes to the data as steps become short
    fine = chain(law, step, uniform_grid(150))[law.number(law.data)]
    assert (fine - law.q).abs().sum() < 0.05 and fine.sum() > 0.99


@pytest.mark.parametrize("source", ["mask", "uniform"])
@pytest.mark.parametrize("psi", [1.0, 0.3])
def test_one_symbol_takes_one_step(source: str, psi: float) -> None:
    """Of one symbol the mixture step is exact, however long, and a psi-step keeps what it starts from."""
    law = Law(MixturePath(4, source), places=1)
    grid = torch.tensor([0.0, 0.35, 0.8, 1.0])
    torch.testing.assert_close(chain(law, MixtureStep(psi=psi), grid)[: len(law.q)], law.q, atol=1e-6, rtol=0)


def test_remasking_is_a_psi_step() -> None:
    path, t, s = MixturePath(3), torch.tensor(0.3), torch.tensor(0.5)
    x = torch.tensor([[0, 3]])
    remask = MixtureStep(remask=0.2)(path, t, s, x, lambda: torch.ones(1, 2))
    psi = MixtureStep(psi=1 - 0.2 / 0.5)(path, t, s, x, lambda: torch.ones(1, 2))
    torch.testing.assert_close(tuple(remask)[:2], tuple(psi)[:2])
    torch.testing.assert_close(remask.renoise, torch.tensor(0.2))


def test_gibbs_keeps_the_marginal() -> None:
    law, kappa = Law(MixturePath(3, "uniform"), places=2), 0.6
    start = law.marginal(kappa)
    for place in range(2):
        torch.testing.assert_close(start @ gibbs_kernel(law, kappa, (place,)), start, atol=1e-6, rtol=0)
    # and leads to it from elsewhere, as the enumerated chain says
    x, grid = torch.zeros(ROWS, 2, dtype=torch.int64), torch.tensor([0.5, 0.6, 1.0])
    first = torch.nn.functional.one_hot(law.number(x[:1]), len(law.states))[0].double()
    plain, mended = (chain(law, MixtureStep(), grid, rounds, first) for rounds in (0, 4))
    assert (mended - law.q).abs().sum() < 0.5 * (plain - law.q).abs().sum()
    found = jump_flow(law.field, x, law.path, grid, gibbs=GibbsStep(rounds=4), generator=seeded(2))
    counts = law.number(found).bincount(minlength=9)
    assert chi_square(counts, mended) > 1e-4 > chi_square(counts, plain)


def test_first_hitting_is_exact() -> None:
    law, tally = Law(MixturePath(3), places=3), Tally()
    x = law.path.noise(torch.zeros(ROWS, 3))
    found = first_hitting(law.field, x, law.path, generator=seeded(), tally=tally)
    assert tally.calls == 3
    counts = law.number(found).bincount(minlength=len(law.states))[law.number(law.data)]
    assert counts.sum() == ROWS and chi_square(counts, law.q) > 1e-4


def test_what_is_known_stays_and_is_heard() -> None:
    law = Law(MixturePath(3), places=3)
    y, known = torch.tensor([[1, 0, 2]]).repeat(ROWS, 1), torch.tensor([[False, True, False]]).repeat(ROWS, 1)
    x = torch.where(known, y, 3)
    given = law.q[law.data[:, 1] == 0]
    found = first_hitting(law.field, x, law.path, known=known, generator=seeded())
    assert (found[:, 1] == 0).all()
    counts = (found[:, 0] * 3 + found[:, 2]).bincount(minlength=9)
    assert chi_square(counts, given / given.sum()) > 1e-4
    again = jump_flow(
        law.field, x, law.path, uniform_grid(4), known=known, generator=seeded(), step=MixtureStep(psi=0.5)
    )
    assert (again[:, 1] == 0).all()


class Counting(Field):
    """A field that does not hear the time, of rows that it counts."""

    takes_time = False

    def __init__(self, law: Law) -> None:
        super().__init__()
        self.law, self.rows = law, 0

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        self.rows += len(x)
        return self.law.posterior(0.5, x).log()


def test_rows_that_have_not_changed_are_not_asked_again() -> None:
    law = Law(MixturePath(3), places=2)
    x, found = law.path.noise(torch.zeros(500, 2)), []
    counting = Counting(law)
    for field in (law.field, counting):
        found.append(jump_flow(field, x, law.path, uniform_grid(50), generator=seeded()))
    assert torch.equal(*found)  # what a mask hides does not depend on the time
    assert 500 < counting.rows < 3 * 500 + 1  # each row at the start, and after each of its two changes


def test_surest_first() -> None:
    """Most of the first place is sure, the second is not: it is drawn second, given the first."""
    logits = torch.tensor([[5.0, 0.0], [0.1, 0.0]])
    seen: list[Tensor] = []

    def field(t: Tensor, x: Tensor) -> Tensor:
        seen.append(x.clone())
        return logits.expand(len(x), 2, 2)

    for by in ("probability", "margin", "entropy"):
        seen.clear()
        unmask(field, torch.full((1, 2), 2), MixturePath(2), steps=2, by=by, truncation=Truncation(temperature=0))
        assert [x.tolist() for x in seen] == [[[2, 2]], [[0, 2]]]
    for threshold, calls in ((0.5, 1), (0.9, 2)):
        seen.clear()
        unmask(field, torch.full((1, 2), 2), MixturePath(2), steps=2, threshold=threshold, truncation=Truncation(0.0))
        assert len(seen) == calls
    seen.clear()
    unmask(lambda t, x: field(t, x).flip(1), torch.full((1, 2), 2), MixturePath(2), steps=2, block=1)
    assert seen[1][0, 0] != 2 and seen[1][0, 1] == 2  # from left to right


def test_rows_of_several_lengths_and_of_none() -> None:
    x = Ragged(torch.full((3, 4), 2), torch.tensor([4, 0, 2]))
    path = MixturePath(2)

    def field(t: Tensor, x: Ragged) -> Tensor:
        return torch.zeros(len(x), x.values.shape[1], 2)

    for found in (
        jump_flow(field, x, path, uniform_grid(3), generator=seeded()),
        first_hitting(field, x, path, generator=seeded()), unmask(field, x, path, 2, generator=seeded()),
    ):  # fmt: skip
        assert isinstance(found, Ragged) and (found.values[found.mask] < 2).all()
    times: list[Tensor] = []
    unmask(lambda t, x: times.append(t) or field(t, x), x, path, 2)
    torch.testing.assert_close(torch.stack(times), torch.tensor([[0, 1, 0], [0.5, 1, 0.5]]), rtol=0, atol=1e-6)
    empty = jump_flow(lambda t, x: torch.zeros(0, 4, 2), torch.zeros(0, 4, dtype=torch.int64), path, uniform_grid(3))
    assert empty.shape == (0, 4)


def test_rows_do_not_depend_on_those_beside_them() -> None:
    masked, even = Law(MixturePath(3), places=3), Law(MixturePath(3, "uniform"), places=2)
    x, known = torch.full((40, 3), 3), torch.zeros(40, 3, dtype=torch.bool)
    beside, seen = x.index_fill(0, torch.arange(20, 40), 0), known.index_fill(0, torch.arange(20, 40), True)
    noise, grid = even.path.noise(torch.zeros(40, 2), seeded()), uniform_grid(3)
    for whole, part in (
        (first_hitting(masked.field, beside, masked.path, known=seen, generator=seeded()),
         first_hitting(masked.field, x[:20], masked.path, generator=seeded())),
        *((jump_flow(even.field, noise, even.path, grid, gibbs=gibbs, generator=seeded()),
           jump_flow(even.field, noise[:20], even.path, grid, gibbs=gibbs, generator=seeded()))
          for gibbs in (None, GibbsStep(rounds=2))),
    ):  # fmt: skip
        assert torch.equal(whole[:20], part) and len(part.unique(dim=0)) > 3


def test_saturated_rates_are_counted() -> None:
    law, tally = Law(MixturePath(3), places=2), Tally()
    x = law.path.noise(torch.zeros(100, 2))
    jump_flow(law.field, x, law.path, uniform_grid(4), step=EulerStep(1.5), tally=tally, generator=seeded())
    assert tally.symbols == 800 and 200 < tally.saturated < 600  # h (1 + c) / (1 - t) passes 1 from the third step on
    assert tally.saturation == tally.saturated / 800


def test_errors() -> None:
    path, x = MixturePath(3), torch.full((2, 2), 3)
    zeros = lambda t, x: torch.zeros(*x.shape, 3)  # noqa: E731
    with pytest.raises(ValueError, match="row 1, token 0 are not finite"):
        jump_flow(lambda t, x: zeros(t, x).index_fill(0, torch.tensor([1]), torch.nan), x, path, uniform_grid(1))
    with pytest.raises(ValueError, match=r"expected logits \(2, 2, 3\) of the field, got \(2, 2, 4\)"):
        jump_flow(lambda t, x: torch.zeros(2, 2, 4), x, path, uniform_grid(2))
    for call in (
        lambda: jump_flow(zeros, x.to("meta"), path, uniform_grid(2)),
        lambda: jump_flow(zeros, x, path, uniform_grid(2).to("meta")),
        lambda: first_hitting(zeros, x, path, known=(x < 3).to("meta")),
        lambda: unmask(lambda t, x: zeros(t, x).to("meta"), x, path, 2),
    ):
        with pytest.raises(TypeError, match=r"expected a tensor with values, got a tensor .* on the meta device"):
            call()
    with pytest.raises(TypeError, match="known: expected a tensor of True and False, got a list"):
        first_hitting(zeros, x, path, known=[[True, False]] * 2)
    with pytest.raises(TypeError, match="field: expected logits, a tensor, as its answer, got a list"):
        first_hitting(lambda t, x: [0.0], x, path)
    with pytest.raises(ValueError, match="grid: expected times that rise"):
        jump_flow(zeros, x, path, uniform_grid(2, 1, 0))
    with pytest.raises(ValueError, match="gibbs: expected uniform noise"):
        jump_flow(zeros, x, path, uniform_grid(2), gibbs=GibbsStep())
    with pytest.raises(ValueError, match="expected symbols 0 to 3, got 3 to 4"):
        jump_flow(zeros, x + torch.tensor([0, 1]), path, uniform_grid(2))
    with pytest.raises(ValueError, match="3 is the mask, which is no data"):
        jump_flow(zeros, x, path, uniform_grid(2), known=x == 3)
    with pytest.raises(ValueError, match="first_hitting: expected masks for noise"):
        first_hitting(zeros, x % 3, MixturePath(3, "uniform"))
    with pytest.raises(ValueError, match="one of psi and remask"):
        MixtureStep(psi=0.5, remask=0.5)
    with pytest.raises(ValueError, match="kind: expected one of backward"):
        EulerStep(kind="forward")
