"""What any field and any branch can be asked for: the defaults, and the border where plain functions become one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pyflowk.nets import Branch, ConvField, Field, FunctionBranch, FunctionField, LipschitzMLP, MLPField
from pyflowk.nets.field import as_field
from pyflowk.solvers import Backprop, Fixed, odeint
from pyflowk.transforms import Continuous, Exact, Residual, check_contraction


class Guided(Field):
    """(1 + w) f(t, x, c) - w g(t, x): a field that wraps two and knows nothing by hand."""

    def __init__(self, field: Field, other: Field, weight: float) -> None:
        super().__init__()
        self.field, self.other, self.weight = field, other, weight

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return (1 + self.weight) * self.field(t, x, context) - self.weight * self.other(t, x)


def awake(net: nn.Module) -> nn.Module:
    for p in net.parameters():
        nn.init.normal_(p, std=0.4)
    return net.double().eval()


def field(**options: int) -> MLPField:
    return awake(MLPField(2, 8, 2, **options))  # type: ignore[return-value]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


X, C = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)


def test_the_defaults_are_what_a_field_knows_by_hand() -> None:
    inner, t, e = field(context_dim=3), torch.tensor(0.3), torch.randn(4, 3, 2, dtype=torch.float64)
    plain = Guided(inner, field(), 0.0)
    torch.testing.assert_close(plain.with_tangents(t, X, e, C), inner.with_tangents(t, X, e, C))
    torch.testing.assert_close(plain.with_divergence(t, X, C), inner.with_divergence(t, X, C))
    assert inner.has_divergence(t) and not plain.has_divergence(t)
    assert inner.fused(torch.zeros(3), C) is not None and plain.fused(torch.zeros(3), C) is None


def test_tangents_by_default_go_under_another_vmap() -> None:
    plain, t, e = Guided(field(), field(), 0.5), torch.tensor(0.3), torch.randn(4, 3, 2, dtype=torch.float64)
    rows = torch.func.vmap(lambda x, e: tuple(part[0] for part in plain.with_tangents(t, x[None], e[None])))(X, e)
    torch.testing.assert_close(rows, plain.with_tangents(t, X, e))


@pytest.mark.parametrize("divergence", ["exact", "hutchinson", "hutch++"])
def test_what_wraps_a_field_is_a_field_of_a_flow(divergence: str) -> None:
    guided = Guided(field(context_dim=3), field(), 0.5)
    options = {"divergence": divergence, "probes": 2, "stepping": Fixed(3)}
    flow = Continuous(guided, method="rk4", **options)  # type: ignore[arg-type]
    function = Continuous(lambda t, x, context: guided(t, x, context), method="rk4", **options)  # type: ignore[arg-type]
    assert set(flow.state_dict()) == {f"field.{name}" for name in guided.state_dict()} and not function.state_dict()
    torch.testing.assert_close(flow(X, C, seeded()), function(X, C, seeded()))
    assert list(Continuous(FunctionField(guided)).state_dict()) == [f"field.function.{n}" for n in guided.state_dict()]
    torch.testing.assert_close(flow.to_data(flow(X, C, seeded())[0], C), X, rtol=1e-2, atol=1e-2)


def test_a_compiled_field_has_its_compiled_values_and_all_that_the_field_knows() -> None:
    inner, calls = field(), []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        calls.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = as_field(torch.compile(inner, backend=backend))
    torch.testing.assert_close(compiled(torch.tensor(0.3), X), inner(torch.tensor(0.3), X))
    assert len(calls) == 1 and compiled.has_divergence(torch.tensor(0.3)) and compiled.fused(torch.zeros(3)) is not None
    torch.testing.assert_close(Continuous(torch.compile(inner, backend=backend))(X), Continuous(inner)(X))


def test_a_function_goes_into_one_graph() -> None:
    flow = Continuous(lambda t, x: -x * t, method="euler", stepping=Fixed(1), adjoint=Backprop())
    torch._dynamo.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(flow, fullgraph=True, backend="eager")(X), flow(X))


class Half(Branch):
    lipschitz = 0.5

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return 0.5 * torch.sin(x if context is None else torch.stack((x, context)).sum(0)).flip(1)


def test_a_branch_needs_its_values_and_its_constant_only() -> None:
    layer, plain = Residual(Half(), Exact(), Exact()), Residual(nn.Linear(2, 2).double(), lipschitz=0.9)
    assert layer.contraction() == 0.5 and [c.stated for c in check_contraction(layer)] == [0.5]
    z, ladj = layer(X, C[:, :2])
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda x, c=c: layer(x[None], c[None])[0][0], x)
                            for x, c in zip(X, C[:, :2], strict=True)])  # fmt: skip
    torch.testing.assert_close(ladj, torch.linalg.slogdet(jacobian).logabsdet)
    torch.testing.assert_close(layer.inverse(z, C[:, :2])[0], X)
    torch.testing.assert_close(layer(X, C[:1, :2]), layer(X, C[:1, :2].expand(4, 2)))
    assert set(plain.state_dict()) == {"branch.weight", "branch.bias"} and check_contraction(plain)[0].stated is None
    stated = Residual(FunctionBranch(nn.Linear(2, 2).double(), 0.9))
    assert set(stated.state_dict()) == {"branch.function.weight", "branch.function.bias"}
    with pytest.raises(ValueError, match="expected lipschitz= for a branch that is no Branch, got a Linear alone"):
        Residual(nn.Linear(2, 2))
    net = awake(LipschitzMLP(2, 8))
    torch.testing.assert_close(Residual(torch.compile(net, backend="eager"))(X.clone()), Residual(net)(X.clone()))


def test_a_field_is_what_an_adaptive_solve_asks_for() -> None:
    """Whose times are columns, one for each row, of vectors and of images."""
    for shape, net in (((2,), awake(MLPField(2, width=8))), ((1, 4, 4), awake(ConvField(1, width=4)))):
        x = torch.randn(3, *shape, dtype=torch.float64, generator=seeded())
        found = odeint(net, x, [0.0, 1.0], method="dopri5")
        by_row = odeint(lambda t, y, net=net: net(t.reshape(-1) if t.dim() else t, y), x, [0.0, 1.0], method="dopri5")
        assert torch.equal(found, by_row)
