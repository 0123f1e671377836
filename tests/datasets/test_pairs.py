"""Pairs that a model has made: the same noise whichever rows are asked for, a work that goes on, nothing half done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk import datasets
from pyflowk.datasets.pairs import holds_pairs, noise_of, write_pairs
from pyflowk.space import Paired

MOONS = {"name": "moons", "seed": 3}


def doubled(x0: Tensor, context: Any) -> Tensor:
    return 2 * x0 if context is None else x0 + context.unsqueeze(1)


def write(folder: Path, make: Any = doubled, contexts: Any = None, **changed: Any) -> None:
    options = {"counts": (40, 7), "shape": (2,), "seed": 5, "origin": MOONS, "block": 16} | changed
    write_pairs(folder, make, contexts, **options)


def test_noise_is_that_of_its_row_and_seed() -> None:
    noise = noise_of(5, 0, 2000, (3,))
    assert torch.equal(noise[1990:], noise_of(5, 1990, 10, (3,))) and noise.dtype == torch.float32
    assert not torch.equal(noise, noise_of(6, 0, 2000, (3,))) and noise.mean().abs() < 0.05
    assert noise.std().item() == pytest.approx(1, abs=0.05)


def test_pairs_are_trained_on_and_their_data_are_tested_on(tmp_path: Path) -> None:
    write(tmp_path / "pairs")
    data = datasets.load(str(tmp_path / "pairs"))
    assert isinstance(data.train, Paired) and (len(data.train), len(data.valid)) == (40, 7)
    torch.testing.assert_close(data.train.x1, 2 * data.train.x0)
    assert torch.equal(data.train.x0[7:9], noise_of(5, 7, 2, (2,)))
    assert torch.equal(data.test, datasets.load("moons", seed=3).test) and data.space.context is None
    (x, context) = data.take("train", torch.tensor([3, 1]))
    assert torch.equal(x.x0, data.train.x0[[3, 1]]) and context is None
    assert datasets.load(str(tmp_path / "pairs")).fingerprint == data.fingerprint


def test_contexts_go_with_their_rows(tmp_path: Path) -> None:
    write(tmp_path, contexts=torch.tensor([0, 1, 1]))
    data = datasets.load(str(tmp_path))
    assert isinstance(data.train, Paired) and data.train_context.tolist() == [(0, 1, 1)[i % 3] for i in range(40)]
    torch.testing.assert_close(data.train.x1 - data.train.x0, data.train_context.unsqueeze(1).expand(-1, 2).float())
    assert len(data.valid_context) == 7 and len(data.test_context) == len(data.test)


def test_an_interrupted_work_goes_on_and_is_none_before_its_end(tmp_path: Path) -> None:
    calls: list[int] = []

    def stopping(x0: Tensor, context: Any) -> Tensor:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(x0))
        return doubled(x0, context)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, stopping)
    assert calls == [16, 16] and not holds_pairs(tmp_path)
    heard: list[float] = []
    write(tmp_path, lambda x0, context: (calls.append(len(x0)), doubled(x0, context))[1], watch=heard.append)
    assert calls == [16, 16, 15] and heard == [1.0]
    whole = datasets.load(str(tmp_path)).train.x1  # type: ignore[attr-defined]
    write(tmp_path, None)  # is there already
    assert torch.equal(whole, 2 * noise_of(5, 0, 40, (2,)))


def test_what_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected finite ends, got others among rows 0 to 15"):
        write(tmp_path / "bad", lambda x0, context: x0 / 0)
    write(tmp_path / "good")
    with pytest.raises(ValueError, match="holds other pairs already: choose another folder"):
        write(tmp_path / "good", seed=6)
