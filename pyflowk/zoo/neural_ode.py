"""Neural ODE: a continuous flow with the exact trace, for few dimensions."""

from __future__ import annotations

from typing import Annotated

from ..nets import FIELD_ACTIVATIONS, MLPField
from ..space import Space
from ..transforms import Compose, Continuous
from .blocks import condition, flatten, gaussian, normed, stepping
from .flow_model import FlowModel
from .option import LAYERS, Dequantizer, Method, Option, Steps, Time, Tolerance, Width, one_of
from .registry import register


@register("neural_ode")
def neural_ode(
    space: Space,
    *,
    dequantize: Dequantizer = "uniform",
    width: Width = 64,
    depth: Annotated[int, Option("hidden layers of the field", 1, LAYERS)] = 2,
    activation: Annotated[str, one_of("what the hidden units compute", FIELD_ACTIVATIONS)] = "tanh",
    time: Time = "concat",
    method: Method = "rk4",
    steps: Steps = 10,
    rtol: Tolerance = 1e-5,
    atol: Tolerance = 1e-5,
) -> FlowModel:
    """Neural ODE, a flow by one differential equation with its exact trace (Chen et al., 2018, arXiv:1806.07366).

    The event is flattened and brought to unit scale (ActNorm); one MLP field of ``depth`` hidden layers of ``width``
    units moves it. With ``steps`` equal Runge-Kutta steps everything runs in one kernel call; steps=None takes adaptive
    steps (method "dopri5" or another with an error estimate) at ``rtol``, ``atol``. The trace costs D tangents, one
    matrix product for at most two hidden layers. Both directions cost the same.
    ``dequantize`` is "uniform" or "variational".

    >>> from pyflowk import zoo
    >>> zoo.neural_ode((2,)).sample(3).shape
    torch.Size([3, 2])

    The same equation as a classifier's hidden layer: no density, so no trace is paid for.

    >>> import torch
    >>> from pyflowk.nets import MLPField
    >>> from pyflowk.solvers import Fixed
    >>> from pyflowk.transforms import Continuous
    >>> body = Continuous(MLPField(4, width=16), method="rk4", stepping=Fixed(8))
    >>> head = torch.nn.Linear(4, 3)
    >>> logits = head(body.move(torch.randn(5, 4), start=0.0, stop=1.0))
    >>> torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([])
    """
    field = MLPField(space.dims, width, depth, activation, time, **condition(space))
    flow = Continuous(field, method=method, stepping=stepping(method, steps, rtol, atol))
    transform = Compose(flatten(space), *normed(space.dims, [flow]))
    return FlowModel(space, gaussian(space), transform, dequantize=dequantize)
