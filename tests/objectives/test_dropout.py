"""Contexts that matching drops: which rows, by which draw, and what the field hears in their place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from pyflowk.nets import Field, MLPField
from pyflowk.objectives import Matching


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


class Seen(Field):
    """What a field was shown."""

    def no_context(self) -> Tensor:
        return torch.tensor([[0.0, 0.0]])

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        self.context = context
        return x


def field(**context: Any) -> MLPField:
    torch.manual_seed(0)
    made = MLPField(2, 8, 1, droppable=True, **context)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return made


X, NUMBERS = torch.randn(2000, 2, generator=seeded(1)), torch.arange(1.0, 2001)[:, None]


def test_a_share_of_the_rows_is_shown_without_its_context() -> None:
    seen = Seen()
    shown = []
    for seed in (0, 0, 1):
        Matching(dropout=0.1, pairing=lambda x0, x1, c, generator: (x0, x1, c.flip(0)))(
            seen, X, NUMBERS, generator=seeded(seed)
        )
        shown.append(seen.context)
    dropped = shown[0][:, 1] == 0
    assert torch.equal(shown[0], torch.cat((NUMBERS.flip(0), torch.ones(2000, 1)), 1) * ~dropped[:, None])
    assert dropped.double().mean() == pytest.approx(0.1, abs=0.03)
    assert torch.equal(shown[0], shown[1]) and not torch.equal(shown[0], shown[2])


def test_noise_and_times_are_those_without_dropout() -> None:
    """One draw more at the end: rows that keep their context have the loss of before."""
    made, labels = field(classes=3), torch.arange(2000) % 3
    plain, some, all_of_them = (
        Matching(dropout=share)(made, X, labels, generator=seeded()) for share in (0.0, 0.3, 1.0)
    )
    kept = plain == some
    assert kept.double().mean() == pytest.approx(0.7, abs=0.05)
    torch.testing.assert_close(some[~kept], all_of_them[~kept])
    torch.testing.assert_close(all_of_them, Matching()(made, X, None, generator=seeded()))
    torch.testing.assert_close(Matching(dropout=0.5)(made, X, None, generator=seeded()), all_of_them)


def test_what_cannot_be_dropped() -> None:
    labels = torch.arange(2000) % 3
    with pytest.raises(ValueError, match="expected a network that can do without its context"):
        Matching(dropout=0.1)(MLPField(2, classes=3), X, labels)
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"dropout: expected a share from 0 to 1, got {share}"):
            Matching(dropout=share)
    assert Matching(dropout=0.5)(field(classes=3), X[:0], labels[:0]).shape == (0,)
    with pytest.raises(ValueError, match=r"expected a context of 2000 rows or of 1 row, got \(3,\)"):
        Matching(dropout=0.5)(field(classes=3), X, labels[:3])
