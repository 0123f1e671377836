"""Models that are made without memory, on the meta device, and get it with their weights."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from pyflowk import zoo
from pyflowk.flows import Base

from ..transforms.registry import CASES, Case
from .test_systems import SMALL, build, data, seeded

FITTED = {"batchnorm", "standardize"}  # their builders do not only build: they fit the layer to data


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def given_memory(make: object, weights: dict[str, torch.Tensor], how: str) -> nn.Module:
    with torch.device("meta"):
        module: nn.Module = make()  # type: ignore[operator]
    assert all(t.is_meta for t in tensors(module).values())
    if how == "assign":
        module.load_state_dict(weights, assign=True)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that this loads nothing
            module.load_state_dict(weights)
        module.to_empty(device="cpu")
        module.load_state_dict(weights)
    assert not any(t.is_meta for t in tensors(module).values())
    return module.eval()


@pytest.mark.parametrize("how", ["assign", "to_empty"])
@pytest.mark.parametrize("system", list(SMALL))
def test_every_system(system: str, how: str) -> None:
    model = build(system)
    name, shape, options = SMALL[system]
    twin = given_memory(lambda: zoo.create(name, shape, **options), model.state_dict(), how)
    x = data(model, 5)
    assert torch.equal(twin.log_prob(x, None, seeded()), model.log_prob(x, None, seeded()))
    assert torch.equal(twin.sample(3, None, seeded()), model.sample(3, None, seeded()))
    twin.train().loss(x, None, seeded()).sum().backward()
    assert twin.double().sample(2).dtype == torch.float64


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in FITTED], ids=lambda case: case.name)
def test_every_transform(case: Case) -> None:
    transform = case.make()
    twin = given_memory(case.build, transform.state_dict(), "assign")
    x, c = case.data(5, dtype=torch.float32), case.contexts(5, dtype=torch.float32)
    draws = {"generator": seeded()} if transform.stochastic or transform.estimates_ladj else {}
    again = {"generator": seeded()} if draws else {}
    with torch.no_grad():
        for a, b in zip(transform(x, c, **draws), twin(x, c, **again), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_what_is_lost_in_to_empty_is_made_again() -> None:
    """Fresh memory often holds zeros: here every number is spoilt on its way."""
    for system in ("maf", "iaf", "residual-flow-image"):
        model = build(system)
        name, shape, options = SMALL[system]
        with torch.device("meta"):
            twin = zoo.create(name, shape, **options)
        twin._apply(lambda t: torch.full_like(t, 1, device="cpu"))  # what to_empty does, but for the value
        twin.load_state_dict(model.state_dict())
        x = data(model, 5)
        assert torch.equal(twin.eval().log_prob(x, None, seeded()), model.log_prob(x, None, seeded()))


def test_the_anchor_follows_the_weights() -> None:
    model = zoo.create("nice", (2,), width=4).double()
    with torch.device("meta"):
        twin = zoo.create("nice", (2,), width=4)
    twin.load_state_dict(model.state_dict(), assign=True)
    (base,) = (m for m in twin.modules() if isinstance(m, Base))
    assert base.anchor.dtype == torch.float64 and twin.sample(2).dtype == torch.float64
