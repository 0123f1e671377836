import math

import pytest
import torch
from torch import nn

from pyflowk import zoo
from pyflowk.distributions import DiagonalGaussian
from pyflowk.space import Ragged, Space
from pyflowk.training.nonfinite import first_nonfinite
from pyflowk.transforms import Compose, Coupling, Scale
from pyflowk.zoo import FlowModel


class Root(nn.Module):
    """Square root: finite at 0, with an infinite gradient."""

    def forward(self, x):
        return x.sqrt()


class Log(nn.Module):
    def forward(self, x):
        return x.log()


def net(*layers):
    model = nn.Sequential(nn.Linear(2, 2), *layers)
    nn.init.constant_(model[0].weight, 1.0)
    nn.init.zeros_(model[0].bias)
    return model


def ask(model, x):
    return first_nonfinite(model, lambda: model(x).sum(1), x)


def test_the_first_layer_in_order_is_named():
    zero = torch.zeros(3, 2)
    assert ask(net(Log(), nn.Tanh()), zero) == "the output of layer 1 (Log)"
    assert ask(net(nn.Sequential(nn.Identity(), Log())), zero) == "the output of layer 1.1 (Log)"


def test_gradients_are_looked_at_when_the_loss_is_finite():
    assert ask(net(Root(), nn.Identity()), torch.zeros(3, 2)) == "the gradient that layer 1 (Root) passes back"
    inside = net(nn.Sequential(nn.Identity(), Root()), nn.Tanh())
    assert ask(inside, torch.zeros(3, 2)) == "the gradient that layer 1.1 (Root) passes back"


def test_a_gradient_that_only_parameters_get_is_named():
    class Rooted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

        def forward(self, x):
            return x * self.weight.sqrt()

    model = nn.Sequential(Rooted())
    assert ask(model, torch.ones(3, 2)) == "the gradient of parameter 0.weight"
    steep = net(nn.Identity())
    assert first_nonfinite(steep, lambda: 1e25 * steep(torch.ones(3, 2)).sum(1), torch.ones(3, 2)) == (
        "the norm of the gradient, which is as large as 1.0e+25 at parameter 0.weight"
    )
    assert ask(steep, torch.ones(3, 2)) == "nothing, when the batch is run again"


@pytest.mark.parametrize("memory_flat", [False, True])
def test_the_layers_of_a_flow_are_named(memory_flat):
    """A log-determinant, a network inside a coupling, and finite numbers whose density is not."""

    class Spoilt(Scale):
        def forward(self, x, context=None, generator=None):
            z, ladj = super().forward(x, context, generator)
            return z, ladj - torch.inf

    def blame(transform):
        model = FlowModel(Space((2,)), DiagonalGaussian((2,), True), transform, memory_flat=memory_flat)
        return first_nonfinite(model, lambda: model.loss(torch.zeros(3, 2)), torch.zeros(3, 2))

    place = "layer flow.transform.transforms.0.transforms"
    assert blame(Compose(Scale(2.0), Spoilt(2.0))) == f"the log-determinant of {place}.1 (Spoilt)"
    bad_net = Coupling(nn.Sequential(nn.Linear(1, 1), Log(), nn.Linear(1, 2)))
    nn.init.zeros_(bad_net.net[0].weight)
    nn.init.zeros_(bad_net.net[0].bias)
    assert blame(Compose(Scale(2.0), bad_net)) == f"the output of {place}.1.net.1 (Log)"
    assert blame(Compose(Scale(2.0), Scale(2.0, 1e20), Scale(3.0))) == (
        f"the density, after {place}.1 (Scale) has made numbers as large as 1.0e+20"
    )


def test_batch_parameters_and_loss():
    model, x = net(nn.Tanh()), torch.ones(3, 2)
    assert ask(model, torch.full((3, 2), float("nan"))) == "the batch itself"
    assert first_nonfinite(model, lambda: model(x).sum(1) * float("inf"), x) == "the loss itself, after the last layer"
    with torch.no_grad():
        model[0].bias[1] = float("nan")
    assert ask(model, x) == "parameter 0.bias"


def test_hooks_and_gradients_are_left_alone():
    model = net(Log())
    ask(model, torch.zeros(3, 2))
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_integers_and_other_outputs_do_not_disturb(dtype):
    class Odd(nn.Module):
        def forward(self, x):
            return {"x": x.log(), "n": torch.arange(3), "s": "text"}

    odd = Odd()
    assert first_nonfinite(odd, lambda: odd(torch.zeros(2, dtype=dtype))["x"], torch.zeros(2)) == (
        "the output of layer (model) (Odd)"
    )


def test_what_lies_beyond_a_row_is_no_part_of_the_batch():
    model = net(nn.Tanh())

    def loss():
        return model(x.values.where(x.mask[..., None], 0)).sum((1, 2))

    for end, said in ((1, "nothing, when the batch is run again"), (2, "the batch itself")):
        x = Ragged(torch.tensor([[[1.0, 2.0], [math.nan, 0.0]]]), torch.tensor([end]))
        assert first_nonfinite(model, loss, x) == said


def test_a_derivative_that_blows_up_is_named():
    """Of a network whose values stay finite: its sine is bounded, the rate at which the time turns it is not."""
    model = zoo.mean_flow((2,), width=4, depth=1, activation="sin", fm_fraction=0.0).train()
    x = torch.randn(8, 2)
    model.initialize(x)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.fill_(1e38 if name.endswith("layers.0.time_shift") else 10.0)
    found = first_nonfinite(model, lambda: model.loss(x, generator=torch.Generator().manual_seed(0)), x)
    assert found.startswith("the derivative of layer flow.transform.") and found.endswith("net (MLPField)")
    assert not any("derivative" in vars(module) for module in model.modules())
