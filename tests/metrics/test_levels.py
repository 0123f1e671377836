import itertools
import math

import pytest
import torch

from pyflowk import datasets
from pyflowk.datasets import Dataset
from pyflowk.metrics import gaussian_level, levels, ngram_level, score, trivial_level
from pyflowk.space import Ragged, Space


def dataset(draw, space, n=4000):
    generator = torch.Generator().manual_seed(0)
    return Dataset("made", space, *(draw(n, generator) for _ in range(3)))


def fit(data, **options):
    return gaussian_level(data.space, data.train, data.test, data.train_context, data.test_context, **options)


def test_digits_levels_are_the_published_ones():
    data = datasets.load("digits")
    assert trivial_level(data.space) == pytest.approx(4.09, abs=0.005)
    level = fit(data)
    assert level.bits == pytest.approx(2.456, abs=0.045)
    assert level.bits == pytest.approx(-level.nats / (64 * math.log(2)))


def test_gaussian_level_of_a_gaussian_is_its_entropy():
    mix = torch.tensor([[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [0.1, -1.0, 0.3]])
    data = dataset(lambda n, g: 5 + torch.randn(n, 3, generator=g) @ mix.T, Space((3,)))
    entropy = 1.5 * math.log(2 * math.pi * math.e) + math.log(0.6)
    level = fit(data)
    assert abs(level.nats + entropy) < 4 * level.nats_error
    assert level.bits is None and trivial_level(data.space) is None


def test_gaussian_level_given_columns_is_that_of_linear_regression():
    mix = torch.tensor([[1.0, 0.3, 2], [0, 1, -1], [0, 0, 0.5]])
    data = dataset(lambda n, g: torch.randn(n, 3, generator=g) @ mix, Space((3,)))
    conditional = data.given([2, 0])
    assert conditional.space.shape == (1,) and conditional.space.context_dim == 2
    torch.testing.assert_close(conditional.test_context, data.test[:, [2, 0]])
    ones = (
        torch.cat([c.double(), torch.ones(len(c), 1)], 1) for c in (conditional.train_context, conditional.test_context)
    )
    train, test = ones
    weights = torch.linalg.lstsq(train, conditional.train.double()).solution
    noise = torch.distributions.Normal(0, (conditional.train - train @ weights).std())
    expected = noise.log_prob(conditional.test - test @ weights).mean().item()
    assert fit(conditional).nats == pytest.approx(expected, abs=1e-3)
    for columns in ([], [0, 1, 2], [3], [-1], [1, 1]):
        with pytest.raises(ValueError, match=r"made: (expected some of the columns|no column .*: there are) 0 to 2"):
            data.given(columns)


def test_gaussian_level_counts_the_jacobian_of_the_preparation():
    """Uniform integers: a Gaussian over logits costs more than log2(levels) bits, and not much more."""
    data = dataset(lambda n, g: torch.randint(16, (n, 1, 1, 2), generator=g).float(), Space((1, 1, 2), levels=16))
    level = fit(data)
    assert 4.0 < level.bits < 4.2


def test_gaussian_level_is_seeded():
    data = datasets.load("digits")
    assert fit(data, seed=3) == fit(data, seed=3)
    assert fit(data, seed=3) != fit(data, seed=4)


@pytest.mark.parametrize(
    ("draw", "space"),
    [
        pytest.param(lambda n, g: torch.randn(5, 6, generator=g), Space((6,)), id="fewer samples than dimensions"),
        pytest.param(lambda n, g: torch.randn(n, 1, generator=g).expand(n, 2), Space((2,)), id="singular"),
        pytest.param(lambda n, g: torch.ones(n, 2), Space((2,)), id="constant"),
    ],
)
def test_no_gaussian_level_where_it_is_not_defined(draw, space):
    assert fit(dataset(draw, space)) is None


def test_score_standard_error():
    data = dataset(lambda n, g: torch.zeros(n, 2, 2), Space((2, 2), levels=2))
    got = score(torch.tensor([-1.0, -3.0, -5.0, -7.0]), data.space)
    assert got.nats == -4.0 and got.nats_error == pytest.approx(math.sqrt(20 / 3) / 2)
    assert got.bits == pytest.approx(1 / math.log(2)) and "bits/dim" in str(got)


def test_one_sample_has_a_score_and_no_error_bar():
    images = dataset(lambda n, g: torch.zeros(n, 2, 2), Space((2, 2), levels=2), n=1)
    assert str(score(torch.tensor([-2.0]), images.space)) == "0.721 bits/dim (log-likelihood -2.00 nats)"
    assert score(torch.tensor([-2.0]), images.space).nats_error is None
    impossible = score(torch.tensor([-2.0, -math.inf]), images.space)
    assert str(impossible) == "inf bits/dim (log-likelihood -inf nats)" and impossible.nats_error is None


def test_rows_are_read_by_pieces(monkeypatch):
    """One that cannot be taken at once, far from zero, scores as one that can."""
    data = dataset(lambda n, g: 1e4 + torch.randn(n, 3, generator=g), Space((3,)), n=1000)
    whole = fit(data)

    class Slow:
        def __init__(self, rows):
            self.rows, self.asked = rows, 0

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, rows):
            self.asked = max(self.asked, len(self.rows[rows]))
            return self.rows[rows]

    monkeypatch.setattr(levels, "PIECE", 300)
    train, test = Slow(data.train), Slow(data.test)
    parts = gaussian_level(data.space, train, test)
    assert train.asked == test.asked == 100
    assert parts.nats == pytest.approx(whole.nats, abs=1e-9)
    words = torch.randint(5, (200, 4), generator=torch.Generator().manual_seed(0))
    space = Space((4,), symbols=5)
    monkeypatch.setattr(levels, "PIECE", 40)
    again = ngram_level(space, Slow(words), Slow(words))
    monkeypatch.undo()
    assert again == ngram_level(space, words, words)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ngrams_are_a_distribution(order):
    """The probabilities of all rows of one length sum to one; with ends, those of all rows but the long ones."""
    generator = torch.Generator().manual_seed(0)
    train = torch.randint(3, (50, 4), generator=generator)
    every = torch.cartesian_prod(*[torch.arange(3)] * 4)
    total = sum(math.exp(ngram_level(Space((4,), symbols=3), train, row[None], order=order).nats) for row in every)
    assert total == pytest.approx(1)
    space = Space((9,), symbols=2, variable=True)
    train = Ragged(torch.randint(2, (80, 9), generator=generator), torch.randint(3, (80,), generator=generator))
    total = 0.0
    for length in range(9):
        for row in itertools.product((0, 1), repeat=length):
            test = Ragged(torch.tensor([[*row, 7]]), torch.tensor([length]))
            total += math.exp(ngram_level(space, train, test, order=order).nats)
    assert 0.99 < total < 1


def test_bigrams_by_hand():
    """Twice 0 1, then 1: the first symbol is 0 with (2 + 1) / (3 + 2 + 1), what follows a 0 is 1 with (2 + 1) / 5."""
    space = Space((2,), symbols=2, variable=True)
    train = Ragged(torch.tensor([[0, 1], [0, 1], [1, 77]]), torch.tensor([2, 2, 1]))
    got = ngram_level(space, train, train[0:1])
    assert math.exp(got.nats) == pytest.approx(3 / 6 * 3 / 5 * 4 / 6)  # and a row ends after a 1: 3 + 1 of 3 + 3
    assert got.bits == pytest.approx(-math.log2(0.2) / 2) and got.unit == "symbol"
    padded = Ragged(torch.tensor([[0, 1, 5], [0, 1, 0], [1, 1, 1]]), torch.tensor([2, 2, 1]))
    assert ngram_level(space, padded, padded[0:1]) == got  # what lies beyond a row's end means nothing


def test_unigrams_of_independent_symbols_cost_their_entropy():
    generator = torch.Generator().manual_seed(0)
    p = torch.tensor([0.5, 0.25, 0.125, 0.125])
    draw = torch.multinomial(p, 8000, replacement=True, generator=generator).reshape(2, 500, 8)
    got = ngram_level(Space((8,), symbols=4), draw[0], draw[1], order=1)
    assert abs(got.bits - 1.75) < 4 * got.bits_error
    assert got.bits == pytest.approx(-got.nats / (8 * math.log(2)))


def test_no_ngrams_of_numbers_or_of_nothing():
    x = torch.zeros(3, 4)
    assert ngram_level(Space((4,)), x, x) is None
    assert ngram_level(Space((4,), symbols=3), x[:0].long(), x.long()) is None
    assert ngram_level(Space((4,), symbols=1 << 40), x.long(), x.long()) is None
    assert gaussian_level(Space((4,), symbols=3), x.long(), x.long()) is None


def test_rows_of_several_lengths_are_scored_by_symbol():
    """The ratio of means has the standard error of its residuals."""
    space = Space((5,), symbols=3, variable=True)
    bits, lengths = torch.tensor([2.0, 9.0, 4.0]), torch.tensor([1, 5, 2])
    got = score(-bits * math.log(2), space, lengths)
    residuals = (bits - 15 / 8 * lengths) / (8 / 3)
    assert got.bits == pytest.approx(15 / 8) and got.bits_error == pytest.approx(residuals.std().item() / math.sqrt(3))
    assert trivial_level(space, lengths) == pytest.approx(math.log2(3) + math.log2(6) / (8 / 3))
    assert trivial_level(space, 0 * lengths) is None
    for unsaid in (lambda: score(-bits, space), lambda: trivial_level(space)):
        with pytest.raises(ValueError, match="expected the lengths"):
            unsaid()
    pairs = score(-bits * math.log(2), Space((5, 2), symbols=3, variable=True), lengths)
    assert pairs.bits == pytest.approx(15 / 16)


def test_the_fitted_gaussian_is_that_of_torch():
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)).double()
    expected = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov()).log_prob(x).mean().item()
    assert gaussian_level(Space((2,)), x, x).nats == pytest.approx(expected)
