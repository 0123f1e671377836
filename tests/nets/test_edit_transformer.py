"""What the edit transformer tells of sequences of several lengths."""

from __future__ import annotations

import pytest
import torch

from pyflowk.nets import EditTransformer
from pyflowk.space import Ragged

ROWS = Ragged(torch.tensor([[3, 1, 4, 0], [2, 7, 7, 7], [0, 0, 0, 0]]), torch.tensor([4, 1, 0]))


def net(**options: object) -> EditTransformer:
    torch.manual_seed(0)
    made = EditTransformer(5, width=16, depth=2, reach=1, **options).eval()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return made


def test_rows_know_nothing_of_those_beside_them_nor_of_what_lies_beyond_their_end() -> None:
    made, t = net(), torch.tensor([0.1, 0.5, 0.9])
    for i, (length, whole) in enumerate(zip(ROWS.lengths.tolist(), zip(*made(t, ROWS)))):
        alone = made(t[i], Ragged(ROWS.values[i : i + 1, :length], ROWS.lengths[i : i + 1]))
        for here, there in zip(alone, whole, strict=True):
            torch.testing.assert_close(here[0], there[: 1 + length], rtol=1e-5, atol=1e-5)
    whole = made(t, ROWS)
    assert [part.shape for part in whole] == [(3, 5, 3), (3, 5, 5), (3, 5, 5)]
    assert (whole.rates[0, 0] - whole.rates[0, 1]).abs().max() > 1e-3  # the start is a place of its own
    assert [part.shape[0] for part in made(0.5, ROWS[:0])] == [0, 0, 0]


def test_insertions_alone() -> None:
    told = EditTransformer(5, width=16, depth=1, insertions=True)(0.5, ROWS)
    assert told.rates.shape == (3, 5, 1) and told.insert.shape == (3, 5, 5) and told.substitute is None
    assert not told.rates.any() and not told.insert.any()  # as it is at first


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(TypeError, match="expected x to be a Ragged, as sequences of edits have lengths, got Tensor"):
        net()(0.5, ROWS.values)
    with pytest.raises(ValueError, match="symbols to be an integer of at least 1, got 0"):
        EditTransformer(0)
    with pytest.raises(ValueError, match="expected symbols 0 to 5, got"):
        net()(0.5, Ragged(ROWS.values + 3, ROWS.lengths))
