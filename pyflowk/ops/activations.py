"""Activations by name, each with its slope: what ops and networks share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ACTIVATIONS", "Activation", "named"]


class Activation(NamedTuple):
    """A function of every number and its derivative, both differentiable to any order where the function is."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def _below(x: Tensor) -> Tensor:
    return torch.exp(x.clamp(max=0))


def _tanh_slope(x: Tensor) -> Tensor:
    return 1 - torch.tanh(x).square()


def _silu_slope(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate * (1 + x * (1 - gate))


def _gelu_slope(x: Tensor) -> Tensor:
    return torch.special.ndtr(x) + x * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    square = x.square()
    bent = torch.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * square))
    return 0.5 * (1 + bent + x * (1 - bent.square()) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * square))


def _selu_slope(x: Tensor) -> Tensor:
    return 1.0507009873554805 * torch.where(x > 0, torch.ones_like(x), 1.6732632423543772 * _below(x))


def _relu_slope(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


def _leaky_slope(x: Tensor) -> Tensor:
    return torch.where(x > 0, torch.ones_like(x), 0.01)


ACTIVATIONS: dict[str, Activation] = {
    "elu": Activation(functional.elu, _below),
    "gelu": Activation(functional.gelu, _gelu_slope),
    "gelu_tanh": Activation(functools.partial(functional.gelu, approximate="tanh"), _gelu_tanh_slope),
    "leaky_relu": Activation(functional.leaky_relu, _leaky_slope),
    "relu": Activation(torch.relu, _relu_slope),
    "selu": Activation(functional.selu, _selu_slope),
    "silu": Activation(functional.silu, _silu_slope),
    "sin": Activation(torch.sin, torch.cos),
    "softplus": Activation(functional.softplus, torch.sigmoid),
    "tanh": Activation(torch.tanh, _tanh_slope),
}


def named(codes: dict[str, int], code: int) -> Activation:
    """The activation that has that code in a kernel's table of names and codes."""
    return ACTIVATIONS[next(name for name, number in codes.items() if number == code)]
