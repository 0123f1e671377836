"""Spaces, contexts and rows of several lengths: what they hold, refuse, and how they travel."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from pyflowk.space import Context, Paired, Ragged, Space, cat

SPACES = [
    Space((2,)),
    Space((1, 8, 8), levels=17, context=Context("labels", 10)),
    Space((12,), symbols=4, variable=True, context=Context("tokens", 100, length=77)),
    Space((3,), manifold="sphere", context=Context("numbers", 5)),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_survives_json(space: Space) -> None:
    assert Space.from_json(json.loads(json.dumps(space.as_json()))) == space
    assert hash(space) == hash(Space.from_json(space.as_json()))


def test_what_a_space_says() -> None:
    plain, digits, words, sphere = SPACES
    assert [space.kind for space in SPACES] == ["real", "levels", "symbols", "real"]
    assert (digits.dims, digits.is_image, digits.classes, digits.context_dim) == (64, True, 10, None)
    assert (sphere.classes, sphere.context_dim, plain.context) == (None, 5, None)
    assert [space.is_vector for space in SPACES] == [True, False, False, True]
    assert not Space((2,), variable=True).is_vector and not Space((2, 2)).is_vector
    assert str(words) == "up to 12 of 4 symbols given up to 77 tokens below 100"
    assert str(sphere) == "3 on the sphere given numbers (B, 5)"


@pytest.mark.parametrize(
    "values, error, words",
    [
        ({"shape": ()}, ValueError, "positive sizes"),
        ({"shape": (2, 0)}, ValueError, "positive sizes"),
        ({"shape": 2}, ValueError, "positive sizes"),
        ({"shape": (2,), "levels": 1}, ValueError, "levels: expected an integer of at least 2, got 1"),
        ({"shape": (2,), "levels": True}, ValueError, "got True"),
        ({"shape": (2,), "symbols": 2.0}, ValueError, "symbols: expected an integer"),
        ({"shape": (2,), "levels": 2, "symbols": 3}, ValueError, "not both, got 2 and 3"),
        ({"shape": (2,), "variable": 1}, TypeError, "variable: expected True or False, got 1"),
        ({"shape": (2,), "manifold": "klein"}, ValueError, "manifold: expected one of sphere"),
        ({"shape": (2,), "context": 10}, TypeError, "context: expected a Context"),
    ],
)
def test_what_is_no_space(values: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Space(**values)


@pytest.mark.parametrize(
    "values, words",
    [
        (("label", 3), "expected one of labels, numbers, tokens, vectors, got 'label'"),
        (("labels", 0), "size of the context: expected an integer of at least 1, got 0"),
        (("labels", 3, 5), "a length of tokens or vectors alone; got labels of length 5"),
        (("tokens", 3), "a length of tokens or vectors alone; got tokens without a length"),
        (("tokens", 3, 0), "length of the context"),
    ],
)
def test_what_is_no_context(values: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Context(*values)


def test_events_are_checked_by_their_form() -> None:
    plain, digits, words, _ = SPACES
    plain.check(torch.zeros(0, 2))
    digits.check(torch.zeros(5, 1, 8, 8))
    words.check(Ragged.of([torch.zeros(3), torch.zeros(0)]))
    with pytest.raises(ValueError, match=r"expected x \(B, 1, 8, 8\), got \(5, 64\)"):
        digits.check(torch.zeros(5, 64))
    with pytest.raises(ValueError, match=r"got \(\)"):
        plain.check(torch.zeros(()))
    with pytest.raises(TypeError, match="got list"):
        plain.check([[1.0, 2.0]])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected x to be a Ragged.*got Tensor"):
        words.check(torch.zeros(5, 12))
    with pytest.raises(ValueError, match=r"\(B, up to 12\), got \(1, 13\)"):
        words.check(Ragged.of([torch.zeros(13)]))


def test_rows_of_several_lengths() -> None:
    rows = [torch.tensor([3, 1, 4]), torch.tensor([], dtype=torch.long), torch.tensor([1])]
    ragged = Ragged.of(rows)
    assert len(ragged) == 3 and ragged.mask.tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert all(torch.equal(ragged.row(i), row) for i, row in enumerate(rows))
    picked = ragged[torch.tensor([2, 0])]
    assert picked.lengths.tolist() == [1, 3] and torch.equal(picked.row(1), rows[0])
    assert len(ragged[:0]) == 0 and len(ragged.to("cpu")) == 3


@pytest.mark.parametrize(
    "values, lengths, error, words",
    [
        ((2, 3), [1.0, 2.0], TypeError, r"expected integers \(B,\)"),
        ((2, 3), [[1, 2]], TypeError, r"got \(1, 2\)"),
        ((2, 3), [1], ValueError, r"got \(2, 3\), 1"),
        ((2,), [1, 1], ValueError, r"values \(B, L, ...\)"),
        ((2, 3), [1, 4], ValueError, "expected 0 to 3, got 1 to 4"),
        ((2, 3), [-1, 2], ValueError, "expected 0 to 3, got -1 to 2"),
    ],
)
def test_lengths_that_do_not_fit(values: tuple, lengths: list, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Ragged(torch.zeros(values), torch.tensor(lengths))
    with pytest.raises(ValueError, match="at least one row"):
        Ragged.of([])
    with pytest.raises(ValueError, match=r"first size alone, got \(2,\), \(2, 3\)"):
        Ragged.of([torch.zeros(2), torch.zeros(2, 3)])


def test_what_is_no_ragged() -> None:
    one, two = torch.ones(1, dtype=torch.int64), torch.zeros(1, 2)
    for values, lengths, error, words in (
        ([[1]], one, TypeError, "values: expected a tensor, got list; Ragged.of takes a list of rows"),
        (two, [1], TypeError, "lengths: expected a tensor, got list"),
        (two, one.to(torch.complex64), TypeError, r"integers \(B,\), got \(1,\) torch.complex64"),
        (two, one.to(torch.uint16), TypeError, "got .* torch.uint16"),
        (two, one.bool(), TypeError, "got .* torch.bool"),
        (two.to("meta"), one, ValueError, "values and lengths on one device, got meta and cpu"),
    ):
        with pytest.raises(error, match=words):
            Ragged(values, lengths)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"row numbers or a slice, got 0; row\(0\) is one of them"):
        list(Ragged(two, one))  # type: ignore[call-overload]


@pytest.mark.parametrize("found", ["2", None, [2], {"shape": [2], "context": "labels"}, {"shape": [True]}, {}])
def test_what_is_no_space_in_json(found: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Space.from_json(found)


def test_rows_of_many_parts_in_one() -> None:
    rows = [torch.arange(2 * n).reshape(n, 2) for n in (3, 1, 5, 2)]
    whole = cat([Ragged.of(rows[:2]), Ragged.of(rows[2:3]), Ragged.of(rows[3:])])
    assert isinstance(whole, Ragged) and len(whole) == 4
    assert all(torch.equal(whole.row(i), row) for i, row in enumerate(rows))
    assert torch.equal(cat(rows), torch.cat(rows))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tensors, rows of several lengths or pairs alone"):
        cat([rows[0], whole])


def test_pairs_are_rows_of_two_halves() -> None:
    x0, x1 = torch.arange(8.0).reshape(4, 2), torch.arange(8.0).reshape(4, 2) + 10
    pairs = Paired(x0, x1)
    some = pairs[torch.tensor([2, 0])]
    assert len(pairs) == 4 and torch.equal(some.x0, x0[[2, 0]]) and torch.equal(some.x1, x1[[2, 0]])
    whole = cat([pairs[:1], pairs[1:]])
    assert torch.equal(whole.x0, x0) and torch.equal(whole.x1, x1) and pairs.to("meta").x0.is_meta
    with pytest.raises(ValueError, match=r"x0 and x1 of one shape \(B, ...\), got \(4, 2\) and \(3, 2\)"):
        Paired(x0, x1[:3])
    with pytest.raises(ValueError, match="on one device, got meta and cpu"):
        Paired(x0.to("meta"), x1)
    with pytest.raises(TypeError, match="x1: expected a tensor, got list"):
        Paired(x0, [1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="row numbers or a slice, got 0"):
        list(pairs)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="pairs alone"):
        cat([pairs, x0])
