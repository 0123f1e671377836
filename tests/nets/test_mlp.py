from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyflowk import ops
from pyflowk.nets import CONDITIONER_ACTIVATIONS, MLP, ContextBias
from pyflowk.ops.mlp import MLP_ACTIVATIONS


@pytest.mark.parametrize("activation", CONDITIONER_ACTIVATIONS)
@pytest.mark.parametrize("depth", [1, 3])
def test_it_is_the_textbook_formula(activation: str, depth: int) -> None:
    torch.manual_seed(0)
    net = MLP(3, 2, width=8, depth=depth, activation=activation)
    nn.init.normal_(net.last.weight)
    linears = [m for m in net.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == depth + 1
    x = h = torch.randn(5, 3)
    for layer in linears[:-1]:
        h = getattr(F, activation)(h @ layer.weight.T + layer.bias)
    torch.testing.assert_close(net(x), h @ net.last.weight.T + net.last.bias)


def test_a_vector_context_acts_as_if_concatenated() -> None:
    net = MLP(3, 2, width=8, context_dim=4)
    nn.init.normal_(net.last.weight)
    x, context = torch.randn(5, 3), torch.randn(5, 4)
    joint = nn.Linear(7, 8)
    with torch.no_grad():
        joint.weight.copy_(torch.cat((net.first.weight, net.context.table.weight), 1))
        joint.bias.copy_(net.first.bias)
    torch.testing.assert_close(net(x, context), net.last(net.hidden(joint(torch.cat((x, context), 1)))))


def test_labels_select_rows_of_a_table() -> None:
    net = MLP(3, 2, width=8, classes=4)
    nn.init.normal_(net.last.weight)
    x = torch.randn(1, 3).expand(4, 3)
    out = net(x, torch.tensor([0, 1, 1, 3], dtype=torch.int32))
    assert torch.equal(out[1], out[2]) and not torch.allclose(out[0], out[3])


def test_zero_at_the_start_and_gradients_everywhere_after_one_step() -> None:
    net = MLP(3, 2, classes=4)
    x, labels = torch.randn(6, 3), torch.arange(6) % 4
    assert torch.equal(net(x, labels), torch.zeros(6, 2))
    net(x, labels).sum().backward()
    assert net.last.bias.grad is not None and net.last.weight.grad.abs().sum() > 0


def test_no_inputs_or_no_outputs() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert MLP(0, 3)(torch.zeros(5, 0)).shape == (5, 3)
        assert MLP(3, 0)(torch.zeros(5, 3)).shape == (5, 0)


@pytest.mark.parametrize(
    "options, context, error, words",
    [
        ({"classes": 3}, torch.zeros(2), TypeError, "integer dtype"),
        ({"classes": 3}, torch.zeros(2, 1, dtype=torch.int64), TypeError, r"labels \(B,\)"),
        ({"context_dim": 3}, torch.zeros(2, 4), ValueError, r"\(B, 3\)"),
        ({"context_dim": 3}, torch.zeros(2, 3, dtype=torch.int64), ValueError, "floats"),
    ],
)
def test_wrong_contexts_are_named(options: dict, context: torch.Tensor | None, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        MLP(3, 2, **options)(torch.zeros(2, 3), context)


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"MLP expects \(B, 3\), got \(5, 4\)"):
        MLP(3, 2)(torch.zeros(5, 4))
    with pytest.raises(TypeError, match=r"MLP expects torch.float32, as its weights are, got torch.float64"):
        MLP(3, 2)(torch.zeros(5, 3).double())
    with pytest.raises(ValueError, match="elu, gelu"):
        MLP(3, 2, activation="swish")
    with pytest.raises(ValueError, match="depth"):
        MLP(3, 2, depth=0)
    with pytest.raises(ValueError, match="either context_dim or classes"):
        ContextBias(3, context_dim=2, classes=2)


@pytest.mark.parametrize("activation", sorted(MLP_ACTIVATIONS))
@pytest.mark.parametrize("options", [{}, {"context_dim": 4, "depth": 4}, {"classes": 3, "depth": 1}])
def test_one_call_computes_what_the_layers_do(activation: str, options: dict) -> None:
    fused = MLP(5, 6, width=20, activation=activation, fused=True, **options).double()
    torch.nn.init.normal_(fused.last.weight)
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    context = {"context_dim": torch.randn(7, 4, dtype=torch.float64), "classes": torch.arange(7) % 3}
    condition = [context[name] for name in options if name in context]
    results = []
    for fused.fused in (True, False):
        y = fused(x, *condition)
        results.append([y, *torch.autograd.grad(y.sin().sum(), [x, *fused.parameters()])])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-12, rtol=1e-12)


def test_one_call_by_itself_only_where_it_is_faster_and_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = ops.mlp
    monkeypatch.setattr("pyflowk.nets.mlp.mlp", lambda *args, **more: (calls.append(1), real(*args, **more))[1])
    net, x = MLP(3, 2, width=16), torch.randn(4, 3)
    net(x)
    with torch.no_grad():
        net(x)
        net(torch.randn(1000, 3))
        MLP(3, 2, width=256)(torch.randn(512, 3))
    assert len(calls) == 4
    MLP(3, 2, width=256)(x)
    MLP(3, 2, width=16, activation="gelu")(x)
    MLP(3, 2, width=16, fused=False)(x)
    MLP(0, 2, width=16)(torch.randn(4, 0))
    torch.func.jvp(net, (x,), (x,))
    with torch.autocast("cpu"):
        net(x)
    seen: list[object] = []
    net.hidden[0].register_full_backward_hook(lambda module, grad_input, grad_output: seen.append(module))
    net(x).sum().backward()
    assert len(calls) == 4 and len(seen) == 1
