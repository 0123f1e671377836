"""The system of the gradient through the inverse of MADE against a dense solver, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pyflowk
from pyflowk.ops.made_dense import dense_layers
from pyflowk.ops.made_network import RESIDUAL, run, slopes
from pyflowk.ops.made_solve import made_solve
from tests.ops.cases.made import layout

TANH = 1


@pytest.mark.parametrize(
    "features, hidden, residual",
    [(1, (), False), (2, (30,), False), (11, (9, 14), False), (9, (12, 12, 12), True), (9, (12,) * 5, "bare"),
     (17, (8, 8, 8), "linear")],
)  # fmt: skip
@pytest.mark.parametrize("params", [1, 3])
def test_it_solves_the_dense_system(features: int, hidden: tuple[int, ...], residual: bool | str, params: int) -> None:
    plan, code = layout(features, hidden, False, params), RESIDUAL[residual]
    generator = torch.Generator().manual_seed(features)
    weights, x, dy, rates, terms = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((len(plan.source),), *((4, n * features) for n in (1, 1, params, params)))
    )
    layers = dense_layers(weights, plan.plan, features, plan.hidden, params)
    shift = [torch.zeros(4, width, dtype=torch.float64, requires_grad=True) for width in plan.hidden]
    given = torch.cat(shift, 1) if shift else x[:, :0]
    pres = run(x, layers, given, TANH, code)
    of_layers = torch.cat([x[:, :0], *slopes(pres, TANH, code)], 1)
    g, deltas = made_solve(dy, of_layers, rates, terms, weights, plan.plan, plan.hidden, code)

    jacobian = torch.func.vmap(torch.func.jacrev(lambda row, s: run(row[None], layers, s[None], TANH, code)[-1][0]))
    network = jacobian(x, given)  # (4, params features, features)
    through = network.mT @ torch.diag_embed(rates) @ torch.eye(features).double().repeat_interleave(params, 0)
    system = torch.eye(features).double() - through
    truth = torch.linalg.solve(system, dy + (network.mT @ terms[..., None])[..., 0])
    torch.testing.assert_close(g, truth)
    dparams = rates * truth.repeat_interleave(params, 1) + terms
    of_units = torch.autograd.grad(pres[-1], shift, dparams) if shift else ()  # a shift stands before the activation
    torch.testing.assert_close(deltas, torch.cat([*of_units, dparams], 1))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"dy": torch.zeros(2, 0)}, r"dy must be \(B, D\) with D >= 1; got \(2, 0\)"),
        ({"plan": torch.zeros(3, dtype=torch.int64)}, r"plan must be \(8,\) and weights \(n,\); got \(3,\)"),
        ({"slopes": torch.zeros(2, 4)}, r"slopes \(B, 3\); got .*slopes \(2, 4\)"),
        ({"terms": torch.zeros(2, 2)}, r"rates \(2, 4\), terms \(2, 2\)"),
    ],
)
def test_bad_input_is_refused_in_words(change: dict[str, Tensor], words: str) -> None:
    plan = layout(2, (3,), False, 2)
    tensors = {
        "dy": torch.zeros(2, 2), "slopes": torch.zeros(2, 3), "rates": torch.zeros(2, 4), "terms": torch.zeros(2, 4),
        "weights": torch.zeros(len(plan.source)), "plan": plan.plan,
    }  # fmt: skip
    with pyflowk.backend("reference"), pytest.raises(ValueError, match=words):
        made_solve(*{**tensors, **change}.values(), plan.hidden, 0)
