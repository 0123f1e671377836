"""Mean flows: jumps beside the solution of the same velocity, guidance that is learned, options that do not fit."""

from __future__ import annotations

import pytest
import torch

from pyflowk import zoo
from pyflowk.nets import FlowMap
from pyflowk.objectives import FlowMapMatching, effective_sample_size, importance_sample
from pyflowk.space import Space
from tests.solvers.gaussian import ExactMap, ExactShares, M, S
from tests.zoo.test_systems import seeded


def test_jumps_and_solvers_are_options_of_one_model() -> None:
    torch.manual_seed(0)
    model = zoo.mean_flow((2,), width=8, depth=1).eval()
    assert torch.equal(model.sample(4, generator=seeded()), model.sample(4, generator=seeded(), steps=1))
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape)
    one, four = (model.sample(4, generator=seeded(), steps=n) for n in (1, 4))
    assert not torch.allclose(one, four)
    assert not torch.allclose(model.sample(4, generator=seeded(), steps=4, renoise=True), four)
    assert torch.allclose(model.edit(four, 1.0), four)  # all of it is left
    euler = model.sample(4, generator=seeded(), method="euler", steps=4)
    _, log_prob = model.sample_and_log_prob(4, generator=seeded(), method="rk4", steps=20)
    assert euler.shape == (4, 2) and log_prob.isfinite().all()
    with pytest.raises(ValueError, match="samples with fresh noise have no density"):
        model.sample_and_log_prob(4, renoise=True)


def test_the_density_of_jumps() -> None:
    """Of the exact map of N(1, 0.5^2) that of the data, in one jump and in four; samples are those of ``sample``."""
    model = zoo.FlowMapModel(Space((1,)), FlowMap(ExactMap()), FlowMapMatching()).double().eval()
    for steps in (1, 4):
        x, log_prob = model.sample_and_log_prob(50, generator=seeded(), steps=steps)
        torch.testing.assert_close(log_prob, torch.distributions.Normal(M, S).log_prob(x[:, 0]))
        torch.testing.assert_close(x, model.sample(50, generator=seeded(), steps=steps))
    both = FlowMap(ExactShares(), reversible=True, divergence=True)
    model = zoo.FlowMapModel(Space((1,)), both, FlowMapMatching()).double().eval()
    for options in ({"steps": 1}, {"density": "learned", "steps": 4}, {"density": "exact", "steps": 2}):
        x, log_prob = model.sample_and_log_prob(50, generator=seeded(), **options)
        torch.testing.assert_close(log_prob, torch.distributions.Normal(M, S).log_prob(x[:, 0]))
        torch.testing.assert_close(model.log_prob(x, **options), log_prob)  # back, in as many jumps
    known = torch.distributions.Normal(M, S)
    weights = importance_sample(model, lambda x: known.log_prob(x[:, 0]), 50, steps=2, density="exact")[1]
    assert abs(effective_sample_size(weights) - 50) < 1e-9
    with pytest.raises(NotImplementedError, match="mean_flow has no likelihood in a few steps"):
        zoo.mean_flow((1,), width=4).log_prob(x.float(), steps=4)
    for density in ("learned", "exact", "foo"):
        with pytest.raises(
            ValueError, match=f"density: is for jumps, in so many steps; got '{density}' with steps=None"
        ):
            model.log_prob(x, density=density)
    with pytest.raises(ValueError, match="density: expected exact for a map without a divergence"):
        zoo.mean_flow((1,), width=4, cycle=0.1).sample_and_log_prob(2, density="learned")
    levels = zoo.mean_flow((1, 2, 2), levels=4, width=4, architecture="image").eval()
    x, log_prob = levels.sample_and_log_prob((2, 3), generator=seeded(), steps=2)
    assert x.shape == (2, 3, 1, 2, 2) and log_prob.shape == (2, 3) and torch.equal(x, x.floor())


def test_weights_of_flow_matching_begin_a_mean_flow() -> None:
    """But for those that hear the gap, which start at zero: all jumps go by the velocity then."""
    torch.manual_seed(0)
    teacher = zoo.flow_matching((1, 8, 8), levels=17, width=4)
    with torch.no_grad():
        for p in teacher.parameters():
            p += 0.1 * torch.randn(p.shape)
    model = zoo.mean_flow((1, 8, 8), levels=17, width=4, time_scale=1000.0)
    model.adopt(teacher)
    drawn = [m.eval().sample(3, generator=seeded(), method="euler", steps=2) for m in (teacher, model)]
    torch.testing.assert_close(*drawn)
    assert torch.equal(model.sample(3, generator=seeded(), steps=2), drawn[1])
    late = zoo.mean_flow((1, 8, 8), levels=17, width=4, time_scale=1000.0, late=True)
    late.adopt(teacher)  # the same weights, but all: nothing is new
    assert sum(p.numel() for p in late.parameters()) == sum(p.numel() for p in teacher.parameters())
    for net in (
        {"width": 4},
        {"width": 8, "depth": 1, "architecture": "dit"},
    ):  # whose last layers are laid out otherwise
        begun = zoo.flow_matching((2, 4, 4), levels=17, **net)  # type: ignore[arg-type]
        with torch.no_grad():
            for p in begun.parameters():
                p += 0.1 * torch.randn(p.shape)
        telling = zoo.mean_flow((2, 4, 4), levels=17, time_scale=1000.0, likelihood=True, **net)  # type: ignore[arg-type]
        telling.adopt(begun)
        x, t = torch.randn(3, 2, 4, 4), torch.tensor(0.3)
        answer = telling._parts()[1].field.answer(t, x, None, torch.tensor(0.5))
        torch.testing.assert_close(answer[:, :2], begun._parts()[1].field(t, x))
        assert answer.shape == (3, 4, 4, 4) and not answer[:, 2:].any()
    other = zoo.mean_flow((1, 8, 8), levels=17, width=4, time_scale=1000.0)
    other.adopt(model)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters(), strict=True))
    for wrong in (zoo.flow_matching((1, 8, 8), levels=17, width=4, path="cosine"), zoo.nice((2,))):
        with pytest.raises(ValueError, match="begins with a system that learns by matching on AffinePath"):
            model.adopt(wrong)
    with pytest.raises(ValueError, match=r"begins with a network of the same layers"):
        zoo.mean_flow((2,), width=8).adopt(zoo.flow_matching((2,), width=8, prediction="data"))
    with pytest.raises(ValueError, match=r"same sizes: expected layers.0.bias of \(16,\), flow_matching has \(8,\)"):
        zoo.mean_flow((2,), width=16).adopt(zoo.flow_matching((2,), width=8))
    with pytest.raises(ValueError, match="nice begins with no other model's weights; got those of mean_flow"):
        zoo.nice((2,)).adopt(model)


def test_options_that_do_not_fit() -> None:
    model = zoo.mean_flow((2,), classes=3, dropout=0.1, guidance=1.0, width=8)
    label = torch.tensor([0])
    for method in ({}, {"method": "rk4", "steps": 4}):
        with pytest.raises(ValueError, match="guidance: expected 0 for a map that has learned where to go"):
            model.sample(2, label, guidance=1.0, **method)
    plain = zoo.mean_flow((2,), classes=3, dropout=0.1, width=8)
    assert plain.sample(2, label, guidance=1.0, method="rk4", steps=4).shape == (2, 2)
    with pytest.raises(ValueError, match="renoise: is for method flow_map; got rk4"):
        plain.sample(2, label, method="rk4", renoise=True)
    with pytest.raises(ValueError, match="expected a number of equal jumps, got None"):
        plain.sample(2, label, steps=None)
    with pytest.raises(ValueError, match="steps: expected an integer from 1 to"):
        plain.sample(2, label, steps=0)
    for options in ({"guidance": 1.0}, {"guidance": 1.0, "classes": 3}):
        with pytest.raises(ValueError, match="guidance: expected 0, or a model with a context and with dropout"):
            zoo.mean_flow((2,), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="density: is for method flow_map; got rk4"):
        plain.sample_and_log_prob(2, label, method="rk4", density="learned")
    with pytest.raises(ValueError, match="annealing: expected 0 unless objective is one of alpha_flow, soflow; got 5"):
        zoo.mean_flow((2,), annealing=5)
    with pytest.raises(ValueError, match="late: expected architecture unet or dit, got vector"):
        zoo.mean_flow((2,), late=True)
    with pytest.raises(ValueError, match="time: expected concat or concatsquash"):
        zoo.mean_flow((2,), time="none")
