"""Models that are made without memory, on the meta device, and get it with their weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pyflowk import zoo
from pyflowk.distributions import DiagonalGaussian, Distribution
from pyflowk.space import Space

from ..transforms.registry import CASES, Case
from .test_systems import SMALL, build, data, seeded

FITTED = {"batchnorm", "standardize"}  # their builders do not only build: they fit the layer to data


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        module = make()
    assert all(t.is_meta for t in tensors(module).values())
    return module


def given_memory(make: Callable[[], nn.Module], weights: dict[str, torch.Tensor]) -> nn.Module:
    module = on_meta(make)
    module.load_state_dict(weights, assign=True)
    assert not any(t.is_meta for t in tensors(module).values())
    return module.eval()


@pytest.mark.parametrize("system", list(SMALL))
def test_every_system(system: str) -> None:
    model = build(system)
    name, shape, options = SMALL[system]
    twin = given_memory(lambda: zoo.create(name, shape, **options), model.state_dict())
    x = data(model, 5)
    assert torch.equal(twin.loss(x, None, seeded()), model.loss(x, None, seeded()))
    assert torch.equal(twin.sample(3, None, seeded()), model.sample(3, None, seeded()))


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name not in FITTED and "True" not in case.name], ids=lambda case: case.name
)
def test_every_transform(case: Case) -> None:
    transform = case.make()
    twin = given_memory(case.build, transform.state_dict())
    x, c = case.data(5, dtype=torch.float32), case.contexts(5, dtype=torch.float32)
    with torch.no_grad():
        for a, b in zip(transform(x, c, seeded()), twin(x, c, seeded()), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("system", ["glow", "maf", "iaf", "nsf-image", "residual-flow-image"])
@pytest.mark.parametrize("spoilt", [False, True])
def test_what_is_lost_in_to_empty_is_made_again(system: str, spoilt: bool) -> None:
    """Fresh memory often holds zeros: once every number is spoilt on its way."""
    model = build(system)
    name, shape, options = SMALL[system]
    twin = on_meta(lambda: zoo.create(name, shape, **options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that this loads nothing
        twin.load_state_dict(model.state_dict())
    twin._apply(lambda t: torch.full_like(t, 1, device="cpu")) if spoilt else twin.to_empty(device="cpu")
    twin.load_state_dict(model.state_dict())
    x = data(model, 5)
    assert torch.equal(twin.eval().log_prob(x, None, seeded()), model.log_prob(x, None, seeded()))


def test_the_anchor_follows_the_weights() -> None:
    model = zoo.create("nice", (2,), width=4).double()
    with torch.device("meta"):
        twin = zoo.create("nice", (2,), width=4)
    twin.load_state_dict(model.state_dict(), assign=True)
    (base,) = (m for m in twin.modules() if isinstance(m, Distribution))
    assert base.anchor.dtype == torch.float64 and twin.sample(2).dtype == torch.float64


def test_a_source_of_noise_follows_the_weights_of_any_model() -> None:
    class Noisy(zoo.GenerativeModel):
        def __init__(self) -> None:
            super().__init__(Space((2,)))
            self.net, self.source = nn.Linear(2, 2), DiagonalGaussian((2,))

    model = Noisy().double()
    twin = on_meta(Noisy)
    twin.load_state_dict(model.state_dict(), assign=True)
    assert twin.source.sample(3).dtype == torch.float64


@pytest.mark.parametrize("dequantize", ["uniform", "variational"])
def test_no_value_is_looked_at_elsewhere_than_on_the_cpu(dequantize: str) -> None:
    """On the meta device reading a value raises; on a GPU it would stall every step."""
    model = on_meta(lambda: zoo.create("nice", (2,), width=4, levels=4, classes=3, dequantize=dequantize)).eval()
    assert isinstance(model, zoo.GenerativeModel)
    x, labels = torch.empty((5, 2), dtype=torch.int64, device="meta"), torch.empty(5, dtype=torch.int64, device="meta")
    assert model.loss(x, labels).shape == (5,) and model.sample((5,), labels).shape == (5, 2)
