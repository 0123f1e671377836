import math

import pytest
import torch

from pyflowk import datasets
from pyflowk.datasets import Dataset, gaussian_level, score, trivial_level
from pyflowk.space import Space


def dataset(draw, space, n=4000):
    generator = torch.Generator().manual_seed(0)
    return Dataset("made", space, *(draw(n, generator) for _ in range(3)))


def test_digits_levels_are_the_published_ones():
    data = datasets.load("digits")
    assert trivial_level(data) == pytest.approx(4.09, abs=0.005)
    level = gaussian_level(data)
    assert level.bits == pytest.approx(2.456, abs=0.045)
    assert level.bits == pytest.approx(-level.nats / (64 * math.log(2)))


def test_gaussian_level_of_a_gaussian_is_its_entropy():
    mix = torch.tensor([[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [0.1, -1.0, 0.3]])
    data = dataset(lambda n, g: 5 + torch.randn(n, 3, generator=g) @ mix.T, Space((3,)))
    entropy = 1.5 * math.log(2 * math.pi * math.e) + math.log(0.6)
    level = gaussian_level(data)
    assert abs(level.nats + entropy) < 4 * level.nats_error
    assert level.bits is None and trivial_level(data) is None


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
    assert gaussian_level(conditional).nats == pytest.approx(expected, abs=1e-3)
    for columns in ([], [0, 1, 2], [3], [-1], [1, 1]):
        with pytest.raises(ValueError, match=r"made: (expected some of the columns|no column .*: there are) 0 to 2"):
            data.given(columns)


def test_gaussian_level_counts_the_jacobian_of_the_preparation():
    """Uniform integers: a Gaussian over logits costs more than log2(levels) bits, and not much more."""
    data = dataset(lambda n, g: torch.randint(16, (n, 1, 1, 2), generator=g).float(), Space((1, 1, 2), levels=16))
    level = gaussian_level(data)
    assert 4.0 < level.bits < 4.2


def test_gaussian_level_is_seeded():
    data = datasets.load("digits")
    assert gaussian_level(data, seed=3) == gaussian_level(data, seed=3)
    assert gaussian_level(data, seed=3) != gaussian_level(data, seed=4)


@pytest.mark.parametrize(
    ("draw", "space"),
    [
        pytest.param(lambda n, g: torch.randn(5, 6, generator=g), Space((6,)), id="fewer samples than dimensions"),
        pytest.param(lambda n, g: torch.randn(n, 1, generator=g).expand(n, 2), Space((2,)), id="singular"),
        pytest.param(lambda n, g: torch.ones(n, 2), Space((2,)), id="constant"),
    ],
)
def test_no_gaussian_level_where_it_is_not_defined(draw, space):
    assert gaussian_level(dataset(draw, space)) is None


def test_score_standard_error():
    data = dataset(lambda n, g: torch.zeros(n, 2, 2), Space((2, 2), levels=2))
    got = score(torch.tensor([-1.0, -3.0, -5.0, -7.0]), data)
    assert got.nats == -4.0 and got.nats_error == pytest.approx(math.sqrt(20 / 3) / 2)
    assert got.bits == pytest.approx(1 / math.log(2)) and "bits/dim" in str(got)


def test_one_sample_has_a_score_and_no_error_bar():
    images = dataset(lambda n, g: torch.zeros(n, 2, 2), Space((2, 2), levels=2), n=1)
    assert str(score(torch.tensor([-2.0]), images)) == "0.721 bits/dim (log-likelihood -2.00 nats)"
    assert score(torch.tensor([-2.0]), images).nats_error is None
    impossible = score(torch.tensor([-2.0, -math.inf]), images)
    assert str(impossible) == "inf bits/dim (log-likelihood -inf nats)" and impossible.nats_error is None
