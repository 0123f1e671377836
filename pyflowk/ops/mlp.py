"""Multi-layer perceptrons in one call: conditioners of couplings are narrow, and a call a layer is most of their time.

The op's second output, what stands before the activations, is for its own backward alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ._router import FusedOp
from .activations import named
from .made import MADE_ACTIVATIONS
from .modes import transformed

__all__ = ["MLP_ACTIVATIONS", "MOST_HIDDEN", "MOST_UNITS", "mlp"]

#: name -> code of the activation in `csrc/math/activation.h`.
MLP_ACTIVATIONS = MADE_ACTIVATIONS
MOST_HIDDEN, MOST_UNITS = 4, 512  # kMostHidden and kMostUnits of csrc/math/mlp.h


def _layers(parameters: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(parameters[0::2], parameters[1::2]))


def _run(x: Tensor, shift: Tensor, parameters: Sequence[Tensor], activation: int) -> tuple[list[Tensor], list[Tensor]]:
    """(inputs of every layer, what stands before the activations, the output last)."""
    act = named(MLP_ACTIVATIONS, activation)
    inputs, pres = [x], []
    for number, (weight, bias) in enumerate(layers := _layers([t.to(x.dtype) for t in parameters])):
        pre = functional.linear(inputs[-1], weight, bias)
        if number == 0 and shift.shape[1]:
            pre = pre + shift
        pres.append(pre)
        if number + 1 < len(layers):
            inputs.append(act.value(pre))
    return inputs, pres


def _formula(
    x: Tensor, shift: Tensor, parameters: Sequence[Tensor], activation: int, keep: bool
) -> tuple[Tensor, Tensor]:
    """The op in plain torch: the reference of every kernel, and what Inductor and functorch see."""
    *pres, y = _run(x, shift, parameters, activation)[1]
    return y, torch.cat(pres, 1) if keep else y.new_empty(y.shape[0], 0)


def _backward_formula(
    x: Tensor, shift: Tensor, parameters: Sequence[Tensor], kept: Tensor, delta: Tensor, *config: Any
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """From x and the parameters alone: derivatives of any order must not stop at what was kept."""
    activation, _ = config
    act = named(MLP_ACTIVATIONS, activation)
    inputs, pres = _run(x, shift, parameters, activation)
    gradients: list[Tensor] = []
    first = delta
    for number, (weight, _) in reversed(list(enumerate(_layers(parameters)))):
        first = delta
        gradients = [(delta.mT @ inputs[number]).to(weight.dtype), delta.sum(0).to(weight.dtype), *gradients]
        delta = delta @ weight.to(x.dtype)
        if number:
            delta = delta * act.slope(pres[number - 1])
    return delta, first.clone() if shift.shape[1] else torch.zeros_like(shift), gradients


def _check(x: Tensor, shift: Tensor, parameters: Sequence[Tensor], *config: Any) -> None:
    """What `csrc/bind/mlp.cpp` checks, for the paths that do not go through it."""
    if len(parameters) % 2 or not 2 <= len(parameters) // 2 <= MOST_HIDDEN + 1:
        raise ValueError(
            f"mlp: expected the weights and biases of 2 to {MOST_HIDDEN + 1} layers; got {len(parameters)} tensors"
        )
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"mlp: x must be float32 or float64; got {x.dtype}")
    if x.ndim != 2:
        raise ValueError(f"mlp: x must be (B, D); got {tuple(x.shape)}")
    narrow = (torch.bfloat16, torch.float16) if x.dtype == torch.float32 else ()
    if parameters[0].dtype not in (x.dtype, *narrow):
        raise TypeError(
            "mlp: weights must have x's dtype (or 16 bits beside a float32 x); "
            f"got x {x.dtype}, weights {parameters[0].dtype}"
        )
    width, expected = x.shape[1], []
    for number, (weight, bias) in enumerate(_layers(parameters)):
        out = weight.shape[0] if weight.ndim else 0
        expected += [(f"weight {number}", weight, (out, width)), (f"bias {number}", bias, (out,))]
        width = out
    first = parameters[0].shape[0] if shift.ndim == 2 and shift.shape[1] else 0
    for name, tensor, shape in (*expected, ("shift", shift, (x.shape[0], first))):
        dtype = x.dtype if name == "shift" else parameters[0].dtype
        if tensor.dtype != dtype:
            raise TypeError(f"mlp: {name} must be {dtype}; got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"mlp: x and {name} must be on one device; got {x.device} and {tensor.device}")
        if tensor.shape != shape:
            raise ValueError(f"mlp: {name} must be {shape}; got {tuple(tensor.shape)}")


def _fake(x: Tensor, shift: Tensor, parameters: Sequence[Tensor], activation: int, keep: bool) -> tuple[Tensor, Tensor]:
    hidden = sum(bias.shape[0] for bias in parameters[1:-2:2])
    return x.new_empty(x.shape[0], parameters[-1].shape[0]), x.new_empty(x.shape[0], hidden if keep else 0)


_mlp = FusedOp(
    "mlp",
    "(Tensor x, Tensor shift, Tensor[] parameters, int activation, bool keep) -> (Tensor, Tensor)",
    formula=_formula,
    check=_check,
    fake=_fake,
    saved=lambda x, shift, parameters, y, kept: (x, shift, parameters, kept),
    hidden=1,
    shared=("parameters",),
    backward=FusedOp(
        "mlp_backward",
        "(Tensor x, Tensor shift, Tensor[] parameters, Tensor kept, Tensor dy, int activation, "
        "bool keep) -> (Tensor, Tensor, Tensor[])",
        formula=_backward_formula,
        fake=lambda x, shift, parameters, *rest: (
            x.new_empty(x.shape),
            shift.new_empty(shift.shape),
            [t.new_empty(t.shape) for t in parameters],
        ),
        shared=("parameters",),
    ),
)


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    activation: str = "relu",
    shift: Tensor | None = None,
) -> Tensor:
    r"""Evaluate a narrow multi-layer perceptron: :math:`W_{n} \phi(\ldots \phi(W_0 x + b_0 + c) \ldots) + b_n`.

    Args:
        x: (B, D), float32 or float64.
        weights: of 2 to 5 layers, (out, in) each as `torch.nn.Linear` has them, all of x's dtype, or bfloat16/float16
            beside a float32 x, which the arithmetic stays in; no layer of more than 512 units.
        biases: (out,) each, the weights' dtype.
        activation: one of `MLP_ACTIVATIONS`.
        shift: c, (B, units of the first layer), such as the image of a context; or None.

    Returns:
        (B, units of the last layer).

    Raises:
        ValueError, TypeError: an unknown activation, another number of layers or units; shapes, dtypes or devices that
            do not fit, with both named.

    Cost: the products of the layers, twice that for the gradient, for which the hidden units are kept. On a GPU it is
    the plain formula.

    >>> x, layers = torch.ones(1, 2), [torch.nn.Linear(2, 3), torch.nn.Linear(3, 4)]
    >>> y = mlp(x, [layer.weight for layer in layers], [layer.bias for layer in layers])
    >>> torch.allclose(y, layers[1](torch.relu(layers[0](x))), atol=1e-6)
    True
    """
    if activation not in MLP_ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(MLP_ACTIVATIONS)}; got {activation!r}")
    if len(weights) != len(biases) or not 2 <= len(weights) <= MOST_HIDDEN + 1:
        raise ValueError(
            f"mlp: expected 2 to {MOST_HIDDEN + 1} weights and as many biases; got {len(weights)} and {len(biases)}"
        )
    parameters = [t for pair in zip(weights, biases) for t in pair]
    none = x.new_empty(x.shape[0], 0) if shift is None else shift
    recorded = torch.is_grad_enabled() and any(t.requires_grad for t in (x, none, *parameters))
    code = MLP_ACTIVATIONS[activation]
    return _mlp((x, none, parameters, code, recorded or transformed()))[0]
