"""The problem set: initial values, fields and exact solutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

A = torch.tensor([[-0.3, 2.0], [-1.5, -0.1]], dtype=torch.float64)


@dataclass(frozen=True)
class Problem:
    name: str
    f: Callable[[Tensor, Tensor], Tensor]
    y0: Tensor
    t: tuple[float, float]
    exact: Callable[[Tensor], Tensor]  # at a time

    def __str__(self) -> str:
        return self.name


def _double(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


LINEAR_Y0 = _double([1.0, 0.5], [-0.3, 2.0], [0.0, 0.0])
COSINE_Y0 = _double([1.0], [-2.0])
LOGISTIC_Y0 = _double([0.1], [0.5], [1.5])

#: y' = A y; y' = cos(t) y, which finds wrong stage times; the logistic equation.
PROBLEMS = [
    Problem(
        "linear", lambda t, y: y @ A.to(y).T, LINEAR_Y0, (0.3, 2.3),
        lambda t: LINEAR_Y0 @ torch.linalg.matrix_exp(A * (t - 0.3)).T,
    ),
    Problem(
        "cosine", lambda t, y: torch.cos(t) * y, COSINE_Y0, (0.2, 1.9),
        lambda t: COSINE_Y0 * torch.exp(torch.sin(t) - torch.sin(_double(0.2))),
    ),
    Problem(
        "logistic", lambda t, y: y * (1 - y), LOGISTIC_Y0, (0.0, 2.5),
        lambda t: LOGISTIC_Y0 / (LOGISTIC_Y0 + (1 - LOGISTIC_Y0) * torch.exp(-t)),
    ),
]  # fmt: skip


def pendulum(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[..., 1], -torch.sin(y[..., 0])], -1)


def van_der_pol(mu: Tensor | float) -> Callable[[Tensor, Tensor], Tensor]:
    def f(t: Tensor, y: Tensor) -> Tensor:
        x, v = y[..., 0], y[..., 1]
        return torch.stack([v, mu * (1 - x * x) * v - x], -1)

    return f
