"""Neural ODE: a continuous flow with the exact trace, for few dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from ..distributions import ClassConditionalGaussian, DiagonalGaussian, Distribution
from ..nets import FIELD_ACTIVATIONS, MLPField
from ..solvers import Adaptive, Fixed
from ..transforms import ActNorm, Compose, Continuous, Reshape
from .model import FlowModel
from .option import (
    LAYERS,
    WIDTH,
    Classes,
    ContextDim,
    Dequantize,
    Levels,
    Method,
    Option,
    Steps,
    Time,
    Tolerance,
    one_of,
)
from .registry import register


@register("neural_ode")
def neural_ode(
    shape: Sequence[int],
    *,
    levels: Levels = None,
    classes: Classes = None,
    context_dim: ContextDim = None,
    dequantize: Dequantize = "uniform",
    width: Annotated[int, Option("units of a hidden layer", 1, WIDTH)] = 64,
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
    size = math.prod(shape)
    field = MLPField(size, width, depth, activation, time, context_dim, classes)
    flow = Continuous(field, method=method, stepping=Adaptive(rtol, atol) if steps is None else Fixed(steps))
    base: Distribution = DiagonalGaussian((size,)) if classes is None else ClassConditionalGaussian((size,), classes)
    transform = Compose(Reshape(shape, (size,)), ActNorm(size), flow)
    return FlowModel(
        shape, base, transform, levels=levels, classes=classes, context_dim=context_dim, dequantize=dequantize
    )
