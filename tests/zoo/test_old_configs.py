"""Configs as the first version wrote them, without a Space, build the models that they built then."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pyflowk import zoo
from pyflowk.space import Context, Space

#: what that version wrote and computed; "keys" is a digest of the state dict's names and shapes
OLD: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("old_configs.json").read_text())


@pytest.mark.parametrize("system", list(OLD))
def test_the_same_weights_and_the_same_values(system: str) -> None:
    row = OLD[system]
    torch.manual_seed(0)
    config = dict(row["config"])
    model = zoo.create(config.pop("name"), **config).eval()
    state = model.state_dict()
    keys = "\n".join(f"{key} {tuple(t.shape)}" for key, t in state.items())
    assert hashlib.sha256(keys.encode()).hexdigest()[:12] == row["keys"]
    assert sum(t.double().abs().sum().item() for t in state.values()) == pytest.approx(row["weights"], abs=0.011)
    generator = torch.Generator().manual_seed(1)
    x, values = _moved(model, generator), []
    context = _context(model.space)
    with torch.no_grad():
        values += model.log_prob(x, context, generator).tolist()
        values += [] if model.space.levels else model.sample(1, context, generator).flatten()[:2].tolist()
    assert values == pytest.approx(row["values"], rel=1e-3, abs=1e-3)


def _moved(model: zoo.GenerativeModel, generator: torch.Generator) -> torch.Tensor:
    """Moves the model away from the identity, parameter by parameter, and gives two events."""
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    space = model.space
    return torch.arange(2.0 * space.dims).reshape(2, *space.shape) % (space.levels or 3)


def _context(space: Space) -> torch.Tensor | None:
    if space.classes is not None:
        return torch.tensor([1])
    return None if space.context_dim is None else torch.ones(1, space.context_dim)


def test_what_was_three_arguments_is_one_space() -> None:
    config = dict(OLD["glow-images"]["config"])
    model = zoo.create(config.pop("name"), **config)
    assert model.space == Space((1, 8, 8), levels=17, context=Context("labels", 10))
    assert not {"shape", "levels", "classes", "context_dim"} & model.config.keys()
    assert {key: value for key, value in model.config.items() if key in config} == {
        key: value for key, value in config.items() if key in model.config
    }
