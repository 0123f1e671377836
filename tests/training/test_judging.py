"""What a thorough evaluation adds: what fits the data and the model, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pyflowk import datasets, zoo
from pyflowk.metrics import Measure
from pyflowk.training.judging import judge


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits() -> datasets.Dataset:
    return datasets.load("digits")


def test_labels_of_the_data_judge_samples(digits: datasets.Dataset) -> None:
    """Validation rows are perfect samples; the same of one class alone, with wrong labels, are not; rows of the
    training part are copies."""
    model = zoo.nice((1, 8, 8), levels=17, classes=10, width=8, couplings=2)
    (x, labels), (reference, _) = digits.take("valid"), digits.take("test", slice(len(digits.valid)))
    good = judge(model, digits, x, reference, labels, seeded())
    assert set(good) == {
        "features, frechet distance", "features, precision", "features, coverage", "class frequencies",
        "class as asked", "data copying",
    }  # fmt: skip
    asked = good["class as asked"]
    assert asked.value > 0.9 and asked.noise is not None and asked.noise > 0.9
    assert abs(good["data copying"].value - 0.5) < 4 * good["data copying"].error  # type: ignore[operator]
    one = x[labels == 3]
    bad = judge(model, digits, one, reference, torch.full((len(one),), 4), seeded())
    assert bad["class as asked"].value < 0.1 and bad["class frequencies"].value > 0.8 > good["class frequencies"].value
    assert bad["features, frechet distance"].value > 2 * good["features, frechet distance"].value
    copies = judge(model, digits, digits.take("train", slice(100))[0], reference, None, seeded())
    assert copies["data copying"].value > 0.95 and "class as asked" not in copies


def test_ways_are_judged_where_there_are_any(digits: datasets.Dataset) -> None:
    model, moons = zoo.flow_matching((2,), width=8, depth=1), datasets.load("moons")
    for p in model.parameters():  # an untrained velocity is 0
        torch.nn.init.normal_(p, std=0.3, generator=seeded(p.numel()))
    moons = replace(moons, space=model.space, train_context=None, valid_context=None, test_context=None)
    x = moons.test[:50]
    found = judge(model, moons, x, x, None, seeded())
    assert set(found) == {"data copying", "straightness", "path ratio"}
    assert found["path ratio"].value >= 1 and found["straightness"].error is not None
    assert found == judge(model, moons, x, x, None, seeded())
    gone = replace(moons, train=moons.train[:0])
    assert set(judge(zoo.nice((2,), width=8), gone, x, x, None, seeded())) == set()
    assert all(isinstance(measure, Measure) for measure in found.values())
