from itertools import pairwise

import numpy as np
import pytest
import torch

from pyflowk.training import TrainConfig
from pyflowk.training.batches import Batches, step_generator


@pytest.mark.parametrize(
    "name", ["steps", "epochs", "minutes", "batch_size", "lr", "log_every", "validate_every", "save_every"]
)
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_positive_settings(name, value):
    with pytest.raises(ValueError, match=rf"{name}: expected (a number > 0|an integer from 1 to \d+), got"):
        TrainConfig(**{name: value})


def test_other_settings():
    for bad in (
        {"batch_size": 2.5},
        {"batch_size": "a"},
        {"lr": None},
        {"lr": "a"},
        {"seed": -1},
        {"seed": 2**63},
        {"steps": True},
        {"ema": float("nan")},
        {"epochs": "a"},
        {"warmup": -1},
        {"weight_decay": -0.1},
        {"clip": float("nan")},
        {"ema": 1.0},
        {"ema": -0.1},
    ):
        with pytest.raises(ValueError, match=rf"{next(iter(bad))}: expected"):
            TrainConfig(**bad)
    with pytest.raises(ValueError, match="expected one budget, got steps=1 and minutes=1"):
        TrainConfig(steps=1, minutes=1)


def test_budgets():
    assert TrainConfig(steps=7).step_budget(1000) == 7
    numpy = TrainConfig(steps=np.int64(7), lr=np.float32(0.5))  # of a search: kept as JSON has them
    assert numpy == TrainConfig(steps=7, lr=0.5) and (type(numpy.steps), type(numpy.lr)) == (int, float)
    assert TrainConfig(epochs=0.5, batch_size=100).step_budget(1000) == 5
    assert TrainConfig(epochs=0.001).step_budget(10) == 1
    assert (
        TrainConfig().step_budget(1000) is None
        and TrainConfig().seconds == 60
        and TrainConfig(minutes=2).seconds == 120
    )


def test_schedule_rises_then_falls_to_zero():
    config = TrainConfig(lr=1.0, warmup=10)
    rates = [config.learning_rate(step, step / 100) for step in range(101)]
    peak = rates.index(max(rates))
    assert peak == 9 and rates[0] < 0.11
    rises = [b > a for a, b in pairwise(rates)]
    assert rises == [True] * peak + [False] * (100 - peak)
    assert rates[-1] == pytest.approx(0.0) and TrainConfig(lr=1.0, warmup=0).learning_rate(0, 0.0) == 1.0
    assert config.learning_rate(500, 1.7) == 0.0  # a clock may run over its budget


@pytest.mark.parametrize("count, size", [(10, 4), (4, 10), (7, 7), (1, 3)])
def test_batches_pass_over_the_data_evenly(count, size):
    batches = Batches(count, size, seed=0)
    steps = count * 6 // size + 1
    drawn = torch.cat([batches(step) for step in range(steps)])
    assert len(drawn) == steps * size
    for epoch in range(len(drawn) // count):
        assert sorted(drawn[epoch * count : (epoch + 1) * count].tolist()) == list(range(count))


def test_batches_depend_on_nothing_but_seed_and_step():
    ahead = Batches(10, 4, seed=0)
    walked = [ahead(step) for step in range(9)]
    assert torch.equal(Batches(10, 4, seed=0)(8), walked[8])
    assert not all(torch.equal(Batches(10, 4, seed=1)(step), walked[step]) for step in range(9))


def test_processes_share_the_global_batch():
    whole = Batches(20, 6, seed=0)
    parts = [Batches(20, 6, seed=0, rank=rank, world=3) for rank in range(3)]
    for step in range(8):
        together = torch.stack([part(step) for part in parts], dim=1).flatten()
        assert torch.equal(together, whole(step))
    with pytest.raises(ValueError, match="multiple of the 4 processes, got 6"):
        Batches(20, 6, seed=0, rank=0, world=4)


def test_noise_differs_between_seeds_steps_and_processes():
    draws = {
        torch.rand(2, generator=step_generator(seed, step, rank, torch.device("cpu"))).sum().item()
        for seed in range(3)
        for step in range(3)
        for rank in range(-1, 3)
    }
    assert len(draws) == 36
