"""What a classifier says of samples, and whether samples are copies."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyflowk import datasets
from pyflowk.metrics import Classifier, compare_features, data_copying


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


@pytest.fixture(scope="module")
def judge() -> Classifier:
    data = datasets.load("digits")
    return Classifier.fit(*data.take("train"), steps=150, generator=seeded())


def test_digits_are_told_apart_and_their_halves_are_not(judge: Classifier) -> None:
    data = datasets.load("digits")
    x, labels = data.take("test")
    assert judge.accuracy(x, labels) > 0.9 and judge.classes == 10
    real = judge.features(x)
    assert real.shape == (len(x), 64) and not real.requires_grad
    valid, _ = data.take("valid")
    same = compare_features(judge.features(valid), real, seeded())
    blurred = torch.nn.functional.avg_pool2d(valid, 3, 1, 1)
    off = compare_features(judge.features(blurred), real, seeded())
    assert same["frechet_distance"].value < 1.5 * same["frechet_distance"].noise  # type: ignore[operator]
    assert off["frechet_distance"].value > 4 * same["frechet_distance"].value
    assert off["coverage"].value < 0.6 * same["coverage"].value


def test_the_same_generator_gives_the_same_judge_and_the_global_one_is_left_alone(judge: Classifier) -> None:
    x, labels = normal(60, 3), torch.arange(60) % 2
    before = torch.get_rng_state()
    one, two, other = (Classifier.fit(x, labels, steps=3, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one(x), two(x)) and not torch.equal(one(x), other(x))
    assert one.features(x[:0]).shape == (0, 64)


def test_what_cannot_be_classified() -> None:
    x, labels = normal(6, 2), torch.arange(6)
    with pytest.raises(ValueError, match=r"rows \(N, \*shape\) and integer labels \(N,\), got \(6, 2\) and \(5,\)"):
        Classifier.fit(x, labels[:5])
    with pytest.raises(ValueError, match="labels: expected 0 to 3, got 0 to 5"):
        Classifier.fit(x, labels, classes=4)
    with pytest.raises(ValueError, match="float32"):
        Classifier.fit(x, labels.float())
    with pytest.raises(ValueError, match=r"expected events \(B, 2\), got \(6, 1\)"):
        Classifier.fit(x, labels, steps=1)(x[:, :1])


def test_copies_are_nearer_than_they_should_be() -> None:
    train, held, fresh = normal(300, 2), normal(200, 2, seed=1), normal(250, 2, seed=2)
    error = math.sqrt((250 + 200 + 1) / (12 * 250 * 200))
    assert abs(data_copying(fresh, train, held) - 0.5) < 4 * error
    assert data_copying(train[:100] + 0.001 * fresh[:100], train, held) > 0.95
    assert data_copying(fresh + 10, train, held) == 0 and data_copying(train, train, train[:7]) == 0.5
    fresh[0, 0] = math.nan
    assert data_copying(fresh, train, held).isnan() and data_copying(held, fresh, held).isnan()
    with pytest.raises(ValueError, match="y: expected at least 1 samples"):
        data_copying(held, train[:0], held)


def test_copying_by_definition() -> None:
    train, held, x = (torch.randint(6, (9,), generator=seeded(s)).float() for s in (0, 1, 2))
    near, far = ((z[:, None] - train).abs().amin(1) for z in (x, held))
    won = (near[:, None] < far).double() + 0.5 * (near[:, None] == far).double()
    torch.testing.assert_close(data_copying(x, train, held), won.mean())
