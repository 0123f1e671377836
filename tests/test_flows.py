from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyflowk.distributions import ClassConditionalGaussian, DiagonalGaussian, GaussianMixture
from pyflowk.flows import Flow
from pyflowk.nets import MLP
from pyflowk.shapes import expand_context
from pyflowk.transforms import (
    Affine,
    Compose,
    Coupling,
    Dequantize,
    Invert,
    Logit,
    Scale,
    Split,
    Transform,
    check_invertibility,
)
from pyflowk.zoo import create


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def awake(module: nn.Module) -> nn.Module:
    """Every parameter away from its start."""
    with torch.no_grad():
        for p in module.parameters():
            p += 0.3 * torch.randn(p.shape, generator=seeded())
    return module


class Counting(nn.Module):
    """Counts how often the network it holds is run."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.runs = net, 0

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        self.runs += 1
        return self.net(x, context)


def conditional_flow() -> Flow:
    """x given a vector of two numbers, whose first moves the mean by 10."""

    class Shift(nn.Module):
        def forward(self, x: Tensor, context: Tensor) -> Tensor:
            shift = -10 * context[:, :1].expand(-1, 3)
            return torch.cat((torch.zeros_like(shift), shift), 1)

    return Flow(DiagonalGaussian((3,)), Coupling(Shift(), Affine(), mask="all"))


def test_the_transform_in_the_place_of_the_base_is_named() -> None:
    message = r"expected Flow\(base, transform\), got Flow\(Scale\(...\), DiagonalGaussian\(...\)\)"
    with pytest.raises(TypeError, match=message):
        Flow(Scale(2.0), DiagonalGaussian((3,)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got Flow\(DiagonalGaussian\(...\), Linear\(...\)\)"):
        Flow(DiagonalGaussian((3,)), nn.Linear(3, 3))  # type: ignore[arg-type]
    assert Flow(DiagonalGaussian((3,)), torch.compile(Scale(2.0), backend="eager")).sample(2).shape == (2, 3)  # type: ignore[arg-type]


def test_density_integrates_to_one() -> None:
    torch.manual_seed(0)
    couplings = [Coupling(MLP(1, 2, width=8, activation="tanh"), swap=s) for s in (False, True, False)]
    flow = awake(Flow(DiagonalGaussian((2,), learned=True), Compose(*couplings))).double()
    side = torch.linspace(-30, 30, 1201, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    assert abs(flow.log_prob(grid).exp().sum().item() * 0.05**2 - 1) < 1e-3


def test_log_prob_of_samples_and_one_network_run() -> None:
    torch.manual_seed(0)
    nets = [Counting(MLP(2, 4, context_dim=3)) for _ in range(3)]
    flow = awake(Flow(DiagonalGaussian((4,)), Compose(*(Coupling(net, conditional=True) for net in nets)))).double()
    context = torch.randn(6, 3, dtype=torch.float64)
    x, log_prob = flow.sample_and_log_prob(6, context, seeded())
    assert [net.runs for net in nets] == [1, 1, 1]
    torch.testing.assert_close(flow.log_prob(x, context), log_prob)
    torch.testing.assert_close(flow(x, context), log_prob)
    assert torch.equal(flow.sample(6, context, seeded()), x)


def test_tempered_log_prob_is_that_of_the_tempered_distribution() -> None:
    flow = Flow(DiagonalGaussian((3,)), Scale(0.5, 1.0))
    x, log_prob = flow.sample_and_log_prob(5, None, seeded(), temperature=0.5)
    torch.testing.assert_close(log_prob, torch.distributions.Normal(-2.0, 1.0).log_prob(x).sum(1))


def test_same_generator_same_result() -> None:
    flow = Flow(DiagonalGaussian((3,)), Compose(Dequantize(4), Scale(0.25), Logit()))
    assert torch.equal(flow.sample(9, None, seeded(1)), flow.sample(9, None, seeded(1)))
    x = torch.randint(0, 4, (5, 3))
    assert torch.equal(flow.log_prob(x, None, seeded(1)), flow.log_prob(x, None, seeded(1)))
    assert not torch.equal(flow.log_prob(x, None, seeded(1)), flow.log_prob(x, None, seeded(2)))


def test_no_call_touches_the_global_generator() -> None:
    flow = Flow(DiagonalGaussian((3,)), Compose(Dequantize(4), Scale(0.25), Logit()))
    state = torch.get_rng_state()
    flow.log_prob(flow.sample(4, generator=seeded()), generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)


def test_one_context_many_samples() -> None:
    x = conditional_flow().sample(500, torch.tensor([[3.0, 0.0]]), seeded())
    assert x.shape == (500, 3) and abs(x.mean() - 30) < 0.2


def test_many_contexts_one_sample_each() -> None:
    context = torch.tensor([[1.0, 0.0], [5.0, 0.0], [-2.0, 0.0]])
    flow = conditional_flow()
    x = flow.sample(3, context, seeded())
    assert (x.mean(1) - 10 * context[:, 0]).abs().max() < 3
    torch.testing.assert_close(flow.log_prob(x, context)[1:2], flow.log_prob(x[1:2], context[1:2]))


def test_several_samples_for_each_of_many_contexts() -> None:
    context = torch.tensor([[1.0, 0.0], [5.0, 0.0]])
    x = conditional_flow().sample(200, context.repeat_interleave(100, 0), seeded()).reshape(2, 100, 3)
    assert (x.mean((1, 2)) - torch.tensor([10.0, 50.0])).abs().max() < 0.5


def test_one_context_serves_all_rows_of_log_prob() -> None:
    x, context = torch.randn(4, 3), torch.tensor([[0.1, 0.0]])
    flow = conditional_flow()
    torch.testing.assert_close(flow.log_prob(x, context), flow.log_prob(x, context.repeat(4, 1)))


def test_labels_broadcast_from_a_single_one() -> None:
    flow = Flow(awake(ClassConditionalGaussian((3,), 4)), Compose())
    x = torch.randn(5, 3)
    expected = flow.log_prob(x, torch.full((5,), 2))
    torch.testing.assert_close(flow.log_prob(x, torch.tensor(2)), expected)
    torch.testing.assert_close(flow.log_prob(x, torch.tensor([2])), expected)


def test_any_other_number_of_contexts_is_refused() -> None:
    for call in (
        lambda c: conditional_flow().sample(6, c),
        lambda c: conditional_flow().log_prob(torch.zeros(6, 3), c),
    ):
        with pytest.raises(ValueError, match=r"6 rows.*got \(2, 2\).*repeat_interleave"):
            call(torch.zeros(2, 2))
    assert expand_context(None, 3) is None


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf, "1", True, None])
def test_temperature_must_be_a_positive_number(temperature: Any) -> None:
    flow, mixture = conditional_flow(), GaussianMixture((3,), 2)
    for call in (
        lambda: flow.sample(1, torch.zeros(1, 2), temperature=temperature),
        lambda: flow.sample_and_log_prob(1, torch.zeros(1, 2), temperature=temperature),
        lambda: flow.base.log_prob(torch.zeros(1, 3), temperature=temperature),
        lambda: mixture.sample(1, temperature=temperature),
        lambda: mixture.log_prob(torch.zeros(1, 3), temperature=temperature),
    ):
        with pytest.raises(ValueError, match="temperature: expected a finite number > 0, got"):
            call()
    assert flow.sample(1, torch.zeros(1, 2), temperature=1).shape == (1, 3)


def test_a_shape_in_place_of_a_number() -> None:
    flow, context = conditional_flow(), torch.randn(6, 2)
    for n in ((6,), torch.Size([6]), [6], torch.tensor(6)):
        assert torch.equal(flow.sample(n, context, seeded()), flow.sample(6, context, seeded()))
    x, log_prob = flow.sample_and_log_prob((2, 3), context, seeded())
    assert torch.equal(x, flow.sample(6, context, seeded()).reshape(2, 3, 3)) and log_prob.shape == (2, 3)
    assert flow.sample((), context[:1]).shape == (3,) and flow.sample((2, 0), context[:1]).shape == (2, 0, 3)
    assert create("nice", (2,), width=4, levels=4).sample((2, 3)).shape == (2, 3, 2)


@pytest.mark.parametrize("n, error", [(-1, ValueError), (2.5, TypeError), (True, TypeError), ("3", TypeError)])
def test_a_number_of_samples_is_one(n: Any, error: type[Exception]) -> None:
    for model in (conditional_flow(), DiagonalGaussian((2,)), GaussianMixture((2,), 2), create("nice", (2,), width=4)):
        with pytest.raises(error, match="n: expected"):
            model.sample(n, torch.zeros(1, 2) if isinstance(model, Flow) else None)
    with pytest.raises(ValueError, match="at least 0 samples"):
        conditional_flow().sample((2, -3), torch.zeros(1, 2))
    with pytest.raises(TypeError, match="expected a number of samples, got"):
        GaussianMixture((2,), 2).sample((5,))


def test_what_does_not_fit_is_named_at_the_border() -> None:
    flow = Flow(DiagonalGaussian((2,)), Coupling(MLP(1, 2, width=4, context_dim=2)))
    x, context = torch.randn(3, 2), torch.randn(3, 2)
    with pytest.raises(
        TypeError, match=r"x: expected torch.float32, the model's dtype, got torch.float64: pass x\.float\(\)"
    ):
        flow.log_prob(x.double(), context)
    with pytest.raises(TypeError, match=r"context: expected torch\.float32"):
        flow.sample(3, context.double())
    for wrong in ([[0.0, 1.0]], 1):
        with pytest.raises(TypeError, match=r"context: expected a tensor.* got (list|int)"):
            flow.sample(3, wrong)
        with pytest.raises(TypeError, match=r"context: expected a tensor.* got (list|int)"):
            create("nice", (2,), width=4, classes=2).sample(3, wrong)
    with pytest.raises(TypeError, match="x: expected a tensor, got list"):
        flow.log_prob([[0.0, 1.0]], context)
    with pytest.raises(TypeError, match=r"generator: expected a torch\.Generator.*got int"):
        flow.sample(3, context, generator=0)
    with pytest.raises(ValueError, match=r"x: expected events \(B, \*event\), got a number"):
        flow.log_prob(torch.tensor(1.0))
    with pytest.raises(ValueError, match="x: expected cpu, where the model is, got a tensor on meta"):
        flow.log_prob(x.to("meta"), context)
    with pytest.raises(TypeError, match=r"weights are torch.bfloat16.*torch.autocast\('cpu', torch.bfloat16\)"):
        copy.deepcopy(flow).bfloat16().log_prob(x, context)
    with pytest.raises(TypeError, match=r"weights are torch\.float16"):
        copy.deepcopy(flow).half().sample(3)
    for dtype in (torch.int64, torch.uint8, torch.bfloat16):
        exact = x.abs().to(dtype)
        assert torch.equal(flow.log_prob(exact, context), flow.log_prob(exact.float(), context))
    wide = copy.deepcopy(flow).double()
    assert torch.equal(wide.log_prob(x, context), wide.log_prob(x.double(), context.double()))


def test_empty_batches() -> None:
    flow = conditional_flow()
    assert flow.sample(0, torch.zeros(1, 2)).shape == (0, 3)
    assert flow.log_prob(torch.zeros(0, 3), torch.zeros(0, 2)).shape == (0,)


def test_per_sample_gradients_by_vmap() -> None:
    torch.manual_seed(0)
    flow = awake(Flow(DiagonalGaussian((4,)), Coupling(MLP(2, 4, width=8)))).double()
    parameters = dict(flow.named_parameters())
    x = torch.randn(3, 4, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(flow, parameters, (x[None],))[0]

    rows = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    flow.log_prob(x).sum().backward()
    for name, p in flow.named_parameters():
        torch.testing.assert_close(rows[name].sum(0), p.grad)


def test_vmap_over_labels_and_levels() -> None:
    """Ranges are looked at where values can be: not under a functional transformation."""
    for options, x, c in (
        ({"classes": 3}, torch.randn(4, 2), torch.tensor([0, 1, 2, 0])),
        ({"levels": 4}, torch.tensor([[0, 3], [1, 2]]), None),
    ):
        model = create("nice", (2,), width=4, **options).eval()
        rows = torch.func.vmap(
            lambda x, c: model.log_prob(x[None], c if c is None else c[None])[0],  # noqa: B023
            in_dims=(0, None if c is None else 0), randomness="different",
        )  # fmt: skip
        assert rows(x, c).shape == (len(x),)
        if c is not None:
            torch.testing.assert_close(rows(x, c), model.log_prob(x, c))


def test_score_and_its_derivative() -> None:
    """Second derivatives pass through the whole flow: the Hessian of log p against finite differences."""
    torch.manual_seed(0)
    flow = awake(Flow(DiagonalGaussian((3,)), Coupling(MLP(1, 4, width=8, activation="tanh")))).double()
    x = torch.randn(3, dtype=torch.float64)
    score = torch.func.grad(lambda x: flow.log_prob(x[None])[0])
    hessian = torch.func.jacrev(score)(x)
    step = 1e-5 * torch.eye(3, dtype=torch.float64)
    numeric = torch.stack([(score(x + h) - score(x - h)) / 2e-5 for h in step], 1)
    torch.testing.assert_close(hessian, numeric, rtol=1e-5, atol=1e-6)


class Estimated(Transform):
    """The identity with a log-determinant of pure noise: counts how often it is asked for one."""

    estimates_ladj = True
    asked = 0

    def forward(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        self.asked += 1
        return x, torch.randn(x.shape[0], generator=generator)

    inverse = forward

    def to_data(self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        return z


def test_an_estimated_log_determinant_gets_the_generator_in_both_directions() -> None:
    layer = Estimated()
    inside = Split(Compose(layer, Scale(2.0)), (4,))
    flow = Flow(DiagonalGaussian((4,)), Compose(Invert(Compose(Scale(0.5), layer)), inside))
    state = torch.get_rng_state()
    x, log_prob = flow.sample_and_log_prob(5, None, seeded(1))
    again, same = flow.sample_and_log_prob(5, None, seeded(1))
    assert torch.equal(x, again) and torch.equal(log_prob, same)
    assert torch.equal(flow.log_prob(x, None, seeded(2)), flow.log_prob(x, None, seeded(2)))
    assert not torch.equal(flow.log_prob(x, None, seeded(2)), flow.log_prob(x, None, seeded(3)))
    assert torch.equal(flow.sample(5, None, seeded(1)), x)
    check_invertibility(flow.transform, x, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)


def test_sampling_asks_for_no_log_determinant() -> None:
    layer = Estimated()
    flow = Flow(DiagonalGaussian((4,)), Compose(Scale(2.0), layer, Split(Compose(layer), (4,))))
    flow.sample(5)
    assert layer.asked == 0
    flow.sample_and_log_prob(5)
    assert layer.asked == 2


def test_gaussian_mixture_is_that_of_torch_distributions() -> None:
    base = awake(GaussianMixture((3,), 4))
    z = torch.randn(5, 3)
    components = torch.distributions.Independent(torch.distributions.Normal(base.mean, 1.5 * base.log_std.exp()), 1)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=base.logits), components)
    torch.testing.assert_close(base.log_prob(z, temperature=1.5), mixture.log_prob(z))
    draws = base.sample(100_000, generator=torch.Generator().manual_seed(0), temperature=1.5)
    torch.testing.assert_close(draws.mean(0), mixture.mean, atol=0.03, rtol=0.03)
    torch.testing.assert_close(draws.var(0), mixture.variance, atol=0.03, rtol=0.05)
    assert base.sample(0).shape == (0, 3)
    with pytest.raises(ValueError, match="components to be an integer of at least 1"):
        GaussianMixture((3,), 0)
    with pytest.raises(ValueError, match=r"\(B, 3\)"):
        base.log_prob(z[:, :2])
