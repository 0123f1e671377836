"""A data set holds events of its space and their contexts, of one length or of several."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pyflowk.datasets import Dataset
from pyflowk.datasets.base import split
from pyflowk.datasets.files import digest
from pyflowk.space import Context, Ragged, Space
from tests.tokens import LONGEST, START, STEPS, STOP, SYMBOLS, draw, entropy, token_data

TOKENS = Space((3,), symbols=4, variable=True)
WORDS = Ragged(torch.tensor([[1, 2, 3], [0, 99, -5]]), torch.tensor([3, 1]))  # what lies beyond a length means nothing


def three(rows, space=TOKENS, context=None):
    return Dataset("made", space, rows, rows, rows, *([context] * 3))


def test_sequences_are_taken_with_their_labels():
    data = token_data(labels=True)
    rows = torch.tensor([5, 0, 7])
    events, labels = data.take("valid", rows)
    assert (
        isinstance(events, Ragged) and len(events) == 3 and events.lengths.tolist() == data.valid.lengths[rows].tolist()
    )
    assert torch.equal(events.row(2), data.valid.row(7)) and torch.equal(labels, data.valid_context[rows])
    assert len(data.take("train")[0]) == 1000 and len(data.take("test", slice(8))[1]) == 8
    with pytest.raises(ValueError, match="one of train, valid, test; got 'labels'"):
        data.take("labels", rows)


def test_the_entropy_of_the_toy_sequences_is_exact():
    """The mean of -log p over many draws, each sequence's probability multiplied out."""
    words, _ = draw(20_000, torch.Generator().manual_seed(1))
    first, lengths = words.values[:, 0], words.lengths
    log_p = START.mean(0)[first].log() + (lengths - 1) * math.log(1 - STOP)
    log_p += torch.where(lengths < LONGEST, math.log(STOP), 0.0)
    steps = STEPS[words.values[:, :-1], words.values[:, 1:]].log()
    log_p += steps.where(words.mask[:, 1:], 0.0).sum(1)
    error = log_p.std() / len(words) ** 0.5
    assert abs(-log_p.mean() - entropy()) < 4 * error and lengths.min() == 1 and lengths.max() == LONGEST


def test_a_split_of_sequences_keeps_rows_whole_and_forgets_what_lies_beyond_them():
    words, classes = draw(50, torch.Generator().manual_seed(2))
    space = Space((LONGEST,), symbols=SYMBOLS, variable=True, context=Context("labels", 2))
    parts = split("made", space, words, classes, seed=0)
    assert (len(parts.train), len(parts.valid), len(parts.test)) == (40, 5, 5)
    listed = sorted(part.row(i).tolist() for part in (parts.train, parts.valid, parts.test) for i in range(len(part)))
    assert listed == sorted(words.row(i).tolist() for i in range(50))
    other = Ragged(words.values.where(words.mask, 77), words.lengths)
    assert split("made", space, other, classes, seed=0).fingerprint == parts.fingerprint
    assert digest(Ragged(words.values, words.lengths - 1)) != digest(words)
    with pytest.raises(ValueError, match="only a table without labels can be split into samples and contexts"):
        parts.given([0])


def test_a_name_in_place_of_a_list_and_rows_that_are_no_tensor_are_named():
    data = split("made", Space((2,)), torch.randn(20, 2), seed=0)
    with pytest.raises(TypeError, match=r"made: expected a list of given columns, such as \['x'\], got 'x'"):
        data.given("x")
    with pytest.raises(TypeError, match="made: expected rows as a tensor, a Ragged or OnDemand, got ndarray"):
        split("made", Space((2,)), data.train.numpy(), seed=0)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: three(torch.zeros(2, 3)), "made, train: expected x to be a Ragged"),
        (lambda: three(Ragged(torch.zeros(2, 4).long(), torch.tensor([1, 4]))), r"expected x \(B, up to 3\)"),
        (lambda: three(Ragged(torch.zeros(2, 3), torch.tensor([1, 3]))), "4 symbols, got torch.float32"),
        (lambda: three(Ragged(WORDS.values, torch.tensor([3, 2]))), r"0 to 3 \(4 symbols\), got 0 to 99"),
        (lambda: three(WORDS, context=torch.zeros(2).long()), "expected no context of train, as the space has none"),
        (lambda: three(torch.zeros(2, 3), Space((2,))), r"made, train: expected x \(B, 2\), got \(2, 3\)"),
        (lambda: replace(three(torch.zeros(2, 2), Space((2,))), test=WORDS), "made, test: expected x to be a tensor"),
        (lambda: three(torch.full((2, 2), 2.0), Space((2,), levels=2)), r"made, train: expected integers 0 to 1"),
        (lambda: labelled(torch.tensor([0, 2])), r"made, labels of train: expected integers 0 to 1 \(2 classes\)"),
        (lambda: labelled(torch.tensor([0])), "made, labels of train: expected 2, one for each row, got 1"),
        (lambda: labelled(torch.zeros(2, 2)), r"expected labels \(B,\) below 2, got \(2, 2\)"),
        (lambda: labelled(torch.tensor([0.0, 1.0])), "made, labels of train: expected integers, got torch.float32"),
        (lambda: labelled(torch.tensor([False, True])), "made, labels of train: expected integers, got torch.bool"),
        (lambda: labelled([0, 1]), r"labels of train: expected labels \(B,\) below 2 in a tensor or Ragged, got list"),
        (lambda: three(torch.zeros(2, 2), GIVEN, torch.zeros(2, 1).long()), "train: expected floats, got torch.int64"),
        (lambda: worded(torch.zeros(2, 3).long()), "made, context of train: expected x to be a Ragged"),
        (lambda: worded(Ragged(WORDS.values, torch.tensor([3, 2]))), "made, context of train: expected .* 0 to 6"),
    ],
)  # fmt: skip
def test_what_lies_outside_of_the_space_is_refused_with_the_part_named(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


GIVEN = Space((2,), context=Context("numbers", 1))


def labelled(labels):
    return three(torch.zeros(2, 2), Space((2,), context=Context("labels", 2)), labels)


def worded(tokens):
    return three(torch.zeros(2, 2), Space((2,), context=Context("tokens", 7, length=3)), tokens)


def test_contexts_of_every_kind():
    assert len(worded(WORDS).take("train")[1]) == 2
    assert labelled(torch.tensor([1, 0])).take("test", torch.tensor([1]))[1].tolist() == [0]
    assert labelled(None).take("test")[1] is None  # a part for which it is not known
