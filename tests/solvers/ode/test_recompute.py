"""What a backward pass computes again is what the forward pass computed, with the parameters it had, or an error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from pyflowk.distributions import DiagonalGaussian
from pyflowk.flows import Flow
from pyflowk.nets import LipschitzMLP, MLPField
from pyflowk.objectives import reverse_kl
from pyflowk.solvers import Adaptive, Backprop, Backsolve, Fixed, Recompute, odeint, solve_ivp
from pyflowk.transforms import Continuous, Residual

D = torch.float64
Y0 = torch.tensor([[1.0, 0.5], [-0.3, 0.8], [0.2, -1.0]], dtype=D)


class Decay(nn.Module):
    """y' = tanh(net(y)) W, reached by the solver in one way or another."""

    def __init__(self, captured: str, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.captured, self.options = captured, options
        self.W = nn.Parameter(torch.tensor([[0.3, -1.0], [0.8, 0.2]], dtype=D))
        self.net = parametrizations.spectral_norm(nn.Linear(2, 2).double().eval()).eval()

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.net(y)) @ self.W

    def forward(self, y0: Tensor) -> Tensor:
        helper = [self]
        ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "method": self.slope,
            "closure": lambda t, y: torch.tanh(self.net(y)) @ self.W,
            "container": lambda t, y: helper[0].slope(t, y),
        }
        options = dict(self.options)
        if options.pop("backsolve", False):
            options["adjoint"] = Backsolve(params=list(self.parameters()))
        return odeint(ways[self.captured], y0, [0.0, 1.0], **options)[-1].sin()


class Last(nn.Module):
    """What a transform makes, z and ladj in one tensor."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.double()

    def forward(self, x: Tensor) -> Tensor:
        z, ladj = self.layer(x, None, torch.Generator().manual_seed(1))
        return torch.cat([z, ladj[:, None]], 1)


CASES: dict[str, Callable[[], nn.Module]] = {
    "dopri5": lambda: Decay("method"),
    "rk4": lambda: Decay("closure", method="rk4", stepping=Fixed(5)),
    "adams": lambda: Decay("container", method="adams3", stepping=Fixed(6)),
    "backsolve": lambda: Decay("closure", backsolve=True),
    "Continuous": lambda: Last(Continuous(MLPField(2, width=8), stepping=Adaptive(1e-6, 1e-6))),
    "Continuous-backsolve": lambda: Last(Continuous(MLPField(2, width=8), adjoint=Backsolve())),
    "Residual-exact": lambda: Last(Residual(LipschitzMLP(2, width=8), recompute=True).eval()),
    "Residual-roulette": lambda: Last(Residual(LipschitzMLP(2, width=8), exact_dims=1, recompute=True)),
}
recomputed = pytest.mark.parametrize("case", list(CASES))


def moved(module: nn.Module) -> dict[str, Tensor]:
    """Other parameters, of which none is at zero."""
    noise = torch.Generator().manual_seed(2)
    draw = lambda p: 0.4 * torch.randn(p.shape, generator=noise, dtype=p.dtype)  # noqa: E731
    return {name: (p.detach() + draw(p)).requires_grad_() for name, p in module.named_parameters()}


@recomputed
@pytest.mark.parametrize("made", [False, True], ids=["leaves", "made"])
def test_functional_call_differentiates_by_what_it_was_given(case: str, made: bool) -> None:
    """By parameters of its own, leaves or made by another network; it was by those of the module, 3.8 for 1.5."""
    model = CASES[case]()
    given = moved(model)
    own = copy.deepcopy(model)
    own.load_state_dict(given, strict=False)
    truth = torch.autograd.grad(own(Y0).square().sum(), list(own.parameters()))
    output = functional_call(model, {name: p + 0 for name, p in given.items()} if made else given, (Y0,))
    found = torch.autograd.grad(output.square().sum(), list(given.values()))
    close = {"rtol": 1e-3, "atol": 1e-5} if "backsolve" in case else {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(found, truth, **close)


@pytest.mark.parametrize(
    "case, fused", [(case, fused) for case in CASES for fused in (False, True) if not fused or "backsolve" not in case]
)
def test_weights_that_change_before_the_backward_pass_are_an_error(case: str, fused: bool) -> None:
    """By a step that raises a version, as autograd has it, or by one that does not."""
    model = CASES[case]()
    model.load_state_dict(moved(model), strict=False)
    bystander = nn.Parameter(torch.zeros(2))
    if "backsolve" not in case:
        model.bystander = bystander  # within reach, but of another matter: it may change
    loss = model(Y0).square().sum()
    torch.nn.init.ones_(bystander)
    loss.backward(retain_graph=True)
    torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused).step()
    with pytest.raises(RuntimeError, match=r"modified by an inplace|did not come to the result"):
        loss.backward()


def test_stick_the_landing_holds_parameters_fixed_under_every_adjoint() -> None:
    found = []
    for adjoint in (Backprop(), Recompute(), Backsolve()):
        torch.manual_seed(0)
        layer = Continuous(MLPField(2, width=8), adjoint=adjoint, stepping=Adaptive(1e-7, 1e-7))
        flow = Flow(DiagonalGaussian((2,)), layer).double()
        flow.load_state_dict(moved(flow), strict=False)
        loss = reverse_kl(flow, lambda x: -0.5 * (x - 1).square().sum(1), 32, stick_the_landing=True,
                          generator=torch.Generator().manual_seed(3), reduction="mean")  # fmt: skip
        found.append(torch.autograd.grad(loss, list(flow.parameters())))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found[2], found[0], rtol=1e-3, atol=1e-4)


def test_a_field_with_dropout_drops_the_same_twice() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 32), nn.Dropout(0.5), nn.Linear(32, 2)).double()

    def loss(shift: float = 0.0) -> Tensor:
        torch.manual_seed(5)
        f = lambda t, y: functional_call(net, {name: p + shift for name, p in net.named_parameters()}, y)  # noqa: E731
        return odeint(f, Y0, [0.0, 1.0], method="rk4", stepping=Fixed(9))[-1].square().sum()

    slope = sum(g.sum() for g in torch.autograd.grad(loss(), list(net.parameters())))
    difference = (loss(1e-6) - loss(-1e-6)) / 2e-6
    torch.testing.assert_close(slope, difference.detach(), rtol=1e-6, atol=1e-6)


def test_what_cannot_be_computed_again_is_an_error() -> None:
    """A field that draws from its own generator; a start that is overwritten."""
    W, generator = torch.eye(2, dtype=D, requires_grad=True), torch.Generator().manual_seed(0)
    noisy = lambda t, y: y @ W + torch.randn(y.shape, generator=generator, dtype=D)  # noqa: E731
    y = odeint(noisy, Y0, [0.0, 1.0], method="rk4", stepping=Fixed(9))[-1]
    with pytest.raises(RuntimeError, match="did not come to the result of the forward pass"):
        y.sum().backward()
    start = Y0.clone()
    y = odeint(lambda t, y: torch.sin(y @ W), start, [0.0, 1.0], method="rk4", stepping=Fixed(9))[-1]
    start.data.zero_()
    with pytest.raises(RuntimeError, match="did not come to the result of the forward pass"):
        y.sum().backward()


def test_dense_output_is_not_written_again_by_a_backward_pass() -> None:
    W = torch.eye(2, dtype=D, requires_grad=True)
    solution = solve_ivp(lambda t, y: -y @ W, Y0, [0.0, 1.0], method="rk4", stepping=Fixed(9), dense=True)
    assert solution.dense is not None
    solution.y[-1].sum().backward()
    assert len(solution.dense.steps) == 9


@pytest.mark.parametrize("adjoint", [Recompute(), Backprop()], ids=str)
def test_an_evaluation_between_the_passes_changes_no_gradient(adjoint: str) -> None:
    """The backward pass computes again in the mode of the forward pass, and leaves the mode that it finds."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    gradients = []
    for evaluated in (False, True):
        y0 = Y0.clone().requires_grad_()
        loss = odeint(lambda t, y: net(y), y0, [0.0, 0.3, 0.6, 1.0], method="rk4", adjoint=adjoint)[-1].square().sum()
        net.train(not evaluated)
        gradients += torch.autograd.grad(loss, y0)
        assert net.training != evaluated and net[1].training != evaluated
        net.train()
    assert torch.equal(*gradients)
