"""Edit matching where the best rates are known: no gradient there, and as many nats as the data have."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk.objectives import EditMatching
from pyflowk.paths import EditLogits, EditPath, UniformTimes, closest
from pyflowk.space import Ragged
from tests.solvers.test_edits import CHANGES, GOES, KEEPS, LENGTHS, PATH, copies, one_token

ROWS = 50_000
LOSSES = {
    "before an edit": EditMatching(PATH),
    "at a time": EditMatching(PATH, times=UniformTimes(most=0.999)),
    "clamped": EditMatching(PATH, times=UniformTimes(most=0.999), clamp=4.0),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def single(law: list[float], seed: int) -> Ragged:
    """Rows "a", "b" and nothing."""
    kinds = torch.multinomial(torch.tensor(law), ROWS, replacement=True, generator=seeded(seed))
    return Ragged((kinds == 1).long()[:, None], (kinds < 2).long())


def an_a(x1: Ragged, generator: Any = None) -> Ragged:
    return Ragged(torch.zeros(len(x1), 1, dtype=torch.int64), torch.ones(len(x1), dtype=torch.int64))


def equal_tokens(seed: int) -> Ragged:
    lengths = torch.multinomial(LENGTHS, ROWS, replacement=True, generator=seeded(seed))
    return Ragged(torch.zeros(ROWS, 3, dtype=torch.int64), lengths)


def scores(loss: EditMatching, field: Any, x: Ragged, scale: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Mean and error of the gradient by a factor of the rates; a gradient of 0 is within a few errors."""

    def scaled(t: Tensor, x: Ragged) -> EditLogits:
        told, left = field(t, x), PATH.left(t).log()[:, None, None]
        odds = (told.rates + left).clamp(min=-30)
        wanted = torch.nn.functional.softplus(odds) * each.exp()[:, None, None]
        return told._replace(rates=(torch.expm1(wanted).log() - left).where(odds > -30, -math.inf))

    each = scale.expand(ROWS).double().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(scaled, x, generator=seeded(seed)).sum(), each)
    return gradient.mean(), gradient.std() / math.sqrt(ROWS)


@pytest.mark.parametrize("name", LOSSES)
def test_the_best_rates_have_no_gradient(name: str) -> None:
    cases = (
        (replace(LOSSES[name], source=an_a, alignment=closest), one_token, single([KEEPS, CHANGES, GOES], 1)),
        (LOSSES[name], copies, equal_tokens(2)),
    )
    for loss, field, x in cases:
        mean, error = scores(loss, field, x, torch.tensor(0.0), 3)
        assert mean.abs() < 4 * error
        for wrong in (-0.3, 0.3):
            mean, error = scores(loss, field, x, torch.tensor(wrong), 4)
            assert mean * wrong > 0 and mean.abs() > 6 * error


def test_the_loss_is_a_bound_in_nats() -> None:
    """Its average at the best rates is the entropy where paths tell no more than the data: of one token, and, as equal
    tokens come at places that nobody sees, above it by what those places hold, for any schedule."""
    law = torch.tensor([KEEPS, CHANGES, GOES])
    entropy = -(law * law.log()).sum()
    loss = EditMatching(PATH, source=an_a, alignment=closest)(one_token, single(law.tolist(), 1), generator=seeded())
    assert loss.mean().item() == pytest.approx(entropy.item(), abs=4 * loss.std().item() / math.sqrt(ROWS))
    entropy = -(LENGTHS * LENGTHS.log()).sum()
    found = EditMatching(PATH)(copies, equal_tokens(2), generator=seeded())
    error = found.std().item() / math.sqrt(ROWS)
    assert found.mean() > entropy - 4 * error
    drawn = EditMatching(PATH, times=UniformTimes())(copies, equal_tokens(2), generator=seeded(1))
    assert drawn.mean().item() == pytest.approx(found.mean().item(), abs=4 * drawn.std().item() / math.sqrt(ROWS))
    assert drawn.std() > found.std()


def test_what_does_not_fit_is_named() -> None:
    words = Ragged(torch.tensor([[0, 1]]), torch.tensor([2]))
    with pytest.raises(TypeError, match="x: expected a Ragged, as sequences of edits have lengths, got a tensor"):
        EditMatching()(copies, torch.zeros(2, 3))  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"x: expected symbols \(B, L\) of an integer dtype, got a tensor \(1, 2\), torch.f"
    ):
        EditMatching()(copies, Ragged(words.values.float(), words.lengths))
    with pytest.raises(ValueError, match="x must hold symbols 0 to 0; got 1"):
        EditMatching()(copies, words)
    with pytest.raises(ValueError, match="x: expected symbols from 0 on, got -1"):
        EditMatching()(copies, Ragged(words.values - 1, words.lengths))
    for options, message in (
        ({"path": EditPath(spread=1.0)}, "times: expected a law of them on a path with spread, got None"),
        ({"clamp": 0.0}, "clamp: expected a number above 0, got 0.0"),
        ({"dropout": 1.5}, "dropout: expected a share from 0 to 1, got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            EditMatching(**options)
    for options, message in (
        ({"path": PATH.schedule}, "path: expected a path of edits, .*got a Polynomial|path: expected a path of edits"),
        ({"source": None}, "source: expected a function of the data"),
        ({"times": 3}, "times: expected a law of times"),
    ):
        with pytest.raises(TypeError, match=message):
            EditMatching(**options)
    empty = EditMatching(PATH)(copies, Ragged(torch.zeros(3, 0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)))
    assert empty.shape == (3,) and (empty > 0).all()  # which is what stopping at once costs
