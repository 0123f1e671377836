"""torch.compile with its defaults, and torch.export with a dynamic batch, of every system at several batch sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from pyflowk import zoo
from tests.zoo.test_systems import SEQUENCES, data, seeded

#: as little of each system as takes every way through it
TINY: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "consistency": ("consistency", (3,), {"width": 4, "depth": 1}),
    "autoencoder": ("autoencoder", (3,), {"channels": 2, "width": 4}),
    "diffusion": ("diffusion", (3,), {"process": "edm", "width": 4, "depth": 1, "method": "euler", "steps": 1}),
    "discrete_flow": ("discrete_flow", (3,), {"levels": 4, "width": 4, "depth": 1}),
    "drifting": ("drifting", (3,), {"width": 4, "depth": 1}),
    "ffjord": ("ffjord", (3,), {"width": 4, "depth": 1, "flows": 1, "steps": 2}),
    "ffjord-image": ("ffjord", (1, 2, 2), {"width": 2, "depth": 1, "levels": 5, "steps": 1}),
    "flow_matching": ("flow_matching", (3,), {"width": 4, "depth": 1, "steps": 2}),
    "generator_matching": ("generator_matching", (3,), {"width": 4, "depth": 1, "bins": 4}),
    "glow": ("glow", (1, 4, 4), {"width": 2, "steps": 1, "scales": 1, "levels": 5}),
    "iaf": ("iaf", (3,), {"width": 8, "blocks": 1}),
    "latent": ("latent", (3,), {"system": "nice", "options": "width=4 couplings=1", "coder": "channels=2 width=4"}),
    "maf-mixture": ("maf", (3,), {"width": 8, "blocks": 1, "components": 2}),
    "mean_flow": ("mean_flow", (3,), {"width": 4, "depth": 1, "steps": 2}),
    "neural_ode": ("neural_ode", (3,), {"width": 4, "steps": 2}),
    "nice-variational": ("nice", (4,), {"width": 4, "couplings": 1, "levels": 5, "dequantize": "variational"}),
    "nsf": ("nsf", (4,), {"width": 4, "couplings": 1, "bins": 2, "linear": "lu", "levels": 5}),
    "nsf-autoregressive": ("nsf", (3,), {"autoregressive": True, "width": 4, "couplings": 1, "depth": 1, "bins": 2}),
    "realnvp": ("realnvp", (4,), {"width": 4, "depth": 1, "couplings": 1, "levels": 17}),
    "rectified_flow": ("rectified_flow", (3,), {"width": 4, "depth": 1, "steps": 2, "time_law": "start"}),
    "residual_flow": ("residual_flow", (3,), {"width": 4, "layers": 1, "depth": 1}),
    "residual_flow-roulette": ("residual_flow", (1, 3, 3), {
        "width": 2, "layers": 1, "levels": 5, "lipschitz": 0.5, "evaluation_terms": 0, "exact_dims": 4,
    }),
    "starflow": ("starflow", (4,), {"width": 4, "blocks": 1, "deep": 1, "patch": 2}),
    "tarflow": ("tarflow", (4,), {"width": 4, "depth": 1, "blocks": 1, "patch": 2, "noise": 0.1}),
}  # fmt: skip

tiny = pytest.mark.parametrize("system", list(TINY))


def build(system: str) -> zoo.GenerativeModel:
    torch.manual_seed(0)
    torch._dynamo.reset()
    name, shape, options = TINY[system]
    model = zoo.create(name, shape, **options)
    model.initialize(data(model, 16), generator=seeded())
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape)
    return model.eval()


def same(call: Callable[..., Tensor], other: Callable[..., Tensor], *arguments: Any) -> None:
    """Both give the same from the same state of torch's generator."""
    results = []
    for run in (call, other):
        torch.manual_seed(7)
        results.append(run(*arguments))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_every_system_is_here() -> None:
    assert {name for name, _, _ in TINY.values()} == set(zoo.names()) - SEQUENCES


#: one for each way to draw, and for the loop of an inverse on the device
DRAWS = ["ffjord", "glow", "maf-mixture", "nice-variational", "realnvp", "residual_flow"]


@pytest.mark.parametrize("system", DRAWS)
def test_samples_compiled_at_every_batch_size(system: str) -> None:
    model = build(system)
    compiled = torch.compile(model.sample, backend="eager")
    with torch.no_grad():
        for rows in (5, 3, 8):
            same(compiled, model.sample, rows)


@pytest.mark.parametrize("system", ["residual_flow-roulette", "ffjord", "consistency"])
def test_trains_compiled_at_every_batch_size(system: str) -> None:
    model = build(system).train()
    learned = [p for p in model.parameters() if p.requires_grad]
    compiled = torch.compile(model, backend="aot_eager")
    for rows in (5, 3, 8):
        x, gradients = data(model, rows), []
        for run in (model, compiled):
            torch.manual_seed(7)
            gradients.append(torch.autograd.grad(run(x).mean(), learned, allow_unused=True))
        for eager, traced in zip(*gradients, strict=True):
            torch.testing.assert_close(eager, traced, rtol=1e-3, atol=1e-5)


class Score(nn.Module):
    """The likelihood, or the loss of a system that has none."""

    def __init__(self, model: zoo.GenerativeModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.log_prob(x) if zoo.Ability.LIKELIHOOD in self.model.abilities else self.model.loss(x)


def exported(model: nn.Module, x: Tensor) -> ExportedProgram:
    return export(model, (x,), dynamic_shapes=({0: Dim("batch", min=1, max=1 << 20)},))


@tiny
def test_exports_with_a_dynamic_batch(system: str) -> None:
    model = build(system)
    with torch.no_grad():
        program = exported(Score(model), data(model, 5)).module()
        for rows in (5, 1, 8):
            same(program, Score(model), data(model, rows))


def test_exports_the_loss_of_tokens_with_a_dynamic_batch() -> None:
    model = build("tarflow").train()
    with torch.no_grad():
        program = exported(model, data(model, 5)).module()
        for rows in (5, 1, 8):
            same(program, model, data(model, rows))
