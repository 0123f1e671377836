"""What every loss is held to: one number per event, reduced on request, the same for the same seed, with gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pyflowk import objectives
from pyflowk.distributions import DiagonalGaussian
from pyflowk.flows import Flow
from pyflowk.nets import FlowMap, MLPField
from pyflowk.objectives import (
    SF2M,
    ConsistencyMatching,
    DiscreteMatching,
    Drifting,
    EditMatching,
    FlowMapMatching,
    GeneratorMatching,
    Matching,
    elbo,
    forward_kl,
    nll,
    reverse_kl,
    rnode,
)
from pyflowk.paths import Characteristics, CondOTJumps, EditLogits, MixturePath, independent
from pyflowk.solvers import Fixed
from pyflowk.space import Ragged
from pyflowk.transforms import Continuous


def flow() -> Flow:
    """A continuous one, so that every loss has something to integrate and to draw."""
    field = MLPField(2, 8, 1, context_dim=1, interval=True)
    for p in field.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    moving = Continuous(field, method="rk4", stepping=Fixed(2), divergence="hutchinson")
    return Flow(DiagonalGaussian((2,)), moving).double()


def normal(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(1)


def edits(flow: Flow) -> Callable[..., EditLogits]:
    """A field of insertions of one of two tokens, as likely everywhere as a flow's velocity says."""

    def field(t: Tensor, x: Ragged, context: Tensor | None = None) -> EditLogits:
        rows, longest = x.values.shape
        logits = flow.transform.field(t.double(), x.values.new_zeros(rows, 2, dtype=torch.float64), context)
        told = logits.unsqueeze(1).expand(-1, 1 + longest, -1)
        return EditLogits(told[..., :1], told)

    return field


def logits(flow: Flow) -> Callable[..., Tensor]:
    """A field of two symbols, as likely at every place as a flow's velocity says."""
    return lambda t, x, context=None: (
        flow.transform.field(t.double(), x.double(), context).unsqueeze(2) * torch.tensor([1.0, -1.0]).double()
    )


JUMPS = CondOTJumps.reaching(9.0, 2)


def told_by(flow: Flow) -> Callable[..., Characteristics]:
    """Its velocity as that of a process with jumps."""

    def told(t: Tensor, x: Tensor, context: Tensor) -> Characteristics:
        drift = flow.transform.field(t, x, context)  # type: ignore[operator]
        return Characteristics(drift, None, drift, torch.stack((drift, 0 * drift), -1))

    return told


class Coded:
    """Codes around the events, whose prior is a flow."""

    def __init__(self, flow: Flow) -> None:
        self.flow, self.log_prior = flow, flow.log_prob

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.full_like(x, -1.0)

    def log_likelihood(self, x: Tensor, code: Tensor) -> Tensor:
        return normal(x - code)


#: Every loss of a flow, of n events: of n given ones, or of n that it draws.
LOSSES: dict[str, Callable[..., Tensor]] = {
    "nll": lambda flow, n, **options: nll(flow, events(n), **options),
    "elbo": lambda flow, n, **options: elbo(Coded(flow), events(n), **options),
    "Matching": lambda flow, n, **options: Matching()(flow.transform.field, events(n), **options),
    "ConsistencyMatching": lambda flow, n, **options: ConsistencyMatching()(flow.transform.field, events(n), **options),
    "FlowMapMatching": lambda flow, n, **options: FlowMapMatching()(
        FlowMap(flow.transform.field), events(n), **options
    ),
    "Drifting": lambda flow, n, context, **options: Drifting()(
        lambda t, z: flow.transform.field(t, z, context), events(n), **options
    ),
    "GeneratorMatching": lambda flow, n, **options: GeneratorMatching(JUMPS)(told_by(flow), events(n), **options),
    "SF2M": lambda flow, n, **options: SF2M(0.5, independent)(*[flow.transform.field] * 2, events(n), **options),
    "DiscreteMatching": lambda flow, n, **options: DiscreteMatching(MixturePath(2, "uniform"))(
        logits(flow), (events(n) > 0).long(), **options
    ),
    "EditMatching": lambda flow, n, **options: EditMatching()(edits(flow), words(n), **options),
    "rnode": lambda flow, n, **options: rnode(flow, events(n), **options),
    "reverse_kl": lambda flow, n, **options: reverse_kl(flow, lambda x, *context: normal(x), n, **options),
    "forward_kl": lambda flow, n, **options: forward_kl(flow, lambda x, *context: normal(x), n, **options),
}
#: What is exported and no loss.
OTHERS = {
    "DIVERGENCES", "FLOW_MAPS", "bregman", "data_matching", "edm_matching", "effective_sample_size", "i_cfm",
    "importance_sample", "log_evidence", "ot_cfm", "rectified_flow", "reduce", "sb_cfm", "score_matching", "target_fm",
    "SimplexMatching", "vp_cfm",
}  # fmt: skip


def events(n: int) -> Tensor:
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


def words(n: int) -> Ragged:
    return Ragged(torch.arange(5 * n).reshape(n, 5) % 2, torch.arange(n) % 6)


def test_every_exported_loss_is_here() -> None:
    assert set(objectives.__all__) == LOSSES.keys() | OTHERS and not LOSSES.keys() & OTHERS


@pytest.mark.parametrize("name", LOSSES)
def test_one_number_per_event_reduced_on_request(name: str) -> None:
    model, context = flow(), torch.ones(1, 1, dtype=torch.float64)

    def loss(n: int = 6, seed: int = 0, **options: Any) -> Tensor:
        return LOSSES[name](model, n, context=context, generator=torch.Generator().manual_seed(seed), **options)

    each = loss()
    assert each.shape == (6,) and each.isfinite().all() and torch.equal(each, loss(reduction="none"))
    assert torch.equal(loss(reduction="mean"), each.mean()) and torch.equal(loss(reduction="sum"), each.sum())
    assert not torch.equal(each, loss(seed=1))
    if name != "forward_kl":  # which has nothing to weigh then, and says so
        assert loss(n=0).shape == (0,)
    with pytest.raises(ValueError, match="reduction: expected one of none, mean, sum; got 'max'"):
        loss(reduction="max")
    gradients = torch.autograd.grad(each.sum(), list(model.parameters()), allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in gradients)
